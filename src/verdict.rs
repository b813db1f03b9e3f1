//! One verdict on the upstream, for every layer.

use crate::error::{Rejection, StackError};
use std::time::Duration;

/// What an outcome says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It works. Whatever it responds is a response, a "not found" too.
    Healthy,
    /// It failed, and may work if the call is sent again.
    Transient {
        /// How long it asks to be left alone.
        retry_after: RetryAfter,
    },
    /// It works, and asks for fewer calls: a status of 429, `RESOURCE_EXHAUSTED`.
    Throttled {
        /// How long it asks to be left alone.
        retry_after: RetryAfter,
    },
    /// It failed, and no retry mends it.
    Permanent,
    /// The caller ran out of something of its own: file descriptors, ports, memory. The outcome says
    /// nothing about the upstream, and the call may work if it is sent again.
    Local,
    /// The outcome says nothing about the upstream: the caller made a mistake, for instance.
    Ignored,
}

/// How long the upstream asks to be left alone, from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryAfter {
    /// It does not ask.
    #[default]
    None,
    /// This long.
    Delay(Duration),
    /// It asks, but nobody can tell for how long. Retry takes this for the cap of its backoff.
    Unreadable,
}

impl From<Duration> for RetryAfter {
    fn from(delay: Duration) -> Self {
        Self::Delay(delay)
    }
}

impl RetryAfter {
    /// How long, where that is known.
    #[must_use]
    pub const fn delay(self) -> Option<Duration> {
        match self {
            Self::Delay(delay) => Some(delay),
            Self::None | Self::Unreadable => None,
        }
    }
}

impl Verdict {
    /// [`Transient`](Self::Transient), from an upstream that does not ask to be left alone.
    pub const TRANSIENT: Self = Self::Transient {
        retry_after: RetryAfter::None,
    };
    /// [`Throttled`](Self::Throttled), from an upstream that does not say for how long.
    pub const THROTTLED: Self = Self::Throttled {
        retry_after: RetryAfter::None,
    };

    /// How long the upstream asks to be left alone.
    #[must_use]
    pub const fn retry_after(self) -> RetryAfter {
        match self {
            Self::Transient { retry_after } | Self::Throttled { retry_after } => retry_after,
            Self::Healthy | Self::Permanent | Self::Local | Self::Ignored => RetryAfter::None,
        }
    }

    /// The word for it in events.
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

/// Judges the upstream by an outcome.
///
/// | verdict | circuit breaker | retry |
/// |---|---|---|
/// | [`Healthy`](Verdict::Healthy) | counts a success | ends; a first attempt earns a part of a token |
/// | [`Transient`](Verdict::Transient) | counts a failure | sends again |
/// | [`Throttled`](Verdict::Throttled) | does not count | sends again |
/// | [`Permanent`](Verdict::Permanent) | counts a failure | ends |
/// | [`Local`](Verdict::Local) | does not count | sends again |
/// | [`Ignored`](Verdict::Ignored) | does not count | ends |
///
/// A classifier never sees a rejection of this crate: the layers judge those themselves
/// ([`TimedOut`](Rejection::TimedOut) is `Transient`, every other is `Ignored`).
///
/// Functions and closures are classifiers. A named function with its types written out gives the
/// clearest compiler errors:
///
/// ```
/// use buttress::{Classify, Error, Verdict};
/// use std::io::{self, ErrorKind};
///
/// fn judge(outcome: Result<&Vec<u8>, &Error<io::Error>>) -> Verdict {
///     match outcome {
///         Ok(_) => Verdict::Healthy,
///         // the caller's mistake says nothing about the upstream
///         Err(Error::Service(error)) if error.kind() == ErrorKind::InvalidInput => Verdict::Ignored,
///         Err(_) => Verdict::TRANSIENT,
///     }
/// }
///
/// let mistake = Error::Service(io::Error::from(ErrorKind::InvalidInput));
/// assert_eq!(judge.classify(Err(&mistake)), Verdict::Ignored);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not classify outcomes of `Result<&{Res}, &{Err}>`",
    note = "`StatusClassifier` judges the responses and errors of hyper and hyper-util with the feature `hyper-util` of buttress, those of reqwest 0.13 with the feature `reqwest`, and errors that implement `buttress::http::ClientError`",
    note = "a classifier of your own is a `fn(Result<&{Res}, &{Err}>) -> buttress::Verdict`; write its types out"
)]
pub trait Classify<Res, Err> {
    /// Judges one outcome. Called once per attempt, outside every lock.
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

/// The default classifier: every `Ok` is healthy, every `Err` transient.
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

/// The verdict of the layers: a rejection of ours never reaches the classifier.
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

/// The upstream was late, or was not called.
pub(crate) const fn of_rejection(rejection: Rejection) -> Verdict {
    match rejection {
        Rejection::TimedOut { .. } => Verdict::TRANSIENT,
        _ => Verdict::Ignored,
    }
}

/// Whether the caller's own deadline ended the call: the upstream may have had any time or none.
pub(crate) fn ended_by_deadline<Err: StackError>(error: &Err) -> bool {
    matches!(error.rejection(), Some(Rejection::DeadlinePassed { .. }))
}
