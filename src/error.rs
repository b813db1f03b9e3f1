//! Errors: the caller's own, with room for a rejection by a layer.

use crate::name::Name;
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tower::{Layer, Service};

/// Why a layer of this crate ended a call in place of the service.
///
/// A rejection is a fact, not a message: small, `Copy`, and of the same type for every layer. Every
/// variant names the layer that ended the call in its field `by`. Read it from any error that
/// implements [`StackError`] by [`rejection`](StackError::rejection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// A [`Timeout`](crate::timeout::Timeout) ran out. The call may or may not have been sent.
    TimedOut {
        /// The timeout that ran out, as configured.
        after: Duration,
        /// The name of the layer.
        by: Name,
    },
    /// The [`Deadline`](crate::Deadline) that the request carried passed before the response came.
    /// The call may or may not have been sent.
    DeadlinePassed {
        /// The name of the layer.
        by: Name,
    },
    /// A [circuit](crate::circuit_breaker) was open. The call was not sent.
    CircuitOpen {
        /// How long until a probe may be sent. `None` where no time is known: the circuit was
        /// forced open, is open for ever, or all its probes are out.
        retry_after: Option<Duration>,
        /// The name of the layer.
        by: Name,
    },
    /// A [`RateLimit`](crate::rate_limit::RateLimit) had no turn within the allowed wait. The call
    /// was not sent.
    RateLimited {
        /// How long until the same call would be granted if nobody else calls. `None` where it
        /// would never be granted.
        retry_after: Option<Duration>,
        /// The name of the layer.
        by: Name,
    },
    /// The call costs more than a [`RateLimit`](crate::rate_limit::RateLimit) ever grants at once.
    /// It was not sent, and waiting does not help.
    TooCostly {
        /// What the call costs, in units of the quota.
        cost: u32,
        /// The largest cost that can be granted.
        burst: u32,
        /// The name of the layer.
        by: Name,
    },
    /// A [`LoadShed`](crate::load_shed::LoadShed) was full, or its inner service was not ready. The
    /// call was not sent.
    Overloaded {
        /// How many calls may be in flight.
        limit: usize,
        /// The name of the layer.
        by: Name,
    },
}

impl Rejection {
    /// The name of the layer that ended the call.
    #[must_use]
    pub const fn by(&self) -> Name {
        match *self {
            Self::TimedOut { by, .. }
            | Self::DeadlinePassed { by }
            | Self::CircuitOpen { by, .. }
            | Self::RateLimited { by, .. }
            | Self::TooCostly { by, .. }
            | Self::Overloaded { by, .. } => by,
        }
    }

    /// How long to wait before the call may be let through, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match *self {
            Self::CircuitOpen { retry_after, .. } | Self::RateLimited { retry_after, .. } => {
                retry_after
            }
            _ => None,
        }
    }

    /// Whether the layer that ended the call is certain not to have sent it.
    pub(crate) const fn was_not_sent(&self) -> bool {
        !matches!(self, Self::TimedOut { .. } | Self::DeadlinePassed { .. })
    }
}

/// One lower-case sentence that says what happened and which layer did it.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { after, by } => write!(f, "timeout{by} ran out after {after:?}")?,
            Self::DeadlinePassed { by } => write!(f, "deadline passed at timeout{by}")?,
            Self::CircuitOpen { by, .. } => write!(f, "circuit{by} open")?,
            Self::RateLimited { by, .. } => write!(f, "rate limit{by} reached")?,
            Self::TooCostly { cost, burst, by } => {
                write!(
                    f,
                    "cost of {cost} exceeds the burst of {burst} of rate limit{by}"
                )?;
            }
            Self::Overloaded { limit, by } => {
                write!(f, "load shed{by} full, at most {limit} calls in flight")?;
            }
        }
        match self.retry_after() {
            Some(wait) => write!(f, ", retry in {wait:.1?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Rejection {}

/// The error of a handle: what `try_acquire` returns instead of a permit.
///
/// Its [`source`](std::error::Error::source) is the [`Rejection`], so `?` boxes it without hiding the
/// rejection from [`StackError::rejection`].
///
/// ```
/// use buttress::circuit_breaker::Circuit;
/// use buttress::{Rejection, StackError};
///
/// type BoxError = Box<dyn std::error::Error + Send + Sync>;
///
/// fn guarded(circuit: &Circuit) -> Result<(), BoxError> {
///     circuit.try_acquire()?.settle(buttress::Verdict::Healthy);
///     Ok(())
/// }
///
/// let circuit = Circuit::builder().build().unwrap();
/// circuit.force_open();
/// let error = guarded(&circuit).unwrap_err();
/// assert!(matches!(error.rejection(), Some(Rejection::CircuitOpen { .. })));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(
    /// What was rejected, and why.
    #[source]
    pub Rejection,
);

impl From<Rejected> for Rejection {
    fn from(rejected: Rejected) -> Self {
        rejected.0
    }
}

impl<E> From<Rejected> for Error<E> {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected.0)
    }
}

/// An error that can hold a rejection.
///
/// This is the one bound that the layers put on their inner service's error, which is also their
/// own. [`Error<E>`], which [`ErrorLayer`] makes of any error, implements it, and so does
/// `Box<dyn Error + Send + Sync>`. (A bare [`Rejection`] in a box cannot be told from other errors:
/// box it by [`reject`](Self::reject), or box a [`Rejected`].) Your own enum takes four lines:
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
/// # let by = buttress::Name::UNNAMED;
/// # let error = ClientError::reject(Rejection::Overloaded { limit: 1, by });
/// # assert_eq!(error.rejection(), Some(Rejection::Overloaded { limit: 1, by }));
/// # assert_eq!(ClientError::Status(1).rejection(), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold a rejection of buttress",
    label = "this error must implement `StackError`",
    note = "put `.layer(buttress::ErrorLayer)` innermost, right above the client: it wraps the error in `buttress::Error<{Self}>`",
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
/// The enum is exhaustive, so that a `match` needs no wildcard. Both arms print what they hold, and
/// return it as [`source`](std::error::Error::source): a report that prints an error and its sources
/// prints it twice.
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

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Service(error) => error.fmt(f),
        }
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

// For every `'a`: an impl for `'static` alone makes stacks that cannot be spawned. An error that is
// not `'static` cannot be downcast, but its source can: so `Rejected` is what is boxed.
impl StackError for Box<dyn std::error::Error + Send + Sync + '_> {
    fn reject(rejection: Rejection) -> Self {
        Box::new(Rejected(rejection))
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

/// Wraps the inner service's error in [`Error`], so that layers can return rejections.
///
/// Put it innermost, right above a client whose error is not your own. Boxed errors hold rejections
/// without it; to get an error that implements [`std::error::Error`] from them, use
/// [`boxed`](Self::boxed).
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
/// let response: Result<u32, Error<Infallible>> = service.oneshot(1).await;
/// assert_eq!(response, Ok(2));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorLayer;

impl ErrorLayer {
    /// As [`ErrorLayer`], for a client whose error is a box: the error is `Error<BoxedError>`.
    ///
    /// `Error<Box<dyn std::error::Error + Send + Sync>>` does not implement `std::error::Error`,
    /// because the box itself does not; [`BoxedError`] does.
    #[must_use]
    pub const fn boxed() -> BoxedErrorLayer {
        BoxedErrorLayer
    }
}

/// Made by [`ErrorLayer::boxed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BoxedErrorLayer;

/// A boxed error that implements [`std::error::Error`], as the box itself does not.
///
/// It prints what is in the box; its source is the error in the box.
#[derive(Debug)]
pub struct BoxedError(Box<dyn std::error::Error + Send + Sync>);

impl BoxedError {
    /// The box.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn std::error::Error + Send + Sync> {
        self.0
    }

    /// What is in the box.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for BoxedError {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self(error)
    }
}

impl fmt::Display for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BoxedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// How a layer puts a client's error into [`Error`]: [`ErrorLayer`] as it is, [`BoxedErrorLayer`] as
/// a [`BoxedError`].
pub trait Wrap<E>: sealed::Sealed {
    /// What [`Error::Service`] holds.
    type Error;

    /// Wraps one error.
    fn wrap(error: E) -> Self::Error;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ErrorLayer {}
    impl Sealed for super::BoxedErrorLayer {}
}

impl<E> Wrap<E> for ErrorLayer {
    type Error = E;

    fn wrap(error: E) -> E {
        error
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> Wrap<E> for BoxedErrorLayer {
    type Error = BoxedError;

    fn wrap(error: E) -> BoxedError {
        BoxedError(error.into())
    }
}

impl<S> Layer<S> for ErrorLayer {
    type Service = WrapError<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WrapError::new(inner)
    }
}

impl<S> Layer<S> for BoxedErrorLayer {
    type Service = WrapError<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        WrapError::new(inner)
    }
}

/// The service that [`ErrorLayer`] and [`BoxedErrorLayer`] make.
#[derive(Debug)]
pub struct WrapError<S, W = ErrorLayer> {
    inner: S,
    wrap: PhantomData<fn() -> W>,
}

impl<S: Clone, W> Clone for WrapError<S, W> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S, W> WrapError<S, W> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            wrap: PhantomData,
        }
    }
}

impl<S, W, Req> Service<Req> for WrapError<S, W>
where
    S: Service<Req>,
    W: Wrap<S::Error>,
{
    type Response = S::Response;
    type Error = Error<W::Error>;
    type Future = WrapErrorFuture<S::Future, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let readied = ready!(self.inner.poll_ready(cx));
        Poll::Ready(readied.map_err(|error| Error::Service(W::wrap(error))))
    }

    fn call(&mut self, req: Req) -> Self::Future {
        WrapErrorFuture {
            call: self.inner.call(req),
            wrap: PhantomData,
        }
    }
}

pin_project! {
    /// The future of a [`WrapError`] call.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct WrapErrorFuture<F, W = ErrorLayer> {
        #[pin]
        call: F,
        wrap: PhantomData<fn() -> W>,
    }
}

impl<F, W, Res, E> Future for WrapErrorFuture<F, W>
where
    F: Future<Output = Result<Res, E>>,
    W: Wrap<E>,
{
    type Output = Result<Res, Error<W::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.project().call.poll(cx));
        Poll::Ready(outcome.map_err(|error| Error::Service(W::wrap(error))))
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

    const SHED: Rejection = Rejection::Overloaded {
        limit: 3,
        by: Name::UNNAMED,
    };

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
    fn an_error_prints_what_it_holds() {
        let rejected = Error::<std::io::Error>::Rejected(SHED);
        assert_eq!(rejected.to_string(), SHED.to_string());
        let failed = Error::Service(std::io::Error::other("reset"));
        assert_eq!(failed.to_string(), "reset");
    }

    #[test]
    fn a_boxed_error_is_an_error_that_prints_and_leads_to_what_is_in_the_box() {
        let inner = std::io::Error::other("reset");
        let failed = Error::Service(<BoxedErrorLayer as Wrap<_>>::wrap(inner));
        let failed: Box<dyn std::error::Error> = failed.into();
        assert_eq!(failed.to_string(), "reset");
        let source = failed.source().and_then(|boxed| boxed.source()).unwrap();
        assert!(source.is::<std::io::Error>());
    }

    #[test]
    fn a_rejection_of_a_handle_is_found_in_the_box_that_a_question_mark_makes() {
        let question_mark = || -> Result<(), BoxError> { Err(Rejected(SHED))? };
        assert_eq!(question_mark().unwrap_err().rejection(), Some(SHED));
        assert_eq!(
            Error::<BoxError>::from(Rejected(SHED)).rejection(),
            Some(SHED)
        );
    }

    #[test]
    fn every_rejection_reads_as_one_lower_case_sentence() {
        let retry_after = Some(Duration::from_millis(4_921));
        let by = Name::new("payments");
        let cases = [
            (
                Rejection::TimedOut {
                    after: Duration::from_millis(20),
                    by,
                },
                "timeout \"payments\" ran out after 20ms",
            ),
            (
                Rejection::DeadlinePassed { by },
                "deadline passed at timeout \"payments\"",
            ),
            (
                Rejection::CircuitOpen { retry_after, by },
                "circuit \"payments\" open, retry in 4.9s",
            ),
            (
                Rejection::CircuitOpen {
                    retry_after: None,
                    by: Name::UNNAMED,
                },
                "circuit open",
            ),
            (
                Rejection::RateLimited { retry_after, by },
                "rate limit \"payments\" reached, retry in 4.9s",
            ),
            (
                Rejection::RateLimited {
                    retry_after: None,
                    by,
                },
                "rate limit \"payments\" reached",
            ),
            (
                Rejection::TooCostly {
                    cost: 3,
                    burst: 2,
                    by,
                },
                "cost of 3 exceeds the burst of 2 of rate limit \"payments\"",
            ),
            (SHED, "load shed full, at most 3 calls in flight"),
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
