use std::pin::Pin;
use std::task::{Context, Poll};

/// What becomes of a response that is thrown away because its call is sent again.
///
/// [`Dropped`] is the default; with the feature `http-body` there is also `http::Drain`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot discard a `{Res}`",
    note = "`buttress::http::Drain` discards `http::Response<B>` where `B: http_body::Body`"
)]
pub trait Discard<Res> {
    /// Ready when the response is gone. The next attempt starts when it is, and the backoff is over.
    ///
    /// What the attempt held in the layers below is free before it is polled, but for what the
    /// response itself holds until its end ([`CallEnd`](crate::http::CallEnd)). If the call is
    /// cancelled, it is dropped.
    type Future: Future<Output = ()>;

    /// Begins to discard `response`; `None` if it is gone already.
    fn discard(&self, response: Res) -> Option<Self::Future>;
}

/// Drops the response at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dropped;

impl<Res> Discard<Res> for Dropped {
    type Future = Never;

    fn discard(&self, response: Res) -> Option<Never> {
        drop(response);
        None
    }
}

/// The future of [`Dropped`], which there never is: it takes no room in the future of a call.
#[derive(Clone, Copy, Debug)]
pub enum Never {}

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match *self {}
    }
}
