//! Layers in the setups that the tests use, and the outcome that each setup must produce.

use super::{Boxed, Res, TICK};
use buttress::circuit_breaker::Circuit;
use buttress::fallback::Failed;
use buttress::hedge::HedgeAt;
use buttress::load_shed::ConcurrencyLimit;
use buttress::retry::{Backoff, Budget, Cloned, Jitter};
use buttress::timeout::TimeoutLayer;
use buttress::{
    Carrier, ChaosLayer, CircuitBreakerLayer, Deadline, Error, FallbackLayer, HedgeLayer,
    LoadShedLayer, Quota, RateLimitLayer, Rejection, RetryLayer, Verdict,
};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service};

/// Gives every request a deadline that is far away.
#[derive(Clone)]
struct FarAway;

impl Carrier<u32> for FarAway {
    fn get(&self, _: &u32) -> Option<Deadline> {
        Some(Deadline::after(Duration::from_secs(3_600)))
    }

    fn set(&self, _: &mut u32, _: Deadline) {}
}

/// All requests have one key.
#[expect(clippy::unnecessary_wraps, reason = "a request may have no key")]
fn one_key(_: &u32) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed("key"))
}

/// No request has a key.
fn no_key(_: &u32) -> Option<Cow<'_, str>> {
    None
}

/// A layer in one particular setup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Setup {
    Timeout,
    TimesOut,
    Deadline,
    Retry,
    RetriesOnce,
    Breaker,
    Open,
    Limit,
    OverLimit,
    WaitsForTurn,
    Shed,
    Full,
    Queues,
    KeyedBreaker,
    KeyedShed,
    KeyedWaits,
    Fallback,
    FallsBack,
    Hedge,
    Hedges,
    Chaos,
}

pub(crate) const ALL: [Setup; 21] = [
    Setup::Timeout,
    Setup::TimesOut,
    Setup::Deadline,
    Setup::Retry,
    Setup::RetriesOnce,
    Setup::Breaker,
    Setup::Open,
    Setup::Limit,
    Setup::OverLimit,
    Setup::WaitsForTurn,
    Setup::Shed,
    Setup::Full,
    Setup::Queues,
    Setup::KeyedBreaker,
    Setup::KeyedShed,
    Setup::KeyedWaits,
    Setup::Fallback,
    Setup::FallsBack,
    Setup::Hedge,
    Setup::Hedges,
    Setup::Chaos,
];

/// The handles of the layers, to check that nothing leaks.
#[derive(Default)]
pub(crate) struct Handles {
    pub(crate) limits: Vec<ConcurrencyLimit>,
    pub(crate) circuits: Vec<Circuit>,
    pub(crate) budgets: Vec<Budget>,
    /// Each call holds one slot of these for one tick.
    pub(crate) queues: Vec<ConcurrencyLimit>,
}

impl Handles {
    pub(crate) fn occupy_queues(&self) {
        for queue in &self.queues {
            if let Ok(slot) = queue.try_acquire() {
                tokio::spawn(async move {
                    tokio::time::sleep(TICK).await;
                    drop(slot);
                });
            }
        }
    }

    pub(crate) fn assert_nothing_held(&self, what: &dyn std::fmt::Debug) {
        for limit in &self.limits {
            let snapshot = limit.snapshot();
            assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0), "{what:?}");
        }
        for circuit in &self.circuits {
            assert_eq!(circuit.snapshot().probes_out, 0, "{what:?}");
        }
    }
}

impl Setup {
    #[expect(clippy::too_many_lines, reason = "one arm for each setup")]
    pub(crate) fn over(self, inner: Boxed, handles: &mut Handles) -> Boxed {
        match self {
            Self::Timeout => box_of(TimeoutLayer::new(Duration::MAX).layer(inner)),
            Self::TimesOut => box_of(TimeoutLayer::new(Duration::ZERO).layer(inner)),
            Self::Deadline => {
                let builder = TimeoutLayer::builder(Duration::MAX).carrier(FarAway);
                box_of(builder.build().unwrap().layer(inner))
            }
            Self::Retry => {
                let layer = RetryLayer::builder().replay(Cloned).build().unwrap();
                handles.budgets.extend(layer.budget().cloned());
                box_of(layer.layer(inner))
            }
            Self::RetriesOnce => {
                // Classify every other outcome as transient, so that each call is sent twice.
                let first = Arc::new(AtomicBool::new(false));
                let judge = move |_: Result<&u32, &Error<&'static str>>| {
                    let first = !first.fetch_xor(true, SeqCst);
                    if first {
                        Verdict::TRANSIENT
                    } else {
                        Verdict::Healthy
                    }
                };
                let backoff = Backoff::exponential(TICK, TICK).jitter(Jitter::None);
                let layer = RetryLayer::builder()
                    .attempts(2)
                    .replay(Cloned)
                    .classify(judge);
                let layer = layer.backoff(backoff).build().unwrap();
                handles.budgets.extend(layer.budget().cloned());
                box_of(layer.layer(inner))
            }
            Self::Breaker => {
                let layer = CircuitBreakerLayer::default();
                handles.circuits.push(layer.circuit().clone());
                box_of(layer.layer(inner))
            }
            Self::Open => {
                let layer = CircuitBreakerLayer::default();
                layer.circuit().force_open();
                box_of(layer.layer(inner))
            }
            Self::Limit => box_of(RateLimitLayer::new(Quota::per_second(1_000_000)).layer(inner)),
            Self::OverLimit => box_of(RateLimitLayer::new(Quota::per_second(0)).layer(inner)),
            Self::WaitsForTurn => {
                let quota = Quota::new(1, TICK).burst(1);
                let layer = RateLimitLayer::builder(quota)
                    .max_wait(Duration::MAX)
                    .build()
                    .unwrap();
                layer
                    .limiter()
                    .pause_until(tokio::time::Instant::now() + TICK);
                box_of(layer.layer(inner))
            }
            Self::Shed => {
                let layer = LoadShedLayer::new(100);
                handles.limits.push(layer.limit().clone());
                box_of(layer.layer(inner))
            }
            Self::Full => box_of(LoadShedLayer::new(0).layer(inner)),
            Self::Queues => {
                let layer = LoadShedLayer::builder(1)
                    .queue(5, Duration::MAX)
                    .build()
                    .unwrap();
                handles.limits.push(layer.limit().clone());
                handles.queues.push(layer.limit().clone());
                box_of(layer.layer(inner))
            }
            Self::KeyedBreaker => {
                let layer = CircuitBreakerLayer::builder().per_key(no_key);
                let layer = layer.build().unwrap();
                handles.circuits.push(layer.by_key().keyless());
                box_of(layer.layer(inner))
            }
            Self::KeyedShed => {
                let layer = LoadShedLayer::builder(100).per_key(one_key);
                box_of(layer.build().unwrap().layer(inner))
            }
            Self::KeyedWaits => {
                let layer = RateLimitLayer::builder(Quota::new(1, TICK).burst(1));
                let layer = layer.max_wait(Duration::MAX).per_key(no_key);
                let layer = layer.build().unwrap();
                let until = tokio::time::Instant::now() + TICK;
                layer.by_key().keyless().pause_until(until);
                box_of(layer.layer(inner))
            }
            Self::Fallback => {
                let layer = FallbackLayer::to(inner.clone()).when(|_, _| false);
                box_of(layer.replay(Cloned).layer(inner))
            }
            // Switched off.
            Self::Chaos => box_of(
                ChaosLayer::builder()
                    .hang(1.0)
                    .build()
                    .unwrap()
                    .layer(inner),
            ),
            Self::Hedge | Self::Hedges => {
                let delay = if self == Self::Hedge {
                    Duration::MAX
                } else {
                    Duration::ZERO
                };
                let layer = HedgeLayer::builder().at(HedgeAt::after(delay));
                let layer = layer.replay(Cloned).build().unwrap();
                handles.budgets.push(layer.hedging().budget().clone());
                box_of(layer.layer(inner))
            }
            Self::FallsBack => {
                let layer = FallbackLayer::new(|failed: Failed<u32, u32, _>| {
                    std::future::ready(failed.outcome.or(Ok(failed.req.unwrap())))
                });
                box_of(layer.replay(Cloned).layer(inner))
            }
        }
    }

    /// The outcome of this layer, given the outcome of the service below it.
    pub(crate) fn expected(self, below: Expected) -> Expected {
        let outcome_of = |outcome| Expected { outcome, ..below };
        let at_once = |outcome| Expected {
            readiness: Now,
            outcome: (Now, outcome),
        };
        let shed = match below.readiness {
            Later => (Now, Outcome::Overloaded),
            Now => below.outcome,
        };
        match self {
            Self::Timeout
            | Self::Deadline
            | Self::Retry
            | Self::Breaker
            | Self::Limit
            | Self::KeyedBreaker
            | Self::KeyedShed
            | Self::Fallback
            | Self::Hedge
            | Self::Hedges
            | Self::Chaos => below,
            Self::FallsBack => outcome_of((below.outcome.0, Outcome::Ok)),
            Self::TimesOut => match below {
                // A response on the first poll beats the timer.
                Expected {
                    readiness: Now,
                    outcome: (Now, outcome),
                } => at_once(outcome),
                _ => at_once(Outcome::TimedOut),
            },
            // The call is retried, unless it was rejected. A timeout is the one rejection that is
            // retried.
            Self::RetriesOnce => match below.outcome.1 {
                Outcome::Ok | Outcome::TimedOut => outcome_of((Later, below.outcome.1)),
                _ => below,
            },
            Self::Open => at_once(Outcome::CircuitOpen),
            Self::OverLimit => outcome_of((Now, Outcome::RateLimited)),
            Self::WaitsForTurn | Self::KeyedWaits => outcome_of((Later, below.outcome.1)),
            Self::Shed => Expected {
                readiness: Now,
                outcome: shed,
            },
            Self::Full => at_once(Outcome::Overloaded),
            Self::Queues => Expected {
                readiness: Now,
                outcome: (Later, shed.1),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    Now,
    Later,
}
pub(crate) use When::{Later, Now};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Ok,
    TimedOut,
    CircuitOpen,
    RateLimited,
    Overloaded,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) readiness: When,
    pub(crate) outcome: (When, Outcome),
}

pub(crate) fn seen(result: Res) -> Outcome {
    match result {
        Ok(7) => Outcome::Ok,
        Err(Error::Rejected(Rejection::TimedOut { .. })) => Outcome::TimedOut,
        Err(Error::Rejected(Rejection::CircuitOpen { .. })) => Outcome::CircuitOpen,
        Err(Error::Rejected(Rejection::RateLimited { .. })) => Outcome::RateLimited,
        Err(Error::Rejected(Rejection::Overloaded { .. })) => Outcome::Overloaded,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn box_of<S>(service: S) -> Boxed
where
    S: Service<u32, Response = u32, Error = Error<&'static str>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(service)
}
