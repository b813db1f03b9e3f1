use super::deadline::InExtensions;
use crate::deadline::{Carrier, Deadline};
use crate::retry::Replay;
use http::{HeaderName, Request};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Repeats an HTTP request only if it may be sent twice: its method is idempotent (RFC 9110 §9.2.2:
/// GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or it carries an `Idempotency-Key`. A POST is sent once.
/// A [`Deadline`] in the request's extensions is heeded, as [`InExtensions`] leaves it.
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

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        InExtensions.get(request)
    }
}
