//! What each layer adds to a call to a service that does nothing. For daily work.

use buttress::circuit_breaker::Circuit;
use buttress::http::{RespondLayer, stack};
use buttress::keyed::Keys;
use buttress::observe::Registry;
use buttress::retry::Cloned;
use buttress::{
    ChaosLayer, CircuitBreakerLayer, Error, FallbackLayer, HedgeLayer, LoadShedLayer, Quota,
    RateLimitLayer, RetryLayer, TimeoutLayer,
};
use divan::{Bencher, black_box};
use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower::{Layer, Service, service_fn};

fn main() {
    divan::main();
}

#[derive(Clone)]
struct Bare;

impl Service<u32> for Bare {
    type Response = u32;
    type Error = Error<Infallible>;
    type Future = Ready<Result<u32, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Self::Future {
        ready(Ok(n))
    }
}

fn measure<S>(bencher: Bencher<'_, '_>, service: S)
where
    S: Service<u32>,
{
    measure_keys(bencher, service, 1);
}

/// With the requests `0..keys` in turn. Each was made once before, so that no first call is measured.
fn measure_keys<S>(bencher: Bencher<'_, '_>, mut service: S, keys: u32)
where
    S: Service<u32>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut request = 0;
    let mut call = move || {
        request = if request + 1 < keys { request + 1 } else { 0 };
        assert!(service.poll_ready(&mut cx).is_ready());
        let call = pin!(service.call(black_box(request)));
        assert!(call.poll(&mut cx).is_ready());
    };
    (0..keys).for_each(|_| call());
    bencher.bench_local(call);
}

const LONG: Duration = Duration::from_secs(10);

fn retry() -> RetryLayer<buttress::verdict::Outcome, Cloned> {
    RetryLayer::builder().replay(Cloned).build().unwrap()
}

#[divan::bench]
fn bare(bencher: Bencher<'_, '_>) {
    measure(bencher, Bare);
}

#[divan::bench]
fn timeout(bencher: Bencher<'_, '_>) {
    measure(bencher, TimeoutLayer::new(LONG).layer(Bare));
}

#[divan::bench]
fn retry_first_attempt_ok(bencher: Bencher<'_, '_>) {
    measure(bencher, retry().layer(Bare));
}

/// A call that responds at once: it needs no timer.
#[divan::bench]
fn hedge_not_needed(bencher: Bencher<'_, '_>) {
    let layer = HedgeLayer::builder().replay(Cloned).build().unwrap();
    measure(bencher, layer.layer(Bare));
}

#[divan::bench(args = ["off", "over", "on"])]
fn chaos(bencher: Bencher<'_, '_>, state: &str) {
    let faults = ChaosLayer::builder().outcome(1e-9, |_: &u32| Ok(7));
    let layer = faults.build().unwrap();
    match state {
        "over" => layer.chaos().for_the_next(Duration::ZERO),
        "on" => layer.chaos().on(),
        _ => {}
    }
    measure(bencher, layer.layer(Bare));
}

#[divan::bench]
fn fallback_not_needed(bencher: Bencher<'_, '_>) {
    measure(bencher, FallbackLayer::to(Bare).replay(Cloned).layer(Bare));
}

#[divan::bench]
fn circuit_breaker_closed(bencher: Bencher<'_, '_>) {
    measure(bencher, CircuitBreakerLayer::default().layer(Bare));
}

#[divan::bench]
fn circuit_breaker_open(bencher: Bencher<'_, '_>) {
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_for(LONG);
    let layer = layer.build().unwrap();
    layer
        .circuit()
        .try_acquire()
        .unwrap()
        .settle(buttress::Verdict::Permanent);
    measure(bencher, layer.layer(Bare));
}

#[divan::bench]
fn rate_limit_accepted(bencher: Bencher<'_, '_>) {
    measure(
        bencher,
        RateLimitLayer::new(Quota::per_second(u32::MAX)).layer(Bare),
    );
}

#[divan::bench]
fn rate_limit_rejected(bencher: Bencher<'_, '_>) {
    measure(
        bencher,
        RateLimitLayer::new(Quota::per_second(0)).layer(Bare),
    );
}

#[divan::bench]
fn load_shed_accepted(bencher: Bencher<'_, '_>) {
    measure(bencher, LoadShedLayer::new(256).layer(Bare));
}

#[divan::bench]
fn load_shed_rejected(bencher: Bencher<'_, '_>) {
    measure(bencher, LoadShedLayer::new(0).layer(Bare));
}

/// The recommended stacks around a service that responds at once.
#[cfg(feature = "http-body")]
mod stacks {
    use buttress::grpc;
    use buttress::http::stack;
    use bytes::Bytes;
    use divan::Bencher;
    use http::{Request, Response};
    use http_body_util::{Empty, Full};
    use std::convert::Infallible;
    use std::future::ready;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use tower::{Service, service_fn};

    type Req = Request<Full<Bytes>>;

    fn request() -> Req {
        let request = Request::get("http://orders.internal/orders.Orders/Get");
        request.body(Full::new(Bytes::new())).unwrap()
    }

    fn measure(bencher: Bencher<'_, '_>, mut service: impl Service<Req>) {
        let mut cx = Context::from_waker(Waker::noop());
        bencher
            .with_inputs(request)
            .bench_local_values(move |request| {
                assert!(service.poll_ready(&mut cx).is_ready());
                let call = pin!(service.call(request));
                assert!(call.poll(&mut cx).is_ready());
            });
    }

    fn respond<R>(_: R) -> std::future::Ready<Result<Response<Empty<Bytes>>, Infallible>> {
        let response = Response::builder().header("grpc-status", "0");
        ready(Ok(response.body(Empty::new()).unwrap()))
    }

    #[divan::bench]
    fn http(bencher: Bencher<'_, '_>) {
        measure(
            bencher,
            stack().service(service_fn(respond::<Req>)).unwrap(),
        );
    }

    #[divan::bench]
    fn grpc(bencher: Bencher<'_, '_>) {
        let stack = grpc::stack().build().unwrap();
        measure(
            bencher,
            grpc::service(&stack, service_fn(respond), |body| body),
        );
    }
}

static HOSTS: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..100_000).map(|n| format!("{n}.internal")).collect());

#[expect(clippy::unnecessary_wraps, reason = "a request may have no key")]
fn host(request: &u32) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(&HOSTS[*request as usize]))
}

/// A known key, one of many, and one that was displaced since its last call. The layer keeps 1 504 keys.
#[divan::bench(args = [1, 1_000, 100_000])]
fn rate_limit_by_key(bencher: Bencher<'_, '_>, keys: u32) {
    LazyLock::force(&HOSTS);
    let layer = RateLimitLayer::builder(Quota::per_second(u32::MAX)).per_key(host);
    let layer = layer.keys(Keys::at_most(1_500)).build().unwrap();
    measure_keys(bencher, layer.layer(Bare), keys);
}

/// A server's response to a call that finds it full.
#[divan::bench]
fn shed_response(bencher: Bencher<'_, '_>) {
    #[derive(Clone)]
    struct Handler;
    impl Service<u32> for Handler {
        type Response = http::Response<String>;
        type Error = Error<Infallible>;
        type Future = Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: u32) -> Self::Future {
            ready(Ok(http::Response::default()))
        }
    }
    let full = LoadShedLayer::new(0).layer(Handler);
    measure(bencher, RespondLayer::new().layer(full));
}

#[divan::bench]
fn stack_of_five(bencher: Bencher<'_, '_>) {
    let stack = tower::ServiceBuilder::new()
        .layer(TimeoutLayer::new(LONG))
        .layer(retry())
        .layer(LoadShedLayer::new(256))
        .layer(RateLimitLayer::new(Quota::per_second(u32::MAX)))
        .layer(CircuitBreakerLayer::default())
        .layer(TimeoutLayer::new(LONG))
        .service(Bare);
    measure(bencher, stack);
}

/// A call through the recommended stack for HTTP, which costs the same whether a registry lists it or not.
#[divan::bench(args = [false, true])]
fn http_stack_in_a_registry(bencher: Bencher<'_, '_>, listed: bool) {
    let registry = Registry::new();
    let client =
        service_fn(|_: http::Request<()>| ready(Ok::<_, Infallible>(http::Response::new(()))));
    let mut stack = stack()
        .load_shed(64)
        .rate_limit(Quota::per_second(u32::MAX));
    if listed {
        stack = stack.registered(&registry);
    }
    let mut service = stack.service(client).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    bencher.bench_local(|| {
        assert!(service.poll_ready(&mut cx).is_ready());
        let call = pin!(service.call(black_box(http::Request::new(()))));
        assert!(call.poll(&mut cx).is_ready());
    });
}

/// The text for 100 stacks of six layers.
#[divan::bench]
fn scrape_of_100_stacks(bencher: Bencher<'_, '_>) {
    let registry = Registry::new();
    let stack = || stack().load_shed(64).rate_limit(Quota::per_second(100));
    let listed = (0..100).map(|n| {
        stack()
            .name(format!("upstream{n}"))
            .registered(&registry)
            .build()
    });
    let listed: Vec<_> = listed.map(Result::unwrap).collect();
    bencher.bench_local(|| registry.text());
    drop(listed);
}

/// The text for 100 circuits, without the other layers.
#[divan::bench]
fn scrape_of_100_circuits(bencher: Bencher<'_, '_>) {
    let registry = Registry::new();
    let circuits: Vec<_> = (0..100)
        .map(|_| Circuit::builder().build().unwrap())
        .collect();
    for circuit in &circuits {
        registry.add(circuit);
    }
    bencher.bench_local(|| registry.text());
}
