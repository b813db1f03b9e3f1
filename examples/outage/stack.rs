//! The third client: the layers of this crate, in the order of the README.

use buttress::circuit_breaker::{Circuit, Window};
use buttress::error::InvalidConfig;
use buttress::http::{Idempotent, StatusClassifier};
use buttress::retry::{Backoff, Budget};
use buttress::{
    CircuitBreakerLayer, Error, ErrorLayer, LoadShedLayer, Quota, RateLimitLayer, Rejection,
    RetryLayer, TimeoutLayer, Verdict,
};
use http::Response;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};

use crate::callee::{
    ATTEMPT, ATTEMPTS, BACKOFF, BACKOFF_CAP, BUDGET_FLOOR, BUDGET_RATIO, BUDGET_RESERVE, BURST,
    DEADLINE, IN_FLIGHT, MAX_OPEN_FOR, OPEN_FOR, RATE, WINDOW,
};
use crate::client::{Http, Request};
use crate::record::Outcome;

/// Boxed only to have a name.
pub type Stack = BoxCloneSyncService<Request, Response<Incoming>, Error<legacy::Error>>;

pub fn new(http: Http) -> Result<(Stack, Circuit), InvalidConfig> {
    let budget = Budget::builder()
        .floor(BUDGET_FLOOR)
        .ratio(BUDGET_RATIO)
        .reserve(BUDGET_RESERVE)
        .build()?;
    let retry = RetryLayer::builder()
        .name("callee")
        .attempts(ATTEMPTS)
        .backoff(Backoff::exponential(BACKOFF, BACKOFF_CAP))
        .budget(budget)
        // A server that asks for more than the caller has is not worth waiting for.
        .max_retry_after(DEADLINE)
        .classify(judge)
        .replay(Idempotent)
        .build()?;
    let breaker = CircuitBreakerLayer::builder()
        .name("callee")
        .window(Window::time(WINDOW))
        .open_for(OPEN_FOR)
        .max_open_for(MAX_OPEN_FOR)
        .classify(judge)
        .build()?;
    let circuit = breaker.circuit().clone();
    let shed = LoadShedLayer::builder(IN_FLIGHT).unless_open(&circuit);
    let limit = RateLimitLayer::builder(Quota::per_second(RATE).burst(BURST)).unless_open(&circuit);
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(DEADLINE))
        .layer(retry)
        .layer(shed.build()?)
        .layer(limit.build()?)
        .layer(breaker)
        .layer(TimeoutLayer::new(ATTEMPT))
        .layer(ErrorLayer)
        .service(http);
    Ok((BoxCloneSyncService::new(stack), circuit))
}

/// `StatusClassifier` knows the client's errors with the feature `hyper-util` only. Here none of them
/// is the caller's own, so they need not be told apart.
fn judge(outcome: Result<&Response<Incoming>, &Error<legacy::Error>>) -> Verdict {
    match outcome {
        Ok(response) => StatusClassifier::default().judge_response(response),
        Err(_) => Verdict::TRANSIENT,
    }
}

pub async fn call(stack: &Stack, request: Request) -> Outcome {
    match stack.clone().oneshot(request).await {
        Ok(response) if response.status().is_success() => Outcome::Succeeded,
        Ok(_) | Err(Error::Service(_)) => Outcome::Failed,
        Err(Error::Rejected(Rejection::TimedOut { .. })) => Outcome::TimedOut,
        Err(Error::Rejected(rejection)) => Outcome::Rejected(rejection),
    }
}
