use super::head::ResponseHead;
use super::retry_after::retry_after;
use crate::rate_limit::RateLimiter;
use crate::verdict::{Classify, Verdict};
use http::StatusCode;
use std::fmt;
use std::time::Duration;

/// A classifier that also pauses a rate limiter when the upstream answers 429.
///
/// Whenever a response has the status 429 and a `Retry-After`, the limiter grants nothing until then,
/// or for 60 s at most, whatever the verdict on the response is. Verdicts pass unchanged. One layer
/// with this classifier is enough: circuit breaker and retry both see each attempt.
///
/// The pause holds for every call of the limiter. Use it only where the limit that the upstream
/// enforces is one for all of them: a 429 of a single endpoint stops the calls to all others, too.
///
/// ```
/// use buttress::http::{PauseOn429, StatusClassifier};
/// use buttress::{CircuitBreakerLayer, Quota, RateLimitLayer};
///
/// let limit = RateLimitLayer::new(Quota::per_second(100));
/// let breaker = CircuitBreakerLayer::builder()
///     .classify(PauseOn429::new(StatusClassifier::default(), limit.limiter()))
///     .build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct PauseOn429<C> {
    classify: C,
    limiter: Option<RateLimiter>,
    max_pause: Duration,
}

impl<C> PauseOn429<C> {
    /// Pauses `limiter` for each 429 and judges by `classify`.
    #[must_use]
    pub fn new(classify: C, limiter: &RateLimiter) -> Self {
        Self::if_any(classify, Some(limiter))
    }

    /// Only judges if there is no limiter.
    fn if_any(classify: C, limiter: Option<&RateLimiter>) -> Self {
        Self {
            classify,
            limiter: limiter.cloned(),
            max_pause: Duration::from_secs(60),
        }
    }

    /// The longest pause, whatever the upstream asks for. Default: 60 s.
    #[must_use]
    pub fn max_pause(mut self, max_pause: Duration) -> Self {
        self.max_pause = max_pause;
        self
    }
}

impl<C, Res, E> Classify<Res, E> for PauseOn429<C>
where
    C: Classify<Res, E>,
    Res: ResponseHead,
{
    fn classify(&self, outcome: Result<&Res, &E>) -> Verdict {
        if let (Ok(response), Some(limiter)) = (outcome, &self.limiter) {
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                let asked = retry_after(response.headers()).delay().unwrap_or_default();
                let pause = asked.min(self.max_pause);
                if !pause.is_zero() {
                    limiter.pause_for(pause);
                }
            }
        }
        self.classify.classify(outcome)
    }
}

impl<C> fmt::Debug for PauseOn429<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PauseOn429")
            .field("limiter", &self.limiter)
            .field("max_pause", &self.max_pause)
            .finish_non_exhaustive()
    }
}

/// Whether a stack pauses its rate limit: `()` does not, [`On429`] does.
pub trait Pauses: sealed::Sealed {
    /// What the stack judges outcomes by.
    type Classify<C>;

    /// Whether it pauses at all.
    const PAUSES: bool;

    /// The classifier of a layer that sees the responses; without a limiter it only judges.
    fn classify<C>(classify: C, limiter: Option<&RateLimiter>) -> Self::Classify<C>;
}

/// A stack that was built with [`pause_on_429`](super::StackBuilder::pause_on_429).
#[derive(Clone, Copy, Debug)]
pub struct On429;

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for super::On429 {}
}

impl Pauses for () {
    type Classify<C> = C;

    const PAUSES: bool = false;

    fn classify<C>(classify: C, _: Option<&RateLimiter>) -> C {
        classify
    }
}

impl Pauses for On429 {
    type Classify<C> = PauseOn429<C>;

    const PAUSES: bool = true;

    fn classify<C>(classify: C, limiter: Option<&RateLimiter>) -> PauseOn429<C> {
        PauseOn429::if_any(classify, limiter)
    }
}
