use super::attempt::Attempt;
use super::deadline::InExtensions;
#[cfg(feature = "http-body")]
use super::replay_body::Mark;
use crate::deadline::{Carrier, Deadline};
use crate::replay::{Idempotent, Replay};
use crate::verdict::{Sent, Verdict};
use http::{Extensions, HeaderMap, HeaderName, Method, Request};
use std::fmt;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl<B: Clone> Replay<Request<B>> for Idempotent {
    fn replay(&self, request: &Request<B>) -> Option<Request<B>> {
        repeatable(request.method(), request.headers()).then(|| request.clone())
    }

    fn keep(&self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }

    fn may_resend(&self, copy: &Request<B>, verdict: Verdict) -> bool {
        verdict.sent() == Sent::No || repeatable(copy.method(), copy.headers())
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        InExtensions.get(request)
    }

    fn replayable(&self, copy: &Request<B>) -> bool {
        replayable(copy.extensions())
    }

    fn resend(&self, copy: &mut Request<B>, attempt: u32) {
        resend(copy.extensions_mut(), attempt);
    }
}

/// Repeats the HTTP requests that a function allows, whatever their method, and those that the
/// upstream certainly did not process.
///
/// Use it for gRPC, where every call is a POST, or for an API whose POSTs only read. The function is
/// called after a failed attempt, with a copy of the request. Each retry carries its number as an
/// [`Attempt`].
///
/// ```
/// use buttress::RetryLayer;
/// use buttress::http::RepeatIf;
/// use http::Request;
///
/// fn only_reads<B>(request: &Request<B>) -> bool {
///     request.uri().path().starts_with("/search")
/// }
///
/// let layer = RetryLayer::builder().replay(RepeatIf(only_reads::<String>)).build()?;
/// # let _ = layer;
/// assert!(only_reads(&Request::post("/search").body(()).unwrap()));
/// assert!(!only_reads(&Request::post("/orders").body(()).unwrap()));
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy)]
pub struct RepeatIf<F>(
    /// The function: `Fn(&Request<B>) -> bool`. It returns whether the request may be processed twice.
    pub F,
);

impl<F, B> Replay<Request<B>> for RepeatIf<F>
where
    F: Fn(&Request<B>) -> bool,
    B: Clone,
{
    fn replay(&self, request: &Request<B>) -> Option<Request<B>> {
        (self.0)(request).then(|| request.clone())
    }

    fn keep(&self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }

    fn may_resend(&self, copy: &Request<B>, verdict: Verdict) -> bool {
        verdict.sent() == Sent::No || (self.0)(copy)
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        InExtensions.get(request)
    }

    fn replayable(&self, copy: &Request<B>) -> bool {
        replayable(copy.extensions())
    }

    fn resend(&self, copy: &mut Request<B>, attempt: u32) {
        resend(copy.extensions_mut(), attempt);
    }
}

impl<F> fmt::Debug for RepeatIf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RepeatIf").finish_non_exhaustive()
    }
}

// The policies do not know the body's type, so they reach the body through its mark.

#[cfg(feature = "http-body")]
fn replayable(extensions: &Extensions) -> bool {
    extensions.get::<Mark>().is_none_or(Mark::claim)
}

#[cfg(not(feature = "http-body"))]
fn replayable(_: &Extensions) -> bool {
    true
}

fn resend(extensions: &mut Extensions, attempt: u32) {
    #[cfg(feature = "http-body")]
    if let Some(mark) = extensions.get::<Mark>() {
        mark.release();
    }
    #[cfg(feature = "hyper-util")]
    super::fresh::avoid_used(extensions);
    extensions.insert(Attempt::new(attempt));
}

#[cfg(feature = "reqwest")]
impl Replay<reqwest::Request> for Idempotent {
    fn replay(&self, request: &reqwest::Request) -> Option<reqwest::Request> {
        let copies = repeatable(request.method(), request.headers());
        copies.then(|| request.try_clone()).flatten()
    }

    fn keep(&self, request: &reqwest::Request) -> Option<reqwest::Request> {
        request.try_clone()
    }

    fn may_resend(&self, copy: &reqwest::Request, verdict: Verdict) -> bool {
        verdict.sent() == Sent::No || repeatable(copy.method(), copy.headers())
    }
}

#[cfg(feature = "reqwest")]
impl<F> Replay<reqwest::Request> for RepeatIf<F>
where
    F: Fn(&reqwest::Request) -> bool,
{
    fn replay(&self, request: &reqwest::Request) -> Option<reqwest::Request> {
        (self.0)(request).then(|| request.try_clone()).flatten()
    }

    fn keep(&self, request: &reqwest::Request) -> Option<reqwest::Request> {
        request.try_clone()
    }

    fn may_resend(&self, copy: &reqwest::Request, verdict: Verdict) -> bool {
        verdict.sent() == Sent::No || (self.0)(copy)
    }
}

fn repeatable(method: &Method, headers: &HeaderMap) -> bool {
    let keyed = || {
        let key = headers.get(IDEMPOTENCY_KEY);
        key.is_some_and(|key| !key.as_bytes().trim_ascii().is_empty())
    };
    method.is_idempotent() || keyed()
}
