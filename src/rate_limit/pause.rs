use super::limiter::RateLimiter;
use crate::classify::{Classify, Verdict};
use std::fmt;
use std::time::Duration;

/// A classifier that also pauses a rate limiter when the callee asks for less.
///
/// Whenever the classifier within finds a call [`Throttled`](Verdict::Throttled) and the callee
/// says for how long, the limiter grants nothing until then, or for 60 s at most. Its verdicts pass
/// unchanged. One layer with it is enough: the circuit breaker's sees each attempt.
///
/// ```
/// use buttress::http::StatusClassifier;
/// use buttress::{CircuitBreakerLayer, Quota, RateLimitLayer};
///
/// let limit = RateLimitLayer::new(Quota::per_second(100));
/// let breaker = CircuitBreakerLayer::builder()
///     .classify(StatusClassifier::default().pause_on_throttle(limit.limiter()))
///     .build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct PauseOnThrottle<C> {
    classify: C,
    limiter: Option<RateLimiter>,
    max_pause: Duration,
}

impl<C> PauseOnThrottle<C> {
    /// Pauses `limiter` for what `classify` finds throttled.
    #[must_use]
    pub fn new(classify: C, limiter: &RateLimiter) -> Self {
        Self::if_any(classify, Some(limiter))
    }

    /// Only judges if there is no limiter.
    pub(crate) fn if_any(classify: C, limiter: Option<&RateLimiter>) -> Self {
        Self {
            classify,
            limiter: limiter.cloned(),
            max_pause: Duration::from_secs(60),
        }
    }

    /// The longest pause, whatever the callee asks for. Default: 60 s.
    #[must_use]
    pub fn max_pause(mut self, max_pause: Duration) -> Self {
        self.max_pause = max_pause;
        self
    }
}

impl<C, Res, E> Classify<Res, E> for PauseOnThrottle<C>
where
    C: Classify<Res, E>,
{
    fn classify(&self, outcome: Result<&Res, &E>) -> Verdict {
        let verdict = self.classify.classify(outcome);
        if let (Verdict::Throttled { retry_after }, Some(limiter)) = (verdict, &self.limiter) {
            let asked = retry_after.delay().unwrap_or_default();
            let asked = asked.min(self.max_pause);
            if !asked.is_zero() {
                limiter.pause_for(asked);
            }
        }
        verdict
    }
}

impl<C> fmt::Debug for PauseOnThrottle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PauseOnThrottle")
            .field("limiter", &self.limiter)
            .field("max_pause", &self.max_pause)
            .finish_non_exhaustive()
    }
}
