//! Calls that wait, as the service below them sees it, and layers in pairs.

use buttress::circuit_breaker::Circuit;
use buttress::http::AttemptTimeout;
use buttress::load_shed::LoadShedLayer;
use buttress::retry::{Backoff, Cloned};
use buttress::{
    CircuitBreakerLayer, Error, ErrorLayer, Quota, RateLimitLayer, Rejection, RetryLayer,
    TimeoutLayer,
};
use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

/// One turn every 100 ms.
fn slow_quota() -> Quota {
    Quota::new(1, 100 * MS).burst(1)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_turn_does_not_block_itself() {
    let mut service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(slow_quota()))
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .layer(ErrorLayer)
        .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
    for n in 0..3 {
        let call = async { service.ready().await.unwrap().call(n).await };
        let called = timeout(Duration::from_secs(3_600), call).await;
        assert_eq!(called, Ok(Ok(n)), "hangs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_for_a_turn_does_not_block_itself() {
    let sent = Arc::new(AtomicU32::new(0));
    let client = {
        let sent = sent.clone();
        service_fn(move |(): ()| {
            ready(if sent.fetch_add(1, SeqCst) == 0 {
                Err("no")
            } else {
                Ok(())
            })
        })
    };
    let service = ServiceBuilder::new()
        .layer(
            RetryLayer::builder()
                .replay(Cloned)
                .backoff(Backoff::constant(Duration::ZERO))
                .build()
                .unwrap(),
        )
        .layer(RateLimitLayer::new(slow_quota()))
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .layer(ErrorLayer)
        .service(client);
    // The caller keeps no instance of the service.
    let called = timeout(Duration::from_secs(3_600), service.oneshot(())).await;
    assert_eq!(called, Ok(Ok(())), "hangs");
}

#[tokio::test(start_paused = true)]
async fn the_stack_around_a_client_with_reserved_readiness_does_not_hang() {
    let client = ServiceBuilder::new()
        .layer(tower::limit::ConcurrencyLimitLayer::new(1))
        .service(service_fn(|_: http::Request<()>| async {
            Ok::<_, Infallible>(http::Response::new(()))
        }));
    let mut service = buttress::http::stack()
        .rate_limit(slow_quota())
        .service(client)
        .unwrap();
    for n in 0..3 {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(http::Request::new(()))
            .await;
        assert!(response.is_ok(), "{n}: {response:?}");
    }
}

/// Needs some time to become ready for each call.
struct Slow {
    ready_in: Duration,
    takes: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<Req> Service<Req> for Slow {
    type Response = ();
    type Error = Error<Infallible>;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error<Infallible>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let ready_in = self.ready_in;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(ready_in)));
        timer.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, _: Req) -> Self::Future {
        self.timer = None;
        let takes = self.takes;
        Box::pin(async move {
            sleep(takes).await;
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_in_the_request_applies_even_after_a_wait_for_readiness() {
    let layer = TimeoutLayer::builder(50 * MS)
        .carrier(buttress::http::InExtensions)
        .per_request()
        .build()
        .unwrap();
    for (ready_in, own) in [(Duration::ZERO, 1_000 * MS), (10 * MS, 1_000 * MS)] {
        let service = layer.layer(Slow {
            ready_in,
            takes: 300 * MS,
            timer: None,
        });
        let mut request = http::Request::new(());
        request.extensions_mut().insert(AttemptTimeout(own));
        assert_eq!(
            service.oneshot(request).await,
            Ok(()),
            "ready in {ready_in:?}"
        );
    }
    // The opposite case: the request has a shorter timeout.
    let service = layer.layer(Slow {
        ready_in: 10 * MS,
        takes: 300 * MS,
        timer: None,
    });
    let mut request = http::Request::new(());
    request.extensions_mut().insert(AttemptTimeout(20 * MS));
    let start = Instant::now();
    assert!(service.oneshot(request).await.is_err());
    assert!(start.elapsed() <= 32 * MS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_rejection_names_the_layer_that_rejects_now() {
    let circuit = Circuit::builder().build().unwrap();
    let layer = LoadShedLayer::builder(1)
        .unless_open(&circuit)
        .build()
        .unwrap();
    let limit = layer.limit().clone();
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|()| async { Ok::<_, Infallible>(()) }));
    circuit.force_open();
    // Ready it without calling it, as a balancer does.
    service.ready().await.unwrap();
    circuit.reset();
    let _slot = limit.try_acquire().unwrap();
    let outcome = service.ready().await.unwrap().call(()).await;
    assert!(
        matches!(outcome, Err(Error::Rejected(Rejection::Overloaded { .. }))),
        "{outcome:?}, circuit {:?}",
        circuit.state()
    );
}

/// A client whose readiness the test controls.
#[derive(Clone)]
struct Gated {
    ready: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
}

impl Gated {
    /// A client that is ready at first.
    fn new() -> Self {
        Self {
            ready: Arc::new(AtomicBool::new(true)),
            sent: Arc::default(),
        }
    }
}

impl Service<http::Request<()>> for Gated {
    type Response = http::Response<()>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<()>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.ready.load(SeqCst) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, _: http::Request<()>) -> Self::Future {
        self.sent.fetch_add(1, SeqCst);
        Box::pin(async {
            sleep(100 * MS).await;
            Ok(http::Response::new(()))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_through_the_stack_that_is_not_sent_takes_no_turn() {
    let client = Gated::new();
    let (is_ready, sent) = (client.ready.clone(), client.sent.clone());
    let layer = buttress::http::stack()
        .no_retry()
        .load_shed(LoadShedLayer::builder(1).queue(10, Duration::from_secs(10)))
        .rate_limit(Quota::new(1, Duration::from_secs(36_000)).burst(2))
        .build()
        .unwrap();
    let limiter = layer.limiter().unwrap().clone();
    let service = layer.layer(client);
    let one = tokio::spawn(service.clone().oneshot(http::Request::new(())));
    sleep(MS).await;
    let two = tokio::spawn(service.clone().oneshot(http::Request::new(())));
    sleep(MS).await;
    assert_eq!(limiter.snapshot().available, 1);
    is_ready.store(false, SeqCst);
    one.await.unwrap().unwrap();
    // It got a slot, but the client was not ready: the call was rejected.
    two.await.unwrap().unwrap_err();
    assert_eq!(sent.load(SeqCst), 1);
    assert_eq!(
        limiter.snapshot().available,
        1,
        "one was sent of a burst of two"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_through_the_stack_whose_turn_has_come_waits_for_the_client() {
    let client = Gated::new();
    let (is_ready, sent) = (client.ready.clone(), client.sent.clone());
    let service = buttress::http::stack()
        .no_retry()
        .load_shed(10)
        .rate_limit(Quota::new(1, 500 * MS).burst(1))
        .service(client)
        .unwrap();
    let one = service.clone().oneshot(http::Request::new(()));
    one.await.unwrap();
    let mut two = task::spawn(service.oneshot(http::Request::new(())));
    assert_pending!(two.poll());
    is_ready.store(false, SeqCst);
    sleep(500 * MS).await;
    assert_pending!(two.poll());
    is_ready.store(true, SeqCst);
    assert_pending!(two.poll());
    assert_eq!(sent.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_through_the_stack_dropped_before_its_first_poll_takes_no_turn() {
    let client = Gated::new();
    let sent = client.sent.clone();
    let layer = buttress::http::stack()
        .no_retry()
        .load_shed(LoadShedLayer::builder(1).queue(10, Duration::from_secs(10)))
        .rate_limit(Quota::new(1, Duration::from_secs(36_000)).burst(2))
        .build()
        .unwrap();
    let (limiter, limit) = (
        layer.limiter().unwrap().clone(),
        layer.limit().unwrap().clone(),
    );
    let mut service = layer.layer(client);
    let slot = limit.try_acquire().unwrap();
    service.ready().await.unwrap();
    drop(slot);
    // The slot is free. The caller drops the call before its first poll.
    drop(service.call(http::Request::new(())));
    assert_eq!(sent.load(SeqCst), 0);
    assert_eq!(limiter.snapshot().available, 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_rejected_because_the_circuit_just_opened_takes_no_turn() {
    let client = Gated::new();
    let layer = buttress::http::stack()
        .no_retry()
        .load_shed(LoadShedLayer::builder(1).queue(10, Duration::from_secs(10)))
        .rate_limit(Quota::new(1, Duration::from_secs(36_000)).burst(2))
        .build()
        .unwrap();
    let (limiter, limit) = (
        layer.limiter().unwrap().clone(),
        layer.limit().unwrap().clone(),
    );
    let circuit = layer.circuit().unwrap().clone();
    let mut service = layer.layer(client);
    let slot = limit.try_acquire().unwrap();
    service.ready().await.unwrap();
    drop(slot);
    let call = service.call(http::Request::new(()));
    circuit.force_open();
    assert!(matches!(
        call.await,
        Err(Error::Rejected(Rejection::CircuitOpen { .. }))
    ));
    assert_eq!(limiter.snapshot().available, 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_moved_to_another_task_is_woken_there() {
    let circuit = Circuit::builder().build().unwrap();
    let layer = RateLimitLayer::builder(Quota::new(1, Duration::from_secs(5)).burst(1))
        .max_wait(Duration::from_secs(60))
        .unless_open(&circuit)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(CircuitBreakerLayer::from(circuit.clone()))
        .layer(ErrorLayer)
        .service(service_fn(|()| async { Ok::<_, Infallible>(()) }));
    service.clone().oneshot(()).await.unwrap();
    let mut call = Box::pin(service.oneshot(()));
    poll_fn(|cx| {
        assert!(call.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let task = tokio::spawn(call);
    sleep(MS).await;
    circuit.force_open();
    sleep(MS).await;
    assert!(task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_stack_still_sheds_load_while_its_open_circuit_is_not_ready() {
    use buttress::circuit_breaker::WhenOpen;
    let client = Gated::new();
    // The same layers in the same order, without `stack()`.
    let by_hand = {
        let breaker = CircuitBreakerLayer::builder()
            .when_open(WhenOpen::NotReady)
            .build()
            .unwrap();
        breaker.circuit().force_open();
        ServiceBuilder::new()
            .layer(LoadShedLayer::new(1))
            .layer(breaker)
            .layer(ErrorLayer)
            .service(client.clone())
    };
    let call = timeout(
        Duration::from_secs(20),
        by_hand.oneshot(http::Request::new(())),
    );
    assert!(call.await.expect("waits").is_err());
    let layer = buttress::http::stack()
        .load_shed(1)
        .circuit_breaker(|breaker| breaker.when_open(WhenOpen::NotReady))
        .build()
        .unwrap();
    layer.circuit().unwrap().force_open();
    // The load shed is full, too.
    let _slot = layer.limit().unwrap().try_acquire().unwrap();
    let call = timeout(
        Duration::from_secs(20),
        layer.layer(client).oneshot(http::Request::new(())),
    );
    assert!(call.await.expect("waits").is_err());
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_half_open_circuit_neither_starve_nor_busy_loop() {
    use buttress::circuit_breaker::WhenOpen;
    let circuit = Circuit::builder()
        .when_open(WhenOpen::NotReady)
        .probes(1)
        .probe_successes(1)
        .consecutive_failures(1)
        .open_for(100 * MS)
        .build()
        .unwrap();
    let polls = Arc::new(AtomicU32::new(0));
    let breaker =
        CircuitBreakerLayer::new(circuit.clone(), |outcome: Result<&u32, &Error<u32>>| {
            if outcome.is_ok_and(|n| *n < 5) {
                buttress::Verdict::Ignored
            } else {
                buttress::Verdict::Healthy
            }
        });
    let n = Arc::new(AtomicU32::new(0));
    let service = ServiceBuilder::new()
        .layer(
            RateLimitLayer::builder(Quota::per_second(1_000).burst(1_000))
                .unless_open(&circuit)
                .build()
                .unwrap(),
        )
        .layer(breaker)
        .layer(ErrorLayer)
        .service(service_fn(move |()| {
            let n = n.fetch_add(1, SeqCst);
            async move {
                sleep(10 * MS).await;
                Ok::<_, u32>(n)
            }
        }));
    circuit
        .try_acquire()
        .unwrap()
        .settle(buttress::Verdict::TRANSIENT);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let (mut service, polls) = (service.clone(), polls.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                poll_fn(|cx| {
                    polls.fetch_add(1, SeqCst);
                    service.poll_ready(cx)
                })
                .await
                .unwrap();
                if service.call(()).await.is_ok() {
                    return;
                }
            }
        }));
    }
    for task in tasks {
        timeout(Duration::from_secs(10), task)
            .await
            .unwrap()
            .unwrap();
    }
    let polls = polls.load(SeqCst);
    assert!(polls < 2_000, "{polls}");
}
