use crate::deadline::Deadline;
use crate::http::Idempotent;
use crate::replay::Replay;
use crate::verdict::{Sent, Verdict};
use http::{HeaderValue, Request};

/// Which gRPC calls may be sent again: by method.
///
/// gRPC does not say which methods are idempotent. So by default a call is sent again only if the
/// upstream certainly did not process it. [`retry`](Self::retry) allows more for the methods that start
/// with a prefix, and [`never`](Self::never) makes exceptions. The longest prefix counts. A call is
/// never sent again once a message of its response has arrived.
///
/// Each retry carries the header `grpc-previous-rpc-attempts` (gRFC A6).
///
/// ```
/// use buttress::grpc::Methods;
/// use buttress::{Replay, Verdict};
/// use http::Request;
///
/// let methods = Methods::new().retry("/orders.Orders/").never("/orders.Orders/Pay");
/// let may_resend = |path: &str, verdict| {
///     let call = Request::post(path).body(()).unwrap();
///     methods.may_resend(&call, verdict)
/// };
/// assert!(may_resend("/orders.Orders/Get", Verdict::TRANSIENT));
/// assert!(!may_resend("/orders.Orders/Pay", Verdict::TRANSIENT));
/// assert!(!may_resend("/users.Users/Get", Verdict::TRANSIENT));
/// assert!(may_resend("/orders.Orders/Pay", Verdict::NOT_SENT)); // the connection was refused
/// ```
#[derive(Clone, Debug, Default)]
pub struct Methods {
    /// Each with whether its calls may be processed twice.
    prefixes: Vec<(String, bool)>,
}

impl Methods {
    /// No call may be processed twice.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            prefixes: Vec::new(),
        }
    }

    /// Calls whose path starts with `prefix` may be processed twice. `/` stands for all methods,
    /// `/package.Service/` for those of a service.
    #[must_use]
    pub fn retry(self, prefix: impl Into<String>) -> Self {
        self.with(prefix.into(), true)
    }

    /// Calls whose path starts with `prefix` must not be processed twice. Wins over
    /// [`retry`](Self::retry) with the same prefix.
    #[must_use]
    pub fn never(self, prefix: impl Into<String>) -> Self {
        self.with(prefix.into(), false)
    }

    fn with(mut self, prefix: String, may_repeat: bool) -> Self {
        self.prefixes.push((prefix, may_repeat));
        self
    }

    fn may_repeat(&self, path: &str) -> bool {
        let matching = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| path.starts_with(prefix));
        let longest = matching.max_by_key(|(prefix, may_repeat)| (prefix.len(), !may_repeat));
        longest.is_some_and(|(_, may_repeat)| *may_repeat)
    }
}

impl<B: Clone> Replay<Request<B>> for Methods {
    fn replay(&self, call: &Request<B>) -> Option<Request<B>> {
        self.may_repeat(call.uri().path()).then(|| call.clone())
    }

    fn keep(&self, call: &Request<B>) -> Option<Request<B>> {
        Some(call.clone())
    }

    fn may_resend(&self, copy: &Request<B>, verdict: Verdict) -> bool {
        verdict.sent() == Sent::No || self.may_repeat(copy.uri().path())
    }

    fn deadline(&self, call: &Request<B>) -> Option<Deadline> {
        Idempotent.deadline(call)
    }

    fn replayable(&self, copy: &Request<B>) -> bool {
        Idempotent.replayable(copy)
    }

    fn resend(&self, copy: &mut Request<B>, attempt: u32) {
        Idempotent.resend(copy, attempt);
        let previous = HeaderValue::from(attempt.saturating_sub(1));
        let headers = copy.headers_mut();
        headers.insert("grpc-previous-rpc-attempts", previous);
    }
}
