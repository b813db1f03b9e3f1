use super::attempt::Attempt;
#[cfg(feature = "http-body")]
use super::replay_body::Mark;
use crate::retry::Replay;
use http::{Extensions, HeaderName, Request};
use std::fmt;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Repeats an HTTP request only if it may be sent twice: its method is idempotent (RFC 9110 §9.2.2:
/// GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or it carries an `Idempotency-Key`. A POST is sent once.
///
/// What is sent again carries its [`Attempt`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Idempotent;

impl<B: Clone> Replay<Request<B>> for Idempotent {
    fn replay(&self, request: &Request<B>) -> Option<Request<B>> {
        let keyed = || {
            let key = request.headers().get(IDEMPOTENCY_KEY);
            key.is_some_and(|key| !key.as_bytes().trim_ascii().is_empty())
        };
        (request.method().is_idempotent() || keyed()).then(|| request.clone())
    }

    fn replayable(&self, copy: &Request<B>) -> bool {
        replayable(copy.extensions())
    }

    fn resend(&self, copy: &mut Request<B>, attempt: u32) {
        resend(copy.extensions_mut(), attempt);
    }
}

/// Repeats the HTTP requests of which a function says that they may be sent twice, whatever their
/// method: gRPC, where every call is a POST, or an API whose POSTs only read.
///
/// Asked once before each attempt but the last. What is sent again carries its [`Attempt`].
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
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy)]
pub struct RepeatIf<F>(
    /// Whether this request may be sent twice: `Fn(&Request<B>) -> bool`.
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

// The policies know nothing of the body's type, so it is reached through the mark it left.

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
    extensions.insert(Attempt::new(attempt));
}
