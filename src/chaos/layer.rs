use super::handle::{Chaos, Faults};
use super::service::ChaosService;
use super::settings::{Delay, Fault, check_share};
use crate::error::InvalidConfig;
use crate::name::Name;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower::Layer;

/// Makes [`ChaosService`] services that share one handle. The [module page](super) says what they do.
pub struct ChaosLayer<O = (), P = (), Y = (), M = ()> {
    chaos: Chaos,
    policies: Arc<Policies<O, P, Y, M>>,
}

pub(super) struct Policies<O, P, Y, M> {
    pub(super) outcome: O,
    pub(super) only: P,
    pub(super) per: Y,
    pub(super) mark: M,
}

impl ChaosLayer {
    /// A builder without faults.
    pub fn builder() -> ChaosBuilder {
        ChaosBuilder {
            shares: [0.0; 4],
            delays: [Delay::fixed(Duration::ZERO); 2],
            seed: None,
            max_active: usize::MAX,
            name: Name::UNNAMED,
            policies: Policies {
                outcome: (),
                only: (),
                per: (),
                mark: (),
            },
        }
    }
}

impl<O, P, Y, M> ChaosLayer<O, P, Y, M> {
    /// The handle that all services of this layer share.
    #[must_use]
    pub fn chaos(&self) -> &Chaos {
        &self.chaos
    }
}

impl<O, P, Y, M> Clone for ChaosLayer<O, P, Y, M> {
    fn clone(&self) -> Self {
        Self {
            chaos: self.chaos.clone(),
            policies: self.policies.clone(),
        }
    }
}

impl<S, O, P, Y, M> Layer<S> for ChaosLayer<O, P, Y, M> {
    type Service = ChaosService<S, O, P, Y, M>;

    fn layer(&self, inner: S) -> Self::Service {
        ChaosService::new(inner, self.chaos.clone(), self.policies.clone())
    }
}

impl<O, P, Y, M> fmt::Debug for ChaosLayer<O, P, Y, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosLayer")
            .field("chaos", &self.chaos)
            .finish_non_exhaustive()
    }
}

/// Prints the faults and whether they are on.
impl<O, P, Y, M> fmt::Display for ChaosLayer<O, P, Y, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chaos.fmt(f)
    }
}

/// Builds a [`ChaosLayer`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ChaosBuilder<O = (), P = (), Y = (), M = ()> {
    shares: [f64; 4],
    delays: [Delay; 2],
    seed: Option<u64>,
    max_active: usize,
    name: Name,
    policies: Policies<O, P, Y, M>,
}

impl<O, P, Y, M> ChaosBuilder<O, P, Y, M> {
    /// Delays this share of the answers, from 0 to 1. Default: 0.
    pub fn latency(mut self, share: f64, delay: Delay) -> Self {
        self.shares[Fault::Latency as usize] = share;
        self.delays[Fault::Latency as usize] = delay;
        self
    }

    /// Delays the sends of this share of the calls, from 0 to 1. Default: 0.
    pub fn latency_before(mut self, share: f64, delay: Delay) -> Self {
        self.shares[Fault::LatencyBefore as usize] = share;
        self.delays[Fault::LatencyBefore as usize] = delay;
        self
    }

    /// Ends this share of the calls, from 0 to 1, with an outcome of your own: a function from `&Req` to a result.
    /// They are not sent. Default: 0.
    pub fn outcome<Q>(self, share: f64, outcome: Q) -> ChaosBuilder<Q, P, Y, M> {
        let mut builder = self.with(|policies| Policies {
            outcome,
            only: policies.only,
            per: policies.per,
            mark: policies.mark,
        });
        builder.shares[Fault::Outcome as usize] = share;
        builder
    }

    /// Never ends this share of the calls, from 0 to 1, and does not send them. Default: 0.
    pub fn hang(mut self, share: f64) -> Self {
        self.shares[Fault::Hang as usize] = share;
        self
    }

    /// The calls that may get faults: a function from `&Req` to `bool`. Default: all.
    pub fn only<Q>(self, only: Q) -> ChaosBuilder<O, Q, Y, M> {
        self.with(|policies| Policies {
            outcome: policies.outcome,
            only,
            per: policies.per,
            mark: policies.mark,
        })
    }

    /// Lets the draws depend on a number of the request instead of the number of the call: a function from `&Req` to
    /// `u64`, such as a hash. Then the same request always gets the same faults. Default: off.
    pub fn per<Q>(self, per: Q) -> ChaosBuilder<O, P, Q, M> {
        self.with(|policies| Policies {
            outcome: policies.outcome,
            only: policies.only,
            per,
            mark: policies.mark,
        })
    }

    /// Where responses are marked as injected. Default: `()`, nowhere. [`InExtensions`](crate::http::InExtensions)
    /// puts [`Injected`](super::Injected) into the extensions of an HTTP response.
    pub fn mark<N>(self, mark: N) -> ChaosBuilder<O, P, Y, N> {
        self.with(|policies| Policies {
            outcome: policies.outcome,
            only: policies.only,
            per: policies.per,
            mark,
        })
    }

    /// Makes the faults repeatable: those of the n-th call depend only on the seed and on n. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The most calls that have a fault at once, injected outcomes included. A call beyond it gets none. Default: no
    /// limit.
    pub fn max_active(mut self, max_active: usize) -> Self {
        self.max_active = max_active;
        self
    }

    /// The name in events and snapshots. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self
    }

    fn with<A, B, C, D>(
        self,
        change: impl FnOnce(Policies<O, P, Y, M>) -> Policies<A, B, C, D>,
    ) -> ChaosBuilder<A, B, C, D> {
        ChaosBuilder {
            shares: self.shares,
            delays: self.delays,
            seed: self.seed,
            max_active: self.max_active,
            name: self.name,
            policies: change(self.policies),
        }
    }

    /// Builds the layer, switched off.
    ///
    /// # Errors
    /// A share is not from 0 to 1, or a delay is not valid: the shortest above the longest, a median of zero or above
    /// `p99`.
    pub fn build(self) -> Result<ChaosLayer<O, P, Y, M>, InvalidConfig> {
        for fault in Fault::ALL {
            check_share(fault.as_str(), self.shares[fault as usize])?;
            if let Some(delay) = self.delays.get(fault as usize) {
                delay.check(fault.as_str())?;
            }
        }
        let chaos = Chaos::new(Faults {
            shares: self.shares,
            delays: self.delays,
            seed: self.seed.unwrap_or_else(rand::random),
            max_active: self.max_active,
            name: self.name,
        });
        Ok(ChaosLayer {
            chaos,
            policies: Arc::new(self.policies),
        })
    }
}

impl<O, P, Y, M> fmt::Debug for ChaosBuilder<O, P, Y, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosBuilder")
            .field("shares", &self.shares)
            .field("delays", &self.delays)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
