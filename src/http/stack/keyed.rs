//! The recommended stack, with a circuit, a budget and limits for each key.

use super::super::{Idempotent, InExtensions, Pauses, StatusClassifier};
use super::layer::line;
use super::parts::{Each, Kept, KeyedParts, MakeParts};
use super::{Part, StackBuilder};
use crate::circuit_breaker::MakeCircuit;
use crate::error::{ErrorLayer, InvalidConfig, WrapError};
use crate::gate::{Gate, GateLayer, UntilHead};
use crate::keyed::{ByKey, Inside, KeyedBuilder, Lookup, Make, OfRequest, Route, Store, Unkeyed};
use crate::load_shed::MakeLimit;
use crate::rate_limit::{MakeLimiter, Quota, QuotaOf};
use crate::retry::{Dropped, Measured, RetryBuilder, RetryLayer, RetrySnapshot};
use crate::timeout::{Timeout, TimeoutLayer};
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::{Layer, Service};

impl<C, R, K, D, U, W, P> StackBuilder<C, R, K, D, U, W, P> {
    /// Gives each key its own circuit, retry budget and limits. A [key](crate::keyed) is the host of a
    /// request ([`Authority`](super::super::Authority)), or what a function of yours returns. A handle
    /// that you passed in stays shared by all keys. Comes after all other settings.
    ///
    /// With [`pause_on_429`](Self::pause_on_429), a 429 pauses the limiter of its key. This needs a
    /// circuit breaker.
    ///
    /// ```
    /// use buttress::http::{Authority, stack};
    /// use buttress::keyed::Keys;
    ///
    /// let layer = stack().load_shed(64).per_key(Authority).keys(Keys::at_most(500)).build()?;
    /// assert!(layer.by_key().get("orders.internal").is_none()); // not called yet
    /// # Ok::<(), buttress::error::InvalidConfig>(())
    /// ```
    pub fn per_key<F>(self, key: F) -> KeyedBuilder<Self, F> {
        KeyedBuilder::new(self, key)
    }
}

impl<C, R, K, D, U, W, P, F, Q> KeyedBuilder<StackBuilder<C, R, K, D, U, W, P>, F, Q> {
    /// Gives some keys a quota of their own. Called once for each new key. Needs a rate limit, whose
    /// quota the other keys have.
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn quota_of<G: Fn(&str) -> Option<Quota>>(
        self,
        quota_of: G,
    ) -> KeyedBuilder<StackBuilder<C, R, K, D, U, W, P>, F, G> {
        self.with_quota_of(quota_of)
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`StackBuilder::build`]. `when_open` of the circuit breaker is `NotReady`; `keys`
    /// allows none; `pause_on_429` is set without a circuit breaker; `registered` is set; `quota_of` is set without a rate limit of
    /// the keys' own.
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn build(self) -> Result<KeyedStackLayer<F, Q, C, R, K, D, U, W, P>, InvalidConfig>
    where
        C: Clone,
        K: Clone,
        Q: QuotaOf,
        P: Pauses,
    {
        let stack = self.each;
        let super::Parts {
            deadline,
            retry,
            load_shed,
            rate_limit,
            breaker,
            attempt_timeout,
            name,
            observers,
            registry,
            metrics,
        } = stack.parts;
        if registry.is_some() {
            let allowed = "unset: add the layer with `Registry::add` after it is built";
            return Err(InvalidConfig::new("registered", true, allowed));
        }
        if P::PAUSES && (rate_limit.is_none() || breaker.is_none()) {
            let allowed = "set only with a rate limit and a circuit breaker";
            return Err(InvalidConfig::new("pause_on_429", true, allowed));
        }
        if Q::IS_SET && !matches!(rate_limit, Some(Part::Own(_))) {
            let allowed = "set only with a rate limit that the keys do not share";
            return Err(InvalidConfig::new("quota_of", true, allowed));
        }
        let limit = match load_shed {
            None => None,
            Some(Part::Shared(limit)) => Some(Each::Shared(limit)),
            Some(Part::Own(mut settings)) => {
                settings.name = settings.name.or(name);
                Some(Each::Own(MakeLimit::new(settings)?))
            }
        };
        let limiter = match rate_limit {
            None => None,
            Some(Part::Shared(limiter)) => Some(Each::Shared(limiter)),
            Some(Part::Own(mut settings)) => {
                settings.name = settings.name.or(name);
                Some(Each::Own(MakeLimiter::new(settings, (), self.quota_of)?))
            }
        };
        let circuit = match breaker {
            None => None,
            Some(breaker) => {
                let settings = breaker.named_if_unnamed(name).into_settings();
                Some(MakeCircuit::new(settings, stack.classify.clone())?)
            }
        };
        let (mut retry, mut budget) = (retry.map(|retry| retry.named_if_unnamed(name)), None);
        if let Some((builder, name)) = retry.clone().and_then(RetryBuilder::without_own_budget) {
            (retry, budget) = (Some(builder), Some(name));
        }
        let measures = metrics.then(|| RetryLayer::builder().only_measures().name(name));
        let retry = match retry.or(measures) {
            None => None,
            Some(retry) => {
                let retry = retry.classify(P::classify(stack.classify, None));
                let retry = retry.replay(Inside(stack.replay));
                Some(retry.discard(stack.discard).build()?)
            }
        };
        let make = MakeParts {
            limit,
            limiter,
            circuit,
            budget,
            pauses: PhantomData,
        };
        let carrier = &stack.gate.carrier;
        let timeout = |after| {
            TimeoutLayer::builder(after)
                .name(name)
                .carrier(carrier.clone())
        };
        let layer = KeyedStackLayer {
            deadline: timeout(deadline).build()?,
            lookup: Arc::new(Lookup::new(self.key, Store::new(make, self.keys)?)),
            retry,
            attempt: timeout(attempt_timeout).per_request().build()?,
            gate: GateLayer::of(OfRequest::new()).carrier(Inside(carrier.clone())),
            ends: PhantomData,
        };
        observers.iter().for_each(|observer| layer.add(observer));
        #[cfg(feature = "metrics")]
        if metrics {
            layer.switch_on_metrics();
        }
        Ok(layer)
    }

    /// Builds the stack around `client`.
    ///
    /// # Errors
    /// The errors of [`build`](Self::build).
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn service<S>(
        self,
        client: S,
    ) -> Result<KeyedStack<S, F, Q, C, R, K, D, U, W, P>, InvalidConfig>
    where
        S: Clone,
        C: Clone,
        R: Clone,
        K: Clone,
        D: Clone,
        Q: QuotaOf,
        P: Pauses<Classify<C>: Clone>,
    {
        Ok(self.build()?.layer(client))
    }
}

/// Makes [`KeyedStack`] services that keep a circuit, a budget and limits for each key. Built by
/// [`per_key`](StackBuilder::per_key). Printing it (`Display`) prints the settings of a key.
///
/// ```
/// use buttress::Quota;
/// use buttress::http::{Authority, stack};
///
/// let layer = stack().rate_limit(Quota::per_second(200)).per_key(Authority).build()?;
/// layer.set_quota(Quota::per_second(100)); // of all hosts
/// assert!(layer.to_string().contains("for each of at most 1024 keys"));
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
pub struct KeyedStackLayer<
    F,
    Q = (),
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P = (),
> where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    pub(super) deadline: TimeoutLayer<K>,
    pub(super) lookup: Arc<Lookup<F, MakeParts<C, Q, P>>>,
    pub(super) retry: Option<RetryLayer<P::Classify<C>, Inside<R>, D>>,
    gate: GateLayer<OfRequest<Kept<P::Classify<C>>>, Inside<K>>,
    pub(super) attempt: TimeoutLayer<K>,
    ends: PhantomData<fn() -> (U, W)>,
}

impl<F, Q, C, R, K, D, U, W, P> KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    /// The parts of all keys.
    #[must_use]
    pub fn by_key(&self) -> ByKey<KeyedParts>
    where
        F: Send + Sync + 'static,
        Q: Send + Sync + 'static,
        C: Send + Sync + 'static,
        P: 'static,
        P::Classify<C>: Send + Sync,
    {
        ByKey::new(self.lookup.clone())
    }

    /// The retry, unless it only measures.
    pub(super) fn retrying(&self) -> Option<&RetryLayer<P::Classify<C>, Inside<R>, D>> {
        self.retry.as_ref().filter(|retry| retry.retries())
    }

    /// The counters of the retry, of all keys together, if there is one.
    #[must_use]
    pub fn retry_snapshot(&self) -> Option<RetrySnapshot> {
        self.retrying().map(RetryLayer::snapshot)
    }

    /// Changes the quota of all keys, present and new, that have none of their own. Does nothing if the
    /// stack has no rate limit, or one that all keys share.
    pub fn set_quota(&self, quota: Quota) {
        let store = &self.lookup.store;
        let Some(Each::Own(make)) = &store.make.limiter else {
            return;
        };
        make.set_quota(quota);
        let set = |state: &Kept<P::Classify<C>>| store.make.made(state);
        store.for_each_state(|_, state| set(state));
        store.for_the_others(set);
    }
}

impl<F, Q, C, R, K, D, U, W, P> Clone for KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    R: Clone,
    K: Clone,
    D: Clone,
    P: Pauses<Classify<C>: Clone>,
{
    fn clone(&self) -> Self {
        Self {
            deadline: self.deadline.clone(),
            lookup: self.lookup.clone(),
            retry: self.retry.clone(),
            gate: self.gate.clone(),
            attempt: self.attempt.clone(),
            ends: PhantomData,
        }
    }
}

impl<F, Q, C, R, K, D, U, W, P> fmt::Debug for KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStackLayer")
            .field("keys", &self.lookup.store)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// Prints the settings of a key, one line for each part.
impl<F, Q, C, R, K, D, U, W, P> fmt::Display for KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = &self.lookup.store;
        let parts = store.make.handle(store.keyless());
        writeln!(f, "{} for the whole call", self.deadline)?;
        writeln!(f, "for each of at most {} keys:", store.capacity())?;
        line(f, "retry", self.retrying())?;
        if let Some(budget) = parts.budget() {
            writeln!(f, "{budget}")?;
        }
        line(f, "load shed", parts.limit())?;
        line(f, "rate limit", parts.limiter())?;
        line(f, "circuit breaker", parts.circuit())?;
        write!(f, "{} for each attempt", self.attempt)
    }
}

type Gated<S, C, K, U, W> =
    Gate<Unkeyed<Timeout<WrapError<S, W>, K>>, OfRequest<Kept<C>>, Inside<K>, U>;
type Retried<S, C, R, K, D, U, W> = Measured<Gated<S, C, K, U, W>, C, Inside<R>, D>;
type Whole<S, F, Q, C, R, K, D, U, W, P> =
    Timeout<Route<Retried<S, <P as Pauses>::Classify<C>, R, K, D, U, W>, F, MakeParts<C, Q, P>>, K>;

/// The service that [`KeyedStackLayer`] makes: the recommended layers around a client `S`, with a
/// circuit, a budget and limits for each key. The [module `keyed`](crate::keyed) has an example.
///
/// Keep one stack and clone it for each call, as a [`Stack`](super::Stack).
///
/// ```
/// use buttress::http::{Authority, KeyedStack, stack};
///
/// /// Takes any client, and returns a nameable type.
/// fn per_host<C: Clone>(client: C) -> KeyedStack<C, Authority> {
///     stack().per_key(Authority).service(client).expect("the defaults are valid")
/// }
/// # let _ = per_host(());
/// ```
pub struct KeyedStack<
    S,
    F,
    Q = (),
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P = (),
> where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    inner: Whole<S, F, Q, C, R, K, D, U, W, P>,
}

impl<S, F, Q, C, R, K, D, U, W, P> Layer<S> for KeyedStackLayer<F, Q, C, R, K, D, U, W, P>
where
    S: Clone,
    C: Clone,
    Q: QuotaOf,
    R: Clone,
    K: Clone,
    D: Clone,
    P: Pauses<Classify<C>: Clone>,
{
    type Service = KeyedStack<S, F, Q, C, R, K, D, U, W, P>;

    fn layer(&self, client: S) -> Self::Service {
        let attempt = Unkeyed(self.attempt.layer(WrapError::new(client)));
        let gate = Gate::new(attempt, self.gate.admission, self.gate.carrier.clone());
        let retried = Measured::new(self.retry.as_ref(), gate);
        let route = Route::new(retried, self.lookup.clone());
        KeyedStack {
            inner: self.deadline.layer(route),
        }
    }
}

impl<S, F, Q, C, R, K, D, U, W, P> Clone for KeyedStack<S, F, Q, C, R, K, D, U, W, P>
where
    S: Clone,
    C: Clone,
    Q: QuotaOf,
    K: Clone,
    P: Pauses,
{
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

// As for `Stack`: inherent methods give better compiler errors.
impl<S, F, Q, C, R, K, D, U, W, P> KeyedStack<S, F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    /// Waits until the stack is ready for a call. The same as in tower's `ServiceExt`.
    ///
    /// # Errors
    /// The client fails to become ready.
    pub async fn ready<Req>(&mut self) -> Result<&mut Self, <Self as Service<Req>>::Error>
    where
        Self: Service<Req>,
    {
        poll_fn(|cx| Service::poll_ready(self, cx)).await?;
        Ok(self)
    }

    /// Waits until the stack is ready, and calls it once. The same as in tower's `ServiceExt`.
    ///
    /// # Errors
    /// The client fails to become ready, or the call fails.
    pub async fn oneshot<Req>(
        mut self,
        req: Req,
    ) -> Result<<Self as Service<Req>>::Response, <Self as Service<Req>>::Error>
    where
        Self: Service<Req>,
    {
        self.ready().await?.call(req).await
    }
}

impl<S, F, Q, C, R, K, D, U, W, P, Req> Service<Req> for KeyedStack<S, F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
    Whole<S, F, Q, C, R, K, D, U, W, P>: Service<Req>,
{
    type Response = <Whole<S, F, Q, C, R, K, D, U, W, P> as Service<Req>>::Response;
    type Error = <Whole<S, F, Q, C, R, K, D, U, W, P> as Service<Req>>::Error;
    type Future = <Whole<S, F, Q, C, R, K, D, U, W, P> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        self.inner.call(req)
    }
}

impl<S, F, Q, C, R, K, D, U, W, P> fmt::Debug for KeyedStack<S, F, Q, C, R, K, D, U, W, P>
where
    C: Clone,
    Q: QuotaOf,
    P: Pauses,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedStack").finish_non_exhaustive()
    }
}
