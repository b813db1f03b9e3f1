//! Whose fault an error is.

use crate::error::Error as Lifted;
use crate::verdict::Verdict;
use std::any::Any;
use std::error::Error;
use std::io;

type BoxError = Box<dyn Error + Send + Sync>;

/// Judges the callee by an error of an HTTP client, or by one that has it among its sources.
///
/// The caller's own faults are [`Ignored`](Verdict::Ignored): a request that could not be built or
/// addressed, a body stream that failed. An answer that is not HTTP is
/// [`Permanent`](Verdict::Permanent). All else is transient: what fails to connect, is reset, cut
/// off or too late may go well the next time. The [table](super#verdicts) has them all.
///
/// Errors of `hyper`, `hyper-util` and `reqwest` are known with the features of these names (that
/// of hyper is `hyper-util`). For a classifier of one's own; [`StatusClassifier`] calls it.
///
/// [`StatusClassifier`]: super::StatusClassifier
///
/// ```
/// use buttress::{Verdict, http::judge_error};
/// use std::io;
///
/// let reset = io::Error::from(io::ErrorKind::ConnectionReset);
/// assert_eq!(judge_error(&reset), Verdict::TRANSIENT);
/// ```
#[must_use]
pub fn judge_error(error: &(dyn Error + 'static)) -> Verdict {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(verdict) = known(error) {
            return verdict;
        }
        next = match error.downcast_ref::<io::Error>() {
            // Its source is that of the error within, which would so be passed over.
            Some(error) => error
                .get_ref()
                .map(|within| within as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    Verdict::TRANSIENT
}

/// As [`judge_error`], of an error that is known to be one only if it is of a known type.
pub(super) fn judge_any<E: 'static>(error: &E) -> Verdict {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<BoxError>() {
        return judge_error(&**error);
    }
    if let Some(Lifted::Service(error)) = error.downcast_ref::<Lifted<BoxError>>() {
        return judge_error(&**error);
    }
    #[cfg(feature = "hyper-util")]
    if let Some(error) =
        lifted::<hyper_util::client::legacy::Error>(error).or_else(|| lifted::<hyper::Error>(error))
    {
        return judge_error(error);
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = lifted::<reqwest::Error>(error) {
        return judge_error(error);
    }
    Verdict::TRANSIENT
}

/// A client's error, alone or in our own.
#[cfg(feature = "hyper-util")]
fn lifted<E: Error + 'static>(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    let alone = error.downcast_ref::<E>();
    let error = alone.or_else(|| match error.downcast_ref::<Lifted<E>>() {
        Some(Lifted::Service(error)) => Some(error),
        _ => None,
    });
    error.map(|error| error as &(dyn Error + 'static))
}

/// What one error says, its sources apart. `None` if only they can tell.
#[cfg(feature = "hyper-util")]
fn known(error: &(dyn Error + 'static)) -> Option<Verdict> {
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return of_reqwest(error);
    }
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return of_hyper_util(error);
    }
    error.downcast_ref::<hyper::Error>().map(of_hyper)
}

#[cfg(not(feature = "hyper-util"))]
fn known(_: &(dyn Error + 'static)) -> Option<Verdict> {
    None
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &reqwest::Error) -> Option<Verdict> {
    if error.is_builder() {
        return Some(Verdict::Ignored);
    }
    if error.is_redirect() || error.is_upgrade() || error.is_decode() {
        return Some(Verdict::Permanent);
    }
    // Of `error_for_status`.
    if let Some(status) = error.status() {
        return Some(super::StatusClassifier::default().status(status, None));
    }
    None
}

#[cfg(feature = "hyper-util")]
fn of_hyper_util(error: &hyper_util::client::legacy::Error) -> Option<Verdict> {
    // Its kinds are private but for one, and its words all that tells of the others.
    let bad_request = error.to_string().contains("(User");
    let bad_uri = || {
        let cause = error.source();
        cause.is_some_and(|cause| cause.to_string().starts_with("invalid URL"))
    };
    if bad_request || (error.is_connect() && bad_uri()) {
        return Some(Verdict::Ignored);
    }
    error.is_connect().then_some(Verdict::TRANSIENT)
}

#[cfg(feature = "hyper-util")]
fn of_hyper(error: &hyper::Error) -> Verdict {
    // Over HTTP/2 a body of the caller's that failed resets its stream, and only the words say by
    // whom.
    let by_caller = || {
        let cause = error.source();
        cause.is_some_and(|cause| cause.to_string().starts_with("stream error sent by user"))
    };
    if error.is_user() || by_caller() {
        Verdict::Ignored
    } else if error.is_parse() {
        Verdict::Permanent
    } else {
        Verdict::TRANSIENT
    }
}
