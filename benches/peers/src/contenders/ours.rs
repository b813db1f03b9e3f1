//! The services of buttress that are compared. Only this file uses the API of buttress.

use super::{ATTEMPT, DEADLINE, LONG, PLENTY};
use crate::tasks::Called;
use crate::upstream::{HttpRequest, HttpUpstream, Upstream};
use buttress::circuit_breaker::{CircuitBreakerBuilder, Window};
use buttress::http::{Idempotent, StatusClassifier};
use buttress::retry::{Backoff, Cloned};
use buttress::{
    ChaosLayer, CircuitBreakerLayer, ErrorLayer, FallbackLayer, HedgeLayer, LoadShedLayer, Quota,
    RateLimitLayer, RetryLayer, TimeoutLayer,
};
use std::time::Duration;
use tower::{Layer, Service, ServiceBuilder};

pub fn timeout(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(DEADLINE))
        .layer(ErrorLayer)
        .service(upstream)
}

pub fn fallback(upstream: impl Upstream) -> impl Called + Clone {
    let second = ErrorLayer.layer(upstream);
    ServiceBuilder::new()
        .layer(FallbackLayer::to(second).replay(Cloned))
        .layer(ErrorLayer)
        .service(upstream)
}

pub fn hedge(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(HedgeLayer::builder().replay(Cloned).build().expect("valid"))
        .layer(ErrorLayer)
        .service(upstream)
}

pub fn chaos(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(ChaosLayer::builder().hang(1.0).build().expect("valid"))
        .service(upstream)
}

pub fn retry(upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(RetryLayer::builder().replay(Cloned).build().expect("valid"))
        .layer(ErrorLayer)
        .service(upstream)
}

pub fn retry_without_budget(upstream: impl Upstream) -> impl Called + Clone {
    let retry = RetryLayer::builder()
        .replay(Cloned)
        .no_budget()
        .backoff(Backoff::constant(Duration::ZERO));
    ServiceBuilder::new()
        .layer(retry.build().expect("valid"))
        .layer(ErrorLayer)
        .service(upstream)
}

/// With its defaults, which include a time window.
pub fn breaker(upstream: impl Upstream) -> impl Called + Clone {
    built(CircuitBreakerLayer::builder(), upstream)
}

/// With a window of this many calls.
pub fn breaker_counting(calls: u32, upstream: impl Upstream) -> impl Called + Clone {
    let breaker = CircuitBreakerLayer::builder().window(Window::count(calls));
    built(breaker, upstream)
}

/// Like [`breaker_counting`], but opens only if nine in ten calls fail.
pub fn tolerant_breaker_counting(calls: u32, upstream: impl Upstream) -> impl Called + Clone {
    let breaker = CircuitBreakerLayer::builder().window(Window::count(calls));
    built(breaker.failure_rate(0.9), upstream)
}

/// Like [`breaker`], but opens only if nine in ten calls fail.
pub fn tolerant_breaker(upstream: impl Upstream) -> impl Called + Clone {
    built(CircuitBreakerLayer::builder().failure_rate(0.9), upstream)
}

pub fn breaker_consecutive(failures: u32, upstream: impl Upstream) -> impl Called + Clone {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(failures);
    built(breaker, upstream)
}

/// Like [`breaker`], but stays open for longer than any measurement.
pub fn breaker_open_long(upstream: impl Upstream) -> impl Called + Clone {
    built(CircuitBreakerLayer::builder().open_for(LONG), upstream)
}

/// With a time window that is longer than any measurement.
pub fn breaker_long_window(upstream: impl Upstream) -> impl Called + Clone {
    let breaker = CircuitBreakerLayer::builder().window(Window::time(LONG));
    built(breaker, upstream)
}

fn built(breaker: CircuitBreakerBuilder, upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(breaker.build().expect("valid"))
        .layer(ErrorLayer)
        .service(upstream)
}

/// A limit that is never reached.
pub fn rate_limit(upstream: impl Upstream) -> impl Called + Clone {
    limited(Quota::per_second(PLENTY), upstream)
}

/// One call in a period that is longer than any measurement.
pub fn rate_limit_of_one(upstream: impl Upstream) -> impl Called + Clone {
    limited(Quota::new(1, LONG), upstream)
}

/// A limit without a burst, so that each call waits for its turn.
pub fn rate_limit_without_burst(
    calls_per_second: u32,
    upstream: impl Upstream,
) -> impl Called + Clone {
    limited(Quota::per_second(calls_per_second).burst(1), upstream)
}

fn limited(quota: Quota, upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(RateLimitLayer::new(quota))
        .layer(ErrorLayer)
        .service(upstream)
}

pub fn load_shed(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(LoadShedLayer::new(limit))
        .layer(ErrorLayer)
        .service(upstream)
}

macro_rules! nested {
    ($upstream:expr) => { $upstream };
    ($upstream:expr, $layer:expr $(, $more:expr)*) => {
        $layer.layer(nested!($upstream $(, $more)*))
    };
}

pub fn two_load_sheds(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    let shed = || LoadShedLayer::new(limit);
    nested!(ErrorLayer.layer(upstream), shed(), shed())
}

pub fn four_load_sheds(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    let shed = || LoadShedLayer::new(limit);
    let upstream = ErrorLayer.layer(upstream);
    nested!(upstream, shed(), shed(), shed(), shed())
}

pub fn eight_load_sheds(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    let shed = || LoadShedLayer::new(limit);
    let four = nested!(ErrorLayer.layer(upstream), shed(), shed(), shed(), shed());
    nested!(four, shed(), shed(), shed(), shed())
}

/// The five layers, with one timeout.
pub fn stack(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(DEADLINE))
        .layer(RetryLayer::builder().replay(Cloned).build().expect("valid"))
        .layer(LoadShedLayer::new(limit))
        .layer(RateLimitLayer::new(Quota::per_second(PLENTY)))
        .layer(CircuitBreakerLayer::default())
        .layer(ErrorLayer)
        .service(upstream)
}

/// The stack of the README: one timeout for the whole call and one for each attempt.
pub fn stack_with_two_timeouts(limit: usize, upstream: impl Upstream) -> impl Called + Clone {
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(DEADLINE))
        .layer(RetryLayer::builder().replay(Cloned).build().expect("valid"))
        .layer(LoadShedLayer::new(limit))
        .layer(RateLimitLayer::new(Quota::per_second(PLENTY)))
        .layer(CircuitBreakerLayer::default())
        .layer(TimeoutLayer::new(ATTEMPT))
        .layer(ErrorLayer)
        .service(upstream)
}

/// Like [`stack_with_two_timeouts`], for HTTP.
pub fn http_stack(limit: usize) -> impl Service<HttpRequest, Future: Send> + Clone {
    let retry = RetryLayer::builder()
        .classify(StatusClassifier::default())
        .replay(Idempotent);
    let breaker = CircuitBreakerLayer::builder().classify(StatusClassifier::default());
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(DEADLINE))
        .layer(retry.build().expect("valid"))
        .layer(LoadShedLayer::new(limit))
        .layer(RateLimitLayer::new(Quota::per_second(PLENTY)))
        .layer(breaker.build().expect("valid"))
        .layer(TimeoutLayer::new(ATTEMPT))
        .layer(ErrorLayer)
        .service(HttpUpstream)
}
