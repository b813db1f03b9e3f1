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

/// The samples of each metric.
struct Samples<'a> {
    lines: [String; METRICS.len()],
    /// The entry that is being written.
    name: &'a str,
}

pub(super) fn write(uptime: f64, entries: &[(u64, String, Vec<LayerState>)]) -> String {
    let mut samples = Samples {
        lines: Default::default(),
        name: "",
    };
    for (_, name, layers) in entries {
        samples.name = name;
        for layer in layers {
            samples.layer(layer);
        }
    }
    let mut text = String::new();
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

impl Samples<'_> {
    fn add(&mut self, metric: &str, labels: &[(&str, &str)], value: impl Display) {
        let metrics = METRICS.iter();
        let place = metrics
            .zip(&mut self.lines)
            .find(|((name, ..), _)| *name == metric);
        let (_, lines) = place.expect("the metric is listed");
        let _ = write!(lines, "{metric}{{name=\"");
        escape(lines, self.name);
        for (label, value) in labels {
            let _ = write!(lines, "\",{label}=\"{value}");
        }
        let _ = writeln!(lines, "\"}} {value}");
    }

    fn rejections(&mut self, layer: &str, error_type: &str, count: u64) {
        let labels = [("layer", layer), ("error_type", error_type)];
        self.add("buttress_rejections_total", &labels, count);
    }

    fn layer(&mut self, layer: &LayerState) {
        match layer {
            LayerState::Timeout(place, counts) => self.timeout(place, counts),
            LayerState::Retry(retry) => self.retry(retry),
            LayerState::LoadShed(limit) => self.load_shed(limit),
            LayerState::RateLimit(limiter) => self.rate_limit(limiter),
            LayerState::Circuit(circuit) => self.circuit(circuit),
            LayerState::Keys(keys) => {
                self.add("buttress_keys", &[], keys.keys);
                for (state, count) in STATES.iter().zip(keys.circuits) {
                    let labels = [("state", state.as_str())];
                    self.add("buttress_key_circuits", &labels, count);
                }
            }
        }
    }

    fn timeout(&mut self, layer: &str, counts: &TimeoutSnapshot) {
        self.rejections(layer, "timed_out", counts.timed_out);
        self.rejections(layer, "deadline_passed", counts.deadline_passed);
    }

    fn retry(&mut self, retry: &RetryState) {
        self.add("buttress_retries_total", &[], retry.counts.retries);
        self.add(
            "buttress_retry_recovered_total",
            &[],
            retry.counts.recovered,
        );
        for (reason, count) in retry.counts.gave_up.by_reason() {
            self.add("buttress_retry_gave_up_total", &[("reason", reason)], count);
        }
        if let Some(tokens) = retry.tokens {
            self.add("buttress_retry_budget", &[], tokens);
        }
    }

    fn load_shed(&mut self, limit: &ConcurrencyLimit) {
        let seen = limit.snapshot();
        let rejected = seen.rejected.by_reason().map(|(_, count)| count);
        self.rejections("load_shed", "overloaded", rejected.sum());
        self.add("buttress_in_flight", &[], seen.in_flight);
        self.add("buttress_limit", &[], seen.limit);
        self.add(
            "buttress_queue_length",
            &[("layer", "load_shed")],
            seen.waiting,
        );
    }

    fn rate_limit(&mut self, limiter: &RateLimiter) {
        let seen = limiter.snapshot();
        self.rejections("rate_limit", "rate_limited", seen.rate_limited);
        self.rejections("rate_limit", "too_costly", seen.too_costly);
        self.add("buttress_rate_available", &[], seen.available);
        self.add("buttress_rate_pauses_total", &[], seen.paused);
        self.add(
            "buttress_queue_length",
            &[("layer", "rate_limit")],
            seen.waiting,
        );
    }

    fn circuit(&mut self, circuit: &Circuit) {
        let seen = circuit.snapshot();
        self.rejections("circuit_breaker", "circuit_open", seen.rejected);
        for state in STATES {
            let labels = [("state", state.as_str())];
            self.add(
                "buttress_circuit_state",
                &labels,
                u8::from(state == seen.state),
            );
        }
        for (reason, count) in seen.transitions.by_reason() {
            let labels = [("reason", reason)];
            self.add("buttress_circuit_transitions_total", &labels, count);
        }
        let rate = |rate: Option<f64>| rate.unwrap_or(f64::NAN);
        self.add(
            "buttress_circuit_failure_rate",
            &[],
            rate(seen.failure_rate()),
        );
        self.add("buttress_circuit_slow_rate", &[], rate(seen.slow_rate()));
        self.add("buttress_circuit_calls", &[], seen.calls);
        self.add("buttress_circuit_probes_total", &[], seen.probes);
        if let Some((calls, failures)) = circuit.total() {
            let successes = calls.saturating_sub(failures);
            self.add(
                "buttress_attempts_total",
                &[("outcome", "success")],
                successes,
            );
            self.add(
                "buttress_attempts_total",
                &[("outcome", "failure")],
                failures,
            );
        }
    }
}

/// Writes the value of a label. All values but the name are words of this crate.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}
