use super::classify::StatusClassifier;
use super::methods::Methods;
use super::respond::{TrailersOnly, respond};
use super::timeout::{TimeoutHeader, TimeoutHeaderLayer};
use super::trailers::{PeekTrailers, PeekTrailersLayer};
use crate::error::ErrorLayer;
use crate::gate::UntilHead;
use crate::http::{
    self, InExtensions, Pauses, ReplayBodyLayer, ReplayBodyService, RespondService, Stack,
    StackBuilder, StackLayer,
};
use crate::retry::Dropped;
use ::http::Request;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Layer;

/// The time of a whole call.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Starts the recommended stack for gRPC: as [`http::stack`](crate::http::stack()), with the
/// [`StatusClassifier`] and the [`Methods`] of gRPC, a deadline of 10 s, and attempts of 2 s. Ten failures in
/// a row open the circuit, too: with methods that are retried, a rate alone would notice an outage late.
/// Build the stack, and give it to [`service`].
#[must_use = "a builder does nothing until `build` is called"]
pub fn stack() -> StackBuilder<StatusClassifier, Methods> {
    http::stack()
        .deadline(DEADLINE)
        .attempt_timeout(Duration::from_secs(2))
        .circuit_breaker(|breaker| breaker.failure_rate(0.5).consecutive_failures(10))
        .classify(StatusClassifier::default())
        .replay(Methods::new())
}

/// Puts a stack around a gRPC channel, for a generated stub. The [module](super) has an example. All
/// services that one stack makes share its circuit, budget and limits.
///
/// From the outside in: [rejections as statuses](super::respond), [bodies that can be sent
/// again](crate::http::ReplayBodyLayer) (up to 64 KiB), the stack, [trailers that are looked
/// for](PeekTrailersLayer), and the [header `grpc-timeout`](TimeoutHeaderLayer). `body` puts a body into
/// the type that the channel takes: for tonic, `tonic::body::Body::new`.
pub fn service<S, F, C, R, K, D, U, W, P>(
    stack: &StackLayer<C, R, K, D, U, W, P>,
    channel: S,
    body: F,
) -> Channel<S, F, C, R, K, D, U, W, P>
where
    S: Clone,
    F: Clone,
    C: Clone,
    R: Clone,
    K: Clone,
    D: Clone,
    P: Pauses<Classify<C>: Clone>,
{
    let inner = MapBody {
        inner: channel,
        body,
    };
    let inner = PeekTrailersLayer.layer(TimeoutHeaderLayer.layer(inner));
    respond().layer(ReplayBodyLayer::new().layer(stack.layer(inner)))
}

/// The service that [`service`] makes around a channel `S`.
pub type Channel<
    S,
    F,
    C = StatusClassifier,
    R = Methods,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P = (),
> = RespondService<
    ReplayBodyService<Stack<PeekTrailers<TimeoutHeader<MapBody<S, F>>>, C, R, K, D, U, W, P>>,
    TrailersOnly,
>;

/// Puts the body of each request into the type that the inner service takes.
#[derive(Clone)]
pub struct MapBody<S, F> {
    inner: S,
    body: F,
}

impl<S, F, B, C> tower::Service<Request<B>> for MapBody<S, F>
where
    S: tower::Service<Request<C>>,
    F: Fn(B) -> C,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<B>) -> S::Future {
        self.inner.call(req.map(&self.body))
    }
}

impl<S: fmt::Debug, F> fmt::Debug for MapBody<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
