use super::fault::ClientError;
use crate::gate::{CallEnd, Finish};
use crate::verdict::Verdict;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Ends a call when the body of its response ends: it is read to its end, fails or is dropped.
/// Needs the feature `http-body`.
///
/// Use it for load shed and circuit breaker, for responses that take long to read: downloads,
/// streams, server-sent events. The slot (place of the concurrency limit) is held until the body
/// ends. The circuit breaker counts the call like this:
///
/// | response | circuit breaker |
/// |---|---|
/// | its head is not healthy | counts the verdict of the head, at once |
/// | its body is read to the end | counts a success |
/// | its body fails | counts the verdict of the error, usually a failure |
/// | the caller drops its body | ignores the call; if it is older than [`abandoned_after`](crate::circuit_breaker::CircuitBuilder::abandoned_after), counts a failure |
///
/// Over HTTP/2, a body that fails because of the caller's own upload is ignored. Over HTTP/1.1 such a
/// failure looks like one of the upstream, and counts as one.
///
/// ```
/// use buttress::http::UntilBodyEnd;
/// use buttress::{ErrorLayer, LoadShedLayer};
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let shed = LoadShedLayer::builder(256).until(UntilBodyEnd).build().unwrap();
/// let limit = shed.limit().clone();
/// let client = ServiceBuilder::new().layer(shed).layer(ErrorLayer).service(service_fn(
///     |_: Request<()>| async { Ok::<_, Infallible>(Response::new(Full::new(&b"a long body"[..]))) },
/// ));
///
/// let response = client.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(limit.in_flight(), 1);
/// drop(response);
/// assert_eq!(limit.in_flight(), 0);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilBodyEnd;

impl<B: Body<Error: ClientError>> CallEnd<Response<B>> for UntilBodyEnd {
    type Response<G: Finish> = Response<HeldBody<B, G>>;

    fn goes_on(res: &Response<B>) -> bool {
        !res.body().is_end_stream()
    }

    fn hold<G: Finish>(res: Response<B>, guard: Option<G>) -> Self::Response<G> {
        HeldBody::hold(res, guard)
    }
}

/// What the end of a body says about the upstream.
pub trait JudgeEnd<E> {
    /// The verdict on a body that failed.
    fn failed(error: &E) -> Verdict;

    /// The verdict on a body that ended, with its trailers.
    fn ended(trailers: Option<&HeaderMap>) -> Verdict;
}

impl<E: ClientError> JudgeEnd<E> for UntilBodyEnd {
    fn failed(error: &E) -> Verdict {
        error.verdict()
    }

    fn ended(_: Option<&HeaderMap>) -> Verdict {
        Verdict::Healthy
    }
}

pin_project! {
    /// The body of a response that holds a slot or permit until its end.
    #[derive(Debug)]
    pub struct HeldBody<B, G, J = UntilBodyEnd> {
        // Dropped before the guard: when the slot is free, the body's own resources are free, too.
        #[pin]
        body: B,
        guard: Option<G>,
        judge: PhantomData<fn() -> J>,
    }
}

impl<B, G, J> HeldBody<B, G, J> {
    pub(crate) fn hold(res: Response<B>, guard: Option<G>) -> Response<Self> {
        res.map(|body| Self {
            body,
            guard,
            judge: PhantomData,
        })
    }
}

/// A body that holds nothing.
impl<B: Default, G, J> Default for HeldBody<B, G, J> {
    fn default() -> Self {
        Self {
            body: B::default(),
            guard: None,
            judge: PhantomData,
        }
    }
}

impl<B, G, J> Body for HeldBody<B, G, J>
where
    B: Body,
    G: Finish,
    J: JudgeEnd<B::Error>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let verdict = match &frame {
            Some(Err(error)) => J::failed(error),
            Some(Ok(frame)) if frame.is_trailers() => J::ended(frame.trailers_ref()),
            // A reader who knows the length does not poll again after the last byte. So the end of
            // the body is checked after each frame.
            Some(Ok(_)) if !is_over(&*this.body) => return Poll::Ready(frame),
            Some(Ok(_)) | None => J::ended(None),
        };
        if let Some(mut guard) = this.guard.take() {
            guard.finish(verdict);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether all of the body has been read. An HTTP/2 body reports its end only after its last byte,
/// so its remaining length is checked as well.
fn is_over(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}
