//! What a call can end in: the caller's own error, which has room for a rejection of ours.

use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tower::{Layer, Service};

/// Why a layer of this crate ended a call in place of the service.
///
/// A fact, not a message: small, `Copy`, and the same type for every layer. It is read from any
/// error that implements [`StackError`] by [`rejection`](StackError::rejection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// A [`Timeout`](crate::timeout::Timeout) ran out. The call may or may not have been sent.
    TimedOut {
        /// The timeout that ran out, as configured.
        after: Duration,
    },
    /// The [`Deadline`](crate::Deadline) that the request carried had passed, or passed before the
    /// answer came. The call may or may not have been sent.
    DeadlinePassed,
    /// A [`CircuitBreaker`](crate::circuit_breaker::CircuitBreaker) was open. The call was not sent.
    CircuitOpen {
        /// How long until a probe may go; `None` where no time is known (forced open, open for
        /// ever, all probes out).
        retry_after: Option<Duration>,
    },
    /// A [`RateLimit`](crate::rate_limit::RateLimit) had no turn within the wait allowed. The call
    /// was not sent.
    RateLimited {
        /// How long until the same call would be granted if nobody else calls; `None` where it
        /// never would.
        retry_after: Option<Duration>,
    },
    /// A call that costs more than a [`RateLimit`](crate::rate_limit::RateLimit) ever grants at
    /// once. The call was not sent, and waiting does not help.
    TooCostly {
        /// What the call costs, in units of the quota.
        cost: u32,
        /// The largest cost that can be granted.
        burst: u32,
    },
    /// A [`LoadShed`](crate::load_shed::LoadShed) was full, or its inner service not ready. The
    /// call was not sent.
    Overloaded {
        /// How many calls may be in flight.
        limit: usize,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { after } => write!(f, "timed out after {after:?}"),
            Self::DeadlinePassed => f.write_str("deadline passed"),
            Self::CircuitOpen {
                retry_after: Some(after),
            } => {
                write!(f, "circuit open, may be tried again in {after:?}")
            }
            Self::CircuitOpen { retry_after: None } => f.write_str("circuit open"),
            Self::RateLimited {
                retry_after: Some(after),
            } => {
                write!(f, "rate limited, may be tried again in {after:?}")
            }
            Self::RateLimited { retry_after: None } => f.write_str("rate limited"),
            Self::TooCostly { cost, burst } => {
                write!(f, "a cost of {cost} is above the burst of {burst}")
            }
            Self::Overloaded { limit } => write!(f, "overloaded, at most {limit} calls in flight"),
        }
    }
}

impl std::error::Error for Rejection {}

/// An error that can say "rejected here", and be asked whether it does.
///
/// The one bound that the layers put on their inner service's error, which is also their own. It
/// holds for [`Error<E>`], which [`ErrorLayer`] makes of any error, and for
/// `Box<dyn Error + Send + Sync>`. (Box a rejection of a handle by [`reject`](Self::reject), not by
/// `into()` or `?`: a bare one in a box cannot be told from other errors, unless it is the source of
/// one.) Your own enum takes four lines:
///
/// ```
/// use buttress::{Rejection, StackError};
///
/// enum ClientError {
///     Rejected(Rejection),
///     Status(u16),
/// }
///
/// impl StackError for ClientError {
///     fn reject(rejection: Rejection) -> Self { Self::Rejected(rejection) }
///     fn rejection(&self) -> Option<Rejection> {
///         if let Self::Rejected(rejection) = self { Some(*rejection) } else { None }
///     }
/// }
/// # let error = ClientError::reject(Rejection::Overloaded { limit: 1 });
/// # assert_eq!(error.rejection(), Some(Rejection::Overloaded { limit: 1 }));
/// # assert_eq!(ClientError::Status(1).rejection(), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no room for a rejection of buttress",
    label = "this error must implement `StackError`",
    note = "put `.layer(buttress::ErrorLayer)` innermost, right above the client: it lifts the error into `buttress::Error<{Self}>`",
    note = "or implement `buttress::StackError` for your own error"
)]
pub trait StackError: Sized {
    /// The error of a call that a layer rejected.
    fn reject(rejection: Rejection) -> Self;

    /// The rejection, if it was a layer of this crate that ended the call.
    fn rejection(&self) -> Option<Rejection>;
}

/// What a call through the layers fails with: a rejection, or the service's own error.
///
/// Exhaustive, so that a `match` needs no wildcard. Both arms return what they hold as
/// [`source`](std::error::Error::source).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error<E> {
    /// A layer ended the call.
    Rejected(Rejection),
    /// The service was called and failed by itself.
    Service(E),
}

impl<E> StackError for Error<E> {
    fn reject(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected(rejection) => Some(*rejection),
            Self::Service(_) => None,
        }
    }
}

impl<E> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected(_) => "the call was rejected",
            Self::Service(_) => "the service failed",
        })
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Service(error) => Some(error),
        }
    }
}

/// A boxed error cannot be downcast unless it is `'static`, but its source can: so a rejection is
/// boxed as the source of this.
#[derive(Debug, thiserror::Error)]
#[error("the call was rejected")]
struct Boxed(#[source] Rejection);

// For every `'a`: an impl for `'static` alone makes stacks that cannot be spawned.
impl StackError for Box<dyn std::error::Error + Send + Sync + '_> {
    fn reject(rejection: Rejection) -> Self {
        Box::new(Boxed(rejection))
    }

    fn rejection(&self) -> Option<Rejection> {
        let mut source = self.source();
        while let Some(error) = source {
            if let Some(rejection) = error.downcast_ref() {
                return Some(*rejection);
            }
            source = error.source();
        }
        None
    }
}

/// Lifts the inner service's error into [`Error`], which has room for a rejection.
///
/// Put it innermost, right above a client whose error is not your own. It is not for boxed
/// errors: those have room already.
///
/// ```
/// use buttress::{Error, ErrorLayer, TimeoutLayer};
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(TimeoutLayer::new(Duration::from_secs(1)))
///     .layer(ErrorLayer)
///     .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n + 1) }));
///
/// let answer: Result<u32, Error<Infallible>> = service.oneshot(1).await;
/// assert_eq!(answer, Ok(2));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorLayer;

impl<S> Layer<S> for ErrorLayer {
    type Service = LiftError<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LiftError { inner }
    }
}

/// The service that [`ErrorLayer`] makes.
#[derive(Clone, Debug)]
pub struct LiftError<S> {
    inner: S,
}

impl<S, Req> Service<Req> for LiftError<S>
where
    S: Service<Req>,
{
    type Response = S::Response;
    type Error = Error<S::Error>;
    type Future = LiftErrorFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Error::Service)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        LiftErrorFuture {
            call: self.inner.call(req),
        }
    }
}

pin_project! {
    /// The future of a [`LiftError`] call.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct LiftErrorFuture<F> {
        #[pin]
        call: F,
    }
}

impl<F, Res, E> Future for LiftErrorFuture<F>
where
    F: Future<Output = Result<Res, E>>,
{
    type Output = Result<Res, Error<E>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.project().call.poll(cx)).map_err(Error::Service))
    }
}

/// A setting that a builder cannot accept: which, what it was, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {allowed}, but is {value}")]
pub struct InvalidConfig {
    field: &'static str,
    value: String,
    allowed: Cow<'static, str>,
}

impl InvalidConfig {
    pub(crate) fn new(
        field: &'static str,
        value: impl fmt::Debug,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field,
            value: format!("{value:?}"),
            allowed: allowed.into(),
        }
    }

    /// The setting's name, which is also its setter's.
    #[must_use]
    pub fn field(&self) -> &str {
        self.field
    }

    /// The value that was given.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is allowed.
    #[must_use]
    pub fn allowed(&self) -> &str {
        &self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    type BoxError = Box<dyn std::error::Error + Send + Sync>;

    const SHED: Rejection = Rejection::Overloaded { limit: 3 };

    #[test]
    fn a_rejection_is_found_below_errors_of_other_layers() {
        #[derive(Debug, thiserror::Error)]
        #[error("wrapped")]
        struct Wrapped(#[source] BoxError);

        let error: BoxError = Box::new(Wrapped(Box::new(Wrapped(BoxError::reject(SHED)))));
        assert_eq!(error.rejection(), Some(SHED));
        let error: BoxError = Box::new(Error::<Wrapped>::Rejected(SHED));
        assert_eq!(error.rejection(), Some(SHED));
    }

    #[test]
    fn a_foreign_boxed_error_holds_no_rejection() {
        assert_eq!(BoxError::from("connection reset").rejection(), None);
    }

    #[test]
    fn both_arms_of_error_lead_to_their_source() {
        let rejected = Error::<std::io::Error>::Rejected(SHED);
        assert_eq!(rejected.source().unwrap().downcast_ref(), Some(&SHED));
        let failed = Error::Service(std::io::Error::other("reset"));
        assert!(failed.source().unwrap().is::<std::io::Error>());
    }

    #[test]
    fn every_rejection_reads_as_one_lower_case_sentence() {
        let second = Some(Duration::from_secs(1));
        let cases = [
            (
                Rejection::TimedOut {
                    after: Duration::from_millis(20),
                },
                "timed out after 20ms",
            ),
            (Rejection::DeadlinePassed, "deadline passed"),
            (
                Rejection::CircuitOpen {
                    retry_after: second,
                },
                "circuit open, may be tried again in 1s",
            ),
            (Rejection::CircuitOpen { retry_after: None }, "circuit open"),
            (
                Rejection::RateLimited {
                    retry_after: second,
                },
                "rate limited, may be tried again in 1s",
            ),
            (Rejection::RateLimited { retry_after: None }, "rate limited"),
            (
                Rejection::TooCostly { cost: 3, burst: 2 },
                "a cost of 3 is above the burst of 2",
            ),
            (SHED, "overloaded, at most 3 calls in flight"),
        ];
        for (rejection, sentence) in cases {
            assert_eq!(rejection.to_string(), sentence);
        }
    }

    #[test]
    fn an_invalid_setting_names_field_value_and_what_is_allowed() {
        let error = InvalidConfig::new("attempts", 0, "at least 1");
        assert_eq!(error.to_string(), "attempts must be at least 1, but is 0");
    }
}
