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

/// Reads a response that is thrown away for a retry to its end, so that its HTTP/1.1 connection can
/// be used again. Needs the feature `http-body`.
///
/// A client has to close a connection whose response was not read. When a callee answers 503 with a
/// page of text, every retry then costs it a handshake more, at the time when it can least afford one.
///
/// ```
/// use buttress::RetryLayer;
/// use buttress::http::{Drain, StatusClassifier};
///
/// let retry = RetryLayer::builder().classify(StatusClassifier::default()).discard(Drain::new());
/// # retry.build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
///
/// | setting | setter | default |
/// |---|---|---|
/// | the longest body that is read | `max_bytes` | 128 KiB |
/// | how long it is read, from the first time that there is nothing of it to read | `max_time` | 100 ms |
///
/// **Time.** The response is read while the retry waits, for `max_time` at most: what it holds until
/// its end ([`UntilBodyEnd`](super::UntilBodyEnd)) is free by then. A retry that would be sent
/// earlier is held up for it. A client takes a connection back a moment after the response has
/// ended: a retry that was held up to that point may find it not there yet, and open one more.
///
/// **What is dropped at once:** a body that says it is longer than `max_bytes`; an HTTP/2 response,
/// whose connection lives on without it; one that says `Connection: close`.
///
/// Needs a tokio runtime with time enabled where a body is not there at once.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    max_bytes: u64,
    max_time: Duration,
}

impl Drain {
    /// Reads up to 128 KiB, for 100 ms at most.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_bytes: 128 * 1024,
            max_time: Duration::from_millis(100),
        }
    }

    /// The most bytes of data to read of a response. Default: 128 KiB.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// How long a response is read, from the first time that there is nothing of it to read; zero
    /// reads what is there. Default: 100 ms.
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
        // Until it is over.
        #[pin]
        body: Option<B>,
        // The bytes that may still be read.
        left: u64,
        // For how long, from the first time that there is nothing to read.
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
                    // One at least, or a body of empty frames would go on for ever.
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
