use crate::event::{CircuitState, Event, GiveUps, Observe, Retries, STATES};
use crate::name::Name;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::sync::{Arc, Once, OnceLock};

/// An [observer](Observe) that turns events into metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Events {
    /// Of a handle, or of a layer.
    Single,
    /// Of the deadline of a stack.
    Deadline,
    /// Of the attempt timeout of a stack.
    AttemptTimeout,
    /// Of the circuits of all keys, which share a name and so have no common state.
    Keyed,
}

impl Events {
    pub(crate) fn observer() -> Arc<dyn Observe> {
        Self::Single.shared()
    }

    /// Each is there once, so that a handle of several stacks is counted once.
    pub(crate) fn shared(self) -> Arc<dyn Observe> {
        static OBSERVERS: [OnceLock<Arc<dyn Observe>>; 4] = [const { OnceLock::new() }; 4];
        let observer = OBSERVERS[self as usize].get_or_init(|| Arc::new(self));
        observer.clone()
    }

    /// The label `layer` of a timeout.
    fn timeout(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Single | Self::Keyed => "timeout",
        }
    }
}

/// The label `name`.
pub(super) fn label(name: Name) -> &'static str {
    name.as_str().unwrap_or("unnamed")
}

fn rejections(name: Name, layer: &'static str, error_type: &'static str, count: u64) {
    counter!("buttress.rejections", "name" => label(name), "layer" => layer, "error.type" => error_type)
        .increment(count);
}

fn state(name: Name, state: CircuitState) {
    for each in STATES {
        let value = u8::from(each == state);
        gauge!("buttress.circuit.state", "name" => label(name), "state" => each.as_str())
            .set(f64::from(value));
    }
}

impl Observe for Events {
    fn on_event(&self, event: &Event) {
        static DESCRIBED: Once = Once::new();
        DESCRIBED.call_once(describe);
        match *event {
            Event::TimedOut { name, .. } => rejections(name, self.timeout(), "timed_out", 1),
            Event::DeadlinePassed { name } => {
                rejections(name, self.timeout(), "deadline_passed", 1);
            }
            Event::CircuitRejected { name, .. } => {
                rejections(name, "circuit_breaker", "circuit_open", 1);
            }
            Event::RateLimited { name, .. } => rejections(name, "rate_limit", "rate_limited", 1),
            Event::TooCostly { name, .. } => rejections(name, "rate_limit", "too_costly", 1),
            Event::Overloaded { name, .. } => rejections(name, "load_shed", "overloaded", 1),
            Event::Retrying {
                name,
                wait,
                verdict,
                ..
            } => {
                counter!("buttress.retries", "name" => label(name), "verdict" => verdict.as_str())
                    .increment(1);
                histogram!("buttress.retry.delay", "name" => label(name)).record(wait);
            }
            Event::Recovered { name, .. } => {
                counter!("buttress.retry.recovered", "name" => label(name)).increment(1);
            }
            Event::GaveUp { name, reason, .. } => {
                counter!("buttress.retry.gave_up", "name" => label(name), "reason" => reason.as_str())
                    .increment(1);
            }
            Event::Transition {
                name, to, reason, ..
            } => {
                counter!("buttress.circuit.transitions", "name" => label(name), "reason" => reason.as_str())
                    .increment(1);
                if !matches!(self, Self::Keyed) {
                    state(name, to);
                }
            }
            Event::ProbeSent { name } => {
                counter!("buttress.circuit.probes", "name" => label(name)).increment(1);
            }
            Event::WaitedForSlot { name, wait } => {
                histogram!("buttress.wait.duration", "name" => label(name), "layer" => "load_shed")
                    .record(wait);
            }
            Event::WaitedForTurn { name, wait } => {
                histogram!("buttress.wait.duration", "name" => label(name), "layer" => "rate_limit")
                    .record(wait);
            }
            Event::Paused { name, .. } => {
                counter!("buttress.rate.pauses", "name" => label(name)).increment(1);
            }
            Event::FellBack { name, .. } | Event::ServedStale { name, .. } => {
                counter!("buttress.fallbacks", "name" => label(name)).increment(1);
            }
            Event::Hedged { name, .. } => {
                counter!("buttress.hedges", "name" => label(name)).increment(1);
            }
            Event::HedgeWon { name, .. } => {
                counter!("buttress.hedges.won", "name" => label(name)).increment(1);
            }
            Event::HedgeDenied { name, reason } => {
                counter!("buttress.hedges.denied", "name" => label(name), "reason" => reason.as_str())
                    .increment(1);
            }
            Event::Degraded { name, .. } => degraded(name, 1),
            Event::Restored { name } => degraded(name, 0),
            Event::Injected { name, fault, .. } => {
                counter!("buttress.injections", "name" => label(name), "fault" => fault)
                    .increment(1);
            }
            Event::StoreDown { name } => store_up(name, 0),
            Event::StoreUp { name, .. } => store_up(name, 1),
            Event::LimitChanged { .. } | Event::ChaosOn { .. } | Event::ChaosOff { .. } => {}
        }
    }
}

fn degraded(name: Name, value: u8) {
    gauge!("buttress.degraded", "name" => label(name)).set(f64::from(value));
}

fn store_up(name: Name, value: u8) {
    gauge!("buttress.fleet.store_up", "name" => label(name)).set(f64::from(value));
}

/// Makes the counters of a retry with 0, so that a rate can be computed from the first failure on.
pub(crate) fn zero_retries(name: Name) {
    for (verdict, _) in Retries::default().by_verdict() {
        counter!("buttress.retries", "name" => label(name), "verdict" => verdict).increment(0);
    }
    for (reason, _) in GiveUps::default().by_reason() {
        counter!("buttress.retry.gave_up", "name" => label(name), "reason" => reason).increment(0);
    }
    counter!("buttress.retry.recovered", "name" => label(name)).increment(0);
}

/// `names`: of the deadline and the attempt timeout of a stack.
pub(crate) fn zero_timeouts(names: [Name; 2]) {
    for (name, layer) in names.into_iter().zip(["deadline", "attempt_timeout"]) {
        rejections(name, layer, "timed_out", 0);
        rejections(name, layer, "deadline_passed", 0);
    }
}

pub(crate) fn zero_circuit(name: Name, is: CircuitState) {
    rejections(name, "circuit_breaker", "circuit_open", 0);
    counter!("buttress.circuit.probes", "name" => label(name)).increment(0);
    state(name, is);
}

pub(crate) fn zero_limiter(name: Name) {
    rejections(name, "rate_limit", "rate_limited", 0);
    rejections(name, "rate_limit", "too_costly", 0);
    counter!("buttress.rate.pauses", "name" => label(name)).increment(0);
}

pub(crate) fn zero_limit(name: Name) {
    rejections(name, "load_shed", "overloaded", 0);
}

/// Tells the recorder units and help.
pub(super) fn describe() {
    let seconds = [
        ("buttress.call.duration", "How long calls took."),
        ("buttress.attempt.duration", "How long attempts took."),
        ("buttress.retry.delay", "How long retries were delayed."),
        (
            "buttress.wait.duration",
            "How long calls waited for a slot or a turn.",
        ),
    ];
    for (name, help) in seconds {
        describe_histogram!(name, Unit::Seconds, help);
    }
    let counters = [
        ("buttress.rejections", "Calls rejected by a layer."),
        ("buttress.retries", "Retries granted."),
        (
            "buttress.retry.recovered",
            "Calls that succeeded by a retry.",
        ),
        (
            "buttress.retry.gave_up",
            "Failed calls that were not retried.",
        ),
        (
            "buttress.circuit.transitions",
            "Transitions of the circuit.",
        ),
        ("buttress.circuit.probes", "Probes sent."),
        ("buttress.injections", "Faults injected on purpose."),
        ("buttress.hedges", "Copies of late calls sent."),
        ("buttress.hedges.won", "Calls that a copy answered."),
        (
            "buttress.hedges.denied",
            "Copies that were due and not sent.",
        ),
        (
            "buttress.fallbacks",
            "Calls for which a fallback was asked.",
        ),
        (
            "buttress.rate.pauses",
            "Pauses that the upstream asked for.",
        ),
    ];
    for (name, help) in counters {
        describe_counter!(name, help);
    }
    describe_gauge!(
        "buttress.degraded",
        "1 if the latest call fell back, else 0."
    );
    describe_gauge!(
        "buttress.fleet.store_up",
        "1 if the store of the fleet answers, 0 after three failures in a row."
    );
    describe_gauge!(
        "buttress.circuit.state",
        "1 for the state of the circuit, else 0."
    );
}
