use super::head::ResponseHead;
use super::quota_headers::{quota_pause, retry_after_ms};
use super::retry_after::retry_after;
use crate::rate_limit::RateLimiter;
use crate::verdict::{Classify, Verdict};
use http::StatusCode;
use std::fmt;
use std::time::Duration;

/// A classifier that also pauses a rate limiter when the upstream sends a 429.
///
/// When a response has the status 429 and a `Retry-After`, the limiter admits no calls for that
/// time, at most for [`max_pause`](Self::max_pause) (60 s). The verdict is that of the inner
/// classifier, unchanged. Give the classifier either to the retry or to the circuit breaker: both
/// see each attempt.
///
/// Use it only if the upstream enforces one limit for all calls of the limiter. The pause holds for
/// all of them, so a 429 of one endpoint also stops the calls to every other endpoint.
///
/// ```
/// use buttress::http::{PauseOn429, StatusClassifier};
/// use buttress::{CircuitBreakerLayer, Classify, Quota, RateLimitLayer};
/// use std::convert::Infallible;
///
/// let limit = RateLimitLayer::new(Quota::per_second(100));
/// let classify = PauseOn429::new(StatusClassifier::default(), limit.limiter());
/// let breaker = CircuitBreakerLayer::builder().classify(classify.clone()).build().unwrap();
/// # let _ = breaker;
///
/// // The circuit breaker calls this for each response:
/// let response = http::Response::builder().status(429).header("retry-after", "7").body(())?;
/// classify.classify(Ok::<_, &Infallible>(&response));
/// assert!(limit.limiter().try_acquire(1).is_err());
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone)]
pub struct PauseOn429<C> {
    classify: C,
    limiter: Option<RateLimiter>,
    max_pause: Duration,
    by_headers: bool,
}

impl<C> PauseOn429<C> {
    /// Pauses `limiter` after each 429 and returns the verdicts of `classify`.
    #[must_use]
    pub fn new(classify: C, limiter: &RateLimiter) -> Self {
        Self::if_any(classify, Some(limiter))
    }

    /// Without a limiter, it only classifies.
    fn if_any(classify: C, limiter: Option<&RateLimiter>) -> Self {
        Self {
            classify,
            limiter: limiter.cloned(),
            max_pause: Duration::from_secs(60),
            by_headers: false,
        }
    }

    /// Also pauses after any response whose headers say that the quota is used up, as [`quota_pause`] reads them, and
    /// reads `retry-after-ms` of a 429. Default: off, because not every upstream means what these headers say.
    #[must_use]
    pub fn by_headers(mut self) -> Self {
        self.by_headers = true;
        self
    }

    /// What a response asks for.
    fn asked(&self, response: &impl ResponseHead) -> Duration {
        let headers = response.headers();
        let mut asked = None;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            let exact = self.by_headers.then(|| retry_after_ms(headers)).flatten();
            asked = exact.or_else(|| retry_after(headers).delay());
        }
        if self.by_headers {
            asked = asked.max(quota_pause(headers));
        }
        asked.unwrap_or_default()
    }

    /// The longest pause, measured from the response, even if the upstream asks for more. Default:
    /// 60 s.
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
            let pause = self.asked(response).min(self.max_pause);
            if !pause.is_zero() {
                limiter.pause_for(pause);
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

/// Whether a stack pauses its rate limit: `()` does not, [`On429`] does after a 429, and [`ByHeaders`] also when the
/// headers of a response ask for it. You cannot
/// implement this trait.
pub trait Pauses: sealed::Sealed {
    /// The classifier of the stack, made from the classifier `C`.
    type Classify<C>;

    /// Whether the stack pauses its rate limit.
    const PAUSES: bool;

    /// Makes the classifier of a layer that sees the responses. Without a limiter, it only
    /// classifies.
    fn classify<C>(classify: C, limiter: Option<&RateLimiter>) -> Self::Classify<C>;
}

/// Marks a stack that was built with [`pause_on_429`](super::StackBuilder::pause_on_429).
#[derive(Clone, Copy, Debug)]
pub struct On429;

/// Marks a stack that was built with [`pause_by_headers`](super::StackBuilder::pause_by_headers).
#[derive(Clone, Copy, Debug)]
pub struct ByHeaders;

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for super::On429 {}
    impl Sealed for super::ByHeaders {}
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

impl Pauses for ByHeaders {
    type Classify<C> = PauseOn429<C>;

    const PAUSES: bool = true;

    fn classify<C>(classify: C, limiter: Option<&RateLimiter>) -> PauseOn429<C> {
        PauseOn429::if_any(classify, limiter).by_headers()
    }
}
