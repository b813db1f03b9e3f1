use super::answer::To;
use super::seen::{FallbackSnapshot, Seen};
use super::service::Fallback;
use crate::error::Rejection;
use crate::event::{Observe, Observers};
use crate::name::Name;
use crate::replay::Idempotent;
use crate::verdict::{Outcome, Verdict};
use std::fmt;
use std::sync::Arc;
use tower::Layer;

/// Makes [`Fallback`] services. The [module page](super) says what they do.
///
/// Clones of the layer and all services that they make share the counters. A layer with another setting has its own.
pub struct FallbackLayer<A, C = Outcome, R = Idempotent, M = ()> {
    pub(super) answer: A,
    pub(super) classify: C,
    pub(super) replay: R,
    pub(super) mark: M,
    pub(super) when: fn(Verdict, Option<Rejection>) -> bool,
    pub(super) seen: Arc<Seen>,
}

impl<A> FallbackLayer<A> {
    /// Answers failed calls with a function of [`Failed`](super::Failed).
    #[must_use]
    pub fn new(answer: A) -> Self {
        Self {
            answer,
            classify: Outcome,
            replay: Idempotent,
            mark: (),
            when: super::if_failed,
            seen: Arc::new(Seen::new(Name::UNNAMED)),
        }
    }
}

impl<S> FallbackLayer<To<S>> {
    /// Sends the request of a failed call to a second service. That may be a stack of its own.
    ///
    /// Only a request that the replay policy copies and allows to send again is sent, and only before its deadline.
    /// Other calls end as they are.
    #[must_use]
    pub fn to(service: S) -> Self {
        Self::new(To::new(service))
    }
}

impl<S, C, R, M> FallbackLayer<To<S>, C, R, M> {
    /// A function `(Option<E>, E) -> E` that makes one error of the first and the second, if both services fail.
    /// Default: [`Last`](super::Last), the error of the second as it is.
    #[must_use]
    pub fn both<B>(self, both: B) -> FallbackLayer<To<S, B>, C, R, M> {
        self.with(|answer, classify, replay, mark| (answer.both(both), classify, replay, mark))
    }
}

impl<A, C, R, M> FallbackLayer<A, C, R, M> {
    /// The classifier, which turns an outcome into a [`Verdict`]. Default: every `Ok` is healthy, every `Err` is
    /// transient.
    #[must_use]
    pub fn classify<J>(self, classify: J) -> FallbackLayer<A, J, R, M> {
        self.with(|answer, _, replay, mark| (answer, classify, replay, mark))
    }

    /// The policy that copies requests. Default: [`Idempotent`], for HTTP requests.
    #[must_use]
    pub fn replay<Q>(self, replay: Q) -> FallbackLayer<A, C, Q, M> {
        self.with(|answer, classify, _, mark| (answer, classify, replay, mark))
    }

    /// Where the answers are marked as degraded. Default: `()`, nowhere. [`InExtensions`](crate::http::InExtensions)
    /// puts [`Degraded`](crate::http::Degraded) into the extensions of an HTTP response.
    #[must_use]
    pub fn mark<N>(self, mark: N) -> FallbackLayer<A, C, R, N> {
        self.with(|answer, classify, replay, _| (answer, classify, replay, mark))
    }

    /// Which calls are answered by the fallback: a function of the verdict and the rejection, if there is one.
    /// Default: the verdicts `Transient` and `Throttled`, and every rejection but `DeadlinePassed`.
    #[must_use]
    pub fn when(mut self, when: fn(Verdict, Option<Rejection>) -> bool) -> Self {
        self.when = when;
        self
    }

    /// The name in events and snapshots. Default: none.
    #[must_use]
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.seen = Arc::new(Seen::new(name.into()));
        self
    }

    pub(crate) fn named_if_unnamed(self, name: Name) -> Self {
        if self.seen.name == Name::UNNAMED {
            self.name(name)
        } else {
            self
        }
    }

    fn with<B, J, Q, N>(
        self,
        change: impl FnOnce(A, C, R, M) -> (B, J, Q, N),
    ) -> FallbackLayer<B, J, Q, N> {
        let (answer, classify, replay, mark) =
            change(self.answer, self.classify, self.replay, self.mark);
        FallbackLayer {
            answer,
            classify,
            replay,
            mark,
            when: self.when,
            seen: self.seen,
        }
    }

    /// The state and the counters of all services of this layer.
    #[must_use]
    pub fn snapshot(&self) -> FallbackSnapshot {
        self.seen.snapshot()
    }

    /// Adds an observer of the events of all services of this layer. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.seen.observers.add(Arc::new(observer));
    }

    /// Counts the events of all services of this layer through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.seen.observers.add(crate::metrics::Events::observer());
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.seen.observers
    }

    /// Reads the counters, as long as the layer or a service of it is there.
    pub(crate) fn weak(&self) -> impl Fn() -> Option<FallbackSnapshot> + Send + Sync + 'static {
        let seen = Arc::downgrade(&self.seen);
        move || Some(seen.upgrade()?.snapshot())
    }
}

impl<A: Clone, C: Clone, R: Clone, M: Clone> Clone for FallbackLayer<A, C, R, M> {
    fn clone(&self) -> Self {
        Self {
            answer: self.answer.clone(),
            classify: self.classify.clone(),
            replay: self.replay.clone(),
            mark: self.mark.clone(),
            when: self.when,
            seen: self.seen.clone(),
        }
    }
}

impl<S, A: Clone, C: Clone, R: Clone, M: Clone> Layer<S> for FallbackLayer<A, C, R, M> {
    type Service = Fallback<S, A, C, R, M>;

    fn layer(&self, inner: S) -> Self::Service {
        Fallback::new(inner, Arc::new(self.clone()))
    }
}

impl<A, C, R, M> fmt::Debug for FallbackLayer<A, C, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer")
            .field("name", &self.seen.name)
            .finish_non_exhaustive()
    }
}

/// Prints the name.
impl<A, C, R, M> fmt::Display for FallbackLayer<A, C, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fallback{}", self.seen.name)
    }
}
