//! The state of a registry as JSON.

use super::state::{LayerState, Past};
use crate::event::Event;
use crate::event::STATES;
use crate::retry::RetryState;
use std::fmt::{Display, Write};
use std::time::Duration;
use tokio::time::Instant;

/// A JSON text that is being written.
struct Json {
    text: String,
    /// Whether the next field or item needs a comma before it.
    comma: bool,
}

pub(super) fn write(
    instance: &str,
    start: Instant,
    actions: bool,
    entries: &[(u64, String, Vec<LayerState>)],
    past: &[Past],
) -> String {
    let now = Instant::now();
    let mut json = Json {
        text: String::new(),
        comma: false,
    };
    json.object(|json| {
        json.string("instance", instance);
        json.seconds("uptime_seconds", now.saturating_duration_since(start));
        json.number("actions", actions);
        json.array("upstreams", entries, |json, (id, name, layers)| {
            json.number("id", id);
            json.string("name", name);
            json.array("layers", layers, layer);
        });
        json.array("events", past, |json, past| event(json, past, now));
    });
    json.text
}

fn layer(json: &mut Json, layer: &LayerState) {
    match layer {
        LayerState::Timeout(place, counts) => {
            json.string("layer", place);
            json.seconds("after_seconds", counts.after);
            json.number("timed_out", counts.timed_out);
            json.number("deadline_passed", counts.deadline_passed);
        }
        LayerState::Chaos(chaos) => {
            let seen = chaos.snapshot();
            json.string("layer", "chaos");
            json.string("faults", &chaos.to_string());
            json.number("is_on", seen.is_on);
            json.number("active", seen.active);
            json.counts("injected", seen.by_fault());
        }
        LayerState::Hedge(seen) => {
            json.string("layer", "hedge");
            json.optional("delay_seconds", seen.delay.map(|delay| delay.as_secs_f64()));
            json.number("hedged", seen.hedged);
            json.number("won", seen.won_by_hedge);
            json.counts("denied", seen.denied.by_reason());
        }
        LayerState::Fallback(seen) => {
            json.string("layer", "fallback");
            json.number("degraded", seen.degraded);
            json.number("fell_back", seen.fell_back);
            json.number("failed", seen.failed);
        }
        LayerState::Retry(state) => retry(json, state),
        LayerState::LoadShed(limit) => {
            let seen = limit.snapshot();
            json.string("layer", "load_shed");
            json.number("limit", seen.limit);
            json.number("in_flight", seen.in_flight);
            json.number("waiting", seen.waiting);
            json.counts("rejected", seen.rejected.by_reason());
        }
        LayerState::RateLimit(limiter) => {
            let seen = limiter.snapshot();
            json.string("layer", "rate_limit");
            json.string("quota", &seen.quota.to_string());
            json.number("available", seen.available);
            json.number("waiting", seen.waiting);
            let rejected = [
                ("rate_limited", seen.rate_limited),
                ("too_costly", seen.too_costly),
            ];
            json.counts("rejected", rejected);
            json.number("paused", seen.paused);
        }
        LayerState::Quotas(seen) => {
            json.string("layer", "quotas");
            let numbers: Vec<_> = (1..=seen.available.len())
                .map(|it| it.to_string())
                .collect();
            let available = seen.available.iter().copied().map(u64::from);
            json.counts(
                "available",
                numbers.iter().map(String::as_str).zip(available),
            );
            json.number("waiting", seen.waiting);
            let rejected = [
                ("rate_limited", seen.rate_limited),
                ("too_costly", seen.too_costly),
            ];
            json.counts("rejected", rejected);
        }
        LayerState::Circuit(circuit) => {
            let seen = circuit.snapshot();
            json.string("layer", "circuit_breaker");
            json.string("state", seen.state.as_str());
            json.optional(
                "retry_after_seconds",
                seen.retry_after.map(|wait| wait.as_secs_f64()),
            );
            json.number("calls", seen.calls);
            json.number("failures", seen.failures);
            json.number("slow_calls", seen.slow_calls);
            json.optional("failure_rate", seen.failure_rate());
            json.optional("slow_rate", seen.slow_rate());
            let (calls, failures) = circuit.total().unzip();
            json.optional("total_calls", calls);
            json.optional("total_failures", failures);
            json.number("rejected", seen.rejected);
            json.number("probes", seen.probes);
            json.counts("transitions", seen.transitions.by_reason());
        }
        LayerState::Keys(keys) => {
            json.string("layer", "keys");
            json.number("keys", keys.keys);
            let states = STATES.iter().map(|state| state.as_str());
            let counts = keys.circuits.map(|count| count as u64);
            json.counts("circuits", states.zip(counts));
        }
    }
}

fn retry(json: &mut Json, state: &RetryState) {
    json.string("layer", "retry");
    json.number("attempts", state.attempts);
    json.number("retries", state.counts.retries);
    json.number("recovered", state.counts.recovered);
    json.counts("gave_up", state.counts.gave_up.by_reason());
    json.optional("budget", state.tokens);
}

fn event(json: &mut Json, past: &Past, now: Instant) {
    json.number("number", past.number);
    json.seconds("age_seconds", now.saturating_duration_since(past.at));
    json.string("upstream", &past.upstream);
    if let Event::Transition {
        from,
        to,
        reason,
        calls,
        failures,
        slow_calls,
        ..
    } = past.event
    {
        json.string("from", from.as_str());
        json.string("to", to.as_str());
        json.string("reason", reason.as_str());
        json.number("calls", calls);
        json.number("failures", failures);
        json.number("slow_calls", slow_calls);
    }
}

impl Json {
    fn object(&mut self, fields: impl FnOnce(&mut Self)) {
        self.text.push('{');
        self.comma = false;
        fields(self);
        self.text.push('}');
        self.comma = true;
    }

    fn key(&mut self, key: &str) {
        let comma = if self.comma { "," } else { "" };
        let _ = write!(self.text, "{comma}\"{key}\":");
        self.comma = true;
    }

    fn array<T>(&mut self, key: &str, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.key(key);
        self.text.push('[');
        for (number, item) in items.iter().enumerate() {
            if number > 0 {
                self.text.push(',');
            }
            self.object(|json| write(json, item));
        }
        self.text.push(']');
        self.comma = true;
    }

    fn number(&mut self, key: &str, number: impl Display) {
        self.key(key);
        let _ = write!(self.text, "{number}");
    }

    fn optional(&mut self, key: &str, number: Option<impl Display>) {
        match number {
            Some(number) => self.number(key, number),
            None => self.number(key, "null"),
        }
    }

    /// The longest durations stand for no limit. JSON has no word for that but `null`.
    fn seconds(&mut self, key: &str, duration: Duration) {
        let limited = (duration != Duration::MAX).then_some(duration.as_secs_f64());
        self.optional(key, limited);
    }

    fn counts<'a>(&mut self, key: &str, counts: impl IntoIterator<Item = (&'a str, u64)>) {
        self.key(key);
        self.object(|json| {
            for (key, count) in counts {
                json.number(key, count);
            }
        });
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                c if c.is_control() => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(c));
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}
