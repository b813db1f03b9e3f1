use super::backoff::Backoff;
use super::discard::Dropped;
use super::policy::{Policy, RetrySnapshot, RetryState};
use super::service::Retry;
use super::settings::RetrySettings;
use crate::budget::Budget;
use crate::error::InvalidConfig;
use crate::event::{Observe, Observers};
use crate::name::Name;
use crate::replay::Idempotent;
use crate::time::Shown;
use crate::verdict::Outcome;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower::Layer;

/// Makes [`Retry`] services that share one budget. The [module page](super) says what they do.
///
/// Building the layer makes the budget, unless you pass one in. All clones of the layer, all services
/// that they make and all clones of these services share it. Applying the layer only clones handles.
///
/// ```
/// use buttress::RetryLayer;
/// use buttress::retry::Budget;
///
/// // Two layers that draw on one budget.
/// let budget = Budget::builder().floor(4).build()?;
/// let reads = RetryLayer::from(budget.clone());
/// let searches = RetryLayer::builder().attempts(2).budget(budget).build()?;
///
/// assert_eq!(reads.budget().unwrap().tokens(), 4.0);
/// assert_eq!(searches.snapshot().retries, 0);
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct RetryLayer<C = Outcome, R = Idempotent, D = Dropped> {
    policy: Arc<Policy>,
    classify: C,
    replay: R,
    discard: D,
}

impl RetryLayer {
    /// A builder with the default settings.
    pub fn builder() -> RetryBuilder {
        RetryBuilder {
            settings: RetrySettings::default(),
            budget: Budgeting::Own,
            classify: Outcome,
            replay: Idempotent,
            discard: Dropped,
            only_measures: false,
        }
    }

    /// A layer with the default settings. The same as [`RetryLayer::default`].
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the defaults are valid")]
    pub fn new() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer with the default settings that draws on a budget of yours.
impl From<Budget> for RetryLayer {
    fn from(budget: Budget) -> Self {
        let builder = Self::builder().budget(budget);
        builder.build().expect("the defaults are valid")
    }
}

impl<C, R, D> RetryLayer<C, R, D> {
    /// The budget that all services of this layer share. `None` after
    /// [`no_budget`](RetryBuilder::no_budget).
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.policy.budget.as_ref()
    }

    /// Reads the counters, as long as the layer or a service of it is there.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<RetryState> + Send + Sync + 'static {
        let policy = Arc::downgrade(&self.policy);
        move || {
            let policy = policy.upgrade()?;
            Some(RetryState {
                attempts: policy.settings.attempts,
                counts: policy.snapshot(),
                tokens: policy.budget.as_ref().map(Budget::tokens),
            })
        }
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.policy.observers
    }

    /// Counts the events of all services of this layer through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.policy
            .observers
            .add(crate::metrics::Events::observer());
    }

    /// Measures calls and attempts. `others` makes the metrics of other layers, so that they are there from the first call on.
    #[cfg(feature = "metrics")]
    pub(crate) fn measure(&self, others: impl Fn() + Send + Sync + 'static) {
        self.policy
            .meter
            .switch_on(self.policy.settings.name, others);
    }

    /// Whether it does more than measure.
    pub(crate) fn retries(&self) -> bool {
        !self.policy.only_measures
    }

    /// Adds an observer of the events of all services of this layer. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.policy.observers.add(Arc::new(observer));
    }

    /// The counters of all services of this layer, since the layer was built.
    #[must_use]
    pub fn snapshot(&self) -> RetrySnapshot {
        self.policy.snapshot()
    }
}

impl<S: Clone, C: Clone, R: Clone, D: Clone> Layer<S> for RetryLayer<C, R, D> {
    type Service = Retry<S, C, R, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(
            inner,
            self.policy.clone(),
            self.classify.clone(),
            self.replay.clone(),
            self.discard.clone(),
        )
    }
}

impl<C, R, D> fmt::Debug for RetryLayer<C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("settings", &self.policy.settings)
            .field("budget", &self.policy.budget)
            .finish_non_exhaustive()
    }
}

/// Prints the settings on one line, for people.
impl<C, R, D> fmt::Display for RetryLayer<C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RetrySettings {
            attempts,
            backoff,
            max_retry_after,
            name,
            ..
        } = self.policy.settings;
        let asked = Shown(max_retry_after);
        write!(
            f,
            "retry{name}: {attempts} attempts, {backoff}, up to {asked} if asked for, "
        )?;
        match &self.policy.budget {
            Some(budget) => budget.fmt(f),
            None => f.write_str("no budget"),
        }
    }
}

/// Builds a [`RetryLayer`]. The [module page](super#settings) lists all settings and their defaults.
///
/// ```
/// use buttress::retry::{Backoff, Budget, Cloned};
/// use buttress::{RetryLayer, Verdict};
/// use std::time::Duration;
///
/// fn judge(outcome: Result<&String, &buttress::Error<std::io::Error>>) -> Verdict {
///     if outcome.is_ok() { Verdict::Healthy } else { Verdict::TRANSIENT }
/// }
///
/// let layer = RetryLayer::builder()
///     .name("orders")
///     .attempts(4)
///     .backoff(Backoff::exponential(Duration::from_millis(100), Duration::from_secs(2)))
///     .budget(Budget::builder().floor(3).build()?)
///     .max_retry_after(Duration::from_secs(10))
///     .classify(judge)
///     .replay(Cloned)
///     .build()?;
/// assert!(layer.to_string().starts_with("retry \"orders\": 4 attempts"));
///
/// let error = RetryLayer::builder().attempts(0).build().unwrap_err();
/// assert_eq!(error.to_string(), "attempts must be at least 1, but is 0");
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RetryBuilder<C = Outcome, R = Idempotent, D = Dropped> {
    settings: RetrySettings,
    budget: Budgeting,
    classify: C,
    replay: R,
    discard: D,
    only_measures: bool,
}

#[derive(Clone, Debug)]
enum Budgeting {
    Own,
    Given(Budget),
    None,
}

impl<C, R, D> RetryBuilder<C, R, D> {
    /// How many times one call is sent at most, the first attempt included. At least 1. Default: 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.settings.attempts = attempts;
        self
    }

    /// How long to wait before each retry, from the end of the failed attempt. Default: exponential
    /// from 50 ms to 5 s, with full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// The budget to draw on. Clone one budget into several layers to share it. Default: a budget of
    /// this layer alone, with the default settings of [`Budget`].
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Budgeting::Given(budget);
        self
    }

    /// Removes the budget: a failing upstream then receives every attempt of every call.
    pub fn no_budget(mut self) -> Self {
        self.budget = Budgeting::None;
        self
    }

    /// The longest wait (`Retry-After`) that the upstream may ask for. If it asks for more, the call
    /// is not retried. Default: 60 s.
    pub fn max_retry_after(mut self, max_retry_after: Duration) -> Self {
        self.settings.max_retry_after = max_retry_after;
        self
    }

    /// Seeds the random part of the waits, so that a test can repeat them. Default: a random seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Replaces all settings of [`RetrySettings`]. Budget and policies stay as they are.
    pub fn settings(mut self, settings: RetrySettings) -> Self {
        self.settings = settings;
        self
    }

    /// The classifier, which turns an outcome into a [`Verdict`](crate::Verdict). Default: every
    /// `Ok` is healthy, every `Err` is transient.
    pub fn classify<J>(self, classify: J) -> RetryBuilder<J, R, D> {
        self.with(|_, replay, discard| (classify, replay, discard))
    }

    /// The policy that decides which requests may be sent again. Default: [`Idempotent`], for HTTP
    /// requests.
    pub fn replay<Q>(self, replay: Q) -> RetryBuilder<C, Q, D> {
        self.with(|classify, _, discard| (classify, replay, discard))
    }

    /// What happens to the response of a failed attempt before the retry. Default: [`Dropped`], which
    /// drops it at once.
    pub fn discard<E>(self, discard: E) -> RetryBuilder<C, R, E> {
        self.with(|classify, replay, _| (classify, replay, discard))
    }

    /// Sets `name`, unless a name is set already.
    pub(crate) fn named_if_unnamed(mut self, name: Name) -> Self {
        self.settings.name = self.settings.name.or(name);
        self
    }

    /// The builder without a budget and the name of the budget, if the layer were to have its own.
    pub(crate) fn without_own_budget(self) -> Option<(Self, Name)> {
        let name = self.settings.name;
        matches!(self.budget, Budgeting::Own).then(|| (self.no_budget(), name))
    }

    fn with<J, Q, E>(self, change: impl FnOnce(C, R, D) -> (J, Q, E)) -> RetryBuilder<J, Q, E> {
        let (classify, replay, discard) = change(self.classify, self.replay, self.discard);
        RetryBuilder {
            settings: self.settings,
            budget: self.budget,
            classify,
            replay,
            discard,
            only_measures: self.only_measures,
        }
    }

    /// The builder of a layer that measures calls for `metrics`, and does nothing else.
    pub(crate) fn only_measures(mut self) -> Self {
        self.settings.attempts = 1;
        self.only_measures = true;
        self.no_budget()
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`RetrySettings::check`].
    pub fn build(self) -> Result<RetryLayer<C, R, D>, InvalidConfig> {
        self.settings.check()?;
        let budget = match self.budget {
            Budgeting::Own => Some(Budget::builder().name(self.settings.name).build()?),
            Budgeting::Given(budget) => Some(budget),
            Budgeting::None => None,
        };
        Ok(RetryLayer {
            policy: Arc::new(Policy::new(self.settings, budget, self.only_measures)),
            classify: self.classify,
            replay: self.replay,
            discard: self.discard,
        })
    }
}

impl<C, R, D> fmt::Debug for RetryBuilder<C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBuilder")
            .field("settings", &self.settings)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
