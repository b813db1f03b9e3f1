//! Stacks with the feature `metrics`.

use super::keyed::KeyedStackLayer;
use super::layer::StackLayer;
use super::parts::{Each, MakeParts};
use crate::circuit_breaker::Circuit;
use crate::event::Observers;
use crate::http::Pauses;
use crate::load_shed::ConcurrencyLimit;
use crate::metrics::{Events, zero_circuit, zero_limit, zero_limiter, zero_retries, zero_timeouts};
use crate::rate_limit::{QuotaOf, RateLimiter};
use crate::retry::RetryLayer;

fn add(observers: Option<&Observers>, events: Events) {
    if let Some(observers) = observers {
        observers.add(events.shared());
    }
}

impl<C, R, K, D, U, W, P: Pauses> StackLayer<C, R, K, D, U, W, P> {
    pub(super) fn switch_on_metrics(&self) {
        add(Some(self.deadline.observers()), Events::Deadline);
        add(Some(self.attempt.observers()), Events::AttemptTimeout);
        add(self.retrying().map(RetryLayer::observers), Events::Single);
        add(
            self.limit().map(ConcurrencyLimit::observers),
            Events::Single,
        );
        add(self.limiter().map(RateLimiter::observers), Events::Single);
        add(self.circuit().map(Circuit::observers), Events::Single);

        let names = [self.deadline.snapshot().name, self.attempt.snapshot().name];
        let retries = self.retrying().map(|retry| retry.snapshot().name);
        let limit = self.limit().map(|limit| limit.snapshot().name);
        let limiter = self.limiter().map(|limiter| limiter.snapshot().name);
        let circuit = self.circuit().map(Circuit::weak);
        let zero = move || {
            zero_timeouts(names);
            retries.into_iter().for_each(zero_retries);
            limit.into_iter().for_each(zero_limit);
            limiter.into_iter().for_each(zero_limiter);
            if let Some(circuit) = circuit.as_ref().and_then(|circuit| circuit()) {
                let seen = circuit.snapshot();
                zero_circuit(seen.name, seen.state);
            }
        };
        if let Some(retry) = &self.retry {
            retry.measure(zero);
        }
    }
}

impl<F, Q, C, R, K, D, U, W, P> KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    pub(super) fn switch_on_metrics(&self) {
        let MakeParts {
            limit,
            limiter,
            circuit,
            ..
        } = &self.lookup.store.make;
        add(Some(self.deadline.observers()), Events::Deadline);
        add(Some(self.attempt.observers()), Events::AttemptTimeout);
        add(self.retrying().map(RetryLayer::observers), Events::Single);
        let limit = limit.as_ref().map(|limit| match limit {
            Each::Own(make) => &make.observers,
            Each::Shared(limit) => limit.observers(),
        });
        let limiter = limiter.as_ref().map(|limiter| match limiter {
            Each::Own(make) => &make.observers,
            Each::Shared(limiter) => limiter.observers(),
        });
        add(limit, Events::Single);
        add(limiter, Events::Single);
        add(circuit.as_ref().map(|make| &make.observers), Events::Keyed);

        let names = [self.deadline.snapshot().name, self.attempt.snapshot().name];
        let retries = self.retrying().map(|retry| retry.snapshot().name);
        let zero = move || {
            zero_timeouts(names);
            retries.into_iter().for_each(zero_retries);
        };
        if let Some(retry) = &self.retry {
            retry.measure(zero);
        }
    }
}
