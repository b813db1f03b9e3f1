//! The second client: the retry loop that people write. No wait, no jitter, no budget.

use crate::bare;
use crate::client::{Http, Request};
use crate::record::Outcome;

/// Tries after the first.
pub const MORE_TRIES: u32 = 3;

pub async fn call(http: &Http, request: Request) -> Outcome {
    let mut outcome = bare::call(http, request.clone()).await;
    for _ in 0..MORE_TRIES {
        if outcome == Outcome::Succeeded {
            break;
        }
        outcome = bare::call(http, request.clone()).await;
    }
    outcome
}
