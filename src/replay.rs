//! Decides which requests may be sent again, and copies them.

use crate::budget::Budget;
use crate::deadline::{Carrier, Deadline};
use crate::verdict::Verdict;
use std::time::Duration;

/// A policy that decides which requests may be sent again, and copies them.
///
/// [`Idempotent`] is the default, for HTTP requests. [`Cloned`] repeats any request that is `Clone`.
/// A function or closure is a policy too: it returns a copy, or `None` to disable retries.
///
/// ```
/// use buttress::RetryLayer;
///
/// #[derive(Clone)]
/// enum Query {
///     Read(String),
///     Write(String),
/// }
///
/// fn only_reads(query: &Query) -> Option<Query> {
///     matches!(query, Query::Read(_)).then(|| query.clone())
/// }
///
/// let layer = RetryLayer::builder().replay(only_reads).build()?;
/// # let _ = layer;
/// assert!(only_reads(&Query::Read("orders".into())).is_some());
/// assert!(only_reads(&Query::Write("order".into())).is_none());
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
///
/// A policy that wraps another must forward all methods.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot repeat a `{Req}`",
    note = "`Idempotent`, the default, repeats `http::Request<B>` where `B: Clone`",
    note = "for other requests that are `Clone`, set `.replay(buttress::retry::Cloned)`"
)]
pub trait Replay<Req> {
    /// Returns a copy of a request that may be processed twice. `None` for any other.
    fn replay(&self, req: &Req) -> Option<Req>;

    /// Returns the copy that a retry would send, before `req` is sent. `None` disables retries for this
    /// request. Default: that of [`replay`](Self::replay). A policy that decides after the attempt, by
    /// [`may_resend`](Self::may_resend), copies more.
    fn keep(&self, req: &Req) -> Option<Req> {
        self.replay(req)
    }

    /// Whether `copy` may be sent after an attempt with this verdict. Called after a failed attempt.
    /// [`Verdict::sent`] says whether the upstream may have processed that attempt. Default: `true`.
    fn may_resend(&self, copy: &Req, verdict: Verdict) -> bool {
        let _ = (copy, verdict);
        true
    }

    /// Returns the budget that pays for retries of `copy` and earns from its success. Default: `None`,
    /// the budget of the layer.
    fn budget<'a>(&self, copy: &'a Req) -> Option<&'a Budget> {
        let _ = copy;
        None
    }

    /// Returns how many times `copy` is sent at most, the first attempt included. Default: `None`, the
    /// setting of the layer. A layer with one attempt does not ask.
    fn attempts(&self, copy: &Req) -> Option<u32> {
        let _ = copy;
        None
    }

    /// Returns the wait before a retry of `copy`, the first of which has the number 1. `draw` is a random
    /// number from `[0, 1)` for the jitter. Default: `None`, the backoff of the layer.
    fn backoff(&self, copy: &Req, retry: u32, draw: f64) -> Option<Duration> {
        let _ = (copy, retry, draw);
        None
    }

    /// Returns the deadline that `req` carries. Called before the wait for a retry, and again before
    /// the retry is sent. Default: none. [`Within`] adds a deadline to any policy.
    fn deadline(&self, req: &Req) -> Option<Deadline> {
        let _ = req;
        None
    }

    /// Whether `copy` can still be sent. Called after a failed attempt and before the wait, when
    /// every other condition for a retry holds. Default: `true`.
    ///
    /// After `true` the copy is sent, unless the caller cancels the call, the deadline passes, or the
    /// inner service fails to become ready. After `false` the call ends with the outcome it has.
    fn replayable(&self, copy: &Req) -> bool {
        let _ = copy;
        true
    }

    /// Prepares `copy` right before it is sent. `attempt` is its number: 2 for the first retry.
    /// Default: does nothing.
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

/// Repeats every request that is `Clone`. Use it if all requests of a client may be sent twice.
///
/// ```
/// use buttress::{Replay, retry::Cloned};
///
/// assert_eq!(Cloned.replay(&"request"), Some("request"));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

impl<Req: Clone> Replay<Req> for Cloned {
    fn replay(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

/// Repeats what the policy `R` repeats, and keeps to the deadline that the carrier `K` finds in the
/// request.
///
/// ```
/// use buttress::http::InExtensions;
/// use buttress::retry::{Cloned, Within};
/// use buttress::{Deadline, Replay};
///
/// // Repeats POSTs too, but not after their deadline. For `RetryLayer::builder().replay(…)`.
/// let policy = Within::new(Cloned, InExtensions);
///
/// let mut post = http::Request::post("/search").body(())?;
/// post.extensions_mut().insert(Deadline::NEVER);
/// assert!(policy.replay(&post).is_some());
/// assert_eq!(policy.deadline(&post), Some(Deadline::NEVER));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Within<R, K> {
    replay: R,
    carrier: K,
}

impl<R, K> Within<R, K> {
    /// Combines a policy with the carrier of the requests' deadlines.
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

    fn keep(&self, req: &Req) -> Option<Req> {
        self.replay.keep(req)
    }

    fn may_resend(&self, copy: &Req, verdict: Verdict) -> bool {
        self.replay.may_resend(copy, verdict)
    }

    fn budget<'a>(&self, copy: &'a Req) -> Option<&'a Budget> {
        self.replay.budget(copy)
    }

    fn attempts(&self, copy: &Req) -> Option<u32> {
        self.replay.attempts(copy)
    }

    fn backoff(&self, copy: &Req, retry: u32, draw: f64) -> Option<Duration> {
        self.replay.backoff(copy, retry, draw)
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

/// Repeats an HTTP request if its method is idempotent (RFC 9110 §9.2.2), if it has an
/// `Idempotency-Key` header, or if the upstream certainly did not process it.
///
/// The idempotent methods are GET, HEAD, OPTIONS, TRACE, PUT and DELETE. The key must not be empty. A
/// POST without a key is sent again only after a verdict that says that it was
/// [not sent](crate::verdict::Sent::No), such as that of a refused connection.
///
/// ```
/// use buttress::{Replay, Verdict, http::Idempotent};
/// use http::Request;
///
/// let get = Request::get("/orders/7").body(())?;
/// assert!(Idempotent.may_resend(&get, Verdict::TRANSIENT));
/// let post = Request::post("/orders").body(())?;
/// assert!(!Idempotent.may_resend(&post, Verdict::TRANSIENT));
/// assert!(Idempotent.may_resend(&post, Verdict::NOT_SENT));
/// let keyed = Request::post("/orders").header("idempotency-key", "8e03978e").body(())?;
/// assert!(Idempotent.may_resend(&keyed, Verdict::TRANSIENT));
/// # Ok::<(), http::Error>(())
/// ```
///
/// **Requests.** The policy repeats an `http::Request<B>` whose body is `Clone`. With the feature
/// `reqwest` it also repeats a `reqwest::Request` whose body is not a stream. reqwest cannot copy a
/// stream, so such a request is sent once.
///
/// **Extensions.** The policy keeps to the [`Deadline`] that
/// [`InExtensions`](crate::http::InExtensions) leaves in the extensions of an `http::Request`. Each
/// retry carries its number as an [`Attempt`](crate::http::Attempt). A `reqwest::Request` carries
/// neither, because its extensions are private.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idempotent;
