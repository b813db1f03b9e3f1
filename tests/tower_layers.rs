//! The layers above and below each of tower's own layers: nothing panics and no call hangs.

use buttress::http::stack;
use buttress::retry::Cloned;
use buttress::verdict::Outcome;
use buttress::{
    CircuitBreakerLayer, Error, LoadShedLayer, Quota, RateLimitLayer, RetryLayer, StackError,
    TimeoutLayer,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Boxed = BoxCloneSyncService<u32, u32, BoxError>;
type Applied = (&'static str, fn(Boxed) -> Boxed);

fn boxed<S>(service: S) -> Boxed
where
    S: Service<u32, Response = u32, Error = BoxError, Future: Send> + Clone + Send + Sync + 'static,
{
    BoxCloneSyncService::new(service)
}

const SECOND: Duration = Duration::from_secs(1);

const OURS: &[Applied] = &[
    ("timeout", |inner| {
        boxed(TimeoutLayer::new(60 * SECOND).layer(inner))
    }),
    ("retry", |inner| {
        let retry = RetryLayer::builder().replay(Cloned);
        boxed(retry.build().unwrap().layer(inner))
    }),
    ("load shed", |inner| {
        boxed(LoadShedLayer::new(3).layer(inner))
    }),
    ("load shed with a queue", |inner| {
        let shed = LoadShedLayer::builder(3).queue(100, 60 * SECOND);
        boxed(shed.build().unwrap().layer(inner))
    }),
    ("rate limit", |inner| {
        let limit =
            RateLimitLayer::builder(Quota::per_second(1_000).burst(1)).max_wait(60 * SECOND);
        boxed(limit.build().unwrap().layer(inner))
    }),
    ("circuit breaker", |inner| {
        boxed(CircuitBreakerLayer::default().layer(inner))
    }),
    ("all five", |inner| {
        let service = ServiceBuilder::new()
            .layer(TimeoutLayer::new(60 * SECOND))
            .layer(RetryLayer::builder().replay(Cloned).build().unwrap())
            .layer(LoadShedLayer::new(3))
            .layer(RateLimitLayer::new(Quota::per_second(1_000).burst(1)))
            .layer(CircuitBreakerLayer::default())
            .service(inner);
        boxed(service)
    }),
    ("the recommended stack", |inner| {
        let stack = stack()
            .replay(Cloned)
            .classify(Outcome)
            .carrier(())
            .load_shed(3)
            .rate_limit(Quota::per_second(1_000).burst(1));
        let unlift = |error| match error {
            Error::Rejected(rejection) => BoxError::reject(rejection),
            Error::Service(error) => error,
        };
        boxed(stack.service(inner).unwrap().map_err(unlift))
    }),
];

const TOWERS: &[Applied] = &[
    ("buffer", |inner| {
        boxed(ServiceBuilder::new().buffer(2).service(inner))
    }),
    ("concurrency limit", |inner| {
        boxed(ServiceBuilder::new().concurrency_limit(2).service(inner))
    }),
    ("load shed", |inner| {
        boxed(ServiceBuilder::new().load_shed().service(inner))
    }),
    ("load shed and concurrency limit", |inner| {
        boxed(
            ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(2)
                .service(inner),
        )
    }),
    ("buffer and rate limit", |inner| {
        let limited = ServiceBuilder::new().buffer(8).rate_limit(100, SECOND);
        boxed(limited.service(inner))
    }),
    ("timeout", |inner| {
        boxed(ServiceBuilder::new().timeout(60 * SECOND).service(inner))
    }),
    BALANCE,
];

/// Two endpoints behind a buffer, because a balancer is not `Clone`.
const BALANCE: Applied = ("balancer", |inner| {
    let endpoint = || PendingRequests::new(inner.clone(), CompleteOnResponse::default());
    let balance = Balance::new(ServiceList::new([endpoint(), endpoint()]));
    boxed(ServiceBuilder::new().buffer(64).service(balance))
});

/// Takes 10 ms per call and fails every fifth one. Counts the calls in flight.
fn upstream(under_way: Arc<AtomicUsize>) -> Boxed {
    boxed(service_fn(move |n: u32| {
        let under_way = UnderWay::new(under_way.clone());
        async move {
            sleep(Duration::from_millis(10)).await;
            drop(under_way);
            if n % 5 == 0 {
                return Err(BoxError::from("the upstream's own"));
            }
            Ok(n)
        }
    }))
}

struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Whether the layers or the upstream return this error on purpose.
fn expected(error: &BoxError) -> bool {
    error.rejection().is_some()
        || error.is::<tower::load_shed::error::Overloaded>()
        || error.to_string().contains("the upstream's own")
}

/// Makes forty calls at once and drops every third one after 5 ms. Then makes one more.
async fn assert_works(what: &str, service: Boxed, under_way: &AtomicUsize) {
    let mut calls = JoinSet::new();
    for n in 1..=40 {
        let service = service.clone();
        calls.spawn(async move {
            let call = service.oneshot(n);
            if n % 3 == 0 {
                return timeout(Duration::from_millis(5), call)
                    .await
                    .unwrap_or(Ok(n));
            }
            call.await
        });
    }
    while let Some(outcome) = calls.join_next().await {
        match outcome.unwrap_or_else(|panic| panic!("{what}: {panic}")) {
            Ok(_) => {}
            Err(error) => assert!(expected(&error), "{what}: {error:?}"),
        }
    }
    // By then all retries have ended, and the limits are full again.
    sleep(120 * SECOND).await;
    assert_eq!(under_way.load(Relaxed), 0, "{what}");
    assert_eq!(service.oneshot(1).await.ok(), Some(1), "{what}");
}

#[tokio::test(start_paused = true)]
async fn combined_with_towers_own_layers_nothing_panics_and_no_call_hangs() {
    for (our_name, ours) in OURS {
        for (tower_name, towers) in TOWERS {
            let under_way = Arc::new(AtomicUsize::new(0));
            let above = ours(towers(upstream(under_way.clone())));
            let below = towers(ours(upstream(under_way.clone())));
            let between = towers(ours(towers(upstream(under_way.clone()))));
            for (how, service) in [("above", above), ("below", below), ("between", between)] {
                let what = format!("{our_name} {how} tower's {tower_name}");
                let held = assert_works(&what, service, &under_way);
                let held = timeout(3_600 * SECOND, held).await;
                assert!(held.is_ok(), "{what}: a call is parked");
            }
        }
    }
}
