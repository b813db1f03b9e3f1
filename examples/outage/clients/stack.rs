//! This crate: `stack()` as it is, and `stack()` with two limits sized to the server.

use buttress::circuit_breaker::Circuit;
use buttress::error::InvalidConfig;
use buttress::http::{Stack, StackBuilder, stack};
use buttress::{Error, Quota, Rejection};
use tower::Layer;

use super::{Http, Outcome, Request};
use crate::scenario::{ATTEMPT, CAPACITY, CLIENTS, DEADLINE};

/// A client's share of what the server can do, in calls per second.
const QUOTA: u32 = CAPACITY as u32 / CLIENTS;
/// A client's share of what the server can finish before `ATTEMPT` is over, in calls in flight.
const IN_FLIGHT: usize = 6;

pub fn defaults_in_words() -> String {
    format!(
        "this crate's defaults: retry budget and circuit breaker, with attempts of {ATTEMPT:?} within \
         {DEADLINE:?}"
    )
}

pub fn limited_in_words() -> String {
    format!(
        "stack() with limits sized to the server: {QUOTA} calls/s and {IN_FLIGHT} in flight for each client"
    )
}

/// The defaults, but for the two timeouts, which are the same for all kinds of clients.
pub fn defaults(http: Http) -> Result<Client, InvalidConfig> {
    Client::new(timeouts(), http)
}

pub fn limited(http: Http) -> Result<Client, InvalidConfig> {
    let quota = Quota::per_second(QUOTA);
    Client::new(timeouts().rate_limit(quota).load_shed(IN_FLIGHT), http)
}

fn timeouts() -> StackBuilder {
    stack().deadline(DEADLINE).attempt_timeout(ATTEMPT)
}

#[derive(Clone, Debug)]
pub struct Client {
    stack: Stack<Http>,
    circuit: Circuit,
}

impl Client {
    fn new(stack: StackBuilder, http: Http) -> Result<Self, InvalidConfig> {
        let layer = stack.name("upstream").build()?;
        let circuit = layer.circuit().cloned();
        Ok(Self {
            stack: layer.layer(http),
            circuit: circuit.expect("stack() has a circuit breaker"),
        })
    }

    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    pub async fn call(&self, request: Request) -> Outcome {
        match self.stack.clone().oneshot(request).await {
            Ok(response) if response.status().is_success() => Outcome::Succeeded,
            Ok(_) | Err(Error::Service(_)) => Outcome::Failed,
            Err(Error::Rejected(Rejection::TimedOut { .. } | Rejection::DeadlinePassed { .. })) => {
                Outcome::TimedOut
            }
            Err(Error::Rejected(rejection)) => Outcome::Rejected(rejection),
        }
    }
}
