//! Auto traits and bounds of layers, handles, services and futures.

use super::{Res, TICK};
use crate::strict::Strict;
use buttress::chaos::Chaos;
use buttress::circuit_breaker::{Circuit, KeyedCircuitBreakerLayer};
use buttress::hedge::Hedging;
use buttress::http::{Authority, KeyedParts, KeyedStackLayer};
use buttress::keyed::ByKey;
use buttress::load_shed::{ConcurrencyLimit, KeyedLoadShedLayer};
use buttress::rate_limit::{KeyedRateLimitLayer, Quotas, RateLimiter};
use buttress::retry::{Budget, Cloned};
use buttress::timeout::TimeoutLayer;
use buttress::{
    ChaosLayer, CircuitBreakerLayer, Error, FallbackLayer, HedgeLayer, LoadShedLayer,
    RateLimitLayer, Rejection, RetryLayer,
};
use std::borrow::Cow;
use std::task::{Context, Poll};
use tokio_test::task;
use tower::{Layer, Service};

#[test]
fn layers_handles_services_and_futures_are_send_and_sync() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn future_of<L, Inner>()
    where
        L: Layer<Inner>,
        L::Service: Service<u32> + Send + Sync + 'static,
        <L::Service as Service<u32>>::Future: Send,
    {
        sent::<<L::Service as Service<u32>>::Future>();
    }
    type Key = for<'a> fn(&'a u32) -> Option<Cow<'a, str>>;
    type Retried = RetryLayer<buttress::verdict::Outcome, Cloned>;

    shared::<TimeoutLayer>();
    shared::<RetryLayer>();
    shared::<CircuitBreakerLayer>();
    shared::<RateLimitLayer>();
    shared::<LoadShedLayer>();
    shared::<buttress::ErrorLayer>();
    shared::<KeyedCircuitBreakerLayer<Key>>();
    shared::<KeyedRateLimitLayer<Key>>();
    shared::<KeyedLoadShedLayer<Key>>();
    shared::<KeyedStackLayer<Authority>>();
    shared::<(ByKey<Circuit>, ByKey<KeyedParts>)>();
    shared::<(Circuit, RateLimiter, ConcurrencyLimit, Budget)>();
    shared::<HedgeLayer>();
    shared::<ChaosLayer>();
    shared::<FallbackLayer<fn(u32)>>();
    shared::<(Hedging, Chaos, Quotas<2>)>();
    shared::<Rejection>();
    sent::<buttress::circuit_breaker::Permit>();
    sent::<buttress::load_shed::Slot>();
    sent::<buttress::rate_limit::Charge<2>>();
    sent::<buttress::retry::Withdrawal>();

    future_of::<TimeoutLayer, Strict>();
    future_of::<HedgeLayer<buttress::verdict::Outcome, Cloned>, Strict>();
    future_of::<ChaosLayer, Strict>();
    future_of::<Retried, Strict>();
    future_of::<CircuitBreakerLayer, Strict>();
    future_of::<RateLimitLayer, Strict>();
    future_of::<LoadShedLayer, Strict>();
    future_of::<KeyedCircuitBreakerLayer<Key>, Strict>();
    future_of::<KeyedRateLimitLayer<Key>, Strict>();
    future_of::<KeyedLoadShedLayer<Key>, Strict>();
    future_of::<buttress::ErrorLayer, Strict>();
}

#[test]
fn timeout_and_circuit_breaker_accept_services_that_are_not_clone() {
    struct NotClone;
    impl Service<u32> for NotClone {
        type Response = u32;
        type Error = Error<&'static str>;
        type Future = std::future::Ready<Res>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, n: u32) -> Self::Future {
            std::future::ready(Ok(n))
        }
    }
    let breaker = CircuitBreakerLayer::default().layer(NotClone);
    let mut service = TimeoutLayer::new(TICK).layer(breaker);
    let mut task = task::spawn(());
    let polled = task.enter(|cx, _| service.poll_ready(cx));
    assert!(matches!(polled, Poll::Ready(Ok(()))));
    let mut call = task::spawn(service.call(7));
    assert_eq!(call.poll(), Poll::Ready(Ok(7)));
}
