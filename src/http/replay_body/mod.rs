mod tape;

pub(super) use tape::Mark;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use std::error::Error;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tape::{Piece, Reader, Source, Tape};
use tower::{Layer, Service};

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes request bodies that are not `Clone` repeatable, for [`Retry`](crate::retry::Retry) to send
/// them again. Needs the feature `http-body`.
///
/// It stands above the retry, which then sees requests of a [`ReplayBody`], which is `Clone`: what
/// is sent of the body is kept, up to 64 KiB or [what is set](Self::keep), until the call ends. A
/// body that turns out to be longer is sent all the same, but once: the outcome of that attempt is
/// the call's, and the retry's event `gave_up` says `not_replayable`.
///
/// ```
/// use buttress::http::{Idempotent, ReplayBodyLayer, StatusClassifier};
/// use buttress::{ErrorLayer, RetryLayer};
/// use tower::ServiceBuilder;
/// # use buttress::http::ReplayBody;
/// # use http::{Request, Response};
/// # use http_body_util::combinators::UnsyncBoxBody;
/// # use hyper::body::Bytes;
/// # use std::convert::Infallible;
/// # use tower::{ServiceExt, service_fn};
/// # type Streaming = UnsyncBoxBody<Bytes, Infallible>;
/// # async fn send(_: Request<ReplayBody<Streaming>>) -> Result<Response<()>, Infallible> {
/// #     Ok(Response::new(()))
/// # }
/// # let client = service_fn(send);
///
/// let retry = RetryLayer::builder().classify(StatusClassifier::default()).replay(Idempotent);
/// let client = ServiceBuilder::new()
///     .layer(ReplayBodyLayer::new().keep(16 * 1024))
///     .layer(retry.build()?)
///     .layer(ErrorLayer)
///     .service(client);
/// # drop(client.oneshot(Request::new(Streaming::default())));
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
///
/// A body in more than 1024 parts counts as too long, however short they are.
///
/// Nothing between this layer and the retry may put another body in place of the [`ReplayBody`] or
/// drop the request's extensions: the policy finds there what can still be sent.
///
/// Which requests are sent again is still for the policy to say: [`Idempotent`](super::Idempotent)
/// repeats no POST, [`RepeatIf`](super::RepeatIf) what it is told to. Both know when a body was too
/// long. [`Cloned`](crate::retry::Cloned) and closures do not: with them, the retry of such a
/// request fails with an error of its body.
///
/// A client that takes bodies of one type only (tonic's, axum's, reqwest's) is given them below the
/// retry, by a `map_request` that puts the [`ReplayBody`] into one.
///
/// A request without a body passes through at no cost; one with a body costs a few allocations.
#[derive(Clone, Copy, Debug)]
pub struct ReplayBodyLayer {
    keep: usize,
}

impl ReplayBodyLayer {
    /// Keeps up to 64 KiB of each body.
    #[must_use]
    pub const fn new() -> Self {
        Self { keep: 64 * 1024 }
    }

    /// How many bytes of data and trailers to keep of each body at most. Counted is what was sent,
    /// not the buffers that it may be slices of. Default: 64 KiB.
    ///
    /// With 0, what can be repeated is a request of whose body nothing was read yet.
    #[must_use]
    pub const fn keep(self, bytes: usize) -> Self {
        Self { keep: bytes }
    }
}

impl Default for ReplayBodyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ReplayBodyLayer {
    type Service = ReplayBodyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReplayBodyService {
            inner,
            keep: self.keep,
        }
    }
}

/// Its settings, for people.
impl fmt::Display for ReplayBodyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replay body: up to {} bytes", self.keep)
    }
}

/// The service that [`ReplayBodyLayer`] makes.
#[derive(Clone, Debug)]
pub struct ReplayBodyService<S> {
    inner: S,
    keep: usize,
}

impl<S, B> Service<Request<B>> for ReplayBodyService<S>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<B>) -> Self::Future {
        let (mut head, body) = req.into_parts();
        let body = ReplayBody::new(body, self.keep);
        if let Some(tape) = &body.tape {
            head.extensions.insert(Mark(tape.clone()));
        }
        self.inner.call(Request::from_parts(head, body))
    }
}

/// A body that can be sent again, made by [`ReplayBodyLayer`]. Its clones send the same from the
/// start.
///
/// Nothing is read before it is sent. What is read is kept only while there is a clone to send it
/// again. The bytes are in memory once, however many attempts there are.
///
/// **One reader.** Only the newest attempt reads on. If a connection still sends an older one (the
/// server answered before it had the whole body), that one ends with an error as soon as the next is
/// decided on, so that the server does not take what it got for the whole. Attempts count from when
/// they are first read: one that was never read before the next began would take the body from that.
///
/// **Errors.** One of the body goes to the client as it is; the call is then not retried.
///
/// **Cancellation.** The body, and what is kept of it, is dropped with its last handle: when the call
/// has ended or was dropped, and its connection is done with it.
///
/// **Size.** The [`size_hint`](Body::size_hint) at the start of each attempt is that of the body at
/// the start of the first, so that all are framed alike.
///
/// `Unpin`, and `Send` and `Sync` if the body is `Send`.
pub struct ReplayBody<B> {
    /// `None`: the body is empty.
    tape: Option<Arc<Tape<B>>>,
    /// The least and the most that it says it has to give, in bytes.
    lower: u64,
    upper: Option<u64>,
    reader: Reader,
    /// The bytes of data that it gave.
    given: u64,
    ended: bool,
}

impl<B: Body> ReplayBody<B> {
    fn new(body: B, keep: usize) -> Self {
        let hint = body.size_hint();
        let ended = body.is_end_stream();
        Self {
            tape: (!ended).then(|| Arc::new(Tape::new(body, keep))),
            lower: hint.lower(),
            upper: hint.upper(),
            reader: Reader::default(),
            given: 0,
            ended,
        }
    }
}

impl<B> Clone for ReplayBody<B> {
    fn clone(&self) -> Self {
        if let Some(tape) = &self.tape {
            tape.lock().handles += 1;
        }
        Self {
            tape: self.tape.clone(),
            lower: self.lower,
            upper: self.upper,
            reader: Reader::default(),
            given: 0,
            ended: self.tape.is_none(),
        }
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        let Some(tape) = &self.tape else { return };
        let mut state = tape.lock();
        state.handles -= 1;
        if state.handles == 0 {
            // The mark may outlive the last handle; what is the user's need not.
            let source = mem::replace(&mut state.source, Source::Failed);
            let pieces = mem::take(&mut state.pieces);
            drop(state);
            drop((source, pieces));
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(tape) = this.tape.as_ref().filter(|_| !this.ended) else {
            return Poll::Ready(None);
        };
        let read = ready!(tape.poll(&mut this.reader, cx));
        let Some(Ok((piece, last))) = read else {
            this.ended = true;
            return Poll::Ready(read.map(|read| read.map(|(piece, _)| piece.into())));
        };
        if let Piece::Data(data) = &piece {
            this.given = this.given.saturating_add(data.len() as u64);
        }
        this.ended = last;
        Poll::Ready(Some(Ok(piece.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let mut left = SizeHint::new();
        if let Some(upper) = self.upper {
            left.set_upper(upper.saturating_sub(self.given));
        }
        left.set_lower(self.lower.saturating_sub(self.given));
        left
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("given", &self.given)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
