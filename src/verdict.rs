//! One verdict on the callee, for every layer.

use crate::error::{Rejection, StackError};
use std::time::Duration;

/// What an outcome says about the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It works. Whatever it answered is an answer, a "not found" too.
    Healthy,
    /// It failed, and may work if sent again.
    Transient {
        /// How long the callee asks to be left alone, from now.
        retry_after: Option<Duration>,
    },
    /// It is alive, and asks for less: a status of 429, `RESOURCE_EXHAUSTED`.
    Throttled {
        /// How long the callee asks to be left alone, from now.
        retry_after: Option<Duration>,
    },
    /// It failed, and no retry mends it.
    Permanent,
    /// Says nothing about the callee: the caller's own fault, for instance.
    Ignored,
}

impl Verdict {
    /// [`Transient`](Self::Transient), with no wish of the callee's.
    pub const TRANSIENT: Self = Self::Transient { retry_after: None };
    /// [`Throttled`](Self::Throttled), with no wish of the callee's.
    pub const THROTTLED: Self = Self::Throttled { retry_after: None };

    /// How long the callee asks to be left alone.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after } | Self::Throttled { retry_after } => retry_after,
            Self::Healthy | Self::Permanent | Self::Ignored => None,
        }
    }

    /// The word for it in events.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Transient { .. } => "transient",
            Self::Throttled { .. } => "throttled",
            Self::Permanent => "permanent",
            Self::Ignored => "ignored",
        }
    }
}

/// Judges the callee by an outcome.
///
/// The circuit breaker counts [`Transient`](Verdict::Transient) and
/// [`Permanent`](Verdict::Permanent) as failures, [`Healthy`](Verdict::Healthy) as a success and
/// nothing else; retry sends again on `Transient` and [`Throttled`](Verdict::Throttled).
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
///         // the caller's own fault says nothing about the callee
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
    note = "a classifier is a `fn(Result<&{Res}, &{Err}>) -> buttress::Verdict`; write its types out"
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
        Some(Rejection::TimedOut { .. }) => Verdict::TRANSIENT,
        Some(_) => Verdict::Ignored,
    }
}

/// Whether the caller's own deadline ended the call, so that the callee may have been given any
/// time or none.
pub(crate) fn ended_by_deadline<Err: StackError>(error: &Err) -> bool {
    matches!(error.rejection(), Some(Rejection::DeadlinePassed { .. }))
}
