use super::hedging::Hedging;
use super::service::Hedge;
use super::settings::{HedgeAt, HedgeSettings};
use crate::budget::Budget;
use crate::error::InvalidConfig;
use crate::name::Name;
use crate::replay::Idempotent;
use crate::verdict::Outcome;
use std::fmt;
use tower::Layer;

/// Makes [`Hedge`] services that share what they learn and one budget. The [module page](super) says what they do.
#[derive(Clone)]
pub struct HedgeLayer<C = Outcome, R = Idempotent> {
    hedging: Hedging,
    classify: C,
    replay: R,
}

impl HedgeLayer {
    /// A builder with the default settings.
    pub fn builder() -> HedgeBuilder {
        HedgeBuilder {
            settings: HedgeSettings::default(),
            budget: Paying::Own,
            classify: Outcome,
            replay: Idempotent,
        }
    }

    /// A layer with the default settings.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "the defaults are valid")]
    pub fn new() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

impl Default for HedgeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, R> HedgeLayer<C, R> {
    /// The handle that all services of this layer share.
    #[must_use]
    pub fn hedging(&self) -> &Hedging {
        &self.hedging
    }
}

impl<S: Clone, C: Clone, R: Clone> Layer<S> for HedgeLayer<C, R> {
    type Service = Hedge<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let (classify, replay) = (self.classify.clone(), self.replay.clone());
        Hedge::new(inner, self.hedging.clone(), classify, replay)
    }
}

impl<C, R> fmt::Debug for HedgeLayer<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer")
            .field("hedging", &self.hedging)
            .finish_non_exhaustive()
    }
}

/// Prints the settings in a readable form.
impl<C, R> fmt::Display for HedgeLayer<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hedging.fmt(f)
    }
}

/// Builds a [`HedgeLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct HedgeBuilder<C = Outcome, R = Idempotent> {
    settings: HedgeSettings,
    budget: Paying,
    classify: C,
    replay: R,
}

/// Who pays for copies.
#[derive(Clone, Debug)]
enum Paying {
    Own,
    Given { budget: Budget, earns: bool },
}

impl<C, R> HedgeBuilder<C, R> {
    /// When a copy is sent. Default: at the quantile 0.95.
    pub fn at(mut self, at: HedgeAt) -> Self {
        self.settings.at = at;
        self
    }

    /// The copies of a call, besides the call itself: 1 to 3. Default: 1.
    pub fn hedges(mut self, hedges: u32) -> Self {
        self.settings.hedges = hedges;
        self
    }

    /// The budget that pays for copies, and that successful calls earn for. Default: one of the layer's own, which
    /// pays for one copy per 10 successes, with a floor of 10.
    pub fn budget(mut self, budget: Budget) -> Self {
        let earns = true;
        self.budget = Paying::Given { budget, earns };
        self
    }

    /// The budget of the retry around this layer. It pays for copies too; only the retry earns for it.
    pub fn budget_of_retry(mut self, budget: Budget) -> Self {
        let earns = false;
        self.budget = Paying::Given { budget, earns };
        self
    }

    /// The classifier, which turns an outcome into a [`Verdict`](crate::Verdict). Default: every `Ok` is healthy,
    /// every `Err` is transient.
    pub fn classify<J>(self, classify: J) -> HedgeBuilder<J, R> {
        HedgeBuilder {
            settings: self.settings,
            budget: self.budget,
            classify,
            replay: self.replay,
        }
    }

    /// The policy that copies the requests that may be processed twice. Default: [`Idempotent`], for HTTP requests.
    pub fn replay<Q>(self, replay: Q) -> HedgeBuilder<C, Q> {
        HedgeBuilder {
            settings: self.settings,
            budget: self.budget,
            classify: self.classify,
            replay,
        }
    }

    /// The name in events and snapshots. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Replaces all settings of [`HedgeSettings`]. Budget and policies stay as they are.
    pub fn settings(mut self, settings: HedgeSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`HedgeSettings::check`].
    pub fn build(self) -> Result<HedgeLayer<C, R>, InvalidConfig> {
        self.settings.check()?;
        let (budget, earns) = match self.budget {
            Paying::Own => {
                let budget = Budget::builder().floor(10).ratio(0.1).reserve(0.0);
                (budget.name(self.settings.name).build()?, true)
            }
            Paying::Given { budget, earns } => (budget, earns),
        };
        Ok(HedgeLayer {
            hedging: Hedging::new(self.settings, budget, earns),
            classify: self.classify,
            replay: self.replay,
        })
    }
}

impl<C, R> fmt::Debug for HedgeBuilder<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeBuilder")
            .field("settings", &self.settings)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
