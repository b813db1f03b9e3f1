use super::deadline::InExtensions;
use crate::deadline::{Carrier, Deadline};
use crate::retry::Replay;
use http::{HeaderMap, HeaderName, Method, Request};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Repeats an HTTP request only if it may be sent twice: its method is idempotent (RFC 9110 §9.2.2:
/// GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or it carries an `Idempotency-Key`. A POST is sent once.
/// A [`Deadline`] in the request's extensions is heeded, as [`InExtensions`] leaves it.
///
/// It repeats an `http::Request<B>` whose body is `Clone` and, with the feature `reqwest`, a
/// `reqwest::Request` whose body is not a stream: of that, reqwest itself can make no copy, and so it
/// is sent once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idempotent;

impl<B: Clone> Replay<Request<B>> for Idempotent {
    fn replay(&self, request: &Request<B>) -> Option<Request<B>> {
        repeatable(request.method(), request.headers()).then(|| request.clone())
    }

    fn deadline(&self, request: &Request<B>) -> Option<Deadline> {
        InExtensions.get(request)
    }
}

#[cfg(feature = "reqwest")]
impl Replay<reqwest::Request> for Idempotent {
    fn replay(&self, request: &reqwest::Request) -> Option<reqwest::Request> {
        if repeatable(request.method(), request.headers()) {
            request.try_clone()
        } else {
            None
        }
    }
}

fn repeatable(method: &Method, headers: &HeaderMap) -> bool {
    let keyed = || {
        let key = headers.get(IDEMPOTENCY_KEY);
        key.is_some_and(|key| !key.as_bytes().trim_ascii().is_empty())
    };
    method.is_idempotent() || keyed()
}
