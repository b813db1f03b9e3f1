//! A request body with the pieces that were read so far. Attempts read it one after the other.

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use std::error::Error;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

type BoxError = Box<dyn Error + Send + Sync>;

/// How far a clone of the body has read.
#[derive(Default)]
pub(super) struct Reader {
    /// The number of its turn, from its first poll on.
    turn: Option<u64>,
    /// The index of the next piece.
    next: usize,
}

/// The most pieces that are kept. Each piece costs memory beside its bytes.
const MAX_PIECES: usize = 1024;

/// A body and the pieces that were read so far.
pub(super) struct Tape<B> {
    keep: usize,
    state: Mutex<State<B>>,
}

pub(super) struct State<B> {
    pub(super) source: Source<B>,
    /// The pieces that were read, in order. Empty data is not kept, because a body can yield it
    /// without bound.
    pub(super) pieces: Vec<Piece>,
    /// The length of all pieces, in bytes.
    kept: usize,
    /// Some data was read and not kept: the body cannot be sent again.
    torn: bool,
    /// The number of the turn that may read. Readers with another number get an error.
    turn: u64,
    /// A retry was granted and has not begun. Until it begins, every new reader is an older attempt.
    held: bool,
    /// The waker of the reader whose turn it is, while it waits.
    waker: Option<Waker>,
    pub(super) handles: usize,
}

pub(super) enum Source<B> {
    Idle(Pin<Box<B>>),
    /// A reader has taken the body out and polls it without the lock.
    Polled,
    Ended,
    Failed,
}

#[derive(Clone)]
pub(super) enum Piece {
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
    pub(super) fn new(body: B, keep: usize) -> Self {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State<B>> {
        // No code panics under the lock, so its poison can be ignored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the current turn, so that a new attempt can begin. Returns `false`, and does nothing,
    /// if a new attempt could not send the whole body.
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

    /// Polls for the next piece, and whether it is the last.
    pub(super) fn poll(
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
                // The previous reader wakes this one when it has put the body back.
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
        // Dropping the body runs the user's code, so it happens without the lock.
        drop(spent);
        if !newest {
            return Poll::Ready(Some(Err(Lost::Superseded.into())));
        }
        polled.map(|read| Some(read?.map(|piece| (piece, over)).map_err(Into::into)))
    }
}

fn piece<D: Buf>(frame: Frame<D>) -> Piece {
    match frame.into_data() {
        // This does not copy if the data is `Bytes`.
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

/// Guards a poll of the body. If the poll panics, the body is not polled again.
struct Polling<'a, B>(Option<&'a Tape<B>>);

impl<B> Polling<'_, B> {
    /// Puts the body back and keeps the piece that was read. Returns `false` if another reader has
    /// taken over.
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
            // `claim` has promised the whole body to the next reader. So a piece that this reader
            // read meanwhile is kept for it, however long it is.
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

/// A handle in the request's extensions, for replay policies: they do not know the body's type.
#[derive(Clone)]
pub(in crate::http) struct Mark(pub(super) Arc<dyn Replayed>);

impl Mark {
    /// Whether the body can be sent again. If so, the previous attempt cannot read further.
    pub(in crate::http) fn claim(&self) -> bool {
        self.0.claim()
    }

    /// Begins the attempt that `claim` announced.
    pub(in crate::http) fn release(&self) {
        self.0.release();
    }
}

pub(super) trait Replayed: Send + Sync {
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

/// Why a clone cannot send the body.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the request body is sent by a newer attempt")]
    Superseded,
    #[error("the request body cannot be sent again: more was sent of it than is kept")]
    TooLong,
    #[error("the request body cannot be sent again: it failed")]
    Failed,
}
