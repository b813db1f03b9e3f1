//! When a call is over: with the head of its response, or with the end of its body.

use crate::circuit_breaker::Permit;
use crate::classify::Verdict;
use crate::load_shed::Slot;

/// When a call is over, for what it holds meanwhile: the slot of a
/// [`LoadShed`](crate::load_shed::LoadShed), the permit of a
/// [`CircuitBreaker`](crate::circuit_breaker::CircuitBreaker).
///
/// [`UntilHead`] is the default, for any response; `UntilBodyEnd` (feature `http-body`) is
/// for HTTP responses.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold on to a `{Res}`",
    note = "`UntilBodyEnd` is for `http::Response<B>` with a body `B: http_body::Body`"
)]
pub trait CallEnd<Res> {
    /// The response, with what it holds.
    type Response<G: Guard>;

    /// Whether the call goes on after this response's head.
    fn goes_on(res: &Res) -> bool;

    /// The response, with what it holds from now on.
    fn hold<G: Guard>(res: Res, guard: Option<G>) -> Self::Response<G>;
}

/// A call is over when its response is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilHead;

impl<Res> CallEnd<Res> for UntilHead {
    type Response<G: Guard> = Res;

    #[inline]
    fn goes_on(_: &Res) -> bool {
        false
    }

    #[inline]
    fn hold<G: Guard>(res: Res, _: Option<G>) -> Res {
        res
    }
}

/// What a call holds until it is over. Dropped before that, the call was cancelled.
pub trait Guard: sealed::Sealed {
    /// The body has come to its end.
    fn complete(self);

    /// The body has failed, which says this of the callee.
    fn fail(self, verdict: Verdict);
}

impl Guard for Slot {
    fn complete(self) {}

    fn fail(self, _: Verdict) {}
}

impl Guard for Permit {
    fn complete(self) {
        self.settle(Verdict::Healthy);
    }

    fn fail(self, verdict: Verdict) {
        self.settle(verdict);
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::load_shed::Slot {}
    impl Sealed for crate::circuit_breaker::Permit {}
}

#[cfg(feature = "http-body")]
pub use until_body_end::{HeldBody, UntilBodyEnd};

#[cfg(feature = "http-body")]
mod until_body_end {
    use super::super::fault::ClientError;
    use super::{CallEnd, Guard};
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
    /// let shed = LoadShedLayer::new(256).until(UntilBodyEnd);
    /// let breaker = CircuitBreakerLayer::builder()
    ///     .classify(StatusClassifier::default())
    ///     .build()?
    ///     .until(UntilBodyEnd);
    /// # Ok::<(), buttress::error::InvalidConfig>(())
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct UntilBodyEnd;

    impl<B: Body<Error: ClientError>> CallEnd<Response<B>> for UntilBodyEnd {
        type Response<G: Guard> = Response<HeldBody<B, G>>;

        fn goes_on(res: &Response<B>) -> bool {
            !res.body().is_end_stream()
        }

        fn hold<G: Guard>(res: Response<B>, guard: Option<G>) -> Self::Response<G> {
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
        G: Guard,
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
                    if let Some(guard) = this.guard.take() {
                        guard.fail(error.verdict());
                    }
                }
                // A reader who knows the length need not ask for more.
                Some(Ok(_)) if !is_over(&*this.body) => {}
                Some(Ok(_)) | None => {
                    if let Some(guard) = this.guard.take() {
                        guard.complete();
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
}
