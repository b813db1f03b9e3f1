//! How many bytes each layer adds to the future of a call. Moving a future copies all of its bytes,
//! so rare states are boxed.

use buttress::http::{Authority, stack};
use buttress::retry::Cloned;
use buttress::{
    ChaosLayer, CircuitBreakerLayer, Error, ErrorLayer, FallbackLayer, HedgeLayer, LoadShedLayer,
    Quota, RateLimitLayer, RetryLayer, TimeoutLayer,
};
use bytes::Bytes;
use http_body_util::Full;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{Layer, Service, ServiceBuilder};

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// The future of a call with a size of `N` words.
struct Words<const N: usize, T>([u64; N], std::marker::PhantomData<T>);

impl<const N: usize, T> Future for Words<N, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        Poll::Pending
    }
}

#[derive(Clone)]
struct Client<const N: usize, E>(std::marker::PhantomData<fn() -> E>);

impl<const N: usize, Req, E> Service<Req> for Client<N, E> {
    type Response = http::Response<()>;
    type Error = E;
    type Future = Words<N, Result<http::Response<()>, E>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        Words([0; N], std::marker::PhantomData)
    }
}

fn client<const N: usize, E>() -> Client<N, E> {
    Client(std::marker::PhantomData)
}

fn size<S: Service<Req>, Req>(_: &S) -> usize {
    size_of::<S::Future>()
}

/// How many bytes a layer adds to a call with a size of 8 words.
fn added<L>(layer: &L) -> usize
where
    L: Layer<Client<8, Error<Infallible>>>,
    L::Service: Service<u64>,
{
    size(&layer.layer(client())) - 64
}

#[test]
fn each_layer_adds_a_few_words() {
    let retry = RetryLayer::builder().replay(Cloned).build().unwrap();
    let second = client::<8, Error<Infallible>>();
    let fallback = FallbackLayer::to(second).replay(Cloned);
    let hedge = HedgeLayer::builder().replay(Cloned).build().unwrap();
    let added = [
        added(&RateLimitLayer::new(Quota::per_second(1))),
        added(&LoadShedLayer::new(1)),
        added(&CircuitBreakerLayer::default()),
        added(&TimeoutLayer::new(SECOND)),
        added(&retry) - size_of::<Option<u64>>(),
        added(&fallback) - size_of::<Option<u64>>(),
        added(&hedge) - size_of::<Option<u64>>(),
        added(&ChaosLayer::builder().build().unwrap()),
    ];
    let most = [8, 8, 32, 32, 8, 8, 24, 8];
    for (added, most) in added.into_iter().zip(most) {
        assert!(
            added <= most,
            "rate limit, load shed, breaker, timeout, retry, fallback, hedge, chaos: {added:?} of {most:?}"
        );
    }
}

#[test]
fn the_stack_of_five_is_small() {
    let retry = RetryLayer::builder().replay(Cloned).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(retry)
        .layer(LoadShedLayer::new(1))
        .layer(RateLimitLayer::new(Quota::per_second(1)))
        .layer(CircuitBreakerLayer::default())
        .layer(TimeoutLayer::new(SECOND))
        .layer(ErrorLayer)
        .service(client::<2, Infallible>());
    let size = size::<_, u64>(&service);
    assert!(size <= 176, "{size}");
}

#[test]
fn the_recommended_stack_adds_little_more_than_the_copy_of_the_request() {
    type Req = http::Request<Full<Bytes>>;
    let stack = stack().load_shed(1).rate_limit(Quota::per_second(1));
    let service = stack.service(client::<2, Infallible>()).unwrap();
    let size = size::<_, Req>(&service) - size_of::<Option<Req>>();
    assert!(size <= 176, "{size}");
}

#[test]
fn a_stack_with_keys_adds_little_to_one_without() {
    type Req = http::Request<Full<Bytes>>;
    let stack = || stack().load_shed(1).rate_limit(Quota::per_second(1));
    let keyed = stack().per_key(Authority);
    let keyed = keyed.service(client::<2, Infallible>()).unwrap();
    let unkeyed = stack().service(client::<2, Infallible>()).unwrap();
    let added = size::<_, Req>(&keyed) - size::<_, Req>(&unkeyed);
    assert!(added <= 8, "{added}");
}
