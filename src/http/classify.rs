use super::retry_after::retry_after;
use crate::classify::{Classify, Verdict};
use http::{Response, StatusCode};

/// Judges an HTTP response by its status. Every error is transient.
///
/// | status | verdict |
/// |---|---|
/// | 408, 425, 500, 502, 503, 504 | [`Transient`](Verdict::Transient) |
/// | 429 | [`Throttled`](Verdict::Throttled) |
/// | 501, 505 | [`Permanent`](Verdict::Permanent) |
/// | all others | [`Healthy`](Verdict::Healthy): an answer, if not the one hoped for |
///
/// With the first two goes what the response asks for in [`Retry-After`](retry_after()).
///
/// ```
/// use buttress::{Classify, Verdict, http::StatusClassifier};
/// use std::{convert::Infallible, time::Duration};
///
/// let response = http::Response::builder().status(503).header("retry-after", "7").body(())?;
/// let verdict = StatusClassifier::default().classify(Ok::<_, &Infallible>(&response));
/// assert_eq!(verdict, Verdict::Transient { retry_after: Some(Duration::from_secs(7)) });
/// # Ok::<(), http::Error>(())
/// ```
///
/// To judge errors too, wrap it: a request that could not be built, for instance, says nothing
/// about the callee.
///
/// ```
/// use buttress::{Classify, Error, Verdict, http::StatusClassifier};
/// # #[derive(Debug)] struct ClientError; impl ClientError { fn is_request(&self) -> bool { true } }
///
/// fn judge<B>(outcome: Result<&http::Response<B>, &Error<ClientError>>) -> Verdict {
///     match outcome {
///         Err(Error::Service(error)) if error.is_request() => Verdict::Ignored,
///         outcome => StatusClassifier::default().classify(outcome),
///     }
/// }
/// # assert_eq!(judge::<()>(Err(&Error::Service(ClientError))), Verdict::Ignored);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct StatusClassifier;

impl<B, E> Classify<Response<B>, E> for StatusClassifier {
    fn classify(&self, outcome: Result<&Response<B>, &E>) -> Verdict {
        let Ok(response) = outcome else {
            return Verdict::TRANSIENT;
        };
        match response.status() {
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Verdict::Transient {
                retry_after: retry_after(response.headers()),
            },
            StatusCode::TOO_MANY_REQUESTS => Verdict::Throttled {
                retry_after: retry_after(response.headers()),
            },
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
                Verdict::Permanent
            }
            _ => Verdict::Healthy,
        }
    }
}
