//! The Prometheus text format 0.0.4.

use super::names::{METRICS, Metric};
use super::state::{KeysState, LayerState, QuotasState};
use crate::chaos::ChaosSnapshot;
use crate::circuit_breaker::CircuitSnapshot;
use crate::event::STATES;
use crate::fallback::FallbackSnapshot;
use crate::hedge::HedgeSnapshot;
use crate::load_shed::LoadShedSnapshot;
use crate::rate_limit::RateLimitSnapshot;
use crate::retry::RetryState;
use crate::timeout::TimeoutSnapshot;
use std::fmt::Write;

/// What one layer showed at the moment of the scrape. Each layer is read once.
enum Seen<'a> {
    Timeout(&'static str, &'a TimeoutSnapshot),
    Hedge(&'a HedgeSnapshot),
    Chaos(ChaosSnapshot),
    Fallback(&'a FallbackSnapshot),
    Retry(&'a RetryState),
    LoadShed(LoadShedSnapshot),
    RateLimit(RateLimitSnapshot),
    Quotas(&'a QuotasState),
    Circuit(CircuitSnapshot, Option<(u64, u64)>),
    Keys(&'a KeysState),
}

/// `capacity`: about how long the text will be. A text that grows is copied again and again.
pub(super) fn write(
    uptime: f64,
    entries: &[(u64, String, Vec<LayerState>)],
    capacity: usize,
) -> String {
    let seen = entries.iter().flat_map(|(_, name, layers)| {
        let name = escape(name);
        layers.iter().map(move |layer| (name.clone(), see(layer)))
    });
    let seen: Vec<_> = seen.collect();
    let mut text = String::with_capacity(capacity);
    for (metric, metric_name, kind, help) in METRICS {
        let start = text.len();
        for part in [
            "# HELP ",
            metric_name,
            " ",
            help,
            "\n# TYPE ",
            metric_name,
            " ",
            kind,
            "\n",
        ] {
            text.push_str(part);
        }
        let samples_start = text.len();
        if metric == Metric::Uptime {
            let _ = writeln!(text, "{metric_name} {uptime}");
        }
        for (name, seen) in &seen {
            let mut samples = Samples {
                text: &mut text,
                metric,
                metric_name,
                name,
            };
            samples.of(seen);
        }
        // A metric without samples is left out.
        if text.len() == samples_start {
            text.truncate(start);
        }
    }
    text
}

fn see(layer: &LayerState) -> Seen<'_> {
    match layer {
        LayerState::Timeout(place, counts) => Seen::Timeout(place, counts),
        LayerState::Chaos(chaos) => Seen::Chaos(chaos.snapshot()),
        LayerState::Hedge(hedge) => Seen::Hedge(hedge),
        LayerState::Fallback(fallback) => Seen::Fallback(fallback),
        LayerState::Retry(retry) => Seen::Retry(retry),
        LayerState::LoadShed(limit) => Seen::LoadShed(limit.snapshot()),
        LayerState::RateLimit(limiter) => Seen::RateLimit(limiter.snapshot()),
        LayerState::Quotas(quotas) => Seen::Quotas(quotas),
        LayerState::Circuit(circuit) => Seen::Circuit(circuit.snapshot(), circuit.total()),
        LayerState::Keys(keys) => Seen::Keys(keys),
    }
}

/// Writes the samples of one metric and one layer.
struct Samples<'a> {
    text: &'a mut String,
    metric: Metric,
    metric_name: &'static str,
    /// The escaped name of the entry.
    name: &'a str,
}

impl Samples<'_> {
    fn head(&mut self, labels: &[(&str, &str)]) {
        self.text.push_str(self.metric_name);
        self.text.push_str("{name=\"");
        self.text.push_str(self.name);
        for (label, value) in labels {
            for part in ["\",", label, "=\"", value] {
                self.text.push_str(part);
            }
        }
        self.text.push_str("\"} ");
    }

    fn count(&mut self, labels: &[(&str, &str)], count: u64) {
        self.head(labels);
        match u8::try_from(count) {
            // Most counts. It spares the machinery of `fmt`.
            Ok(digit @ 0..=9) => self.text.push(char::from(b'0' + digit)),
            _ => _ = write!(self.text, "{count}"),
        }
        self.text.push('\n');
    }

    fn float(&mut self, value: f64) {
        self.head(&[]);
        let _ = writeln!(self.text, "{value}");
    }

    fn rejections(&mut self, layer: &str, error_type: &str, count: u64) {
        self.count(&[("layer", layer), ("error_type", error_type)], count);
    }

    fn of(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Timeout(place, counts) => self.timeout(place, counts),
            Seen::Chaos(chaos) => self.chaos(chaos),
            Seen::Hedge(hedge) => self.hedge(hedge),
            Seen::Fallback(fallback) => self.fallback(fallback),
            Seen::Retry(retry) => self.retry(retry),
            Seen::LoadShed(limit) => self.load_shed(limit),
            Seen::RateLimit(limiter) => self.rate_limit(limiter),
            Seen::Quotas(quotas) => self.quotas(quotas),
            Seen::Circuit(circuit, total) => self.circuit(circuit, *total),
            Seen::Keys(keys) => self.keys(keys),
        }
    }

    fn timeout(&mut self, layer: &str, counts: &TimeoutSnapshot) {
        if self.metric == Metric::Rejections {
            self.rejections(layer, "timed_out", counts.timed_out);
            self.rejections(layer, "deadline_passed", counts.deadline_passed);
        }
    }

    fn chaos(&mut self, seen: &ChaosSnapshot) {
        match self.metric {
            Metric::Injections => {
                for (fault, count) in seen.by_fault() {
                    self.count(&[("fault", fault)], count);
                }
            }
            Metric::ChaosOn => self.count(&[], seen.is_on.into()),
            _ => {}
        }
    }

    fn hedge(&mut self, seen: &HedgeSnapshot) {
        match self.metric {
            Metric::Hedges => self.count(&[], seen.hedged),
            Metric::HedgesWon => self.count(&[], seen.won_by_hedge),
            Metric::HedgesDenied => {
                for (reason, count) in seen.denied.by_reason() {
                    self.count(&[("reason", reason)], count);
                }
            }
            Metric::HedgeDelay => {
                self.float(seen.delay.map_or(f64::NAN, |delay| delay.as_secs_f64()));
            }
            _ => {}
        }
    }

    fn fallback(&mut self, seen: &FallbackSnapshot) {
        match self.metric {
            Metric::Fallbacks => self.count(&[], seen.fell_back),
            Metric::FallbacksFailed => self.count(&[], seen.failed),
            Metric::Degraded => self.count(&[], seen.degraded.into()),
            _ => {}
        }
    }

    fn retry(&mut self, retry: &RetryState) {
        match self.metric {
            Metric::Retries => {
                for (verdict, count) in retry.counts.by_verdict.by_verdict() {
                    self.count(&[("verdict", verdict)], count);
                }
            }
            Metric::RetryRecovered => self.count(&[], retry.counts.recovered),
            Metric::RetryGaveUp => {
                for (reason, count) in retry.counts.gave_up.by_reason() {
                    self.count(&[("reason", reason)], count);
                }
            }
            Metric::RetryBudget => retry.tokens.into_iter().for_each(|it| self.float(it)),
            _ => {}
        }
    }

    fn load_shed(&mut self, seen: &LoadShedSnapshot) {
        match self.metric {
            Metric::Rejections => {
                let rejected = seen.rejected.by_reason().map(|(_, count)| count);
                self.rejections("load_shed", "overloaded", rejected.sum());
            }
            Metric::InFlight => self.count(&[], seen.in_flight as u64),
            Metric::Limit => self.count(&[], seen.limit as u64),
            Metric::QueueLength => self.count(&[("layer", "load_shed")], seen.waiting as u64),
            _ => {}
        }
    }

    fn rate_limit(&mut self, seen: &RateLimitSnapshot) {
        match self.metric {
            Metric::Rejections => {
                self.rejections("rate_limit", "rate_limited", seen.rate_limited);
                self.rejections("rate_limit", "too_costly", seen.too_costly);
            }
            Metric::RateAvailable => self.count(&[], seen.available.into()),
            Metric::RatePauses => self.count(&[], seen.paused),
            Metric::QueueLength => self.count(&[("layer", "rate_limit")], seen.waiting as u64),
            _ => {}
        }
    }

    fn quotas(&mut self, seen: &QuotasState) {
        match self.metric {
            Metric::Rejections => {
                self.rejections("rate_limit", "rate_limited", seen.rate_limited);
                self.rejections("rate_limit", "too_costly", seen.too_costly);
            }
            Metric::RateAvailable => {
                for (at, available) in seen.available.iter().enumerate() {
                    let number = (at + 1).to_string();
                    self.count(&[("quota", &number)], (*available).into());
                }
            }
            Metric::QueueLength => self.count(&[("layer", "rate_limit")], seen.waiting as u64),
            _ => {}
        }
    }

    fn circuit(&mut self, seen: &CircuitSnapshot, total: Option<(u64, u64)>) {
        match self.metric {
            Metric::Rejections => {
                self.rejections("circuit_breaker", "circuit_open", seen.rejected);
            }
            Metric::Attempts => {
                if let Some((calls, failures)) = total {
                    let successes = calls.saturating_sub(failures);
                    self.count(&[("outcome", "success")], successes);
                    self.count(&[("outcome", "failure")], failures);
                }
            }
            Metric::CircuitState => {
                for state in STATES {
                    self.count(&[("state", state.as_str())], (state == seen.state).into());
                }
            }
            Metric::CircuitTransitions => {
                for (reason, count) in seen.transitions.by_reason() {
                    self.count(&[("reason", reason)], count);
                }
            }
            Metric::CircuitFailureRate => self.float(seen.failure_rate().unwrap_or(f64::NAN)),
            Metric::CircuitSlowRate => self.float(seen.slow_rate().unwrap_or(f64::NAN)),
            Metric::CircuitCalls => self.count(&[], seen.calls),
            Metric::CircuitProbes => self.count(&[], seen.probes),
            _ => {}
        }
    }

    fn keys(&mut self, seen: &KeysState) {
        match self.metric {
            Metric::Keys => self.count(&[], seen.keys as u64),
            Metric::KeyCircuits => {
                for (state, count) in STATES.iter().zip(seen.circuits) {
                    self.count(&[("state", state.as_str())], count as u64);
                }
            }
            Metric::KeyCircuitState => {
                for (key, is) in &seen.by_name {
                    let key = escape(key);
                    for state in STATES {
                        let labels = [("key", &*key), ("state", state.as_str())];
                        self.count(&labels, (state == *is).into());
                    }
                }
            }
            _ => {}
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
