use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use std::error::Error;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
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

/// How far a handle has come.
#[derive(Default)]
struct Reader {
    /// Its turn, from its first poll on.
    turn: Option<u64>,
    /// The next piece.
    next: usize,
}

/// However short they are: each costs more than its bytes.
const MAX_PIECES: usize = 1024;

/// A body and what was read of it.
struct Tape<B> {
    keep: usize,
    state: Mutex<State<B>>,
}

struct State<B> {
    source: Source<B>,
    /// What was read, in order. Empty data is not kept: it would be without bound.
    pieces: Vec<Piece>,
    /// The bytes of the pieces.
    kept: usize,
    /// Something was read that is not among the pieces.
    torn: bool,
    /// Whose turn it is to read; readers of other turns are over.
    turn: u64,
    /// Another attempt has been decided on and not begun: whoever wants to read is late.
    held: bool,
    /// Of the reader whose turn it is, when it waits.
    waker: Option<Waker>,
    handles: usize,
}

enum Source<B> {
    Idle(Pin<Box<B>>),
    /// Taken out by a reader, which polls it with the lock free.
    Polled,
    Ended,
    Failed,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum(),
        }
    }
}

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl<B> Tape<B> {
    fn new(body: B, keep: usize) -> Self {
        Self {
            keep,
            state: Mutex::new(State {
                source: Source::Idle(Box::pin(body)),
                pieces: Vec::new(),
                kept: 0,
                torn: false,
                turn: 0,
                held: false,
                waker: None,
                handles: 1,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // Nothing panics under the lock; a poisoned one is as good as new.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the turn of whoever reads, for another attempt to begin; not if it could not send all.
    fn claim(&self) -> bool {
        let mut state = self.lock();
        if state.torn || matches!(state.source, Source::Failed) {
            return false;
        }
        state.turn += 1;
        state.held = true;
        wake(state);
        true
    }

    fn take_turn(&self, reader: &mut Reader) -> Result<(), Lost> {
        let mut state = self.lock();
        if state.held {
            return Err(Lost::Superseded);
        }
        if state.torn {
            return Err(Lost::TooLong);
        }
        state.turn += 1;
        reader.turn = Some(state.turn);
        wake(state);
        Ok(())
    }

    /// The next piece, and whether it is the last.
    fn poll(
        &self,
        reader: &mut Reader,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(Piece, bool), BoxError>>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        if reader.turn.is_none() {
            if let Err(lost) = self.take_turn(reader) {
                return Poll::Ready(Some(Err(lost.into())));
            }
        }
        let mut state = self.lock();
        if reader.turn != Some(state.turn) {
            return Poll::Ready(Some(Err(Lost::Superseded.into())));
        }
        if let Some(piece) = state.pieces.get(reader.next) {
            reader.next += 1;
            let last = reader.next == state.pieces.len() && matches!(state.source, Source::Ended);
            return Poll::Ready(Some(Ok((piece.clone(), last))));
        }
        let mut source = match mem::replace(&mut state.source, Source::Polled) {
            Source::Idle(source) => source,
            Source::Polled => {
                // The reader before this one wakes it when it has put the body back.
                let before = state.waker.replace(cx.waker().clone());
                drop(state);
                drop(before);
                return Poll::Pending;
            }
            Source::Ended => {
                state.source = Source::Ended;
                return Poll::Ready(None);
            }
            Source::Failed => {
                state.source = Source::Failed;
                return Poll::Ready(Some(Err(Lost::Failed.into())));
            }
        };
        drop(state);
        let polling = Polling(Some(self));
        let polled = source
            .as_mut()
            .poll_frame(cx)
            .map(|frame| Some(frame?.map(piece)));
        let over = match &polled {
            Poll::Ready(Some(Ok(_))) => source.is_end_stream(),
            Poll::Ready(None) => true,
            _ => false,
        };
        let (source, spent) = match &polled {
            Poll::Ready(Some(Err(_))) => (Source::Failed, Some(source)),
            _ if over => (Source::Ended, Some(source)),
            _ => (Source::Idle(source), None),
        };
        let piece = match &polled {
            Poll::Ready(Some(Ok(piece))) => Some(piece),
            _ => None,
        };
        let waker = polled.is_pending().then(|| cx.waker().clone());
        let newest = polling.settle(reader, source, piece, waker);
        // The user's own, so not under the lock.
        drop(spent);
        if !newest {
            return Poll::Ready(Some(Err(Lost::Superseded.into())));
        }
        polled.map(|read| Some(read?.map(|piece| (piece, over)).map_err(Into::into)))
    }
}

fn piece<D: Buf>(frame: Frame<D>) -> Piece {
    match frame.into_data() {
        // No copy where the data are `Bytes`.
        Ok(mut data) => Piece::Data(data.copy_to_bytes(data.remaining())),
        Err(frame) => Piece::Trailers(frame.into_trailers().unwrap_or_default()),
    }
}

fn wake<B>(mut state: MutexGuard<'_, State<B>>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A poll of the body. If it panics, the body is not polled again.
struct Polling<'a, B>(Option<&'a Tape<B>>);

impl<B> Polling<'_, B> {
    /// Puts the body back and keeps what it gave; `false` if another reader has taken over.
    fn settle(
        mut self,
        reader: &mut Reader,
        source: Source<B>,
        piece: Option<&Piece>,
        waker: Option<Waker>,
    ) -> bool {
        let tape = self.0.take().expect("settled once");
        let mut torn = Vec::new();
        let mut state = tape.lock();
        let newest = reader.turn == Some(state.turn);
        state.source = source;
        if let Some(piece) = piece.filter(|piece| !state.torn && !piece.is_nothing()) {
            let kept = state.kept.saturating_add(piece.len());
            // The next reader was promised all: it gets what was read meanwhile, however long.
            let fits = kept <= tape.keep && state.pieces.len() < MAX_PIECES;
            if !newest || (fits && state.handles > 1) {
                state.kept = kept;
                state.pieces.push(piece.clone());
                reader.next += 1;
            } else {
                state.torn = true;
                torn = mem::take(&mut state.pieces);
            }
        }
        if newest {
            let before = mem::replace(&mut state.waker, waker);
            drop(state);
            drop(before);
        } else {
            wake(state);
        }
        drop(torn);
        newest
    }
}

impl<B> Drop for Polling<'_, B> {
    fn drop(&mut self) {
        if let Some(tape) = self.0 {
            let mut state = tape.lock();
            state.source = Source::Failed;
            wake(state);
        }
    }
}

impl Piece {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Data(data) if data.is_empty())
    }
}

/// Left in the request's extensions, for policies that do not know the body's type.
#[derive(Clone)]
pub(super) struct Mark(Arc<dyn Replayed>);

impl Mark {
    /// Whether the body can be sent again. If so, the attempt before it reads no further.
    pub(super) fn claim(&self) -> bool {
        self.0.claim()
    }

    /// The attempt that was claimed begins.
    pub(super) fn release(&self) {
        self.0.release();
    }
}

trait Replayed: Send + Sync {
    fn claim(&self) -> bool;
    fn release(&self);
}

impl<B: Send> Replayed for Tape<B> {
    fn claim(&self) -> bool {
        self.claim()
    }

    fn release(&self) {
        self.lock().held = false;
    }
}

/// Why a handle cannot send the body.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the request body is sent by a newer attempt")]
    Superseded,
    #[error("the request body cannot be sent again: more was sent of it than is kept")]
    TooLong,
    #[error("the request body cannot be sent again: it failed")]
    Failed,
}
