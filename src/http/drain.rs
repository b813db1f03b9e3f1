use crate::retry::Discard;
use bytes::Buf;
use http::header::{CONNECTION, HeaderMap};
use http::{Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Reads the response of a failed attempt to its end before the retry, so that its HTTP/1.1
/// connection can be reused. Needs the feature `http-body`.
///
/// Use it for HTTP/1.1 upstreams whose error responses have a body. A client must close a connection
/// whose response was not read, so each retry costs the upstream one more handshake while it is
/// overloaded.
///
/// ```
/// use buttress::RetryLayer;
/// use buttress::http::{Drain, StatusClassifier};
/// use std::time::Duration;
///
/// let layer = RetryLayer::builder()
///     .classify(StatusClassifier::default())
///     .discard(Drain::new().max_bytes(16 * 1024).max_time(Duration::from_millis(50)))
///     .build()?;
/// assert!(layer.budget().is_some());
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `max_bytes` | 128 KiB | the longest body that is read; a longer one is dropped |
/// | `max_time` | 100 ms | how long it is read, measured from the first time that no data is ready |
///
/// **Time.** The response is read while the retry waits for its backoff. A retry with a shorter
/// backoff waits until the response has ended, `max_time` at most. Until then, a response with
/// [`UntilBodyEnd`](super::UntilBodyEnd) keeps its slot. A client takes its connection back a
/// moment after the response has ended, so a retry that is sent at that moment may open a new
/// connection.
///
/// **What is not read.** `Drain` drops some responses at once: an HTTP/2 response, because its
/// connection stays open anyway; a response with `Connection: close`; a response whose declared
/// length is above `max_bytes`.
///
/// **Cancellation.** Dropping the call drops the response. Draining needs a tokio runtime with time
/// enabled, unless the whole body is ready at once.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    max_bytes: u64,
    max_time: Duration,
}

impl Drain {
    /// The defaults: reads up to 128 KiB, for at most 100 ms.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_bytes: 128 * 1024,
            max_time: Duration::from_millis(100),
        }
    }

    /// The most bytes of data to read from one response. Default: 128 KiB.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// How long to read one response, measured from the first time that no data is ready. With zero,
    /// only the data that is ready is read. Default: 100 ms.
    #[must_use]
    pub const fn max_time(mut self, max_time: Duration) -> Self {
        self.max_time = max_time;
        self
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Body> Discard<Response<B>> for Drain {
    type Future = Draining<B>;

    fn discard(&self, response: Response<B>) -> Option<Draining<B>> {
        let useful = response.version() < Version::HTTP_2
            && !closes(response.headers())
            && response.body().size_hint().lower() <= self.max_bytes;
        useful.then(|| Draining {
            body: Some(response.into_body()),
            left: self.max_bytes,
            time: self.max_time,
            sleep: None,
        })
    }
}

fn closes(headers: &HeaderMap) -> bool {
    let options = headers.get_all(CONNECTION).into_iter();
    options
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

pin_project! {
    /// The future of [`Drain`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Draining<B> {
        // `None` when draining has ended.
        #[pin]
        body: Option<B>,
        // How many more bytes may be read.
        left: u64,
        // How long to read, measured from the first time that no data is ready.
        time: Duration,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl<B: Body> Future for Draining<B> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        while let Some(body) = this.body.as_mut().as_pin_mut() {
            match body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.data_ref().map_or(0, Buf::remaining);
                    // A frame counts as one byte at least: empty frames could go on for ever.
                    match this.left.checked_sub(data.max(1) as u64) {
                        Some(left) => *this.left = left,
                        None => this.body.set(None),
                    }
                }
                Poll::Ready(None | Some(Err(_))) => this.body.set(None),
                Poll::Pending => {
                    if !this.time.is_zero() {
                        if this.sleep.is_none() {
                            this.sleep.set(Some(sleep(*this.time)));
                        }
                        if let Some(sleep) = this.sleep.as_mut().as_pin_mut() {
                            ready!(sleep.poll(cx));
                        }
                    }
                    this.body.set(None);
                }
            }
        }
        Poll::Ready(())
    }
}

impl<B> fmt::Debug for Draining<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").finish_non_exhaustive()
    }
}
