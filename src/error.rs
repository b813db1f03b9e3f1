//! The errors of calls: a [`Rejection`] by a layer, or the client's own error.
//!
//! A layer that ends a call returns a [`Rejection`] in the error type of the inner service. So that
//! type must implement [`StackError`]. There are three ways:
//!
//! | your client's error | what you do | error of the stack |
//! |---|---|---|
//! | any type | put [`ErrorLayer`] right above the client | [`Error<E>`](Error) |
//! | `Box<dyn std::error::Error + Send + Sync>` | nothing, or [`ErrorLayer::boxed`] | the box, or `Error<BoxedError>` |
//! | your own enum | implement [`StackError`] | your enum |
//!
//! [`Error`] and [`StackError`] have examples. [`Rejection`] lists all rejections.

use crate::name::Name;
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tower::{Layer, Service};

/// Why a layer of this crate ended a call.
///
/// A rejection is small, `Copy`, and the same type for every layer. To get it from an error, call
/// [`StackError::rejection`]. Every variant has the field `by`, the name of the layer that ended the
/// call. The other fields are in the table.
///
/// | variant | returned by, when | was the call sent? | fields | what to do |
/// |---|---|---|---|---|
/// | [`TimedOut`](Self::TimedOut) | [`timeout`](crate::timeout): the call, its wait for readiness included, took longer than the timeout | maybe | `after`: the timeout | repeat the call if it may be sent twice, as [`retry`](crate::retry) does |
/// | [`DeadlinePassed`](Self::DeadlinePassed) | [`timeout`](crate::timeout) with a carrier: the request's deadline passed, before or during the call; [`retry`](crate::retry): it passed before the retry was sent | maybe | | give up: the caller's time is over |
/// | [`CircuitOpen`](Self::CircuitOpen) | [`circuit_breaker`](crate::circuit_breaker): the circuit is open, or half-open with all probes (trial calls) in flight. A load shed or rate limit with `unless_open` returns it, too | no | `retry_after`: time until a probe may be sent | use a fallback, or fail fast; do not call before `retry_after` |
/// | [`RateLimited`](Self::RateLimited) | [`rate_limit`](crate::rate_limit): the call's turn (its permit) would come after `max_wait` or the deadline | no | `retry_after`: time until the call would be admitted | call again after `retry_after`, or call less often |
/// | [`TooCostly`](Self::TooCostly) | [`rate_limit`](crate::rate_limit): the cost of the call is above the burst | no | `cost`, `burst`: in units of the quota | do not repeat; split the call, or raise the burst |
/// | [`Overloaded`](Self::Overloaded) | [`load_shed`](crate::load_shed): no slot (place of the concurrency limit) became free within the allowed wait, the queue is full, or the inner service is not ready | no | `limit`: calls allowed in flight | drop the call, or return 503 to your own caller |
///
/// "Sent" is about the last attempt: below a retry, earlier attempts of the call may have been sent.
/// [`Retry`](crate::retry::Retry) sends a call again after `TimedOut`, and ends it after any other
/// rejection. The circuit breaker counts `TimedOut` as a failure. It treats `DeadlinePassed` as a
/// [cancelled call](crate::circuit_breaker#cancellation), and does not count the others.
///
/// The enum is `#[non_exhaustive]`: a `match` needs a wildcard.
///
/// ```
/// use buttress::{Error, ErrorLayer, LoadShedLayer, Rejection};
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(LoadShedLayer::builder(0).name("orders").build().unwrap())
///     .layer(ErrorLayer)
///     .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
///
/// match service.oneshot(7).await {
///     Err(Error::Rejected(rejection @ Rejection::Overloaded { limit, by })) => {
///         assert_eq!((limit, by.as_str()), (0, Some("orders")));
///         let sentence = "load shed \"orders\" full, at most 0 calls in flight";
///         assert_eq!(rejection.to_string(), sentence);
///     }
///     other => panic!("{other:?}"),
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// A [`Timeout`](crate::timeout::Timeout) ran out. The call may have been sent.
    TimedOut {
        /// The timeout that ran out, as configured. It includes the wait for readiness.
        after: Duration,
        /// The name of the layer.
        by: Name,
    },
    /// The [`Deadline`](crate::Deadline) that the request carried passed before the response came.
    /// The call may have been sent.
    DeadlinePassed {
        /// The name of the layer.
        by: Name,
    },
    /// A [circuit](crate::circuit_breaker) was open. The call was not sent.
    CircuitOpen {
        /// The time from the rejection until a probe may be sent. `None` if it is unknown: the
        /// circuit was forced open, stays open until it is reset, or has all its probes in flight.
        retry_after: Option<Duration>,
        /// The name of the layer.
        by: Name,
    },
    /// A [`RateLimit`](crate::rate_limit::RateLimit) had no turn for the call within the allowed
    /// wait. The call was not sent.
    RateLimited {
        /// The time from the rejection until the same call would be admitted, if no other calls
        /// come. `None` if it would never be admitted.
        retry_after: Option<Duration>,
        /// The name of the layer.
        by: Name,
    },
    /// The call costs more than the burst of a [`RateLimit`](crate::rate_limit::RateLimit). It was
    /// not sent, and waiting does not help.
    TooCostly {
        /// The cost of the call, in units of the quota.
        cost: u32,
        /// The burst, in units of the quota: the largest cost that the limit admits.
        burst: u32,
        /// The name of the layer.
        by: Name,
    },
    /// A [`LoadShed`](crate::load_shed::LoadShed) was full, or its inner service was not ready. The
    /// call was not sent.
    Overloaded {
        /// The most calls that may be in flight at once.
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

    /// How long to wait before the layer may admit the call, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match *self {
            Self::CircuitOpen { retry_after, .. } | Self::RateLimited { retry_after, .. } => {
                retry_after
            }
            _ => None,
        }
    }

    /// Whether it is certain that the call was not sent.
    pub(crate) const fn was_not_sent(&self) -> bool {
        !matches!(self, Self::TimedOut { .. } | Self::DeadlinePassed { .. })
    }
}

/// Prints one lower-case sentence that says what happened and names the layer.
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

/// The error of a handle: `try_acquire` returns it in place of a permit.
///
/// Its [`source`](std::error::Error::source) is the [`Rejection`]. So [`StackError::rejection`] finds
/// the rejection even after `?` has put this error into a box.
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
    /// Why the handle rejected the call.
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

/// An error that can hold a [`Rejection`].
///
/// The layers need it of their inner service's error, and return the same type. Two types implement
/// it already: [`Error<E>`], which [`ErrorLayer`] makes from any error, and
/// `Box<dyn Error + Send + Sync>`. For an enum of your own, it takes four lines:
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
///
/// let full = Rejection::Overloaded { limit: 1, by: buttress::Name::UNNAMED };
/// assert_eq!(ClientError::reject(full).rejection(), Some(full));
/// assert_eq!(ClientError::Status(500).rejection(), None);
/// ```
///
/// To put a rejection into a box, use [`reject`](Self::reject) or box a [`Rejected`].
/// [`rejection`](Self::rejection) does not find a bare `Rejection` in a box.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold a rejection of buttress",
    label = "this error must implement `StackError`",
    note = "put `.layer(buttress::ErrorLayer)` innermost, right above the client: it wraps the error in `buttress::Error<{Self}>`",
    note = "or implement `buttress::StackError` for your own error"
)]
pub trait StackError: Sized {
    /// Makes the error of a call that a layer rejected.
    fn reject(rejection: Rejection) -> Self;

    /// Returns the rejection, if a layer of this crate ended the call.
    fn rejection(&self) -> Option<Rejection>;
}

/// The error of a call: a rejection by a layer, or the client's own error.
///
/// [`ErrorLayer`] makes it. A `match` on its two variants needs no wildcard, but one on the
/// [`Rejection`] does:
///
/// ```
/// use buttress::{Error, Rejection};
///
/// fn status<E>(error: &Error<E>) -> u16 {
///     match error {
///         Error::Rejected(Rejection::TimedOut { .. } | Rejection::DeadlinePassed { .. }) => 504,
///         Error::Rejected(_) => 503,
///         Error::Service(_) => 502,  // the client's own error
///     }
/// }
///
/// let full = Rejection::Overloaded { limit: 8, by: buttress::Name::UNNAMED };
/// assert_eq!(status(&Error::<std::io::Error>::Rejected(full)), 503);
/// assert_eq!(status(&Error::Service("connection reset")), 502);
/// ```
///
/// Both variants print the error that they hold and return it as
/// [`source`](std::error::Error::source). So a report of an error with its sources prints it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error<E> {
    /// A layer ended the call.
    Rejected(Rejection),
    /// The client returned this error.
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

// Implemented for every lifetime: an impl for `'static` alone makes stacks that cannot be spawned. An
// error that is not `'static` cannot be downcast, but its source can. So the box holds a `Rejected`,
// whose source is the rejection.
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
/// Put it innermost, right above the client. You do not need it if the client's error implements
/// [`StackError`] itself, as boxed errors do. For a client with boxed errors, [`boxed`](Self::boxed)
/// makes an error that implements [`std::error::Error`].
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
    /// An [`ErrorLayer`] for a client whose error is a box. The resulting error is
    /// `Error<BoxedError>`.
    ///
    /// It implements `std::error::Error`. `Error<Box<dyn std::error::Error + Send + Sync>>` does not,
    /// because the box itself does not.
    ///
    /// ```
    /// use buttress::error::BoxedError;
    /// use buttress::{Error, ErrorLayer};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// type BoxError = Box<dyn std::error::Error + Send + Sync>;
    ///
    /// let service = ServiceBuilder::new()
    ///     .layer(ErrorLayer::boxed())
    ///     .service(service_fn(|()| async { Err::<(), BoxError>("reset".into()) }));
    ///
    /// let error: Error<BoxedError> = service.oneshot(()).await.unwrap_err();
    /// assert_eq!(error.to_string(), "reset");
    /// # }
    /// ```
    #[must_use]
    pub const fn boxed() -> BoxedErrorLayer {
        BoxedErrorLayer
    }
}

/// The layer that [`ErrorLayer::boxed`] returns.
#[derive(Clone, Copy, Debug, Default)]
pub struct BoxedErrorLayer;

/// A boxed error that implements [`std::error::Error`]. The box alone does not implement it.
///
/// It prints the error in the box, and returns it as its source.
#[derive(Debug)]
pub struct BoxedError(Box<dyn std::error::Error + Send + Sync>);

impl BoxedError {
    /// Returns the box.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn std::error::Error + Send + Sync> {
        self.0
    }

    /// Returns the error in the box.
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

/// How a layer puts a client's error into [`Error`]: [`ErrorLayer`] unchanged, [`BoxedErrorLayer`] as
/// a [`BoxedError`]. You cannot implement this trait.
pub trait Wrap<E>: sealed::Sealed {
    /// The type that [`Error::Service`] holds.
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

/// The error of builders: a setting has a value that is not allowed.
///
/// ```
/// use buttress::RetryLayer;
///
/// let error = RetryLayer::builder().attempts(0).build().unwrap_err();
/// assert_eq!((error.field(), error.value(), error.allowed()), ("attempts", "0", "at least 1"));
/// assert_eq!(error.to_string(), "attempts must be at least 1, but is 0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {allowed}, but is {value}")]
pub struct InvalidConfig {
    field: Cow<'static, str>,
    value: String,
    allowed: Cow<'static, str>,
}

impl InvalidConfig {
    pub(crate) fn new(
        field: impl Into<Cow<'static, str>>,
        value: impl fmt::Debug,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field: field.into(),
            value: format!("{value:?}"),
            allowed: allowed.into(),
        }
    }

    /// The name of the setting, and of its setter. In a gRPC service config: the path of the field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The value that was set, as `Debug` prints it.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// A phrase that says which values are allowed.
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
    fn a_boxed_error_of_another_crate_holds_no_rejection() {
        assert_eq!(BoxError::from("connection reset").rejection(), None);
    }

    #[test]
    fn both_variants_of_error_return_what_they_hold_as_source() {
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
    fn a_boxed_error_prints_the_error_in_the_box_and_returns_it_as_source() {
        let inner = std::io::Error::other("reset");
        let failed = Error::Service(<BoxedErrorLayer as Wrap<_>>::wrap(inner));
        let failed: Box<dyn std::error::Error> = failed.into();
        assert_eq!(failed.to_string(), "reset");
        let source = failed.source().and_then(|boxed| boxed.source()).unwrap();
        assert!(source.is::<std::io::Error>());
    }

    #[test]
    fn a_rejection_by_a_handle_is_found_after_a_question_mark_has_boxed_it() {
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
