use super::handle::Shared;
use super::rules::{Key, may_have_length};
use super::store::Kept;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pin_project! {
    /// The body of a response of [`Stale`](super::StaleService): that of the upstream, or a kept one.
    pub struct StaleBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        Upstream {
            #[pin]
            body: B,
            // What is kept of it, if it is.
            tape: Option<Box<Tape>>,
        },
        Kept { body: Option<Bytes> },
    }
}

/// Keeps a copy of a body while the caller reads it.
pub(super) struct Tape {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    /// The body is still missing.
    pub(super) kept: Kept,
    pub(super) bytes: Vec<u8>,
}

impl Tape {
    /// Adds a part of the body. Returns whether the whole still fits.
    fn add(&mut self, part: &[u8]) -> bool {
        let fits = self.bytes.len() + part.len() <= self.shared.max_body;
        if fits {
            self.bytes.extend_from_slice(part);
        }
        fits
    }

    /// The body has ended.
    fn keep(self) {
        let Self {
            shared,
            key,
            mut kept,
            bytes,
        } = self;
        let length = bytes.len() as u64;
        if may_have_length(&kept.headers, length) {
            // No more memory than the body needs.
            kept.body = Bytes::from(bytes.into_boxed_slice());
            shared.keep(key, kept);
        }
    }
}

impl<B: Body<Data = Bytes>> StaleBody<B> {
    pub(super) fn upstream(body: B, tape: Option<Tape>) -> Self {
        let mut tape = tape.map(Box::new);
        if body.is_end_stream() {
            if let Some(tape) = tape.take() {
                tape.keep();
            }
        }
        Self {
            state: State::Upstream { body, tape },
        }
    }

    pub(super) fn kept(body: Bytes) -> Self {
        let body = Some(body).filter(|body| !body.is_empty());
        Self {
            state: State::Kept { body },
        }
    }
}

impl<B: Body<Data = Bytes>> Body for StaleBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().state.project() {
            StateProj::Kept { body } => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            StateProj::Upstream { mut body, tape } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                let (goes_on, ended) = match (&frame, tape.as_mut()) {
                    (_, None) => return Poll::Ready(frame),
                    (None, Some(_)) => (true, true),
                    (Some(Ok(frame)), Some(tape)) => match frame.data_ref() {
                        // A reader that knows the length does not ask again after the last byte.
                        Some(data) => (tape.add(data), is_over(&*body)),
                        // Trailers are not kept, and so is their body.
                        None => (false, false),
                    },
                    (Some(Err(_)), Some(_)) => (false, false),
                };
                if !goes_on {
                    *tape = None;
                } else if ended {
                    if let Some(tape) = tape.take() {
                        tape.keep();
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Upstream { body, .. } => body.is_end_stream(),
            State::Kept { body } => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Upstream { body, .. } => body.size_hint(),
            State::Kept { body } => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
        }
    }
}

fn is_over(body: &impl Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// An empty body.
impl<B> Default for StaleBody<B> {
    fn default() -> Self {
        Self {
            state: State::Kept { body: None },
        }
    }
}

impl<B> fmt::Debug for StaleBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_kept = matches!(self.state, State::Kept { .. });
        f.debug_struct("StaleBody")
            .field("is_kept", &is_kept)
            .finish_non_exhaustive()
    }
}

/// The headers of a kept response, with its age.
pub(super) fn aged(kept: &Kept) -> (HeaderMap, std::time::Duration) {
    let age = kept.age.saturating_add(kept.at.elapsed());
    let mut headers = kept.headers.clone();
    headers.insert(http::header::AGE, age.as_secs().into());
    (headers, age)
}
