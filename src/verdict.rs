//! The verdict: how an outcome is classified, for retry and circuit breaker alike.
//!
//! A classifier ([`Classify`]) turns the outcome of an attempt into a [`Verdict`] on the upstream,
//! the service you call. Retry and circuit breaker act on the verdict. The default classifier is
//! [`Outcome`]; for HTTP use [`StatusClassifier`](crate::http::StatusClassifier).

use crate::error::{Rejection, StackError};
use std::time::Duration;

/// The classification of an outcome: what it says about the upstream, the service you call.
///
/// | verdict | meaning | circuit breaker | retry |
/// |---|---|---|---|
/// | [`Healthy`](Self::Healthy) | success: the upstream works | counts a success | ends; a first attempt earns a part of a token |
/// | [`Transient`](Self::Transient) | failure that may pass | counts a failure | retries |
/// | [`Throttled`](Self::Throttled) | the upstream works, and asks for fewer calls | does not count | retries |
/// | [`Permanent`](Self::Permanent) | failure that will not pass | counts a failure | ends |
/// | [`Local`](Self::Local) | the caller ran out of a resource | does not count | retries |
/// | [`Ignored`](Self::Ignored) | says nothing about the upstream | does not count | ends |
///
/// ```
/// use buttress::{RetryAfter, Verdict, verdict::Sent};
/// use std::time::Duration;
///
/// let retry_after = RetryAfter::from(Duration::from_secs(7));
/// let overloaded = Verdict::Transient { retry_after, sent: Sent::Unknown };
/// assert_eq!(overloaded.retry_after().delay(), Some(Duration::from_secs(7)));
/// assert_eq!(Verdict::TRANSIENT.retry_after(), RetryAfter::None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Success: the upstream works. A response such as "404 Not Found" is healthy too.
    Healthy,
    /// The upstream failed, and a retry may succeed.
    Transient {
        /// How long the upstream asks callers to wait.
        retry_after: RetryAfter,
        /// Whether the upstream may have processed the call.
        sent: Sent,
    },
    /// The upstream works, and asks for fewer calls: HTTP status 429, gRPC `RESOURCE_EXHAUSTED`.
    Throttled {
        /// How long the upstream asks callers to wait.
        retry_after: RetryAfter,
    },
    /// The upstream failed, and a retry would fail too.
    Permanent,
    /// The caller ran out of a resource of its own: file descriptors, ports, memory. The outcome says
    /// nothing about the upstream, and a retry may succeed.
    Local,
    /// The outcome says nothing about the upstream. For instance, the request was invalid.
    Ignored,
}

/// Whether a failed call was sent, and so may have been processed.
///
/// A call that was certainly not processed may be sent again, even a POST. A call that may have been
/// processed may be sent again only if it is idempotent. [`Replay::may_resend`](crate::Replay::may_resend)
/// decides.
///
/// It is about the whole call. A client that sends several requests for one, such as one that follows
/// redirects, must not report `No` for the last of them. Put a layer that follows redirects above the retry.
///
/// ```
/// use buttress::verdict::Sent;
/// use buttress::{Verdict, http::judge_error};
/// use std::io;
///
/// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
/// assert_eq!(judge_error(&refused), Verdict::NOT_SENT);
/// assert_eq!(Verdict::NOT_SENT.sent(), Sent::No);
/// assert_eq!(Verdict::TRANSIENT.sent(), Sent::Unknown);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sent {
    /// The upstream certainly did not process the call. For instance, it refused the connection.
    No,
    /// The upstream may have processed the call.
    #[default]
    Unknown,
}

/// The `Retry-After` of the upstream: how long it asks callers to wait, measured from when the
/// outcome is classified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryAfter {
    /// The upstream does not ask for a wait.
    #[default]
    None,
    /// The upstream asks for this wait.
    Delay(Duration),
    /// The upstream asks for a wait, but its length cannot be parsed. Retry then waits for the cap of
    /// its backoff.
    Unreadable,
}

impl From<Duration> for RetryAfter {
    fn from(delay: Duration) -> Self {
        Self::Delay(delay)
    }
}

impl RetryAfter {
    /// The wait, if the upstream asks for one and its length is known.
    #[must_use]
    pub const fn delay(self) -> Option<Duration> {
        match self {
            Self::Delay(delay) => Some(delay),
            Self::None | Self::Unreadable => None,
        }
    }
}

impl Verdict {
    /// [`Transient`](Self::Transient), without a `Retry-After`. The upstream may have processed the call.
    pub const TRANSIENT: Self = Self::Transient {
        retry_after: RetryAfter::None,
        sent: Sent::Unknown,
    };
    /// [`Transient`](Self::Transient), without a `Retry-After`. The upstream certainly did not process
    /// the call.
    pub const NOT_SENT: Self = Self::Transient {
        retry_after: RetryAfter::None,
        sent: Sent::No,
    };
    /// [`Throttled`](Self::Throttled), without a `Retry-After`.
    pub const THROTTLED: Self = Self::Throttled {
        retry_after: RetryAfter::None,
    };

    /// How long the upstream asks callers to wait.
    #[must_use]
    pub const fn retry_after(self) -> RetryAfter {
        match self {
            Self::Transient { retry_after, .. } | Self::Throttled { retry_after } => retry_after,
            Self::Healthy | Self::Permanent | Self::Local | Self::Ignored => RetryAfter::None,
        }
    }

    /// Whether the upstream may have processed the call. Only `Transient` can tell that it did not.
    #[must_use]
    pub const fn sent(self) -> Sent {
        match self {
            Self::Transient { sent, .. } => sent,
            _ => Sent::Unknown,
        }
    }

    /// The word for this verdict in events.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Transient { .. } => "transient",
            Self::Throttled { .. } => "throttled",
            Self::Permanent => "permanent",
            Self::Local => "local",
            Self::Ignored => "ignored",
        }
    }
}

/// A classifier: turns an outcome into a [`Verdict`], which says what retry and circuit breaker do.
///
/// A classifier never sees a [`Rejection`] by a layer of this crate. The layers classify these
/// themselves: [`TimedOut`](Rejection::TimedOut) is `Transient`, every other rejection is `Ignored`
/// (for the breaker, [`DeadlinePassed`](Rejection::DeadlinePassed) is a cancelled call).
///
/// Functions and closures are classifiers. A named function with explicit types gives the clearest
/// compiler errors:
///
/// ```
/// use buttress::{Classify, Error, Verdict};
/// use std::io::{self, ErrorKind};
///
/// fn judge(outcome: Result<&Vec<u8>, &Error<io::Error>>) -> Verdict {
///     match outcome {
///         Ok(_) => Verdict::Healthy,
///         // An invalid request says nothing about the upstream.
///         Err(Error::Service(error)) if error.kind() == ErrorKind::InvalidInput => Verdict::Ignored,
///         Err(_) => Verdict::TRANSIENT,
///     }
/// }
///
/// let invalid = Error::Service(io::Error::from(ErrorKind::InvalidInput));
/// assert_eq!(judge.classify(Err(&invalid)), Verdict::Ignored);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not classify outcomes of `Result<&{Res}, &{Err}>`",
    note = "`StatusClassifier` judges the responses and errors of hyper and hyper-util with the feature `hyper-util` of buttress, those of reqwest 0.13 with the feature `reqwest`, and errors that implement `buttress::http::ClientError`",
    note = "a classifier of your own is a `fn(Result<&{Res}, &{Err}>) -> buttress::Verdict`; write its types out"
)]
pub trait Classify<Res, Err> {
    /// Classifies one outcome. Each layer calls this once per attempt, and holds no lock meanwhile.
    fn classify(&self, outcome: Result<&Res, &Err>) -> Verdict;
}

impl<C, Res, Err> Classify<Res, Err> for C
where
    C: Fn(Result<&Res, &Err>) -> Verdict,
{
    fn classify(&self, outcome: Result<&Res, &Err>) -> Verdict {
        self(outcome)
    }
}

/// The default classifier: every `Ok` is healthy, every `Err` is transient.
///
/// ```
/// use buttress::verdict::Outcome;
/// use buttress::{Classify, Verdict};
///
/// assert_eq!(Outcome.classify(Ok::<_, &()>(&"response")), Verdict::Healthy);
/// assert_eq!(Outcome.classify(Err::<&(), _>(&"error")), Verdict::TRANSIENT);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome;

impl<Res, Err> Classify<Res, Err> for Outcome {
    fn classify(&self, outcome: Result<&Res, &Err>) -> Verdict {
        if outcome.is_ok() {
            Verdict::Healthy
        } else {
            Verdict::TRANSIENT
        }
    }
}

/// Classifies an outcome for a layer. A rejection by this crate never reaches the classifier.
pub(crate) fn judge<C, Res, Err>(classify: &C, outcome: Result<&Res, &Err>) -> Verdict
where
    C: Classify<Res, Err>,
    Err: StackError,
{
    match outcome.err().and_then(StackError::rejection) {
        None => classify.classify(outcome),
        Some(rejection) => of_rejection(rejection),
    }
}

/// The verdict of a rejection. After `TimedOut` the upstream was too slow. After the others it was
/// not called, or the caller's own deadline ended the call.
pub(crate) const fn of_rejection(rejection: Rejection) -> Verdict {
    match rejection {
        Rejection::TimedOut { .. } => Verdict::TRANSIENT,
        _ => Verdict::Ignored,
    }
}

/// Whether the caller's own deadline ended the call, however much time the upstream had.
pub(crate) fn ended_by_deadline<Err: StackError>(error: &Err) -> bool {
    matches!(error.rejection(), Some(Rejection::DeadlinePassed { .. }))
}
