use crate::verdict::Verdict;

/// When a call is over, for what it holds meanwhile: the slot of a
/// [`LoadShed`](crate::load_shed::LoadShed), the permit of a
/// [`CircuitBreaker`](crate::circuit_breaker::CircuitBreaker).
///
/// [`UntilHead`] is the default, for any response; `UntilBodyEnd` (feature `http-body`) is for HTTP
/// responses.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot tell when a `{Res}` has been read",
    note = "`UntilBodyEnd` is for `http::Response<B>` with a body `B: http_body::Body`"
)]
pub trait CallEnd<Res> {
    /// The response, with what its call holds.
    type Response<G: Finish>;

    /// Whether the call goes on after the head of this response.
    fn goes_on(res: &Res) -> bool;

    /// The response, with what its call holds from now on.
    fn hold<G: Finish>(res: Res, guard: Option<G>) -> Self::Response<G>;
}

/// A call is over when its response is there.
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

/// What a call holds while its body is read. Dropped before [`finish`](Self::finish), the call was
/// cancelled.
pub trait Finish {
    /// The body ended, or failed with this verdict.
    fn finish(&mut self, verdict: Verdict) {
        let _ = verdict;
    }
}
