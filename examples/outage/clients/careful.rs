//! The retry loop of the textbooks: exponential backoff with full jitter and a deadline, but no
//! budget.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Http, Outcome, Request, bare};
use crate::scenario::{ATTEMPT, ATTEMPTS, DEADLINE};

const BACKOFF: Duration = Duration::from_millis(50);

pub fn in_words() -> String {
    format!(
        "{ATTEMPTS} attempts of {ATTEMPT:?} within {DEADLINE:?}, backoff from {BACKOFF:?} with full jitter, \
         no budget"
    )
}

pub async fn call(http: &Http, request: Request) -> Outcome {
    let attempts = async {
        for number in 1..ATTEMPTS {
            let outcome = bare::call(http, request.clone()).await;
            if outcome == Outcome::Succeeded {
                return outcome;
            }
            let longest = BACKOFF * 2_u32.pow(number - 1);
            sleep(longest.mul_f64(rand::random())).await;
        }
        bare::call(http, request.clone()).await
    };
    timeout(DEADLINE, attempts)
        .await
        .unwrap_or(Outcome::TimedOut)
}
