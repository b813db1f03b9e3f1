//! Kept responses for an upstream that fails.

mod body;
mod handle;
mod rules;
mod service;
mod store;

pub use body::StaleBody;
pub use handle::{Stale, StaleSnapshot};
pub use service::{StaleFuture, StaleService};

use super::StatusClassifier;
use crate::error::InvalidConfig;
use crate::name::Name;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower::Layer;

/// Keeps good responses, and answers with them while the upstream fails (RFC 5861, `stale-if-error`). Needs the
/// feature `http-body`.
///
/// Use it where an old answer is better than none. It is no cache: each call asks the upstream first.
///
/// ```
/// use buttress::http::{Degraded, StaleLayer, stack};
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use std::convert::Infallible;
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// static UP: AtomicBool = AtomicBool::new(true);
/// let client = service_fn(|_: Request<()>| async {
///     let status = if UP.load(Relaxed) { 200 } else { 503 };
///     let body = Full::new(Bytes::from_static(b"news"));
///     Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
/// });
/// let stale = StaleLayer::builder().build().unwrap();
/// let service = stale.layer(stack().service(client).unwrap());
///
/// let get = || Request::get("http://news.internal/").body(()).unwrap();
/// let response = service.clone().oneshot(get()).await.unwrap();
/// response.into_body().collect().await.unwrap(); // kept when it is read to its end
///
/// UP.store(false, Relaxed);
/// let response = service.oneshot(get()).await.unwrap();
/// assert_eq!(response.headers()["age"], "0");
/// assert!(response.extensions().get::<Degraded>().unwrap().age.is_some());
/// # }
/// ```
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `keep` | 1024 | the most responses that are kept; those go first that were not used for long |
/// | `max_body` | 64 KiB | the longest body that is kept |
/// | `stale_for` | 1 h | how long a response may be served |
/// | `authorized` | off | also keeps responses to requests with `Authorization` |
/// | `classify` | [`StatusClassifier`] | turns an outcome into its [`Verdict`](crate::Verdict) |
/// | `name` | none | the name in events and snapshots |
///
/// # What is kept
///
/// The latest 200 to each GET, by its URI and `Host`, when its body was read to its end. The caller gets the body as it comes: it is
/// not held back. Not kept is a response
///
/// * with `no-store`, `no-cache`, `private`, `must-revalidate`, `proxy-revalidate` or `s-maxage`, which forbid to share it
///   or to serve it stale (RFC 9111 §4.2.4);
/// * with `Set-Cookie`, trailers, or `Vary: *`;
/// * to a request with `no-store`, `no-cache`, `Range`, or `Authorization`. With `authorized`, responses to requests with
///   `Authorization` are kept for the same credentials only, the private ones too;
/// * whose body was cut, is longer than `max_body`, or differs from its `Content-Length`.
///
/// Any other success for the same URI, such as a 404, drops what was kept; a 304 does not. So does a successful request
/// with an unsafe method, such as PUT (RFC 9111 §4.4).
///
/// # When it is served
///
/// After the verdicts `Transient` and `Throttled`, and after every rejection but `DeadlinePassed`; for `stale_for` since
/// it arrived, or until the end of its own `stale-if-error`, whichever is less. That one counts from the end of its
/// freshness: `max-age`, or `Expires` less `Date`. The headers that it varies by must be the same. The response has the
/// header `Age`, and [`Degraded`](super::Degraded) in its extensions.
///
/// # Order of layers
///
/// Outside retry and circuit breaker, and inside the timeout of the whole call, as a
/// [fallback](crate::fallback#order-of-layers). Around a whole stack, it also serves after the stack's own deadline.
///
/// # Memory
///
/// At most `keep · max_body` bytes for bodies, besides heads and URIs, and up to `max_body` for each body that is being
/// read. It takes one lock for each GET.
///
/// # Errors, cancellation and events
///
/// The inner service's errors pass unchanged if no response is kept. A body that its caller drops is not kept. Events
/// have the target `buttress::fallback`: `served_stale` at DEBUG with `name`, `verdict` and `age_ms`; `degraded` and
/// `restored` as a [fallback](crate::fallback#events-and-counters). The counters are in [`StaleSnapshot`].
pub struct StaleLayer<C = StatusClassifier> {
    stale: Stale,
    classify: Arc<C>,
}

impl StaleLayer {
    /// A builder with the default settings.
    pub fn builder() -> StaleBuilder {
        StaleBuilder {
            keep: 1024,
            max_body: 64 * 1024,
            stale_for: Duration::from_secs(3_600),
            authorized: false,
            name: Name::UNNAMED,
            classify: StatusClassifier::default(),
        }
    }
}

impl<C> StaleLayer<C> {
    /// The handle that all services of this layer share.
    #[must_use]
    pub fn stale(&self) -> &Stale {
        &self.stale
    }
}

impl<C> Clone for StaleLayer<C> {
    fn clone(&self) -> Self {
        Self {
            stale: self.stale.clone(),
            classify: self.classify.clone(),
        }
    }
}

impl<S, C> Layer<S> for StaleLayer<C> {
    type Service = StaleService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        StaleService::new(inner, self.stale.clone(), self.classify.clone())
    }
}

impl<C> fmt::Debug for StaleLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaleLayer")
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

/// Builds a [`StaleLayer`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct StaleBuilder<C = StatusClassifier> {
    keep: usize,
    max_body: usize,
    stale_for: Duration,
    authorized: bool,
    name: Name,
    classify: C,
}

impl<C> StaleBuilder<C> {
    /// The most responses that are kept, at least 1. Default: 1024.
    pub fn keep(mut self, keep: usize) -> Self {
        self.keep = keep;
        self
    }

    /// The longest body that is kept, in bytes. Default: 64 KiB.
    pub fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }

    /// How long a response may be served, from its arrival. Default: 1 h.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.stale_for = stale_for;
        self
    }

    /// Also keeps responses to requests with `Authorization`, for the same credentials only. Default: off.
    pub fn authorized(mut self) -> Self {
        self.authorized = true;
        self
    }

    /// The classifier. Default: [`StatusClassifier`].
    pub fn classify<J>(self, classify: J) -> StaleBuilder<J> {
        StaleBuilder {
            keep: self.keep,
            max_body: self.max_body,
            stale_for: self.stale_for,
            authorized: self.authorized,
            name: self.name,
            classify,
        }
    }

    /// The name in events and snapshots. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// `keep` is 0.
    pub fn build(self) -> Result<StaleLayer<C>, InvalidConfig> {
        if self.keep == 0 {
            return Err(InvalidConfig::new("keep", self.keep, "at least 1"));
        }
        let bounds = (self.keep, self.max_body);
        Ok(StaleLayer {
            stale: Stale::new(bounds, self.stale_for, self.authorized, self.name),
            classify: Arc::new(self.classify),
        })
    }
}
