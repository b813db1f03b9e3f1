//! What a stack keeps for each key.

use super::super::Pauses;
use super::layer::Admissions;
use crate::circuit_breaker::{Circuit, Guarded, MakeCircuit};
use crate::keyed::{Budgeted, Make, State};
use crate::load_shed::{ConcurrencyLimit, MakeLimit};
use crate::name::Name;
use crate::rate_limit::{KeptLimiter, MakeLimiter, Metered, Quota, QuotaOf, RateLimiter};
use crate::retry::Budget;
use std::marker::PhantomData;
use tokio::time::Instant;

/// The parts of a stack that one key has.
///
/// ```
/// use buttress::http::{Authority, stack};
/// use http::{Request, Response};
/// use std::convert::Infallible;
/// use tower::{Layer, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = stack().load_shed(64).per_key(Authority).build()?;
/// let client = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(()))
/// }));
/// client.oneshot(Request::get("http://orders.internal/7").body(())?).await?;
///
/// let parts = layer.by_key().get("orders.internal").expect("it was called");
/// parts.circuit().unwrap().force_open();
/// parts.limit().unwrap().set_limit(32);
/// assert_eq!(parts.budget().unwrap().tokens(), 2.1); // a success earns a tenth of a retry
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KeyedParts {
    circuit: Option<Circuit>,
    limiter: Option<RateLimiter>,
    limit: Option<ConcurrencyLimit>,
    budget: Option<Budget>,
}

impl KeyedParts {
    /// The circuit of the key, if the stack has a circuit breaker.
    #[must_use]
    pub fn circuit(&self) -> Option<&Circuit> {
        self.circuit.as_ref()
    }

    /// The rate limiter of the key, if the stack has one.
    #[must_use]
    pub fn limiter(&self) -> Option<&RateLimiter> {
        self.limiter.as_ref()
    }

    /// The concurrency limit of the key, if the stack has one.
    #[must_use]
    pub fn limit(&self) -> Option<&ConcurrencyLimit> {
        self.limit.as_ref()
    }

    /// The retry budget of the key. `None` if the stack has no retry, no budget, or one for all keys.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref()
    }
}

/// A part of which each key has its own, or one for all keys.
#[derive(Debug)]
pub(super) enum Each<M, H> {
    Own(M),
    Shared(H),
}

/// Makes the parts of a key.
#[derive(Debug)]
pub struct MakeParts<C, Q, P> {
    pub(super) limit: Option<Each<MakeLimit, ConcurrencyLimit>>,
    pub(super) limiter: Option<Each<MakeLimiter<(), Q>, RateLimiter>>,
    pub(super) circuit: Option<MakeCircuit<C>>,
    /// The name of each key's budget, if each has one.
    pub(super) budget: Option<Name>,
    pub(super) pauses: PhantomData<fn() -> P>,
}

/// What a stack keeps for a key.
#[derive(Debug)]
pub struct Kept<C> {
    admissions: Admissions<C>,
    budget: Option<Budget>,
    /// The quota of the key, if it is not that of the others.
    own_quota: Option<Quota>,
}

impl<C> State for Kept<C> {
    type Admission = Admissions<C>;

    fn admission(&self) -> &Admissions<C> {
        &self.admissions
    }

    fn is_in_use(&self) -> bool {
        let (_, guarded) = &self.admissions;
        guarded.as_ref().is_some_and(State::is_in_use)
    }
}

impl<C> Budgeted for Kept<C> {
    fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref()
    }
}

impl<C: Clone, Q: QuotaOf, P: Pauses> MakeParts<C, Q, P> {
    fn parts(
        &self,
        limit: impl FnOnce(&MakeLimit) -> ConcurrencyLimit,
        limiter: impl FnOnce(&MakeLimiter<(), Q>) -> KeptLimiter<()>,
        circuit: impl FnOnce(&MakeCircuit<C>, Option<&RateLimiter>) -> Guarded<P::Classify<C>>,
        budget: impl FnOnce(Name) -> Name,
    ) -> Kept<P::Classify<C>> {
        let limit = self.limit.as_ref().map(|each| match each {
            Each::Own(make) => limit(make),
            Each::Shared(limit) => limit.clone(),
        });
        let (metered, own_quota) = match &self.limiter {
            None => (None, None),
            Some(Each::Own(make)) => {
                let KeptLimiter { metered, own } = limiter(make);
                (Some(metered), own)
            }
            Some(Each::Shared(limiter)) => (Some(Metered::new(limiter.clone(), ())), None),
        };
        let paused = metered.as_ref().map(Metered::limiter);
        let paused = paused.filter(|_| P::PAUSES);
        let guarded = self.circuit.as_ref().map(|make| circuit(make, paused));
        let budget = self.budget.map(|name| {
            let budget = Budget::builder().name(budget(name)).build();
            budget.expect("the defaults are valid")
        });
        Kept {
            admissions: ((limit, metered), guarded),
            budget,
            own_quota,
        }
    }
}

impl<C: Clone, Q: QuotaOf, P: Pauses> Make for MakeParts<C, Q, P> {
    type State = Kept<P::Classify<C>>;
    type Handle = KeyedParts;

    fn make(&self, key: Option<&str>) -> Self::State {
        self.parts(
            |make| make.make(key),
            |make| make.make(key),
            |make, paused| make.guarded(|classify| P::classify(classify.clone(), paused)),
            |name| name,
        )
    }

    fn overflow(&self) -> Self::State {
        self.parts(
            MakeLimit::overflow,
            MakeLimiter::overflow,
            |make, paused| make.closed(|classify| P::classify(classify.clone(), paused)),
            Name::overflow,
        )
    }

    fn made(&self, state: &Self::State) {
        let metered = state.admissions.0.1.as_ref();
        if let (Some(Each::Own(make)), Some(metered)) = (&self.limiter, metered) {
            make.refresh(metered.limiter(), state.own_quota);
        }
    }

    fn is_like_new(&self, state: &mut Self::State, now: Instant, idle: bool) -> bool {
        let ((limit, metered), guarded) = &mut state.admissions;
        // The classifier of the key's circuit breaker holds the limiter that it pauses.
        let holders = if P::PAUSES { 2 } else { 1 };
        let limit = match (&self.limit, limit) {
            (Some(Each::Own(make)), Some(limit)) => make.is_like_new(limit, now, idle),
            _ => true,
        };
        let limiter = match (&self.limiter, metered) {
            (Some(Each::Own(make)), Some(metered)) => {
                make.is_new(metered, state.own_quota, now, holders)
            }
            _ => true,
        };
        let budget = state.budget.as_mut();
        limit
            && limiter
            && budget.is_none_or(|budget| budget.is_like_new(now))
            && guarded.as_mut().is_none_or(|it| it.is_like_new(now, idle))
    }

    fn handle(&self, state: &Self::State) -> KeyedParts {
        let ((limit, metered), guarded) = &state.admissions;
        KeyedParts {
            circuit: guarded.as_ref().map(|guarded| guarded.circuit().clone()),
            limiter: metered.as_ref().map(|metered| metered.limiter().clone()),
            limit: limit.clone(),
            budget: state.budget.clone(),
        }
    }
}
