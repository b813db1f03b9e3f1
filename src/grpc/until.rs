use super::classify::StatusClassifier;
use super::code::Code;
use crate::gate::{CallEnd, Finish};
use crate::http::{HeldBody, JudgeEnd, judge_error};
use crate::verdict::Verdict;
use http::{HeaderMap, Response};
use http_body::Body;

/// Ends a gRPC call with its trailers, for load shed and circuit breaker: as
/// [`UntilBodyEnd`](crate::http::UntilBodyEnd), with the verdict of the status in the trailers.
///
/// Use it for streams, whose status comes after their messages. A response that ends without a status
/// counts as `UNKNOWN`.
///
/// ```
/// use buttress::grpc;
///
/// let stack = grpc::stack().name("orders").load_shed(64).until(grpc::UntilTrailers);
/// # let _ = stack;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilTrailers;

impl<B> CallEnd<Response<B>> for UntilTrailers
where
    B: Body<Error: std::error::Error + 'static>,
{
    type Response<G: Finish> = Response<HeldBody<B, G, Self>>;

    fn goes_on(res: &Response<B>) -> bool {
        !res.body().is_end_stream()
    }

    fn hold<G: Finish>(res: Response<B>, guard: Option<G>) -> Self::Response<G> {
        HeldBody::hold(res, guard)
    }
}

impl<E: std::error::Error + 'static> JudgeEnd<E> for UntilTrailers {
    fn failed(error: &E) -> Verdict {
        judge_error(error)
    }

    fn ended(trailers: Option<&HeaderMap>) -> Verdict {
        let none = HeaderMap::new();
        let trailers = trailers.unwrap_or(&none);
        let code = Code::in_headers(trailers).unwrap_or(Code::Unknown);
        StatusClassifier::default().judge(code, trailers, None)
    }
}
