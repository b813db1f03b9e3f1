//! The retry loop that many services have: a few attempts, a fixed wait between them.

use std::time::Duration;

use tokio::time::sleep;

use super::{Http, Outcome, Request, bare};
use crate::scenario::{ATTEMPT, ATTEMPTS};

const WAIT: Duration = Duration::from_millis(100);

pub fn in_words() -> String {
    format!("{ATTEMPTS} attempts of {ATTEMPT:?}, {WAIT:?} between them")
}

pub async fn call(http: &Http, request: Request) -> Outcome {
    for _ in 1..ATTEMPTS {
        let outcome = bare::call(http, request.clone()).await;
        if outcome == Outcome::Succeeded {
            return outcome;
        }
        sleep(WAIT).await;
    }
    bare::call(http, request).await
}
