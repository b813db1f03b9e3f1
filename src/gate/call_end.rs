use crate::verdict::Verdict;

/// When a call ends: how long a [`LoadShed`](crate::load_shed::LoadShed) keeps its slot and a
/// [`CircuitBreaker`](crate::circuit_breaker::CircuitBreaker) its permit.
///
/// The default is [`UntilHead`], for any response. `UntilBodyEnd` (feature `http-body`) is for HTTP
/// responses.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot tell when a `{Res}` has been read",
    note = "`UntilBodyEnd` is for `http::Response<B>` with a body `B: http_body::Body`"
)]
pub trait CallEnd<Res> {
    /// The response type, with room for what the call holds.
    type Response<G: Finish>;

    /// Whether the call continues after the head of this response.
    fn goes_on(res: &Res) -> bool;

    /// Puts what the call still holds into the response.
    fn hold<G: Finish>(res: Res, guard: Option<G>) -> Self::Response<G>;
}

/// A call ends when its response, or the head of it, arrives.
#[derive(Clone, Copy, Debug, Default)]
pub struct UntilHead;

impl<Res> CallEnd<Res> for UntilHead {
    type Response<G: Finish> = Res;

    fn goes_on(_: &Res) -> bool {
        false
    }

    fn hold<G: Finish>(res: Res, _: Option<G>) -> Res {
        res
    }
}

/// What a call holds while its body is read. If it is dropped before [`finish`](Self::finish), the
/// call was cancelled.
pub trait Finish {
    /// Called when the body has ended, or has failed with this verdict.
    fn finish(&mut self, verdict: Verdict) {
        let _ = verdict;
    }
}
