//! A timeout, and nothing else.

use tokio::time::timeout;
use tower::ServiceExt;

use super::{Http, Outcome, Request};
use crate::scenario::ATTEMPT;

pub fn in_words() -> String {
    format!("a timeout of {ATTEMPT:?}, no retry")
}

pub async fn call(http: &Http, request: Request) -> Outcome {
    match timeout(ATTEMPT, http.clone().oneshot(request)).await {
        Err(_) => Outcome::TimedOut,
        Ok(Ok(response)) if response.status().is_success() => Outcome::Succeeded,
        Ok(_) => Outcome::Failed,
    }
}
