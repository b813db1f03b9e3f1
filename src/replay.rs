//! Which requests may be sent again, and how they are copied.

use crate::deadline::{Carrier, Deadline};

/// Makes the copy of a request that is sent again.
///
/// [`Idempotent`] is the default and exists for HTTP requests; [`Cloned`] repeats any request that
/// is `Clone`. Functions and closures are policies too. A policy that wraps another has to pass all
/// of it on.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot repeat a `{Req}`",
    note = "`Idempotent`, the default, repeats `http::Request<B>` where `B: Clone`",
    note = "for other requests that are `Clone`, set `.replay(buttress::retry::Cloned)`"
)]
pub trait Replay<Req> {
    /// A copy of `req`, made before it is sent; `None` to send it once and not retry it.
    fn replay(&self, req: &Req) -> Option<Req>;

    /// The deadline that `req` carries, asked for when a retry is about to be waited for. Unless
    /// implemented: none. [`Within`] adds it to any policy.
    fn deadline(&self, req: &Req) -> Option<Deadline> {
        let _ = req;
        None
    }

    /// Whether `copy` can still be sent. Asked when a retry is due and nothing else stands against
    /// it: after a `true` nothing but the caller's leaving, or an error of the inner service's
    /// readiness, keeps it from being sent. After a `false` the call ends with the outcome it has.
    /// Default: `true`.
    fn replayable(&self, copy: &Req) -> bool {
        let _ = copy;
        true
    }

    /// Prepares `copy` for being sent as the attempt of this number, from 2 on. Called right
    /// before. Default: leaves it as it is.
    fn resend(&self, copy: &mut Req, attempt: u32) {
        let _ = (copy, attempt);
    }
}

impl<R, Req> Replay<Req> for R
where
    R: Fn(&Req) -> Option<Req>,
{
    fn replay(&self, req: &Req) -> Option<Req> {
        self(req)
    }
}

/// Repeats every request. For those that may be sent twice whatever they ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

impl<Req: Clone> Replay<Req> for Cloned {
    fn replay(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

/// Repeats what `R` repeats, within the deadline that `K` finds in the request.
///
/// ```
/// use buttress::http::InExtensions;
/// use buttress::retry::{Cloned, Within};
/// use buttress::RetryLayer;
///
/// // Sends even POSTs again, but not once their deadline has passed.
/// let layer = RetryLayer::builder().replay(Within::new(Cloned, InExtensions)).build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Within<R, K> {
    replay: R,
    carrier: K,
}

impl<R, K> Within<R, K> {
    /// The policy, and where requests carry their deadline.
    pub const fn new(replay: R, carrier: K) -> Self {
        Self { replay, carrier }
    }
}

impl<R, K, Req> Replay<Req> for Within<R, K>
where
    R: Replay<Req>,
    K: Carrier<Req>,
{
    fn replay(&self, req: &Req) -> Option<Req> {
        self.replay.replay(req)
    }

    fn replayable(&self, copy: &Req) -> bool {
        self.replay.replayable(copy)
    }

    fn resend(&self, copy: &mut Req, attempt: u32) {
        self.replay.resend(copy, attempt);
    }

    fn deadline(&self, req: &Req) -> Option<Deadline> {
        self.carrier.get(req)
    }
}

/// Repeats an HTTP request only if it may be sent twice: its method is idempotent (RFC 9110 §9.2.2:
/// GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or it carries an `Idempotency-Key`. A POST without one is
/// sent once.
///
/// The policy heeds a [`Deadline`] in the request's extensions, where
/// [`InExtensions`](crate::http::InExtensions) puts it. What is sent again carries its
/// [`Attempt`](crate::http::Attempt).
///
/// It repeats an `http::Request<B>` whose body is `Clone` and, with the feature `reqwest`, a
/// `reqwest::Request` whose body is not a stream: reqwest itself cannot copy a stream, so such a
/// request is sent once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idempotent;
