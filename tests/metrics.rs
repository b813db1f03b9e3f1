//! The feature `metrics`: which samples a recorder gets.

use buttress::circuit_breaker::Circuit;
use buttress::http::{Authority, StackBuilder, stack};
use buttress::load_shed::ConcurrencyLimit;
use buttress::retry::Backoff;
use buttress::{LoadShedLayer, Quota, RateLimitLayer, RetryLayer, Verdict};
use http::{Request, Response};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};

/// `name{label=value}` and its value: no gauge here has a fraction. The value of a histogram is the number of its samples.
type Samples = BTreeMap<String, u64>;

/// Runs `test` with a recorder of its own. Returns what the recorder got.
fn recorded(test: impl Future<Output = ()>) -> Samples {
    let recorder = DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(test));
    let samples = recorder.snapshotter().snapshot().into_vec();
    let sample = |(key, _, _, value): (metrics_util::CompositeKey, _, _, _)| {
        let mut labels: Vec<_> = key
            .key()
            .labels()
            .filter(|label| label.key() != "name")
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let name = key.key().name();
        let value = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Gauge(value) => value.0 as u64,
            DebugValue::Histogram(samples) => samples.len() as u64,
        };
        (format!("{name}{{{}}}", labels.join(",")), value)
    };
    samples.into_iter().map(sample).collect()
}

/// The samples that are not 0.
fn more_than_zero(samples: &Samples) -> BTreeMap<&str, u64> {
    let found = samples.iter().filter(|(_, value)| **value != 0);
    found.map(|(key, value)| (key.as_str(), *value)).collect()
}

type Statuses = Arc<Mutex<Vec<u16>>>;

/// Responds with these statuses, the last one first, and then with 200.
fn client(
    statuses: &[u16],
) -> impl Clone + Service<Request<()>, Response = Response<()>, Error = Infallible, Future: Send + 'static>
{
    let left: Statuses = Arc::new(Mutex::new(statuses.to_vec()));
    service_fn(move |_: Request<()>| {
        let status = left.lock().unwrap().pop().unwrap_or(200);
        async move {
            // A status of 0: no response.
            let takes = if status == 0 {
                Duration::MAX
            } else {
                Duration::from_millis(1)
            };
            sleep(takes).await;
            let response = Response::builder().status(status);
            Ok(response.body(()).unwrap())
        }
    })
}

fn orders() -> StackBuilder {
    stack().name("orders").metrics()
}

async fn call<S: Clone + Service<Request<()>>>(stack: &S) -> Result<S::Response, S::Error> {
    stack.clone().oneshot(Request::new(())).await
}

#[test]
fn a_successful_call_is_two_durations_and_all_counters_are_there_with_0() {
    let samples = recorded(async {
        let stack = orders().load_shed(9).rate_limit(Quota::per_second(9));
        call(&stack.service(client(&[])).unwrap()).await.unwrap();
    });
    let expected = BTreeMap::from([
        ("buttress.attempt.duration{attempt=1,outcome=healthy}", 1),
        ("buttress.call.duration{outcome=healthy}", 1),
        ("buttress.circuit.state{state=closed}", 1),
    ]);
    assert_eq!(more_than_zero(&samples), expected);
    let zeros: Vec<_> = samples.keys().filter(|key| samples[*key] == 0).collect();
    assert_eq!(
        zeros,
        [
            "buttress.circuit.probes{}",
            "buttress.circuit.state{state=forced_closed}",
            "buttress.circuit.state{state=forced_open}",
            "buttress.circuit.state{state=half_open}",
            "buttress.circuit.state{state=open}",
            "buttress.rate.pauses{}",
            "buttress.rejections{error.type=circuit_open,layer=circuit_breaker}",
            "buttress.rejections{error.type=deadline_passed,layer=attempt_timeout}",
            "buttress.rejections{error.type=deadline_passed,layer=deadline}",
            "buttress.rejections{error.type=overloaded,layer=load_shed}",
            "buttress.rejections{error.type=rate_limited,layer=rate_limit}",
            "buttress.rejections{error.type=timed_out,layer=attempt_timeout}",
            "buttress.rejections{error.type=timed_out,layer=deadline}",
            "buttress.rejections{error.type=too_costly,layer=rate_limit}",
            "buttress.retries{verdict=local}",
            "buttress.retries{verdict=throttled}",
            "buttress.retries{verdict=transient}",
            "buttress.retry.gave_up{reason=attempts}",
            "buttress.retry.gave_up{reason=budget}",
            "buttress.retry.gave_up{reason=deadline}",
            "buttress.retry.gave_up{reason=not_replayable}",
            "buttress.retry.gave_up{reason=retry_after}",
            "buttress.retry.recovered{}",
        ]
    );
}

#[test]
fn retries_are_counted_by_verdict_and_attempts_by_number() {
    let samples = recorded(async {
        let stack = orders().retry(|retry| retry.attempts(4).no_budget());
        let stack = stack.service(client(&[200, 503, 503, 429])).unwrap();
        call(&stack).await.unwrap();
    });
    let expected = BTreeMap::from([
        ("buttress.attempt.duration{attempt=1,outcome=throttled}", 1),
        ("buttress.attempt.duration{attempt=2,outcome=transient}", 1),
        ("buttress.attempt.duration{attempt=3+,outcome=healthy}", 1),
        ("buttress.attempt.duration{attempt=3+,outcome=transient}", 1),
        ("buttress.call.duration{outcome=healthy}", 1),
        ("buttress.circuit.state{state=closed}", 1),
        ("buttress.retries{verdict=throttled}", 1),
        ("buttress.retries{verdict=transient}", 2),
        ("buttress.retry.delay{}", 3),
        ("buttress.retry.recovered{}", 1),
    ]);
    assert_eq!(more_than_zero(&samples), expected);
}

#[test]
fn a_call_that_gives_up_ends_with_its_last_outcome() {
    let samples = recorded(async {
        let stack = orders().retry(|retry| retry.attempts(2));
        let stack = stack.service(client(&[503, 503])).unwrap();
        assert_eq!(call(&stack).await.unwrap().status(), 503);
    });
    assert_eq!(samples["buttress.retry.gave_up{reason=attempts}"], 1);
    assert_eq!(samples["buttress.call.duration{outcome=transient}"], 1);
    assert_eq!(samples["buttress.retry.recovered{}"], 0);
}

#[test]
fn timeouts_are_told_apart() {
    let samples = recorded(async {
        let stack = orders().no_retry().service(client(&[0])).unwrap();
        call(&stack).await.unwrap_err();
        let stack = orders().deadline(Duration::from_secs(1));
        call(&stack.service(client(&[0])).unwrap())
            .await
            .unwrap_err();
    });
    let timed_out = |layer| {
        let key = format!("buttress.rejections{{error.type=timed_out,layer={layer}}}");
        samples[&key]
    };
    assert_eq!(
        (timed_out("attempt_timeout"), timed_out("deadline")),
        (1, 1)
    );
    for outcome in ["timed_out", "deadline_passed"] {
        let call = format!("buttress.call.duration{{outcome={outcome}}}");
        let attempt = format!("buttress.attempt.duration{{attempt=1,outcome={outcome}}}");
        assert_eq!((samples[&call], samples[&attempt]), (1, 1), "{outcome}");
    }
}

#[test]
fn a_call_that_leaves_is_recorded_once_wherever_it_is() {
    let leave_after = |statuses: &'static [u16], after| {
        recorded(async move {
            let stack = orders().attempt_timeout(Duration::MAX);
            let stack = stack.service(client(statuses)).unwrap();
            let left = tokio::time::timeout(after, call(&stack)).await;
            left.unwrap_err();
        })
    };
    let cancelled = |samples: &Samples, attempt| {
        let key = format!("buttress.attempt.duration{{attempt={attempt},outcome=cancelled}}");
        samples.get(&key).copied()
    };
    let in_first = leave_after(&[0], Duration::from_secs(3));
    assert_eq!(cancelled(&in_first, "1"), Some(1));
    let in_second = leave_after(&[0, 503], Duration::from_secs(3));
    assert_eq!(cancelled(&in_second, "2"), Some(1));
    assert_eq!(cancelled(&in_second, "1"), None);
    for samples in [&in_first, &in_second] {
        assert_eq!(samples["buttress.call.duration{outcome=cancelled}"], 1);
    }
    // While it waits for its retry, no attempt is in flight.
    let between = recorded(async {
        let slowly = Backoff::constant(Duration::from_secs(9));
        let stack = orders().retry(|retry| retry.backoff(slowly));
        let stack = stack.service(client(&[503])).unwrap();
        let left = tokio::time::timeout(Duration::from_secs(1), call(&stack)).await;
        left.unwrap_err();
    });
    assert_eq!(between["buttress.call.duration{outcome=cancelled}"], 1);
    assert_eq!(cancelled(&between, "1"), None);
}

#[test]
fn a_stack_without_retry_has_durations_and_no_metrics_of_a_retry() {
    let samples = recorded(async {
        let layer = orders().no_retry().build().unwrap();
        assert!(layer.to_string().contains("retry: none"), "{layer}");
        assert!(layer.retry_snapshot().is_none());
        let response = layer.layer(client(&[503])).oneshot(Request::new(())).await;
        assert_eq!(response.unwrap().status(), 503);
    });
    assert_eq!(samples["buttress.call.duration{outcome=transient}"], 1);
    assert!(
        !samples.keys().any(|key| key.contains("retr")),
        "{samples:?}"
    );
}

#[test]
fn a_circuit_has_one_state_and_its_transitions() {
    let samples = recorded(async {
        let layer = orders().build().unwrap();
        let service = layer.layer(client(&[]));
        call(&service).await.unwrap();
        layer.circuit().unwrap().force_open();
        call(&service).await.unwrap_err();
    });
    let expected = BTreeMap::from([
        (
            "buttress.attempt.duration{attempt=1,outcome=circuit_open}",
            1,
        ),
        ("buttress.attempt.duration{attempt=1,outcome=healthy}", 1),
        ("buttress.call.duration{outcome=circuit_open}", 1),
        ("buttress.call.duration{outcome=healthy}", 1),
        ("buttress.circuit.state{state=forced_open}", 1),
        ("buttress.circuit.transitions{reason=forced}", 1),
        (
            "buttress.rejections{error.type=circuit_open,layer=circuit_breaker}",
            1,
        ),
    ]);
    assert_eq!(more_than_zero(&samples), expected);
}

#[test]
fn the_state_is_that_of_the_circuit_when_its_first_call_comes() {
    let samples = recorded(async {
        let layer = orders().build().unwrap();
        layer.circuit().unwrap().force_open();
        call(&layer.layer(client(&[]))).await.unwrap_err();
    });
    assert_eq!(samples["buttress.circuit.state{state=forced_open}"], 1);
    assert_eq!(samples["buttress.circuit.state{state=closed}"], 0);
}

#[test]
fn probes_are_counted() {
    let samples = recorded(async {
        let circuit = Circuit::builder().consecutive_failures(1).build().unwrap();
        circuit.metrics();
        circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
        sleep(Duration::from_secs(600)).await;
        circuit.try_acquire().unwrap().settle(Verdict::Healthy);
    });
    assert_eq!(samples["buttress.circuit.probes{}"], 1);
    let states = ["closed", "open", "half_open"];
    let states = states.map(|state| samples[&format!("buttress.circuit.state{{state={state}}}")]);
    assert_eq!(states.iter().sum::<u64>(), 1);
}

#[test]
fn waits_are_recorded_if_the_call_had_to_wait_and_went() {
    let samples = recorded(async {
        let limit = LoadShedLayer::builder(1).queue(1, Duration::from_secs(9));
        let stack = orders().load_shed(limit).service(client(&[])).unwrap();
        let (one, two) = tokio::join!(call(&stack), call(&stack));
        assert!(one.is_ok() && two.is_ok());

        let quota = Quota::per_second(1).burst(1);
        let stack = stack_with(quota).service(client(&[])).unwrap();
        call(&stack).await.unwrap();
        call(&stack).await.unwrap();
        call(&stack).await.unwrap();
    });
    assert_eq!(samples["buttress.wait.duration{layer=load_shed}"], 1);
    assert_eq!(samples["buttress.wait.duration{layer=rate_limit}"], 2);
}

fn stack_with(quota: Quota) -> StackBuilder {
    orders().rate_limit(RateLimitLayer::builder(quota).max_wait(Duration::from_secs(5)))
}

#[test]
fn a_handle_of_two_stacks_is_counted_once() {
    let samples = recorded(async {
        let limit = ConcurrencyLimit::new(0);
        limit.metrics();
        for _ in 0..2 {
            let stack = orders().load_shed(limit.clone()).service(client(&[]));
            call(&stack.unwrap()).await.unwrap_err();
        }
    });
    let overloaded = "buttress.rejections{error.type=overloaded,layer=load_shed}";
    assert_eq!(samples[overloaded], 2);
}

#[test]
fn the_circuits_of_all_keys_have_counters_and_no_common_state() {
    let samples = recorded(async {
        let layer = orders()
            .no_retry()
            .circuit_breaker(|breaker| breaker.consecutive_failures(1));
        let service = layer.per_key(Authority).service(client(&[503])).unwrap();
        let get = || Request::get("http://orders.internal/").body(()).unwrap();
        service.clone().oneshot(get()).await.unwrap();
        service.clone().oneshot(get()).await.unwrap_err();
    });
    let expected = BTreeMap::from([
        (
            "buttress.attempt.duration{attempt=1,outcome=circuit_open}",
            1,
        ),
        ("buttress.attempt.duration{attempt=1,outcome=transient}", 1),
        ("buttress.call.duration{outcome=circuit_open}", 1),
        ("buttress.call.duration{outcome=transient}", 1),
        (
            "buttress.circuit.transitions{reason=consecutive_failures}",
            1,
        ),
        (
            "buttress.rejections{error.type=circuit_open,layer=circuit_breaker}",
            1,
        ),
    ]);
    assert_eq!(more_than_zero(&samples), expected);
}

#[test]
fn a_retry_layer_of_its_own_counts_its_events() {
    let samples = recorded(async {
        let layer = RetryLayer::new();
        layer.metrics();
        let calls = Arc::new(AtomicU16::new(0));
        let service = layer.layer(service_fn(move |_: Request<()>| {
            let first = calls.fetch_add(1, Relaxed) == 0;
            let refused = Err(buttress::Error::Service("refused"));
            ready(if first { refused } else { Ok(()) })
        }));
        service.oneshot(Request::new(())).await.unwrap();
    });
    let expected = BTreeMap::from([
        ("buttress.retries{verdict=transient}", 1),
        ("buttress.retry.delay{}", 1),
        ("buttress.retry.recovered{}", 1),
    ]);
    assert_eq!(more_than_zero(&samples), expected);
}

#[test]
fn every_metric_of_a_stack_has_help_and_durations_have_their_unit() {
    let recorder = DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        let stack = orders().service(client(&[503])).unwrap();
        runtime.block_on(call(&stack)).unwrap();
    });
    let samples = recorder.snapshotter().snapshot().into_vec();
    assert!(samples.len() > 20);
    for (key, unit, help, value) in samples {
        let name = key.key().name();
        assert!(help.is_some(), "{name}");
        let is_duration = matches!(value, DebugValue::Histogram(_));
        assert_eq!(unit == Some(metrics::Unit::Seconds), is_duration, "{name}");
    }
}

#[test]
fn without_metrics_nothing_is_recorded() {
    let samples = recorded(async {
        let stack = stack().service(client(&[503])).unwrap();
        call(&stack).await.unwrap();
    });
    assert_eq!(samples, Samples::new());
}

#[test]
fn a_stack_that_was_built_before_there_was_a_recorder_is_recorded() {
    let layer = orders().build().unwrap();
    let service = layer.layer(client(&[503]));
    let samples = recorded(async move {
        call(&service).await.unwrap();
    });
    assert_eq!(samples["buttress.call.duration{outcome=healthy}"], 1);
    assert_eq!(samples["buttress.retries{verdict=transient}"], 1);
    assert_eq!(samples["buttress.circuit.state{state=closed}"], 1);
}

#[test]
fn the_layers_around_a_stack_are_counted_too() {
    use buttress::chaos::Delay;
    use buttress::fallback::Failed;
    use buttress::retry::Cloned;
    use buttress::{ChaosLayer, Error, ErrorLayer, FallbackLayer, HedgeLayer};
    type Fails = Failed<Request<()>, Response<()>, Error<Infallible>>;

    let samples = recorded(async {
        let answer = |_: Fails| ready(Ok::<_, Error<Infallible>>(Response::new(())));
        let stack = orders().no_retry().fallback(FallbackLayer::new(answer));
        let service = stack.service(client(&[503])).unwrap();
        call(&service).await.unwrap();
        call(&service).await.unwrap();

        let chaos = ChaosLayer::builder().latency(1.0, Delay::fixed(Duration::from_millis(60)));
        let chaos = chaos.build().unwrap();
        chaos.chaos().metrics();
        chaos.chaos().on();
        let at = buttress::hedge::HedgeAt::after(Duration::from_millis(50));
        let hedge = HedgeLayer::builder().at(at).replay(Cloned).build().unwrap();
        hedge.hedging().metrics();
        let service = chaos.layer(client(&[]));
        call(&hedge.layer(ErrorLayer.layer(service))).await.unwrap();
    });
    for (key, count) in [
        ("buttress.fallbacks{}", 1),
        ("buttress.degraded{}", 0),
        ("buttress.injections{fault=latency}", 2),
        ("buttress.hedges{}", 1),
    ] {
        assert_eq!(samples[key], count, "{key}");
    }
}
