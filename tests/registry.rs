//! A registry shows the state of every layer as text and as JSON, and keeps none of them.

use buttress::circuit_breaker::Circuit;
use buttress::http::{Authority, stack};
use buttress::load_shed::ConcurrencyLimit;
use buttress::observe::Registry;
use buttress::rate_limit::RateLimiter;
use buttress::{Quota, RetryLayer, TimeoutLayer, Verdict};
use http::{Request, Response};
use serde_json::Value;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;
use tower::{Layer, service_fn};

fn status(code: u16) -> Ready<Result<Response<()>, Infallible>> {
    ready(Ok(Response::builder().status(code).body(()).unwrap()))
}

fn get(host: &str) -> Request<()> {
    Request::get(format!("http://{host}/")).body(()).unwrap()
}

/// The value of a series, such as `metric{label="value"}`.
fn value(registry: &Registry, series: &str) -> Option<f64> {
    let text = registry.text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn json(registry: &Registry) -> Value {
    serde_json::from_str(&registry.json()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_text_has_the_counters_and_the_state_of_every_layer_of_a_stack() {
    let registry = Registry::new();
    let layer = stack()
        .name("orders")
        .load_shed(7)
        .rate_limit(Quota::per_second(10).burst(5))
        .retry(|retry| retry.attempts(2))
        .circuit_breaker(|breaker| breaker.failure_rate(1.0).consecutive_failures(2))
        .registered(&registry)
        .build()
        .unwrap();
    let service = layer.layer(service_fn(|_| status(503)));
    service.clone().oneshot(get("a")).await.unwrap();
    service.oneshot(get("a")).await.unwrap_err();
    let _slot = layer.limit().unwrap().try_acquire().unwrap();
    for (series, expected) in [
        (r#"retries_total{name="orders",verdict="transient"}"#, 1.0),
        (
            r#"retry_gave_up_total{name="orders",reason="attempts"}"#,
            1.0,
        ),
        (r#"retry_recovered_total{name="orders"}"#, 0.0),
        (r#"attempts_total{name="orders",outcome="failure"}"#, 2.0),
        (r#"attempts_total{name="orders",outcome="success"}"#, 0.0),
        (r#"circuit_state{name="orders",state="open"}"#, 1.0),
        (r#"circuit_state{name="orders",state="closed"}"#, 0.0),
        (
            r#"circuit_transitions_total{name="orders",reason="consecutive_failures"}"#,
            1.0,
        ),
        (
            r#"circuit_transitions_total{name="orders",reason="forced"}"#,
            0.0,
        ),
        (r#"in_flight{name="orders"}"#, 1.0),
        (r#"limit{name="orders"}"#, 7.0),
        (r#"queue_length{name="orders",layer="load_shed"}"#, 0.0),
        (r#"queue_length{name="orders",layer="rate_limit"}"#, 0.0),
        (
            r#"rejections_total{name="orders",layer="deadline",error_type="timed_out"}"#,
            0.0,
        ),
        (
            r#"rejections_total{name="orders",layer="attempt_timeout",error_type="timed_out"}"#,
            0.0,
        ),
    ] {
        let series = format!("buttress_{series}");
        assert_eq!(value(&registry, &series), Some(expected), "{series}");
    }
    let rejected = r#"buttress_rejections_total{name="orders",layer="circuit_breaker",error_type="circuit_open"}"#;
    assert!(value(&registry, rejected).unwrap() >= 1.0);
    // The state is that of now, not that of the last call.
    tokio::time::advance(Duration::from_secs(2)).await;
    let half_open = r#"buttress_circuit_state{name="orders",state="half_open"}"#;
    assert_eq!(value(&registry, half_open), Some(1.0));
}

#[test]
fn every_metric_has_help_and_type_once_and_no_series_twice() {
    let registry = Registry::new();
    let stacks = ["a", "b"].map(|name| {
        let stack = stack()
            .name(name)
            .load_shed(1)
            .rate_limit(Quota::per_second(1));
        stack.registered(&registry).build().unwrap()
    });
    let keyed = stack().name("c").per_key(Authority).build().unwrap();
    registry.add(&keyed);
    let text = registry.text();
    let mut series = std::collections::HashSet::new();
    let mut helps = std::collections::HashSet::new();
    let mut metric = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            metric = help.split(' ').next().unwrap();
            assert!(helps.insert(metric), "{line}");
        } else if !line.starts_with("# TYPE ") {
            let (name, _) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(name), "{line}");
            assert_eq!(name.split('{').next(), Some(metric), "{line}");
        }
    }
    assert_eq!(helps.len(), 20, "{helps:?}");
    drop(stacks);
}

#[test]
fn handles_of_single_layers_can_be_listed() {
    let registry = Registry::new();
    let circuit = Circuit::builder().name("circuit").build().unwrap();
    let limiter = RateLimiter::new(Quota::per_second(1));
    let limit = ConcurrencyLimit::new(3);
    let retry = RetryLayer::builder().name("retry").build().unwrap();
    let timeout = TimeoutLayer::builder(Duration::MAX)
        .name("timeout")
        .build()
        .unwrap();
    registry.add(&circuit);
    registry.add(&limiter);
    registry.add(&limit);
    registry.add(&retry);
    registry.add(&timeout);
    circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
    let state = json(&registry);
    let upstreams = state["upstreams"].as_array().unwrap();
    let of = |upstream: &Value| {
        let layer = upstream["layers"][0]["layer"].as_str().unwrap();
        (
            upstream["name"].as_str().unwrap().to_owned(),
            layer.to_owned(),
        )
    };
    let found: Vec<_> = upstreams.iter().map(of).collect();
    let expected = [
        ("circuit", "circuit_breaker"),
        ("unnamed#1", "rate_limit"),
        ("unnamed#2", "load_shed"),
        ("retry", "retry"),
        ("timeout", "timeout"),
    ];
    assert_eq!(
        found,
        expected.map(|(name, layer)| (name.to_owned(), layer.to_owned()))
    );
    let circuit = &upstreams[0]["layers"][0];
    assert_eq!(
        (&circuit["total_calls"], &circuit["total_failures"]),
        (&1.into(), &1.into())
    );
    assert_eq!(circuit["failure_rate"], Value::Null);
    // A timeout without a limit.
    assert_eq!(upstreams[4]["layers"][0]["after_seconds"], Value::Null);
}

#[test]
fn names_are_unique_and_a_dropped_layer_vanishes() {
    let registry = Registry::new();
    let named = || {
        stack()
            .name("orders")
            .registered(&registry)
            .build()
            .unwrap()
    };
    let (first, second) = (named(), named());
    assert_eq!(format!("{registry:?}"), r#"["orders", "orders#2"]"#);
    // A service keeps its layer.
    let service = first.layer(service_fn(|_: Request<()>| status(200)));
    drop(first);
    drop(second);
    assert_eq!(json(&registry)["upstreams"].as_array().unwrap().len(), 1);
    let third = named();
    assert_eq!(format!("{registry:?}"), r#"["orders", "orders#2"]"#);
    drop((service, third));
    assert_eq!(json(&registry)["upstreams"].as_array().unwrap().len(), 0);
    assert_eq!(registry.text().lines().count(), 3); // only the uptime
}

/// Reads a registry at each event.
struct Reads(Registry);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Reads {
    fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        assert!(self.0.text().contains("orders#2"));
    }
}

#[test]
fn a_subscriber_can_read_the_registry_that_warns_of_a_taken_name() {
    use tracing_subscriber::layer::SubscriberExt;
    let registry = Registry::new();
    let subscriber = tracing_subscriber::registry().with(Reads(registry.clone()));
    tracing::subscriber::with_default(subscriber, || {
        let named = || stack().name("orders").registered(&registry).build();
        let _both = (named().unwrap(), named().unwrap());
    });
}

#[test]
fn a_hostile_name_is_escaped() {
    let registry = Registry::new();
    let name = "a\"b\\c\nd\u{1}</script>";
    let _stack = stack().name(name).registered(&registry).build().unwrap();
    assert_eq!(json(&registry)["upstreams"][0]["name"], name);
    let text = registry.text();
    assert!(
        text.contains("buttress_circuit_probes_total{name=\"a\\\"b\\\\c\\nd\u{1}</script>\"} 0\n")
    );
}

#[test]
fn transitions_are_kept_up_to_256_of_all_layers() {
    let registry = Registry::new();
    let circuit = Circuit::builder().name("orders").build().unwrap();
    registry.add(&circuit);
    for _ in 0..200 {
        circuit.force_open();
        circuit.reset();
    }
    let state = json(&registry);
    let events = state["events"].as_array().unwrap();
    assert_eq!(events.len(), 256);
    assert_eq!(
        (&events[0]["number"], &events[255]["number"]),
        (&145.into(), &400.into())
    );
    let last = &events[255];
    assert_eq!(
        (&last["upstream"], &last["to"], &last["reason"]),
        (&"orders".into(), &"closed".into(), &"reset".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_keyed_stack_shows_counts_of_keys_and_no_key() {
    let registry = Registry::new();
    let layer = stack()
        .name("tenants")
        .circuit_breaker(|breaker| breaker.consecutive_failures(1))
        .no_retry()
        .per_key(Authority)
        .build()
        .unwrap();
    registry.add(&layer);
    let answer = |request: Request<()>| {
        status(if request.uri().host() == Some("bad") {
            503
        } else {
            200
        })
    };
    let service = layer.layer(service_fn(answer));
    for host in ["bad", "good", "fine"] {
        service.clone().oneshot(get(host)).await.unwrap();
    }
    let circuits = |state| format!("buttress_key_circuits{{name=\"tenants\",state=\"{state}\"}}");
    assert_eq!(
        value(&registry, "buttress_keys{name=\"tenants\"}"),
        Some(3.0)
    );
    assert_eq!(value(&registry, &circuits("open")), Some(1.0));
    assert_eq!(value(&registry, &circuits("closed")), Some(2.0));
    assert!(!registry.text().contains("good") && !registry.json().contains("good"));
}

#[test]
fn a_stack_per_key_is_added_after_it_is_built() {
    let registry = Registry::new();
    let error = stack()
        .registered(&registry)
        .per_key(Authority)
        .build()
        .unwrap_err();
    assert_eq!(error.field(), "registered");
}

#[test]
fn the_totals_survive_resets_and_the_window() {
    let registry = Registry::new();
    let circuit = Circuit::builder().name("orders").build().unwrap();
    registry.add(&circuit);
    for _ in 0..5 {
        for _ in 0..3 {
            circuit.try_acquire().unwrap().settle(Verdict::Healthy);
        }
        circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
        circuit.reset();
    }
    let total =
        |outcome| format!("buttress_attempts_total{{name=\"orders\",outcome=\"{outcome}\"}}");
    assert_eq!(value(&registry, &total("success")), Some(15.0));
    assert_eq!(value(&registry, &total("failure")), Some(5.0));
}

#[test]
fn scrapes_during_calls_lose_and_invent_nothing() {
    const CALLS: u32 = 20_000;
    let registry = Registry::new();
    let circuit = Circuit::builder().name("orders").build().unwrap();
    let limit = ConcurrencyLimit::new(0);
    registry.add(&circuit);
    registry.add(&limit);
    let success = "buttress_attempts_total{name=\"orders\",outcome=\"success\"}";
    let overloaded = "buttress_rejections_total{name=\"unnamed#1\",layer=\"load_shed\",error_type=\"overloaded\"}";
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..CALLS {
                        circuit.try_acquire().unwrap().settle(Verdict::Healthy);
                        limit.try_acquire().unwrap_err();
                    }
                })
            })
            .collect();
        // Names come and go meanwhile.
        scope.spawn(|| {
            for n in 0..500 {
                registry.add(
                    &Circuit::builder()
                        .name(format!("{}", n % 7))
                        .build()
                        .unwrap(),
                );
            }
        });
        let mut last = (0.0, 0.0);
        while !callers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let now = (
                value(&registry, success).unwrap(),
                value(&registry, overloaded).unwrap(),
            );
            assert!(now.0 >= last.0 && now.1 >= last.1, "{last:?}, then {now:?}");
            last = now;
        }
    });
    assert_eq!(value(&registry, success), Some(f64::from(3 * CALLS)));
    assert_eq!(value(&registry, overloaded), Some(f64::from(3 * CALLS)));
}

#[tokio::test(start_paused = true)]
async fn keys_are_shown_by_name_only_if_asked_for_and_never_more_than_so_many() {
    let registry = Registry::new();
    let layer = stack()
        .name("tenants")
        .no_retry()
        .circuit_breaker(|breaker| breaker.consecutive_failures(1))
        .per_key(Authority)
        .build()
        .unwrap();
    registry.add_with_keys(&layer, 3).unwrap();
    let service = layer.layer(service_fn(|_| status(503)));
    let shown = |registry: &Registry| {
        let text = registry.text();
        let lines = text
            .lines()
            .filter(|line| line.contains("circuit_state{name=\"tenants\",key="));
        lines
            .filter(|line| line.contains("state=\"open\""))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    tower::ServiceExt::oneshot(service.clone(), get("tenant0"))
        .await
        .unwrap();
    let expected = "buttress_key_circuit_state{name=\"tenants\",key=\"tenant0\",state=\"open\"} 1";
    assert_eq!(shown(&registry), [expected]);
    for n in 1..50 {
        let host = format!("tenant{n}");
        tower::ServiceExt::oneshot(service.clone(), get(&host))
            .await
            .unwrap();
    }
    let three = shown(&registry);
    assert_eq!(three.len(), 3);
    assert!(three.iter().any(|line| line == expected));
    assert_eq!(shown(&registry), three);
    assert_eq!(
        registry.add_with_keys(&layer, 101).unwrap_err().field(),
        "most"
    );
}
