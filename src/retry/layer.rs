use super::backoff::Backoff;
use super::discard::Dropped;
use super::policy::{Policy, RetrySnapshot};
use super::service::Retry;
use super::settings::RetrySettings;
use crate::budget::Budget;
use crate::error::InvalidConfig;
use crate::name::Name;
use crate::replay::Idempotent;
use crate::time::Shown;
use crate::verdict::Outcome;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower::Layer;

/// Makes [`Retry`] services that share one budget. See the [module](super) for what it does.
///
/// The budget is made with the layer, unless one is given: every service that the layer makes, and
/// every clone of the layer and of its services, draws on the same one. Applying the layer is cheap.
#[derive(Clone)]
pub struct RetryLayer<C = Outcome, R = Idempotent, D = Dropped> {
    policy: Arc<Policy>,
    classify: C,
    replay: R,
    discard: D,
}

impl RetryLayer {
    /// Starts from the defaults.
    pub fn builder() -> RetryBuilder {
        RetryBuilder {
            settings: RetrySettings::default(),
            budget: Budgeting::Own,
            classify: Outcome,
            replay: Idempotent,
            discard: Dropped,
        }
    }

    /// The defaults, as [`RetryLayer::default`].
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

/// The defaults, with a budget to share.
impl From<Budget> for RetryLayer {
    fn from(budget: Budget) -> Self {
        let builder = Self::builder().budget(budget);
        builder.build().expect("the defaults are valid")
    }
}

impl<C, R, D> RetryLayer<C, R, D> {
    /// The budget that all services of this layer share, unless there is none.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.policy.budget.as_ref()
    }

    /// What the services of this layer did since it was made.
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

/// Prints the settings, for people.
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

/// Builds a [`RetryLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RetryBuilder<C = Outcome, R = Idempotent, D = Dropped> {
    settings: RetrySettings,
    budget: Budgeting,
    classify: C,
    replay: R,
    discard: D,
}

#[derive(Clone, Debug)]
enum Budgeting {
    Own,
    Given(Budget),
    None,
}

impl<C, R, D> RetryBuilder<C, R, D> {
    /// How often a call is sent in all, the first attempt included. At least 1. Default: 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.settings.attempts = attempts;
        self
    }

    /// How long to wait before each retry. Default: exponential from 50 ms to 5 s, full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// A budget to share with others. Default: one of the layer's own, with the default settings.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Budgeting::Given(budget);
        self
    }

    /// Retries without a budget: an upstream that fails is sent every attempt of every call.
    pub fn no_budget(mut self) -> Self {
        self.budget = Budgeting::None;
        self
    }

    /// The longest wait that the upstream may ask for. If it asks for more, the call is not retried.
    /// Default: 60 s.
    pub fn max_retry_after(mut self, max_retry_after: Duration) -> Self {
        self.settings.max_retry_after = max_retry_after;
        self
    }

    /// Makes the waits repeatable. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// The name in events and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Replaces all settings. The budget stays as it is.
    pub fn settings(mut self, settings: RetrySettings) -> Self {
        self.settings = settings;
        self
    }

    /// What an outcome says about the upstream. Default: every `Ok` healthy, every `Err` transient.
    pub fn classify<J>(self, classify: J) -> RetryBuilder<J, R, D> {
        self.with(|_, replay, discard| (classify, replay, discard))
    }

    /// Which requests may be sent again. Default: [`Idempotent`], for HTTP requests.
    pub fn replay<Q>(self, replay: Q) -> RetryBuilder<C, Q, D> {
        self.with(|classify, _, discard| (classify, replay, discard))
    }

    /// What becomes of a response that is thrown away for a retry. Default: [`Dropped`], at once.
    pub fn discard<E>(self, discard: E) -> RetryBuilder<C, R, E> {
        self.with(|classify, replay, _| (classify, replay, discard))
    }

    /// Takes `name` unless it has a name.
    pub(crate) fn named_if_unnamed(mut self, name: Name) -> Self {
        self.settings.name = self.settings.name.or(name);
        self
    }

    fn with<J, Q, E>(self, change: impl FnOnce(C, R, D) -> (J, Q, E)) -> RetryBuilder<J, Q, E> {
        let (classify, replay, discard) = change(self.classify, self.replay, self.discard);
        RetryBuilder {
            settings: self.settings,
            budget: self.budget,
            classify,
            replay,
            discard,
        }
    }

    /// The layer.
    ///
    /// # Errors
    /// As [`RetrySettings::check`].
    pub fn build(self) -> Result<RetryLayer<C, R, D>, InvalidConfig> {
        self.settings.check()?;
        let budget = match self.budget {
            Budgeting::Own => Some(Budget::builder().name(self.settings.name).build()?),
            Budgeting::Given(budget) => Some(budget),
            Budgeting::None => None,
        };
        Ok(RetryLayer {
            policy: Arc::new(Policy::new(self.settings, budget)),
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
