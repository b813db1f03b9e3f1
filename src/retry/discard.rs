use std::pin::Pin;
use std::task::{Context, Poll};

/// What happens to the response of a failed attempt when its call is retried.
///
/// [`Dropped`] is the default: it drops the response at once. `http::Drain` (feature `http-body`)
/// reads the response to its end, so that the connection can be reused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot discard a `{Res}`",
    note = "`buttress::http::Drain` discards `http::Response<B>` where `B: http_body::Body`"
)]
pub trait Discard<Res> {
    /// Completes when the response is discarded. The next attempt starts when both this future and
    /// the backoff have ended.
    ///
    /// Before the first poll, the failed attempt gives back what it held in the layers below, such as
    /// its slot. Only what the response itself holds to its end ([`CallEnd`](crate::http::CallEnd))
    /// stays held. Cancelling the call drops the future.
    type Future: Future<Output = ()>;

    /// Begins to discard `response`. `None` means that the response is already discarded.
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

/// The future of [`Dropped`]. It has no values, because `Dropped` needs no time; so it takes no space
/// in the future of a call.
#[derive(Clone, Copy, Debug)]
pub enum Never {}

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match *self {}
    }
}
