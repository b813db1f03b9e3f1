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

/// Lets [`Retry`](crate::retry::Retry) repeat requests whose body is not `Clone`. Needs the feature
/// `http-body`.
///
/// Put the layer above the retry. It replaces the body by a [`ReplayBody`], which is `Clone`, and
/// keeps the bytes that were sent until the call ends: up to 64 KiB, or the limit set by
/// [`keep`](Self::keep). A longer body is sent, but only once: the call ends with the outcome of
/// that attempt, and the retry's event `gave_up` has the reason `not_replayable`.
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
/// assert_eq!(ReplayBodyLayer::new().to_string(), "replay body: up to 65536 bytes");
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `keep` | 64 KiB | the most bytes of data and trailers that are kept of each body |
///
/// A body in more than 1024 parts also counts as too long, however short the parts are. A request
/// without a body costs nothing; one with a body costs a few allocations.
///
/// **Replay policy.** The retry's policy still decides which requests are sent again.
/// [`Idempotent`](super::Idempotent) and [`RepeatIf`](super::RepeatIf) know when a body was too long.
/// [`Cloned`](crate::retry::Cloned) and closures do not: with them, the retry of such a request fails
/// with an error of its body.
///
/// **Layers in between.** A layer between this one and the retry must neither replace the
/// [`ReplayBody`] nor remove the request's extensions: the policy finds the kept body through them.
///
/// **Clients with a fixed body type** (tonic, axum, reqwest): add a `map_request` below the retry
/// that puts the [`ReplayBody`] into the client's type.
#[derive(Clone, Copy, Debug)]
pub struct ReplayBodyLayer {
    keep: usize,
}

impl ReplayBodyLayer {
    /// The default: keeps up to 64 KiB of each body.
    #[must_use]
    pub const fn new() -> Self {
        Self { keep: 64 * 1024 }
    }

    /// The most bytes of data and trailers to keep of each body. Default: 64 KiB.
    ///
    /// Bytes that were sent count, not the larger buffers that they may be slices of. With 0, a
    /// request can be repeated only until the first byte of its body is read.
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

/// Prints the settings on one line, for people.
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

/// A request body that can be sent again, made by [`ReplayBodyLayer`]. Each clone sends the whole
/// body from its start.
///
/// The body is read only while it is sent. Its bytes are kept only while a clone exists that may send
/// them again, and they are in memory once, however many attempts there are.
///
/// **One reader.** Only the newest attempt reads the body. An older attempt may still be sending,
/// if the server responded before it had the whole body. When a retry is granted, the older attempt
/// ends with an error, so that the server does not mistake the part for the whole body. An attempt
/// begins with the first read of its clone: do not read an unused older clone after a newer one.
///
/// **Size.** Every attempt begins with the [`size_hint`](Body::size_hint) that the body had before
/// the first attempt. So all attempts are framed alike.
///
/// **Errors.** An error of the original body goes to the client unchanged, and the call is not
/// retried.
///
/// **Cancellation.** The body and the kept bytes are dropped with the last clone: when the call has
/// ended or was dropped, and its connection has dropped the body.
///
/// The type is `Unpin`. It is `Send` and `Sync` if the original body is `Send`.
pub struct ReplayBody<B> {
    /// `None`: the body is empty.
    tape: Option<Arc<Tape<B>>>,
    /// The bounds of the original body's size hint, in bytes.
    lower: u64,
    upper: Option<u64>,
    reader: Reader,
    /// How many bytes of data this clone has yielded.
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
            // The mark may outlive the last clone. The user's body must not.
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
