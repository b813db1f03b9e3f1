//! The first client: a timeout, and nothing else.

use tokio::time::timeout;

use crate::callee::DEADLINE;
use crate::client::{Http, Request};
use crate::record::Outcome;

pub async fn call(http: &Http, request: Request) -> Outcome {
    match timeout(DEADLINE, http.request(request)).await {
        Err(_) => Outcome::TimedOut,
        Ok(Ok(response)) if response.status().is_success() => Outcome::Succeeded,
        Ok(_) => Outcome::Failed,
    }
}
