//! The Prometheus text format 0.0.4.

use super::state::{LayerState, STATES};
use crate::circuit_breaker::Circuit;
use crate::load_shed::ConcurrencyLimit;
use crate::rate_limit::RateLimiter;
use crate::retry::RetryState;
use crate::timeout::TimeoutSnapshot;
use std::fmt::{Display, Write};

/// The metrics, in the order of the text: name, kind and help.
const METRICS: [(&str, &str, &str); 20] = [
    (
        "buttress_rejections_total",
        "counter",
        "Calls rejected by a layer.",
    ),
    ("buttress_retries_total", "counter", "Retries granted."),
    (
        "buttress_retry_recovered_total",
        "counter",
        "Calls that succeeded by a retry.",
    ),
    (
        "buttress_retry_gave_up_total",
        "counter",
        "Failed calls that were not retried.",
    ),
    (
        "buttress_retry_budget",
        "gauge",
        "Tokens in the retry budget.",
    ),
    (
        "buttress_attempts_total",
        "counter",
        "Outcomes that a circuit counted.",
    ),
    (
        "buttress_circuit_state",
        "gauge",
        "1 for the state of the circuit, else 0.",
    ),
    (
        "buttress_circuit_transitions_total",
        "counter",
        "Transitions of the circuit.",
    ),
    (
        "buttress_circuit_failure_rate",
        "gauge",
        "Share of failed calls in the window, 0 to 1.",
    ),
    (
        "buttress_circuit_slow_rate",
        "gauge",
        "Share of slow calls in the window, 0 to 1.",
    ),
    ("buttress_circuit_calls", "gauge", "Calls in the window."),
    ("buttress_circuit_probes_total", "counter", "Probes sent."),
    ("buttress_in_flight", "gauge", "Calls in flight."),
    ("buttress_limit", "gauge", "Calls that may be in flight."),
    (
        "buttress_queue_length",
        "gauge",
        "Calls that wait for a slot or a turn.",
    ),
    (
        "buttress_rate_available",
        "gauge",
        "Calls that a rate limit would grant at once.",
    ),
    (
        "buttress_rate_pauses_total",
        "counter",
        "Pauses that the upstream asked for.",
    ),
    ("buttress_keys", "gauge", "Keys of a keyed stack."),
    (
        "buttress_key_circuits",
        "gauge",
        "Circuits of a keyed stack, by state.",
    ),
    (
        "buttress_uptime_seconds",
        "gauge",
        "Seconds since the registry was made.",
    ),
];

/// A metric: its place in [`METRICS`].
#[derive(Clone, Copy)]
enum Metric {
    Rejections,
    Retries,
    RetryRecovered,
    RetryGaveUp,
    RetryBudget,
    Attempts,
    CircuitState,
    CircuitTransitions,
    CircuitFailureRate,
    CircuitSlowRate,
    CircuitCalls,
    CircuitProbes,
    InFlight,
    Limit,
    QueueLength,
    RateAvailable,
    RatePauses,
    Keys,
    KeyCircuits,
}

/// The samples of each metric.
struct Samples {
    lines: [String; METRICS.len()],
    /// The escaped name of the entry that is being written.
    name: String,
}

pub(super) fn write(uptime: f64, entries: &[(u64, String, Vec<LayerState>)]) -> String {
    let mut samples = Samples {
        lines: Default::default(),
        name: String::new(),
    };
    for (_, name, layers) in entries {
        samples.name = escape(name);
        for layer in layers {
            samples.layer(layer);
        }
    }
    // One allocation: a text that grows is copied again and again.
    let length = samples.lines.iter().map(|lines| lines.len() + 128).sum();
    let mut text = String::with_capacity(length);
    for ((metric, kind, help), lines) in METRICS.into_iter().zip(&samples.lines) {
        if metric == "buttress_uptime_seconds" {
            let _ = write!(
                text,
                "# HELP {metric} {help}\n# TYPE {metric} {kind}\n{metric} {uptime}\n"
            );
        } else if !lines.is_empty() {
            let _ = write!(
                text,
                "# HELP {metric} {help}\n# TYPE {metric} {kind}\n{lines}"
            );
        }
    }
    text
}

impl Samples {
    fn add(&mut self, metric: Metric, labels: &[(&str, &str)], value: impl Display) {
        let (name, ..) = METRICS[metric as usize];
        let line = &mut self.lines[metric as usize];
        line.push_str(name);
        line.push_str("{name=\"");
        line.push_str(&self.name);
        for (label, value) in labels {
            for part in ["\",", label, "=\"", value] {
                line.push_str(part);
            }
        }
        line.push_str("\"} ");
        let _ = write!(line, "{value}");
        line.push('\n');
    }

    fn rejections(&mut self, layer: &str, error_type: &str, count: u64) {
        let labels = [("layer", layer), ("error_type", error_type)];
        self.add(Metric::Rejections, &labels, count);
    }

    fn layer(&mut self, layer: &LayerState) {
        match layer {
            LayerState::Timeout(place, counts) => self.timeout(place, counts),
            LayerState::Retry(retry) => self.retry(retry),
            LayerState::LoadShed(limit) => self.load_shed(limit),
            LayerState::RateLimit(limiter) => self.rate_limit(limiter),
            LayerState::Circuit(circuit) => self.circuit(circuit),
            LayerState::Keys(keys) => {
                self.add(Metric::Keys, &[], keys.keys);
                for (state, count) in STATES.iter().zip(keys.circuits) {
                    let labels = [("state", state.as_str())];
                    self.add(Metric::KeyCircuits, &labels, count);
                }
            }
        }
    }

    fn timeout(&mut self, layer: &str, counts: &TimeoutSnapshot) {
        self.rejections(layer, "timed_out", counts.timed_out);
        self.rejections(layer, "deadline_passed", counts.deadline_passed);
    }

    fn retry(&mut self, retry: &RetryState) {
        self.add(Metric::Retries, &[], retry.counts.retries);
        self.add(Metric::RetryRecovered, &[], retry.counts.recovered);
        for (reason, count) in retry.counts.gave_up.by_reason() {
            self.add(Metric::RetryGaveUp, &[("reason", reason)], count);
        }
        if let Some(tokens) = retry.tokens {
            self.add(Metric::RetryBudget, &[], tokens);
        }
    }

    fn load_shed(&mut self, limit: &ConcurrencyLimit) {
        let seen = limit.snapshot();
        let rejected = seen.rejected.by_reason().map(|(_, count)| count);
        self.rejections("load_shed", "overloaded", rejected.sum());
        self.add(Metric::InFlight, &[], seen.in_flight);
        self.add(Metric::Limit, &[], seen.limit);
        self.add(Metric::QueueLength, &[("layer", "load_shed")], seen.waiting);
    }

    fn rate_limit(&mut self, limiter: &RateLimiter) {
        let seen = limiter.snapshot();
        self.rejections("rate_limit", "rate_limited", seen.rate_limited);
        self.rejections("rate_limit", "too_costly", seen.too_costly);
        self.add(Metric::RateAvailable, &[], seen.available);
        self.add(Metric::RatePauses, &[], seen.paused);
        self.add(
            Metric::QueueLength,
            &[("layer", "rate_limit")],
            seen.waiting,
        );
    }

    fn circuit(&mut self, circuit: &Circuit) {
        let seen = circuit.snapshot();
        self.rejections("circuit_breaker", "circuit_open", seen.rejected);
        for state in STATES {
            let labels = [("state", state.as_str())];
            self.add(Metric::CircuitState, &labels, u8::from(state == seen.state));
        }
        for (reason, count) in seen.transitions.by_reason() {
            let labels = [("reason", reason)];
            self.add(Metric::CircuitTransitions, &labels, count);
        }
        let rate = |rate: Option<f64>| rate.unwrap_or(f64::NAN);
        self.add(Metric::CircuitFailureRate, &[], rate(seen.failure_rate()));
        self.add(Metric::CircuitSlowRate, &[], rate(seen.slow_rate()));
        self.add(Metric::CircuitCalls, &[], seen.calls);
        self.add(Metric::CircuitProbes, &[], seen.probes);
        if let Some((calls, failures)) = circuit.total() {
            let successes = calls.saturating_sub(failures);
            self.add(Metric::Attempts, &[("outcome", "success")], successes);
            self.add(Metric::Attempts, &[("outcome", "failure")], failures);
        }
    }
}

/// The value of a label. All values but names are words of this crate.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}
