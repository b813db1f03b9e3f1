//! How the layers print their settings.

use buttress::circuit_breaker::{WhenOpen, Window};
use buttress::retry::{Backoff, Budget, Jitter};
use buttress::{
    ChaosLayer, CircuitBreakerLayer, FallbackLayer, HedgeLayer, LoadShedLayer, Quota,
    RateLimitLayer, RetryLayer, TimeoutLayer,
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_layer_prints_its_defaults() {
    let layers = [
        TimeoutLayer::new(SECOND).to_string(),
        RetryLayer::default().to_string(),
        CircuitBreakerLayer::default().to_string(),
        RateLimitLayer::new(Quota::per_second(200)).to_string(),
        LoadShedLayer::new(256).to_string(),
        FallbackLayer::new(|| ()).name("news").to_string(),
        HedgeLayer::new().to_string(),
        ChaosLayer::builder().build().unwrap().to_string(),
    ];
    let expected = [
        "timeout: 1s",
        "retry: 3 attempts, waits of 50ms to 5s, × 2 with full jitter, up to 60s if asked for, \
         budget of 0.1 per success of the last 5s, floor 2 (+0.1 per second)",
        "circuit breaker: opens at 50% failures of at least 20 calls in 10s, for 500ms to 1s, \
         3 probes of which 2 close, written off after 30s, cancelled calls fail from 10s",
        "rate limit: 200 per 1s, 20 at once, waits up to 1s",
        "load shed: 256 in flight",
        "fallback \"news\"",
        "hedge: 1 more at quantile 0.95, budget of 0.1 per success of the last 5s, floor 10 (+0 per second)",
        "chaos: off",
    ];
    assert_eq!(layers, expected);
}

#[test]
fn a_layer_prints_its_settings() {
    let budget = Budget::builder()
        .floor(10)
        .ratio(0.05)
        .reserve(0.0)
        .ttl(Duration::MAX)
        .name("shared");
    let retry = RetryLayer::builder()
        .attempts(5)
        .backoff(
            Backoff::exponential(SECOND, 9 * SECOND)
                .factor(1.5)
                .jitter(Jitter::Equal),
        )
        .max_retry_after(Duration::MAX)
        .budget(budget.build().unwrap())
        .name("a");
    let breaker = CircuitBreakerLayer::builder()
        .window(Window::count(100))
        .failure_rate(0.125)
        .slow_calls(2 * SECOND, 0.9)
        .consecutive_failures(7)
        .open_for(Duration::MAX)
        .probe_lease(Duration::MAX)
        .when_open(WhenOpen::NotReady)
        .name("b");
    let limit = RateLimitLayer::builder(Quota::at_most(5, SECOND).burst(2)).max_wait(Duration::MAX);
    let shed = LoadShedLayer::builder(8).queue(3, SECOND);
    let layers = [
        TimeoutLayer::builder(Duration::MAX)
            .name("t")
            .build()
            .unwrap()
            .to_string(),
        retry.build().unwrap().to_string(),
        breaker.build().unwrap().to_string(),
        limit.build().unwrap().to_string(),
        shed.build().unwrap().to_string(),
    ];
    let expected = [
        "timeout \"t\": ∞",
        "retry \"a\": 5 attempts, waits of 1s to 9s, × 1.5 with equal jitter, up to ∞ if asked \
         for, budget \"shared\" of 0.05 per success of the last ∞, floor 10 (+0 per second)",
        "circuit breaker \"b\": opens at 12.5% failures or 90% of 2s and slower of at least 20 calls \
         in the last 100 or 7 failures in a row, until it is reset, 3 probes of which 2 close, \
         written off after ∞, cancelled calls fail from 10s, not ready while open",
        "rate limit: at most 5 per 1s, 2 at once, waits up to ∞",
        "load shed: 8 in flight, 3 more wait up to 1s",
    ];
    assert_eq!(layers, expected);
}

#[test]
fn a_layer_prints_the_effective_value_if_more_was_asked_for() {
    let nobody_waits = LoadShedLayer::builder(8).queue(3, Duration::ZERO);
    let expected = "load shed: 8 in flight";
    assert_eq!(nobody_waits.build().unwrap().to_string(), expected);
    let breaker = CircuitBreakerLayer::builder().max_open_for(Duration::MAX);
    let printed = breaker.build().unwrap().to_string();
    assert!(printed.contains("for 500ms to 34359738.368s"), "{printed}");
    let once = Quota::new(1, Duration::MAX);
    assert_eq!(once.to_string(), "1 per ∞, 1 at once");
}

#[cfg(feature = "http-body")]
#[test]
fn the_replay_layer_prints_how_many_bytes_it_keeps() {
    let layer = buttress::http::ReplayBodyLayer::new();
    assert_eq!(layer.to_string(), "replay body: up to 65536 bytes");
    assert_eq!(layer.keep(0).to_string(), "replay body: up to 0 bytes");
}
