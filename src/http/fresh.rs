use http::{Extensions, Request};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Sends each retry over another connection than the failed attempt before it (feature `hyper-util`).
///
/// Use it with hyper-util's client over HTTP/2, where all calls share one connection. Without it, a
/// connection that goes silent fails every attempt of a call, and behind a balancer of connections
/// each retry reaches the same server. Put the layer around the stack, or above the retry.
///
/// Before a retry is sent, hyper-util is told not to use the connection of the failed attempt for new
/// calls. Calls that are in flight on it go on. Each retry may then have to connect, whatever its
/// attempt failed with. The layer works with the replay policies [`Idempotent`](super::Idempotent) and
/// [`RepeatIf`](super::RepeatIf). Other clients ignore it: reqwest and tonic do not tell which
/// connection they use.
///
/// ```
/// use buttress::http::{FreshConnectionLayer, stack};
/// use http_body_util::Empty;
/// use hyper::body::Bytes;
/// use hyper_util::client::legacy::Client;
/// use hyper_util::rt::TokioExecutor;
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let http = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Empty<Bytes>>();
/// let client = ServiceBuilder::new()
///     .layer(FreshConnectionLayer)
///     .layer(stack().name("orders").build()?)
///     .service(http);
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct FreshConnectionLayer;

/// The service that [`FreshConnectionLayer`] makes.
#[derive(Clone, Debug)]
pub struct FreshConnection<S> {
    inner: S,
}

impl<S> Layer<S> for FreshConnectionLayer {
    type Service = FreshConnection<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FreshConnection { inner }
    }
}

/// Tells which connection hyper-util has used for the latest attempt.
#[derive(Clone)]
struct Used(CaptureConnection);

impl<S, B> Service<Request<B>> for FreshConnection<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> S::Future {
        let used = Used(capture_connection(&mut req));
        req.extensions_mut().insert(used);
        self.inner.call(req)
    }
}

/// Keeps new calls away from the connection of the failed attempt.
pub(super) fn avoid_used(extensions: &Extensions) {
    if let Some(Used(captured)) = extensions.get() {
        if let Some(connection) = &*captured.connection_metadata() {
            connection.poison();
        }
    }
}
