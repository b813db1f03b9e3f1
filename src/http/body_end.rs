use super::fault::ClientError;
use crate::gate::{CallEnd, Finish};
use crate::verdict::Verdict;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A call is over when the body of its response is: read to its end, failed, or dropped.
///
/// For responses that take long to read, such as downloads, streams and server-sent events. A
/// body that fails is judged as an error of the call is: a failure of the callee's, unless it
/// came of the caller's own upload over HTTP/2 (over HTTP/1.1 the two cannot be told apart).
/// One that the caller drops before its end is a cancelled call: young it says nothing, and at
/// the age of [`abandoned_after`](crate::circuit_breaker::CircuitBuilder::abandoned_after) it is
/// a failure. What is not a success by its head is judged at once.
///
/// ```
/// use buttress::http::{StatusClassifier, UntilBodyEnd};
/// use buttress::{CircuitBreakerLayer, LoadShedLayer};
///
/// let shed = LoadShedLayer::builder(256).until(UntilBodyEnd).build()?;
/// let breaker = CircuitBreakerLayer::builder()
///     .classify(StatusClassifier::default())
///     .until(UntilBodyEnd)
///     .build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilBodyEnd;

impl<B: Body<Error: ClientError>> CallEnd<Response<B>> for UntilBodyEnd {
    type Response<G: Finish> = Response<HeldBody<B, G>>;

    fn goes_on(res: &Response<B>) -> bool {
        !res.body().is_end_stream()
    }

    fn hold<G: Finish>(res: Response<B>, guard: Option<G>) -> Self::Response<G> {
        res.map(|body| HeldBody { body, guard })
    }
}

pin_project! {
    /// The body of a response, and what its call holds until the end of it.
    #[derive(Debug)]
    pub struct HeldBody<B, G> {
        // Dropped first: what it holds itself is free when the slot is.
        #[pin]
        body: B,
        guard: Option<G>,
    }
}

/// Holds nothing.
impl<B: Default, G> Default for HeldBody<B, G> {
    fn default() -> Self {
        Self {
            body: B::default(),
            guard: None,
        }
    }
}

impl<B, G> Body for HeldBody<B, G>
where
    B: Body<Error: ClientError>,
    G: Finish,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            Some(Err(error)) => {
                if let Some(mut guard) = this.guard.take() {
                    guard.finish(error.verdict());
                }
            }
            // A reader who knows the length need not ask for more.
            Some(Ok(_)) if !is_over(&*this.body) => {}
            Some(Ok(_)) | None => {
                if let Some(mut guard) = this.guard.take() {
                    guard.finish(Verdict::Healthy);
                }
            }
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

/// Over HTTP/2 the end comes by itself, after the last byte.
fn is_over(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}
