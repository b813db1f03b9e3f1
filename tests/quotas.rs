//! Several quotas at once: one decision, one queue, and costs that are known afterwards.

use buttress::event::{Event, Observe};
use buttress::rate_limit::{Quotas, QuotasLayer};
use buttress::{Carrier, Deadline, Error, ErrorLayer, Quota, Rejection};
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::task;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// 10 requests and 100 tokens per second, with the bursts 10 and 100.
fn quotas() -> Quotas<2> {
    let tokens = Quota::per_second(100).burst(100);
    let quotas = Quotas::builder([Quota::per_second(10).burst(10), tokens]);
    quotas.max_wait(ms(10_000)).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn all_is_taken_or_nothing() {
    let quotas = quotas();
    let _first = quotas.try_acquire([1, 100]).unwrap();
    let rejected = quotas.try_acquire([1, 50]).unwrap_err();
    let retry_after = rejected.0.retry_after();
    assert_eq!(retry_after, Some(ms(500)));
    assert_eq!(quotas.snapshot().available, [9, 0]);
    assert_eq!(quotas.snapshot().rate_limited, 1);
    advance(ms(500)).await;
    let _second = quotas.try_acquire([1, 50]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_until_all_quotas_have_room_and_holds_nothing_meanwhile() {
    let quotas = quotas();
    let start = Instant::now();
    let _all = quotas.try_acquire([10, 100]).unwrap();
    // The tokens come after 900 ms, the requests after 200 ms.
    let _both = quotas.acquire([2, 90]).await.unwrap();
    assert_eq!(start.elapsed(), ms(900));
    // The requests that came meanwhile are there: nine, less two.
    assert_eq!(quotas.snapshot().available[0], 7);
}

#[tokio::test(start_paused = true)]
async fn calls_go_in_order_of_arrival_even_if_a_later_one_had_room() {
    let quotas = quotas();
    let _all = quotas.try_acquire([1, 100]).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let calls = [[1, 100], [1, 1], [1, 50]].map(|costs| {
        let (quotas, order) = (quotas.clone(), order.clone());
        async move {
            quotas.acquire(costs).await.unwrap();
            order.lock().unwrap().push((costs[1], Instant::now()));
        }
    });
    let start = Instant::now();
    let [one, two, three] = calls;
    tokio::join!(one, two, three);
    let order = std::mem::take(&mut *order.lock().unwrap());
    let seen = order
        .iter()
        .map(|(tokens, at)| (*tokens, at.duration_since(start)));
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [(100, ms(1_000)), (1, ms(1_010)), (50, ms(1_510))]
    );
    // While calls wait, a newcomer does not overtake them.
    let waits = tokio::spawn({
        let quotas = quotas.clone();
        async move { quotas.acquire([1, 100]).await.map(|_| ()) }
    });
    sleep(ms(1)).await;
    quotas.try_acquire([0, 0]).unwrap_err();
    waits.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_in_time_hears_it_at_once() {
    let short = Quotas::builder([Quota::per_second(10), Quota::per_second(100).burst(100)]);
    let quotas = short.max_wait(ms(400)).name("llm").build().unwrap();
    let seen = Seen::default();
    quotas.observe(seen.clone());
    let _all = quotas.acquire([1, 100]).await.unwrap();
    let start = Instant::now();
    let rejection = quotas.acquire([1, 50]).await.unwrap_err().0;
    assert!(
        matches!(rejection, Rejection::RateLimited { retry_after: Some(wait), .. } if wait == ms(500))
    );
    let rejection = quotas.acquire([1, 101]).await.unwrap_err().0;
    assert!(matches!(
        rejection,
        Rejection::TooCostly {
            cost: 101,
            burst: 100,
            ..
        }
    ));
    assert_eq!(start.elapsed(), ms(0));
    // One that waits makes the next ones late.
    let waits = tokio::spawn({
        let quotas = quotas.clone();
        async move { quotas.acquire([1, 30]).await.map(|charge| charge.costs()) }
    });
    sleep(ms(1)).await;
    quotas.acquire([1, 20]).await.unwrap_err();
    assert_eq!(waits.await.unwrap().unwrap(), [1, 30]);
    let waited = seen
        .0
        .lock()
        .unwrap()
        .iter()
        .any(|event| matches!(event, Event::WaitedForTurn { wait, .. } if *wait == ms(300)));
    assert!(waited);
    let snapshot = quotas.snapshot();
    assert_eq!(
        (snapshot.rate_limited, snapshot.too_costly, snapshot.waiting),
        (2, 1, 0)
    );
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Observe for Seen {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_lets_the_next_one_go_earlier() {
    let quotas = quotas();
    let start = Instant::now();
    let _all = quotas.try_acquire([1, 100]).unwrap();
    let first = quotas.acquire([1, 100]);
    let second = tokio::spawn({
        let quotas = quotas.clone();
        async move {
            sleep(ms(1)).await;
            quotas.acquire([1, 50]).await.map(|_| Instant::now())
        }
    });
    timeout(ms(100), first).await.unwrap_err();
    let at = second.await.unwrap().unwrap();
    assert_eq!(at.duration_since(start), ms(500));
}

#[tokio::test(start_paused = true)]
async fn what_a_call_cost_less_lets_the_next_one_go_earlier_and_what_it_cost_more_later() {
    for (real, goes_at) in [
        ([1, 20], ms(200)),
        ([1, 100], ms(1_000)),
        ([1, 150], ms(1_500)),
    ] {
        let quotas = quotas();
        let start = Instant::now();
        let charge = quotas.try_acquire([1, 100]).unwrap();
        let next = tokio::spawn({
            let quotas = quotas.clone();
            async move { quotas.acquire([1, 100]).await.map(|_| Instant::now()) }
        });
        sleep(ms(100)).await;
        charge.settle(real);
        let at = next.await.unwrap().unwrap();
        assert_eq!(at.duration_since(start), goes_at, "{real:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_after_an_idle_time_is_lost() {
    let quotas = quotas();
    let old = quotas.try_acquire([1, 100]).unwrap();
    advance(ms(60_000)).await;
    let _new = quotas.try_acquire([1, 100]).unwrap();
    old.settle([1, 0]);
    assert_eq!(quotas.snapshot().available, [9, 0]);
}

/// The deadline of every request.
#[derive(Clone)]
struct Within(Duration);

impl Carrier<u32> for Within {
    fn get(&self, _: &u32) -> Option<Deadline> {
        Some(Deadline::after(self.0))
    }

    fn set(&self, _: &mut u32, _: Deadline) {}
}

fn echo(n: u32) -> Ready<Result<u32, Infallible>> {
    ready(Ok(n))
}

#[tokio::test(start_paused = true)]
async fn a_layer_takes_costs_by_request_and_settles_by_response() {
    let quotas = quotas();
    let layer = QuotasLayer::metered(quotas.clone(), |tokens: &u32| [1, *tokens]);
    let service = ServiceBuilder::new()
        .layer(
            layer
                .settled(|response: &u32| [1, response / 2])
                .carrier(Within(ms(100))),
        )
        .layer(ErrorLayer)
        .service(service_fn(echo));
    assert_eq!(service.clone().oneshot(100).await, Ok(100));
    assert_eq!(quotas.snapshot().available, [9, 50]);
    // Its turn comes in 100 ms, at its deadline.
    let error = service.clone().oneshot(60).await.unwrap_err();
    assert!(matches!(
        error,
        Error::Rejected(Rejection::RateLimited { .. })
    ));
    let start = Instant::now();
    assert_eq!(service.oneshot(59).await, Ok(59));
    assert_eq!(start.elapsed(), ms(90));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_sent_takes_nothing() {
    let quotas = quotas();
    let layer = QuotasLayer::metered(quotas.clone(), |tokens: &u32| [1, *tokens]);
    // Never ready after the queue.
    let limited = tower::limit::ConcurrencyLimit::new(unlimited(), 1);
    let mut held = limited.clone();
    held.ready().await.unwrap();
    let mut service = tower::Layer::layer(&layer, limited);
    let _all = quotas.try_acquire([1, 100]).unwrap();
    let call = timeout(ms(2_000), async {
        service.ready().await.unwrap().call(50).await
    });
    call.await.unwrap_err();
    assert_eq!(quotas.snapshot().available, [10, 100]);
}

fn unlimited() -> impl Service<u32, Response = u32, Error = Error<Infallible>, Future: Send> + Clone
{
    tower::Layer::layer(&ErrorLayer, service_fn(echo))
}

#[tokio::test(start_paused = true)]
async fn it_prints_its_settings() {
    let quotas = quotas();
    assert_eq!(
        quotas.to_string(),
        "quotas: 10 per 1s, 10 at once; 100 per 1s, 100 at once; waits up to 10s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_polls_holds_up_no_other() {
    let quotas = quotas();
    let start = Instant::now();
    let _all = quotas.try_acquire([1, 100]).unwrap();
    let mut lazy = task::spawn(quotas.acquire([1, 50]));
    assert!(lazy.poll().is_pending());
    let behind = quotas.acquire([1, 50]).await.unwrap();
    assert_eq!(start.elapsed(), ms(1_000));
    drop(behind);
    // It got its turn meanwhile, and was told.
    assert!(lazy.is_woken());
    assert!(lazy.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_nobody_fetched_comes_back() {
    let quotas = quotas();
    let _all = quotas.try_acquire([1, 100]).unwrap();
    let mut lazy = task::spawn(quotas.acquire([1, 50]));
    assert!(lazy.poll().is_pending());
    let behind = quotas.acquire([1, 1]).await.unwrap();
    drop(lazy);
    assert_eq!(quotas.snapshot().available[1], 50);
    drop(behind);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_moved_to_another_task_is_woken_there() {
    let quotas = quotas();
    let charge = quotas.try_acquire([1, 100]).unwrap();
    let mut wait = Box::pin(quotas.acquire([1, 100]));
    let mut first = task::spawn(std::future::poll_fn(|cx| wait.as_mut().poll(cx)));
    assert!(first.poll().is_pending());
    let abandoned = first;
    drop(abandoned);
    let mut second = task::spawn(wait);
    assert!(second.poll().is_pending());
    charge.settle([1, 0]);
    assert!(second.is_woken());
    assert!(second.poll().is_ready());
}

/// Real threads, and a quota that does not fill up again: exactly what it holds is taken.
#[test]
fn threads_take_no_more_than_there_is() {
    let day = Duration::from_secs(86_400);
    let quotas = Quotas::builder([
        Quota::new(1, day).burst(1_000),
        Quota::new(1, day).burst(1_000),
    ]);
    let quotas = quotas.build().unwrap();
    let taken = AtomicU32::new(0);
    // Half of what a call takes is given back.
    let take = || {
        let charge = quotas
            .try_acquire([1, 4])
            .map(|charge| charge.settle([1, 2]));
        charge.is_ok() && taken.fetch_add(1, Relaxed) < u32::MAX
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert!(take())));
        }
    });
    while take() {}
    // After 499 calls, two are left: too few for another.
    assert_eq!(taken.load(Relaxed), 499);
    assert_eq!(quotas.snapshot().available, [501, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_shows_them() {
    let registry = buttress::observe::Registry::new();
    let quotas = Quotas::builder([Quota::per_second(10), Quota::per_second(100).burst(100)]);
    let quotas = quotas.name("llm").build().unwrap();
    registry.add(&quotas);
    let _taken = quotas.try_acquire([1, 60]).unwrap();
    quotas.try_acquire([1, 60]).unwrap_err();
    let text = registry.text();
    for line in [
        "buttress_rate_available{name=\"llm\",quota=\"1\"} 9\n",
        "buttress_rate_available{name=\"llm\",quota=\"2\"} 40\n",
        "buttress_queue_length{name=\"llm\",layer=\"rate_limit\"} 0\n",
        "buttress_rejections_total{name=\"llm\",layer=\"rate_limit\",error_type=\"rate_limited\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&registry.json()).unwrap();
    assert_eq!(json["upstreams"][0]["layers"][0]["available"]["2"], 40);
}
