use super::code::{Code, GRPC_STATUS};
use super::tag::Tag;
use super::timeout::Late;
use crate::deadline::{Carrier, Deadline};
use crate::http::InExtensions;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower::{Layer, Service};

/// Looks for the trailers of a response that has no messages, so that its status is known before its
/// body is read.
///
/// Some servers send the status of a failed call in the trailers, and not in the head. The layer polls the
/// body once when the head has arrived. If trailers are there, they are also put into the extensions of
/// the response, where [`StatusClassifier`](super::StatusClassifier) finds them. If a message is there, the
/// reader of the body gets it first. If nothing is there yet, the layer does not wait. So no stream is
/// buffered or delayed.
///
/// An upstream that knows the deadline of the request may say `DEADLINE_EXCEEDED` at that very moment. Such a
/// response waits for up to 10 ms for the timeout above, which knows whether it was the caller's own deadline.
///
/// Put it below retry and circuit breaker. [`grpc::service`](super::service) does.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeekTrailersLayer;

/// The service that [`PeekTrailersLayer`] makes.
#[derive(Clone, Debug)]
pub struct PeekTrailers<S> {
    inner: S,
}

/// Trailers that came right after the head, in the extensions of the response.
#[derive(Clone, Debug)]
pub(super) struct Trailers(pub(super) HeaderMap);

impl<S> Layer<S> for PeekTrailersLayer {
    type Service = PeekTrailers<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PeekTrailers { inner }
    }
}

impl<S, A, B> Service<Request<A>> for PeekTrailers<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body + Unpin,
{
    type Response = Response<PeekedBody<B>>;
    type Error = S::Error;
    type Future = PeekFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<A>) -> Self::Future {
        let tag = Tag::of_request(req.extensions());
        let deadline = InExtensions.get(&req);
        let call = self.inner.call(req);
        PeekFuture {
            call,
            deadline,
            tag,
            late: None,
        }
    }
}

pin_project! {
    /// The future of a [`PeekTrailers`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct PeekFuture<F, B: Body> {
        #[pin]
        call: F,
        deadline: Option<Deadline>,
        tag: Option<Tag>,
        // A `DEADLINE_EXCEEDED` that came at the deadline waits for the timeout above.
        late: Option<Late<Response<PeekedBody<B>>>>,
    }
}

impl<F, B, E> Future for PeekFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body + Unpin,
{
    type Output = Result<Response<PeekedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(late) = this.late {
            return late.poll(cx).map(Ok);
        }
        let mut response = peeked(ready!(this.call.poll(cx))?, cx);
        if let Some(tag) = this.tag.take() {
            tag.put(response.extensions_mut());
        }
        let trailers = response.extensions().get();
        let trailers = trailers.map_or(response.headers(), |Trailers(trailers)| trailers);
        let is_late = Code::in_headers(trailers) == Some(Code::DeadlineExceeded);
        let deadline = this.deadline.filter(|_| is_late);
        match Late::new(response, deadline.and_then(|deadline| deadline.instant())) {
            Ok(late) => this.late.insert(late).poll(cx).map(Ok),
            Err(response) => Poll::Ready(Ok(response)),
        }
    }
}

impl<F, B: Body> fmt::Debug for PeekFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekFuture").finish_non_exhaustive()
    }
}

/// Polls the body once.
fn peeked<B: Body + Unpin>(response: Response<B>, cx: &mut Context<'_>) -> Response<PeekedBody<B>> {
    let (mut head, mut body) = response.into_parts();
    let peeked = match Pin::new(&mut body).poll_frame(cx) {
        Poll::Pending => Peeked::Nothing,
        Poll::Ready(None) => Peeked::End,
        Poll::Ready(Some(frame)) => Peeked::Frame(frame),
    };
    let trailers = match &peeked {
        Peeked::Frame(Ok(frame)) => frame.trailers_ref().cloned(),
        // gRPC: a call that ends without a status is `UNKNOWN`.
        Peeked::End if !head.headers.contains_key(&GRPC_STATUS) => Some(HeaderMap::new()),
        _ => None,
    };
    if let Some(trailers) = trailers {
        head.extensions.insert(Trailers(trailers));
    }
    Response::from_parts(head, PeekedBody { peeked, body })
}

/// The body of a response whose first frame may have been read.
#[derive(Debug)]
pub struct PeekedBody<B: Body> {
    peeked: Peeked<B::Data, B::Error>,
    body: B,
}

#[derive(Debug)]
enum Peeked<D, E> {
    Nothing,
    Frame(Result<Frame<D>, E>),
    End,
}

/// A body of which nothing was read.
impl<B: Body + Default> Default for PeekedBody<B> {
    fn default() -> Self {
        Self {
            peeked: Peeked::Nothing,
            body: B::default(),
        }
    }
}

impl<B> Body for PeekedBody<B>
where
    B: Body + Unpin,
    B::Data: Unpin,
    B::Error: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match std::mem::replace(&mut self.peeked, Peeked::Nothing) {
            Peeked::Frame(frame) => Poll::Ready(Some(frame)),
            Peeked::End => {
                self.peeked = Peeked::End;
                Poll::Ready(None)
            }
            Peeked::Nothing => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.peeked {
            Peeked::Nothing => self.body.is_end_stream(),
            Peeked::Frame(_) => false,
            Peeked::End => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.peeked {
            Peeked::Frame(Ok(frame)) => {
                let peeked = frame
                    .data_ref()
                    .map_or(0, |data| bytes::Buf::remaining(data) as u64);
                let rest = self.body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(peeked));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(peeked));
                }
                hint
            }
            _ => self.body.size_hint(),
        }
    }
}
