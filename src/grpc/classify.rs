use super::code::Code;
use super::pushback::{Pushback, pushback};
use super::tag::Tag;
use super::trailers::Trailers;
use crate::error::Error;
use crate::http::judge_error;
use crate::verdict::{Classify, RetryAfter, Sent, Verdict};
use http::{HeaderMap, Response};

/// The classifier for gRPC: by `grpc-status`, in the head of the response or in its trailers.
///
/// | status | verdict |
/// |---|---|
/// | `OK`, `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `PERMISSION_DENIED`, `UNAUTHENTICATED`, `FAILED_PRECONDITION`, `OUT_OF_RANGE`, `ABORTED`, `UNIMPLEMENTED` | [`Healthy`](Verdict::Healthy): the upstream works |
/// | `UNAVAILABLE`, `DEADLINE_EXCEEDED` | [`Transient`](Verdict::Transient) |
/// | `RESOURCE_EXHAUSTED` | [`Throttled`](Verdict::Throttled) |
/// | `UNKNOWN`, `INTERNAL`, `DATA_LOSS` | [`Permanent`](Verdict::Permanent) |
/// | `CANCELLED` | [`Ignored`](Verdict::Ignored) |
/// | no status, HTTP 429, 502, 503 or 504 | `Transient`, as `UNAVAILABLE` |
/// | no status, another HTTP status that is not 200 | `Permanent` |
/// | no status yet, HTTP 200 | `Healthy`: messages follow |
/// | an error of the client | that of [`judge_error`] |
///
/// [`retryable`](Self::retryable) makes more codes `Transient`. The upstream can ask for a wait in
/// `grpc-retry-pushback-ms` (gRFC A6) or in a `google.rpc.RetryInfo` of `grpc-status-details-bin`. With a
/// pushback that is negative or unreadable, the verdict is `Permanent` in place of `Transient`, and `Ignored` in
/// place of `Throttled`: the call is not sent again.
///
/// A status in the trailers is seen if [`PeekTrailersLayer`](super::PeekTrailersLayer) has looked for it.
///
/// ```
/// use buttress::grpc::{Code, StatusClassifier};
/// use buttress::{Classify, Error, Verdict};
/// use http::Response;
///
/// const CONFLICTS: &[Code] = &[Code::Aborted];
/// let aborted = Response::builder().header("grpc-status", "10").body(()).unwrap();
/// let judge = |classifier: StatusClassifier| classifier.classify(Ok::<_, &Error<std::io::Error>>(&aborted));
/// assert_eq!(judge(StatusClassifier::default()), Verdict::Healthy);
/// assert_eq!(judge(StatusClassifier::default().retryable(CONFLICTS)), Verdict::TRANSIENT);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusClassifier {
    retryable: &'static [Code],
}

impl StatusClassifier {
    /// Codes that are [`Transient`](Verdict::Transient) besides those of the table. Default: none.
    #[must_use]
    pub const fn retryable(mut self, codes: &'static [Code]) -> Self {
        self.retryable = codes;
        self
    }

    /// The verdict on a response. Call it from a classifier of your own.
    #[must_use]
    pub fn judge_response<B>(self, response: &Response<B>) -> Verdict {
        let head = response.headers();
        let tag = Tag::of_response(response.extensions());
        if let Some(code) = Code::in_headers(head) {
            return self.judge(code, head, tag);
        }
        if let Some(Trailers(trailers)) = response.extensions().get() {
            // gRPC: a stream that ends without a status is `UNKNOWN`.
            let code = Code::in_headers(trailers).unwrap_or(Code::Unknown);
            return self.judge(code, trailers, tag);
        }
        match response.status() {
            http::StatusCode::OK => Verdict::Healthy,
            status => match Code::of_http(status) {
                code @ Code::Unavailable => self.judge(code, head, tag),
                _ => Verdict::Permanent,
            },
        }
    }

    /// The verdict on a status, with the headers or trailers that it came with.
    pub(super) fn judge(self, code: Code, headers: &HeaderMap, tag: Option<&Tag>) -> Verdict {
        let retry_after = || match pushback(headers) {
            Pushback::None => Some(RetryAfter::None),
            Pushback::After(delay) => Some(RetryAfter::Delay(delay)),
            Pushback::Never => None,
        };
        let transient = || {
            let sent = Sent::Unknown;
            retry_after().map_or(Verdict::Permanent, |retry_after| Verdict::Transient {
                retry_after,
                sent,
            })
        };
        let throttled = || {
            retry_after().map_or(Verdict::Ignored, |retry_after| Verdict::Throttled {
                retry_after,
            })
        };
        match (code, tag) {
            // Whether a service config retries it is decided with the request, so that it stays `Throttled`.
            (Code::ResourceExhausted, Some(_)) => return throttled(),
            (_, Some(tag)) if tag.lists(code) => return transient(),
            (Code::Unavailable | Code::DeadlineExceeded, Some(_)) => return Verdict::Permanent,
            (_, None) if self.retryable.contains(&code) => return transient(),
            _ => {}
        }
        match code {
            Code::Unavailable | Code::DeadlineExceeded => transient(),
            Code::ResourceExhausted => throttled(),
            Code::Unknown | Code::Internal | Code::DataLoss => Verdict::Permanent,
            Code::Cancelled => Verdict::Ignored,
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => Verdict::Healthy,
        }
    }
}

impl<B, E> Classify<Response<B>, Error<E>> for StatusClassifier
where
    E: std::error::Error + 'static,
{
    fn classify(&self, outcome: Result<&Response<B>, &Error<E>>) -> Verdict {
        match outcome {
            Ok(response) => self.judge_response(response),
            Err(Error::Service(error)) => judge_error(error),
            // The layers classify their rejections themselves.
            Err(Error::Rejected(_)) => Verdict::Ignored,
        }
    }
}
