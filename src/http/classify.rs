use super::fault::ClientError;
use super::head::ResponseHead;
use super::retry_after::retry_after;
use crate::verdict::{Classify, RetryAfter, Sent, Verdict};
use http::{HeaderMap, StatusCode};

/// The classifier for HTTP: the verdict depends on the status of a response, or on the kind of an
/// error.
///
/// | status | verdict |
/// |---|---|
/// | 408, 425, 500, 502, 503, 504 | [`Transient`](Verdict::Transient) |
/// | 429 | [`Throttled`](Verdict::Throttled) |
/// | 501, 505 | [`Permanent`](Verdict::Permanent) |
/// | 506 and above | as 500 |
/// | all others | [`Healthy`](Verdict::Healthy): the upstream works |
///
/// `Transient` and `Throttled` carry the response's [`Retry-After`](retry_after()). An error must
/// implement [`ClientError`], which returns its verdict. The [full table](super#verdicts) lists all
/// errors and gives the reasons.
///
/// ```
/// use buttress::{Classify, RetryAfter, Verdict, http::StatusClassifier, verdict::Sent};
/// use std::{convert::Infallible, time::Duration};
///
/// let response = http::Response::builder().status(503).header("retry-after", "7").body(())?;
/// let verdict = StatusClassifier::default().classify(Ok::<_, &Infallible>(&response));
/// let retry_after = RetryAfter::Delay(Duration::from_secs(7));
/// assert_eq!(verdict, Verdict::Transient { retry_after, sent: Sent::Unknown });
/// # Ok::<(), http::Error>(())
/// ```
///
/// You can replace the list of transient statuses, and let a 429 trip the circuit breaker:
///
/// ```
/// use buttress::{Verdict, http::StatusClassifier};
/// use http::{Response, StatusCode};
///
/// const TRANSIENT: &[StatusCode] = &[StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE];
/// let classify = StatusClassifier::default().transient(TRANSIENT).throttled_is_failure();
///
/// let response = Response::builder().status(429).body(())?;
/// assert_eq!(classify.judge_response(&response), Verdict::TRANSIENT);
/// let response = Response::builder().status(500).body(())?;
/// assert_eq!(classify.judge_response(&response), Verdict::Healthy);
/// # Ok::<(), http::Error>(())
/// ```
///
/// For the errors of another client, write your own classifier around it:
///
/// ```
/// use buttress::{Error, Verdict, http::StatusClassifier};
/// # #[derive(Debug)] struct OtherError; impl OtherError { fn is_request(&self) -> bool { true } }
///
/// fn judge<B>(outcome: Result<&http::Response<B>, &Error<OtherError>>) -> Verdict {
///     match outcome {
///         Ok(response) => StatusClassifier::default().judge_response(response),
///         Err(Error::Service(error)) if error.is_request() => Verdict::Ignored,
///         Err(_) => Verdict::TRANSIENT,
///     }
/// }
/// # assert_eq!(judge::<()>(Err(&Error::Service(OtherError))), Verdict::Ignored);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StatusClassifier {
    transient: &'static [StatusCode],
    throttled_is_failure: bool,
    follows_redirects: bool,
}

impl Default for StatusClassifier {
    fn default() -> Self {
        Self {
            transient: TRANSIENT,
            throttled_is_failure: false,
            follows_redirects: true,
        }
    }
}

const TRANSIENT: &[StatusCode] = &[
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_EARLY,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

impl StatusClassifier {
    /// Replaces the list of transient statuses. Default: 408, 425, 500, 502, 503 and 504. A listed
    /// status is always transient, even 429 or 501.
    ///
    /// A status that RFC 9110 does not name counts as the first of its class, unless it is listed
    /// itself: 522 counts as 500. A status outside of 100 to 599 counts as 500 (RFC 9110 §15).
    #[must_use]
    pub const fn transient(mut self, statuses: &'static [StatusCode]) -> Self {
        self.transient = statuses;
        self
    }

    /// Makes a 429 [`Transient`](Verdict::Transient), so that the circuit breaker counts a failure.
    /// Retry does the same for both verdicts. Default: a 429 is [`Throttled`](Verdict::Throttled).
    #[must_use]
    pub const fn throttled_is_failure(mut self) -> Self {
        self.throttled_is_failure = true;
        self
    }

    /// Says that the client follows no redirects (reqwest: `redirect::Policy::none()`). Then an error of
    /// reqwest can tell that the call was [not sent](crate::verdict::Sent::No), so that a POST survives a
    /// refused connection. Default: an error of reqwest never tells that, because a redirected POST may
    /// have been processed. Errors of hyper-util, which follows none, need no setting.
    #[must_use]
    pub const fn no_redirects(mut self) -> Self {
        self.follows_redirects = false;
        self
    }

    /// Returns the verdict on a response. Call it from a classifier of your own.
    #[must_use]
    pub fn judge_response(self, response: &impl ResponseHead) -> Verdict {
        self.status(response.status(), Some(response.headers()))
    }

    /// The verdict of a status, with the `Retry-After` of the headers.
    pub(super) fn status(self, status: StatusCode, headers: Option<&HeaderMap>) -> Verdict {
        let asked = || headers.map_or(RetryAfter::None, retry_after);
        let recognized = recognized(status);
        if self.transient.contains(&status) || self.transient.contains(&recognized) {
            return Verdict::Transient {
                retry_after: asked(),
                sent: Sent::Unknown,
            };
        }
        match recognized {
            StatusCode::TOO_MANY_REQUESTS if self.throttled_is_failure => Verdict::Transient {
                retry_after: asked(),
                sent: Sent::Unknown,
            },
            StatusCode::TOO_MANY_REQUESTS => Verdict::Throttled {
                retry_after: asked(),
            },
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
                Verdict::Permanent
            }
            _ => Verdict::Healthy,
        }
    }
}

/// Returns the status itself if RFC 9110 §15, RFC 8470 (425) or RFC 6585 (429) names it, else the
/// first status of its class. A status outside of 100 to 599 counts as a 5xx (RFC 9110 §15).
fn recognized(status: StatusCode) -> StatusCode {
    let first = match status.as_u16() {
        100..=101
        | 200..=206
        | 300..=305
        | 307..=308
        | 400..=417
        | 421..=422
        | 425..=426
        | 429
        | 500..=505 => return status,
        number @ 100..=599 => number / 100 * 100,
        _ => 500,
    };
    StatusCode::from_u16(first).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl<Res: ResponseHead, E: ClientError> Classify<Res, E> for StatusClassifier {
    fn classify(&self, outcome: Result<&Res, &E>) -> Verdict {
        match outcome {
            Ok(response) => self.judge_response(response),
            Err(error) if self.follows_redirects => error.verdict(),
            Err(error) => error.verdict_without_redirects(),
        }
    }
}
