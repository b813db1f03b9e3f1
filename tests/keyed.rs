//! Layers that keep a state for each key, through the public interface.

use buttress::circuit_breaker::{Circuit, CircuitState, WhenOpen, Window};
use buttress::http::{Authority, StackBuilder, stack};
use buttress::keyed::{ByKey, Keys};
use buttress::rate_limit::RateLimiter;
use buttress::retry::{Backoff, Cloned};
use buttress::{
    CircuitBreakerLayer, Classify, Error, ErrorLayer, LoadShedLayer, Quota, RateLimitLayer,
    Rejection, Replay, StackError, Verdict,
};
use http::{Request, Response};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

/// The first word of a request is its key.
fn first_word<'a>(request: &'a &'static str) -> Option<Cow<'a, str>> {
    request
        .split(' ')
        .next()
        .filter(|key| !key.is_empty())
        .map(Cow::Borrowed)
}

#[expect(
    clippy::ptr_arg,
    clippy::unnecessary_wraps,
    reason = "a key is a function of the whole request, which may have none"
)]
fn key_of(request: &String) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(request))
}

type Outcome<R> = Result<R, Error<&'static str>>;

/// Fails if the last word is "down", and never responds if it is "hang".
async fn upstream(request: &'static str) -> Result<&'static str, &'static str> {
    match request.rsplit(' ').next() {
        Some("down") => Err("down"),
        Some("hang") => pending().await,
        Some("panic") => panic!("the upstream's own"),
        _ => Ok(request),
    }
}

fn is_open<R: std::fmt::Debug, E: std::fmt::Debug>(outcome: Result<R, Error<E>>) -> bool {
    match outcome {
        Ok(_) | Err(Error::Service(_)) => false,
        Err(Error::Rejected(Rejection::CircuitOpen { .. })) => true,
        Err(other) => panic!("{other:?}"),
    }
}

// Each layer

#[tokio::test(start_paused = true)]
async fn each_key_has_a_circuit_of_its_own() {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(2);
    let layer = layer.per_key(first_word).build().unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let call = |request| client.clone().oneshot(request);
    for _ in 0..2 {
        assert_eq!(call("a down").await, Err(Error::Service("down")));
    }
    assert!(is_open(call("a").await));
    assert_eq!(call("b").await, Ok("b"));
    let circuits = layer.by_key();
    assert_eq!(circuits.get("a").unwrap().state(), CircuitState::Open);
    assert_eq!(circuits.get("b").unwrap().state(), CircuitState::Closed);
    assert!(circuits.get("c").is_none());
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_limiter_of_its_own() {
    let quota = Quota::at_most(1, SECOND);
    let layer = RateLimitLayer::builder(quota)
        .max_wait(Duration::ZERO)
        .name("tenants");
    let layer = layer.per_key(first_word).build().unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let call = |request| client.clone().oneshot(request);
    assert_eq!(call("a").await, Ok("a"));
    let rejection = call("a").await.unwrap_err().rejection().unwrap();
    assert!(matches!(rejection, Rejection::RateLimited { .. }));
    assert_eq!(rejection.by().as_str(), Some("tenants"));
    assert_eq!(call("b").await, Ok("b"));
    advance(2 * SECOND).await;
    assert_eq!(call("a").await, Ok("a"));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_turn_of_its_key() {
    let layer = RateLimitLayer::builder(Quota::at_most(1, SECOND)).max_wait(5 * SECOND);
    let layer = layer.per_key(first_word).build().unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let start = Instant::now();
    for _ in 0..2 {
        client.clone().oneshot("a").await.unwrap();
    }
    let waited = start.elapsed();
    assert!(waited >= SECOND && waited < 2 * SECOND, "{waited:?}");
    client.oneshot("b").await.unwrap();
    assert_eq!(start.elapsed(), waited);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_limit_of_its_own() {
    let layer = LoadShedLayer::builder(1)
        .per_key(first_word)
        .build()
        .unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let hanging = tokio::spawn(client.clone().oneshot("a hang"));
    tokio::task::yield_now().await;
    let rejection = client.clone().oneshot("a").await.unwrap_err().rejection();
    assert!(matches!(
        rejection,
        Some(Rejection::Overloaded { limit: 1, .. })
    ));
    assert_eq!(client.clone().oneshot("b").await, Ok("b"));
    hanging.abort();
    assert!(hanging.await.is_err());
    assert_eq!(client.oneshot("a").await, Ok("a"));
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_share_one_state() {
    let layer = LoadShedLayer::builder(1)
        .per_key(first_word)
        .build()
        .unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let limits = layer.by_key();
    let _slot = limits.keyless().try_acquire().unwrap();
    assert!(client.clone().oneshot("").await.is_err());
    assert!(client.clone().oneshot(" of nobody").await.is_err());
    assert!(client.oneshot("a").await.is_ok());
    assert_eq!(limits.len(), 1);
}

#[test]
fn a_circuit_breaker_with_keys_cannot_be_unready() {
    let breaker = CircuitBreakerLayer::builder().when_open(WhenOpen::NotReady);
    let error = breaker.clone().per_key(first_word).build().unwrap_err();
    let expected = "when_open must be Reject, because only a call has a key, but is NotReady";
    assert_eq!(error.to_string(), expected);
    let stack = stack().circuit_breaker(|_| breaker).per_key(Authority);
    assert_eq!(stack.build().unwrap_err().to_string(), expected);
}

#[test]
fn at_least_one_key_must_be_allowed() {
    let layer = LoadShedLayer::builder(1).per_key(first_word);
    let error = layer.keys(Keys::at_most(0)).build().unwrap_err();
    assert_eq!(error.to_string(), "at_most must be at least 1, but is 0");
}

#[test]
fn the_settings_of_a_keyed_layer_are_checked() {
    let limit = LoadShedLayer::builder(usize::MAX).per_key(first_word);
    assert!(limit.build().is_err());
    let breaker = CircuitBreakerLayer::builder().failure_rate(7.0);
    assert!(breaker.per_key(first_word).build().is_err());
}

// Handles

#[tokio::test(start_paused = true)]
async fn handles_list_and_forget_keys() {
    let layer = CircuitBreakerLayer::builder().consecutive_failures(1);
    let layer = layer.per_key(first_word).build().unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let circuits = layer.by_key();
    assert!(circuits.is_empty());
    for request in ["a down", "b", "c"] {
        let _outcome: Outcome<_> = client.clone().oneshot(request).await;
    }
    assert_eq!(circuits.len(), 3);
    let mut states = HashMap::new();
    circuits.for_each(|key, circuit| {
        states.insert(key.to_owned(), circuit.state());
    });
    let expected = [
        ("a", CircuitState::Open),
        ("b", CircuitState::Closed),
        ("c", CircuitState::Closed),
    ];
    assert_eq!(
        states,
        expected.map(|(key, state)| (key.to_owned(), state)).into()
    );
    // A handle may be used, and keys forgotten, while the keys are listed.
    circuits.for_each(|key, _| assert!(circuits.forget(key)));
    assert!(circuits.is_empty());
    assert!(!circuits.forget("a"));
    assert_eq!(client.oneshot("a").await, Ok("a"));
}

#[tokio::test(start_paused = true)]
async fn some_keys_have_a_quota_of_their_own_and_the_others_follow_the_layer() {
    let quota = |limiter: &RateLimiter| limiter.snapshot().quota;
    let layer = RateLimitLayer::builder(Quota::per_second(10))
        .per_key(first_word)
        .quota_of(|key: &str| (key == "gold").then_some(Quota::per_second(500)))
        .build()
        .unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    for request in ["gold", "a"] {
        client.clone().oneshot(request).await.unwrap();
    }
    layer.set_quota(Quota::per_second(20));
    client.oneshot("b").await.unwrap();
    let limiters = layer.by_key();
    let of = |key| quota(&limiters.get(key).unwrap());
    assert_eq!(of("gold"), Quota::per_second(500));
    assert_eq!([of("a"), of("b")], [Quota::per_second(20); 2]);
    assert_eq!(quota(&limiters.keyless()), Quota::per_second(20));
    assert_eq!(quota(&limiters.overflow()), Quota::per_second(20));
}

// Memory

/// Names that never repeat.
fn strangers(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("stranger {number}"))
}

async fn echo(request: String) -> Result<String, Infallible> {
    Ok(request)
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_keys_neither_closes_a_circuit_nor_resets_a_limit() {
    let breaker = CircuitBreakerLayer::builder()
        .per_key(key_of)
        .build()
        .unwrap();
    let limit = RateLimitLayer::builder(Quota::new(1, 60 * SECOND));
    let limit = limit
        .max_wait(Duration::ZERO)
        .per_key(key_of)
        .build()
        .unwrap();
    let broken = breaker.layer(ErrorLayer.layer(service_fn(echo)));
    let limited = limit.layer(ErrorLayer.layer(service_fn(echo)));
    broken.clone().oneshot("victim".into()).await.unwrap();
    breaker.by_key().get("victim").unwrap().force_open();
    limited.clone().oneshot("victim".into()).await.unwrap();

    for stranger in strangers(100_000) {
        broken.clone().oneshot(stranger.clone()).await.unwrap();
        // Each stranger uses its burst up, so that none can be dropped: most share the overflow.
        let _outcome = limited.clone().oneshot(stranger).await;
    }
    assert!(is_open(broken.oneshot("victim".into()).await));
    let rejection = limited.oneshot("victim".into()).await.unwrap_err();
    assert!(matches!(
        rejection.rejection(),
        Some(Rejection::RateLimited { .. })
    ));
    assert!(breaker.by_key().len() <= 1024, "{breaker:?}");
    assert!(limit.by_key().len() <= 1024, "{limit:?}");
    assert_eq!(breaker.by_key().overflows(), 0);
    assert!(limit.by_key().overflows() > 98_000);
}

#[tokio::test(start_paused = true)]
async fn new_keys_share_the_overflow_while_no_key_can_be_dropped() {
    let limit = RateLimitLayer::builder(Quota::new(1, 10 * SECOND)).max_wait(Duration::ZERO);
    let limit = limit
        .name("tenants")
        .per_key(key_of)
        .keys(Keys::at_most(32))
        .build()
        .unwrap();
    let client = limit.layer(ErrorLayer.layer(service_fn(echo)));
    for stranger in strangers(500) {
        let _outcome = client.clone().oneshot(stranger).await;
    }
    let error = client.clone().oneshot("one more".into()).await.unwrap_err();
    let by = error.rejection().unwrap().by();
    assert_eq!(by.as_str(), Some("tenants overflow"));
    assert_eq!(limit.by_key().len(), 32);

    // When the bursts are whole again, a new key gets a state of its own.
    advance(11 * SECOND).await;
    let overflows = limit.by_key().overflows();
    for key in ["one more", "and another"] {
        assert!(client.clone().oneshot(key.into()).await.is_ok());
        assert!(client.clone().oneshot(key.into()).await.is_err());
    }
    assert_eq!(limit.by_key().overflows(), overflows);
}

#[tokio::test(start_paused = true)]
async fn few_keys_all_have_a_state_of_their_own() {
    for allowed in [1, 2, 7, 16, 63, 64, 100, 127] {
        let limit = LoadShedLayer::builder(1).per_key(key_of);
        let limit = limit.keys(Keys::at_most(allowed)).build().unwrap();
        let client = limit.layer(ErrorLayer.layer(service_fn(echo)));
        // Held, so that no key can be dropped.
        let mut held = Vec::new();
        for key in 0..allowed {
            client.clone().oneshot(key.to_string()).await.unwrap();
            held.push(limit.by_key().get(&key.to_string()).unwrap());
        }
        assert_eq!(limit.by_key().overflows(), 0);
        client.oneshot("one more".into()).await.unwrap();
        assert_eq!(limit.by_key().overflows(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_overflow_of_a_breaker_lets_calls_through() {
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_for(60 * SECOND);
    let layer = layer
        .per_key(key_of)
        .keys(Keys::at_most(16))
        .build()
        .unwrap();
    let down = service_fn(|_: String| async { Err::<(), _>("down") });
    let client = layer.layer(ErrorLayer.layer(down));
    for stranger in strangers(1_000) {
        // Each call fails, and opens the circuit of its key. No call is rejected.
        assert!(!is_open(client.clone().oneshot(stranger).await));
    }
    assert_eq!(
        layer.by_key().overflow().state(),
        CircuitState::ForcedClosed
    );
    assert_eq!(layer.by_key().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_key_with_a_call_in_flight_or_a_handle_held_is_not_dropped() {
    let layer = LoadShedLayer::builder(1)
        .per_key(first_word)
        .keys(Keys::at_most(32));
    let layer = layer.build().unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let limits = layer.by_key();
    let call = tokio::spawn(client.clone().oneshot("a hang"));
    tokio::task::yield_now().await;
    client.clone().oneshot("b").await.unwrap();
    let held = limits.get("b").unwrap();
    held.set_limit(7);

    let keyed = layer.clone();
    for stranger in strangers(500) {
        let stranger: &'static str = Box::leak(stranger.replace(' ', "-").into_boxed_str());
        client.clone().oneshot(stranger).await.unwrap();
    }
    assert!(client.clone().oneshot("a").await.is_err(), "{keyed:?}");
    assert_eq!(limits.get("b").unwrap().snapshot().limit, 7);
    call.abort();
    assert!(call.await.is_err());
    assert!(client.clone().oneshot("a").await.is_ok());

    // A panic frees the slot as well.
    let panicked = tokio::spawn(client.clone().oneshot("a panic")).await;
    assert!(panicked.unwrap_err().is_panic());
    assert!(client.oneshot("a").await.is_ok());
    assert_eq!(limits.get("a").unwrap().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn idle_keys_are_dropped_if_nobody_can_miss_them() {
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(3)
        .open_for(SECOND)
        .per_key(first_word)
        .keys(Keys::at_most(120).idle(60 * SECOND)) // in one part
        .build()
        .unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let circuits = layer.by_key();
    let call = async |request| {
        let _outcome: Outcome<_> = client.clone().oneshot(request).await;
    };
    call("well").await;
    call("row down").await;
    for _ in 0..3 {
        call("open down").await;
    }
    call("forced").await;
    circuits.get("forced").unwrap().force_open();

    let sweep = async || {
        for _ in 0..40 {
            for stranger in strangers(100) {
                call(Box::leak(stranger.replace(' ', "-").into_boxed_str())).await;
            }
        }
    };
    let known = |keys: [&str; 4]| keys.map(|key| circuits.get(key).is_some());
    let keys = ["well", "row", "open", "forced"];
    sweep().await;
    assert_eq!(known(keys), [true; 4]);
    advance(61 * SECOND).await;
    sweep().await; // notes who was used
    advance(61 * SECOND).await;
    sweep().await;
    assert_eq!(known(keys), [false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_count_window_are_forgotten_only_when_idle() {
    let layer = CircuitBreakerLayer::builder()
        .window(Window::count(10))
        .per_key(first_word)
        .keys(Keys::at_most(16).idle(Duration::MAX))
        .build()
        .unwrap();
    let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
    let _outcome: Outcome<_> = client.clone().oneshot("a down").await;
    for stranger in strangers(300) {
        let stranger = Box::leak(stranger.replace(' ', "-").into_boxed_str());
        client.clone().oneshot(stranger).await.unwrap();
    }
    let failures = layer.by_key().get("a").unwrap().snapshot().failures;
    assert_eq!(failures, 1);
}

/// Some steps of a few keys: which key calls, how it goes, and how long it is until the next step.
fn steps() -> impl Strategy<Value = Vec<(usize, bool, u64)>> {
    let step = (0..40_usize, any::<bool>(), prop_oneof![Just(0), 0..700_u64]);
    proptest::collection::vec(step, 1..400)
}

fn on_a_paused_clock(test: impl Future) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // The model never forgets a key. Calls that shared the overflow are left out of it.
    #[test]
    fn no_key_gets_more_or_less_than_its_quota(steps in steps()) {
        on_a_paused_clock(async {
            let quota = Quota::new(2, 3 * SECOND).burst(3);
            let layer = RateLimitLayer::builder(quota).max_wait(Duration::ZERO);
            let layer = layer.per_key(key_of).keys(Keys::at_most(16)).build().unwrap();
            let client = layer.layer(ErrorLayer.layer(service_fn(echo)));
            let mut model = HashMap::new();
            for (key, _, pause) in steps {
                let overflows = layer.by_key().overflows();
                let granted = client.clone().oneshot(key.to_string()).await.is_ok();
                if layer.by_key().overflows() == overflows {
                    let limiter = model.entry(key).or_insert_with(|| RateLimiter::new(quota));
                    assert_eq!(granted, limiter.try_acquire(1).is_ok(), "key {key}");
                }
                advance(Duration::from_millis(pause)).await;
            }
        });
    }

    #[test]
    fn an_open_circuit_is_never_seen_closed_before_its_time(steps in steps()) {
        on_a_paused_clock(async {
            let layer = CircuitBreakerLayer::builder()
                .consecutive_failures(2)
                .open_for(SECOND)
                .per_key(key_of)
                .keys(Keys::at_most(16))
                .build()
                .unwrap();
            let client = layer.layer(ErrorLayer.layer(service_fn(echo)));
            let mut closed_from = HashMap::new();
            for (key, fails, pause) in steps {
                let key = key.to_string();
                let overflows = layer.by_key().overflows();
                let outcome = client.clone().oneshot(key.clone()).await;
                if layer.by_key().overflows() == overflows {
                    let now = Instant::now();
                    let until = closed_from.get(&key).copied().unwrap_or(now);
                    assert_eq!(is_open(outcome), now < until, "key {key}");
                    if now >= until && fails {
                            // Two failures of the upstream open the circuit.
                            let circuit: Circuit = layer.by_key().get(&key).unwrap();
                            circuit.reset();
                            for _ in 0..2 {
                                circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
                            }
                            let wait = circuit.snapshot().retry_after.unwrap();
                            closed_from.insert(key, now + wait);
                    }
                }
                advance(Duration::from_millis(pause)).await;
            }
        });
    }
}

#[test]
fn a_key_that_is_too_long_shares_the_overflow() {
    let layer = LoadShedLayer::builder(1).per_key(key_of).build().unwrap();
    let mut service = layer.layer(ErrorLayer.layer(service_fn(echo)));
    for (length, known) in [(1_024, true), (1_025, false), (300_000, false)] {
        let key = "a".repeat(length);
        let mut ready = tokio_test::task::spawn(service.ready());
        let call = tokio_test::assert_ready_ok!(ready.poll()).call(key.clone());
        drop(call);
        assert_eq!(layer.by_key().get(&key).is_some(), known, "{length}");
    }
    assert_eq!(layer.by_key().overflows(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_is_no_idle_time() {
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(2)
        .per_key(first_word)
        .keys(Keys::at_most(16).idle(10 * SECOND))
        .build()
        .unwrap();
    let slow = service_fn(|request: &'static str| async move {
        if request.ends_with("down") {
            tokio::time::sleep(30 * SECOND).await;
            return Err("down");
        }
        Ok(request)
    });
    let client = layer.layer(ErrorLayer.layer(slow));
    let others = async || {
        for number in 0..2_000 {
            let other = ["b", "c", "d", "e", "f", "g"][number % 6];
            let _outcome = client.clone().oneshot(other).await;
        }
    };
    for _ in 0..2 {
        let call = tokio::spawn(client.clone().oneshot("a down"));
        tokio::time::sleep(SECOND).await;
        others().await;
        assert!(call.await.unwrap().is_err());
        others().await;
    }
    assert_eq!(layer.by_key().get("a").unwrap().state(), CircuitState::Open);
}

/// Sends a request as often as it says, and waits that many seconds.
#[derive(Clone, Copy)]
struct AsOften;

impl Replay<u32> for AsOften {
    fn replay(&self, request: &u32) -> Option<u32> {
        Some(*request)
    }

    fn attempts(&self, copy: &u32) -> Option<u32> {
        Some(*copy)
    }

    fn backoff(&self, copy: &u32, _: u32, _: f64) -> Option<Duration> {
        Some(*copy * SECOND)
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_chooses_attempts_and_backoff_with_keys_too() {
    #[expect(clippy::unnecessary_wraps, reason = "a request may have no key")]
    fn one_key(_: &u32) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed("a"))
    }
    let stack = stack().carrier(()).replay(AsOften).no_circuit_breaker();
    let stack = stack.retry(buttress::retry::RetryBuilder::no_budget);
    let stack = stack.classify(buttress::verdict::Outcome).load_shed(9);
    let layer = stack.per_key(one_key).build().unwrap();
    let sends = AtomicUsize::new(0);
    let client = layer.layer(service_fn(|_: u32| {
        sends.fetch_add(1, SeqCst);
        async { Err::<(), _>(std::io::Error::other("down")) }
    }));
    let start = Instant::now();
    assert!(client.oneshot(5).await.is_err());
    assert_eq!((sends.load(SeqCst), start.elapsed().as_secs()), (5, 20));
}

/// A classifier that uses the handles of its layer when it is dropped.
struct Nosy {
    circuits: Arc<Mutex<Option<ByKey<Circuit>>>>,
    /// Where two threads that miss one key meet.
    both: Arc<Barrier>,
}

impl Clone for Nosy {
    fn clone(&self) -> Self {
        if self.circuits.lock().unwrap().is_some() {
            self.both.wait();
        }
        let (circuits, both) = (self.circuits.clone(), self.both.clone());
        Self { circuits, both }
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let circuits = self.circuits.lock().unwrap().clone();
        if let Some(circuits) = circuits {
            assert_eq!(circuits.len(), 1);
        }
    }
}

impl<Res, E> Classify<Res, E> for Nosy {
    fn classify(&self, _: Result<&Res, &E>) -> Verdict {
        Verdict::Healthy
    }
}

#[test]
fn two_calls_that_miss_a_key_at_once_drop_the_second_state_without_a_lock() {
    let circuits: Arc<Mutex<Option<ByKey<Circuit>>>> = Arc::default();
    let nosy = Nosy {
        circuits: circuits.clone(),
        both: Arc::new(Barrier::new(2)),
    };
    let layer = CircuitBreakerLayer::builder()
        .classify(nosy)
        .per_key(key_of);
    let layer = layer.build().unwrap();
    *circuits.lock().unwrap() = Some(layer.by_key());
    let (done, all_done) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let (layer, done) = (layer.clone(), done.clone());
        std::thread::spawn(move || {
            let mut service = layer.layer(ErrorLayer.layer(service_fn(echo)));
            let mut ready = tokio_test::task::spawn(service.ready());
            let call = tokio_test::assert_ready_ok!(ready.poll()).call("a".to_owned());
            done.send(layer.by_key().len()).unwrap();
            drop(call);
        });
    }
    for _ in 0..2 {
        let known = all_done.recv_timeout(20 * SECOND).expect("no deadlock");
        assert_eq!(known, 1);
    }
    // The states of the layer itself are dropped in silence.
    *circuits.lock().unwrap() = None;
}

#[test]
fn two_changes_of_the_quota_at_once_leave_one_quota() {
    let [one, two] = [Quota::per_second(1), Quota::per_second(2)];
    for round in 0..500 {
        let layer = RateLimitLayer::builder(Quota::per_second(9)).per_key(key_of);
        let layer = layer.build().unwrap();
        let both = Arc::new(Barrier::new(2));
        let other = (layer.clone(), both.clone());
        let thread = std::thread::spawn(move || {
            other.1.wait();
            other.0.set_quota(two);
        });
        both.wait();
        layer.set_quota(one);
        thread.join().unwrap();
        let quotas = [layer.by_key().keyless(), layer.by_key().overflow()];
        let [keyless, overflow] = quotas.map(|limiter| limiter.snapshot().quota);
        assert_eq!(keyless, overflow, "round {round}");
    }
}

#[test]
fn any_number_of_keys_is_allowed() {
    let layer = stack().per_key(Authority).keys(Keys::at_most(usize::MAX));
    let printed = layer.build().unwrap().to_string();
    assert!(
        printed.contains(&format!("at most {} keys", usize::MAX)),
        "{printed}"
    );
}

#[test]
fn a_quota_for_some_keys_needs_a_rate_limit_of_their_own() {
    let some = |_: &str| Some(Quota::per_second(1));
    let none = stack().per_key(Authority).quota_of(some).build();
    let expected =
        "quota_of must be set only with a rate limit that the keys do not share, but is true";
    assert_eq!(none.unwrap_err().to_string(), expected);
    let shared = stack().rate_limit(RateLimiter::new(Quota::per_second(1)));
    assert!(shared.per_key(Authority).quota_of(some).build().is_err());
}

// Stacks

/// Responds with the status in the path, after the number of failures before it: `/503/503/200`.
#[derive(Clone, Default)]
struct Upstream {
    sends: Arc<AtomicUsize>,
}

impl Upstream {
    fn client(
        &self,
    ) -> impl Service<Request<String>, Response = Response<()>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        let sends = self.sends.clone();
        service_fn(move |request: Request<String>| {
            sends.fetch_add(1, SeqCst);
            async move {
                if request.uri().path() == "/hang" {
                    pending::<()>().await;
                }
                let status = request.uri().path()[1..].parse().unwrap_or(200_u16);
                let mut response = Response::builder().status(status);
                if status == 429 {
                    response = response.header("retry-after", "30");
                }
                Ok(response.body(()).unwrap())
            }
        })
    }
}

fn get(host: &str, path: &str) -> Request<String> {
    let request = Request::get(format!("http://{host}/{path}"));
    request.body(String::new()).unwrap()
}

fn quick() -> StackBuilder {
    stack()
        .name("hosts")
        .retry(|retry| retry.backoff(Backoff::constant(Duration::ZERO)))
        .circuit_breaker(|breaker| breaker.consecutive_failures(5).open_for(10 * SECOND))
}

#[tokio::test(start_paused = true)]
async fn a_stack_per_host_keeps_a_circuit_a_budget_and_limits_for_each() {
    let layer = quick().load_shed(2).rate_limit(Quota::per_second(50));
    let layer = layer.per_key(Authority).build().unwrap();
    let upstream = Upstream::default();
    let client = layer.layer(upstream.client());
    // Three attempts use up the budget of one host: the next call is sent once, and the circuit opens
    // with the fifth failure.
    for sends in [3, 1, 1] {
        let before = upstream.sends.load(SeqCst);
        let response = client.clone().oneshot(get("a.internal", "503")).await;
        assert_eq!(response.unwrap().status(), 503);
        assert_eq!(upstream.sends.load(SeqCst) - before, sends);
    }
    let error = client
        .clone()
        .oneshot(get("a.internal", "200"))
        .await
        .unwrap_err();
    let Some(rejection @ Rejection::CircuitOpen { .. }) = error.rejection() else {
        panic!("{error:?}");
    };
    assert_eq!(rejection.by().as_str(), Some("hosts"));

    let before = upstream.sends.load(SeqCst);
    let response = client.clone().oneshot(get("b.internal", "503")).await;
    assert_eq!(response.unwrap().status(), 503);
    assert_eq!(upstream.sends.load(SeqCst) - before, 3);

    let keys = layer.by_key();
    let (a, b) = (
        keys.get("a.internal").unwrap(),
        keys.get("b.internal").unwrap(),
    );
    assert_eq!(a.circuit().unwrap().state(), CircuitState::Open);
    assert_eq!(b.circuit().unwrap().state(), CircuitState::Closed);
    assert!(a.budget().unwrap().tokens() < 1.0);
    assert_eq!(b.limit().unwrap().snapshot().limit, 2);
    assert_eq!(b.limiter().unwrap().snapshot().available, 7);
    assert_eq!(layer.clone().by_key().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stack_looks_a_key_up_once_per_call() {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    fn host(request: &Request<String>) -> Option<Cow<'_, str>> {
        LOOKUPS.fetch_add(1, SeqCst);
        request.uri().host().map(Cow::Borrowed)
    }
    let upstream = Upstream::default();
    let layer = quick().load_shed(9).per_key(host).build().unwrap();
    let client = layer.layer(upstream.client());
    client.oneshot(get("a.internal", "503")).await.unwrap();
    assert_eq!(upstream.sends.load(SeqCst), 3);
    assert_eq!(LOOKUPS.load(SeqCst), 1);
    assert_eq!(layer.retry_snapshot().unwrap().retries, 2);
}

#[tokio::test(start_paused = true)]
async fn each_success_earns_for_the_budget_of_its_host() {
    let layer = quick().per_key(Authority).build().unwrap();
    let client = layer.layer(Upstream::default().client());
    client
        .clone()
        .oneshot(get("b.internal", "200"))
        .await
        .unwrap();
    for _ in 0..20 {
        let post = Request::post("http://a.internal/200").body("body".to_owned());
        client.clone().oneshot(post.unwrap()).await.unwrap();
    }
    let tokens = |host| layer.by_key().get(host).unwrap().budget().unwrap().tokens();
    assert!(tokens("a.internal") > 3.5);
    assert!(tokens("b.internal") < 2.2);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_not_sent_again_after_a_503_by_a_stack_per_host() {
    let upstream = Upstream::default();
    let client = quick()
        .per_key(Authority)
        .service(upstream.client())
        .unwrap();
    let post = Request::post("http://a.internal/503").body("body".to_owned());
    let response = client.oneshot(post.unwrap()).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), upstream.sends.load(SeqCst)),
        (503, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_is_rejected_when_the_circuit_of_its_host_opens() {
    let layer = quick()
        .rate_limit(Quota::at_most(1, 9 * SECOND))
        .deadline(Duration::MAX);
    let layer = layer.retry(|retry| retry.attempts(1)).per_key(Authority);
    // `rate_limit` waits up to 1 s, and this test needs more.
    let layer = layer.build().unwrap();
    layer.set_quota(Quota::at_most(1, 9 * SECOND / 10));
    let client = layer.layer(Upstream::default().client());
    for host in ["a.internal", "b.internal"] {
        client.clone().oneshot(get(host, "200")).await.unwrap();
    }
    let [a, b] = ["a.internal", "b.internal"]
        .map(|host| tokio::spawn(client.clone().oneshot(get(host, "200"))));
    tokio::task::yield_now().await;
    let start = Instant::now();
    layer
        .by_key()
        .get("a.internal")
        .unwrap()
        .circuit()
        .unwrap()
        .force_open();
    assert!(is_open(a.await.unwrap()));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(b.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_the_limiter_of_its_host_only() {
    let layer = quick()
        .no_retry()
        .rate_limit(Quota::per_second(50))
        .pause_on_429();
    let layer = layer.per_key(Authority).build().unwrap();
    let client = layer.layer(Upstream::default().client());
    client
        .clone()
        .oneshot(get("a.internal", "429"))
        .await
        .unwrap();
    let error = client
        .clone()
        .oneshot(get("a.internal", "200"))
        .await
        .unwrap_err();
    assert!(matches!(
        error.rejection(),
        Some(Rejection::RateLimited { .. })
    ));
    assert!(client.oneshot(get("b.internal", "200")).await.is_ok());
    assert_eq!(
        layer
            .by_key()
            .get("a.internal")
            .unwrap()
            .limiter()
            .unwrap()
            .snapshot()
            .paused,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn keys_whose_limiter_a_429_can_pause_are_dropped_as_well() {
    let layer = quick()
        .no_retry()
        .rate_limit(Quota::per_second(50))
        .pause_on_429();
    let layer = layer
        .per_key(Authority)
        .keys(Keys::at_most(16))
        .build()
        .unwrap();
    let client = layer.layer(Upstream::default().client());
    for number in 0..200 {
        let host = format!("{number}.internal");
        client.clone().oneshot(get(&host, "200")).await.unwrap();
        advance(5 * SECOND).await;
    }
    assert_eq!(layer.by_key().overflows(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_was_passed_in_is_shared_by_all_keys() {
    let limiter = RateLimiter::new(Quota::at_most(1, 60 * SECOND));
    let layer = quick()
        .rate_limit(limiter)
        .per_key(Authority)
        .keys(Keys::at_most(16));
    let layer = layer.build().unwrap();
    let client = layer.layer(Upstream::default().client());
    client
        .clone()
        .oneshot(get("a.internal", "200"))
        .await
        .unwrap();
    let error = client
        .clone()
        .oneshot(get("b.internal", "200"))
        .await
        .unwrap_err();
    assert!(matches!(
        error.rejection(),
        Some(Rejection::RateLimited { .. })
    ));
    // A shared handle keeps no key from being dropped.
    for stranger in strangers(200) {
        let host = stranger.replace(' ', "-");
        let _outcome = client.clone().oneshot(get(&host, "200")).await;
    }
    assert_eq!(layer.by_key().overflows(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stack_per_host_takes_any_request_and_any_policy() {
    let judge = |outcome: Result<&&'static str, &Error<&'static str>>| match outcome {
        Ok(_) => Verdict::Healthy,
        Err(_) => Verdict::TRANSIENT,
    };
    let client = stack().carrier(()).replay(Cloned).classify(judge);
    let client = client
        .per_key(first_word)
        .service(service_fn(upstream))
        .unwrap();
    assert_eq!(client.oneshot("a").await, Ok("a"));
}

#[test]
fn a_stack_per_host_prints_the_settings_of_a_key() {
    let layer = stack()
        .name("hosts")
        .load_shed(256)
        .per_key(Authority)
        .build()
        .unwrap();
    let expected = "\
timeout \"hosts\": 30s for the whole call
for each of at most 1024 keys:
retry \"hosts\": 3 attempts, waits of 50ms to 5s, × 2 with full jitter, up to 60s if asked for, no budget
budget \"hosts\" of 0.1 per success of the last 5s, floor 2 (+0.1 per second)
load shed \"hosts\": 256 in flight
rate limit: none
circuit breaker \"hosts\": opens at 50% failures of at least 20 calls in 10s, for 500ms to 1s, \
3 probes of which 2 close, written off after 30s, cancelled calls fail from 10s
timeout \"hosts\": 5s for each attempt";
    assert_eq!(layer.to_string(), expected);
}
