use super::breaker::{Breaker, Limits};
use super::count_window::{CountWindow, MAX_CALLS};
use super::row::Row;
use super::state::{MAX_PROBES, Rules};
use super::time_window::TimeWindow;
use super::window::Window as Record;
use crate::error::InvalidConfig;
use crate::name::Name;
use crate::time::nanos;
use std::time::Duration;

/// The settings of a [`CircuitBreakerLayer`](super::CircuitBreakerLayer) and its
/// [`Circuit`](super::Circuit).
///
/// `None` means a default that depends on other settings.
///
/// ```
/// use buttress::circuit_breaker::{Circuit, CircuitBreakerSettings};
///
/// let settings = CircuitBreakerSettings { probes: 5, ..CircuitBreakerSettings::default() };
/// settings.check()?;
/// let circuit = Circuit::with(settings)?;
/// assert!(circuit.to_string().contains("5 probes of which 3 close"));
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitBreakerSettings {
    /// The share of failed calls in the window that opens the circuit, above 0 to 1. Default: 0.5.
    pub failure_rate: Option<f64>,
    /// The calls that the window must hold before rates apply. Default: 20, or the size of a count
    /// window that is smaller.
    pub min_calls: Option<u32>,
    /// The calls that rates are computed from. Default: the calls of the last 10 s.
    pub window: Option<Window>,
    /// The failures in a row that open the circuit. If it is the only limit that is set, it
    /// replaces the rates. Default: off.
    pub consecutive_failures: Option<u32>,
    /// Which calls are slow, and the share of slow calls that opens the circuit. Default: off.
    pub slow_calls: Option<SlowCalls>,
    /// The open time. It doubles each time the probes fail, up to `max_open_for`. Default: 500 ms.
    pub open_for: Duration,
    /// The longest open time. Default: 1 s, or `open_for` if that is longer.
    pub max_open_for: Option<Duration>,
    /// The probes: how many calls may pass while half-open, 1 to 127. Default: 3.
    pub probes: u32,
    /// The successful probes that close the circuit, 1 to `probes`. Default: the majority.
    pub probe_successes: Option<u32>,
    /// The time after which probes without a result are written off, from the sending of the latest
    /// probe. Default: 30 s.
    pub probe_lease: Duration,
    /// A cancelled call counts as failed if it was in flight this long, measured from its first
    /// pending poll. Default: 10 s.
    pub abandoned_after: Duration,
    /// What a service does while the circuit is open. Default: reject.
    pub when_open: WhenOpen,
    /// The seed of the random part of open times, to make it repeatable. Default: random.
    pub seed: Option<u64>,
    /// The name in errors, events, snapshots and `Debug`. Default: none.
    pub name: Name,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            failure_rate: None,
            min_calls: None,
            window: None,
            consecutive_failures: None,
            slow_calls: None,
            open_for: Duration::from_millis(500),
            max_open_for: None,
            probes: 3,
            probe_successes: None,
            probe_lease: Duration::from_secs(30),
            abandoned_after: Duration::from_secs(10),
            when_open: WhenOpen::default(),
            seed: None,
            name: Name::UNNAMED,
        }
    }
}

/// Which calls are slow, and the share of slow calls that opens the circuit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowCalls {
    /// A call is slow if it takes at least this long from its first pending poll.
    pub duration: Duration,
    /// The share of slow calls in the window that opens the circuit, above 0 to 1.
    pub rate: f64,
}

/// What a service does while its circuit is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenOpen {
    /// The service is ready at once, and rejects the call.
    #[default]
    Reject,
    /// The service is not ready until a probe may be sent. Use it below a load balancer, with one
    /// breaker per endpoint: a balancer sees an endpoint that rejects at once as the fastest one.
    NotReady,
}

/// The calls that rates are computed from.
///
/// ```
/// use buttress::circuit_breaker::{Circuit, Window};
///
/// assert!(Circuit::builder().window(Window::count(4_096)).build().is_ok());
/// assert!(Circuit::builder().window(Window::count(4_097)).build().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Time(Duration),
    Count(u32),
}

impl Window {
    /// The calls that ended within the last `length`, in steps of a tenth of it. Must be above zero.
    #[must_use]
    pub const fn time(length: Duration) -> Self {
        Self(Kind::Time(length))
    }

    /// The last `calls` calls, 1 to 4096.
    #[must_use]
    pub const fn count(calls: u32) -> Self {
        Self(Kind::Count(calls))
    }
}

impl CircuitBreakerSettings {
    /// Checks whether a circuit can be built with these settings.
    ///
    /// # Errors
    /// Fails if a rate is below 0.000001, above 1 or not a number; if a count or a window is outside
    /// its range; if `probe_lease` is zero; or if `max_open_for` is below `open_for`.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.breaker().map(drop)
    }

    /// Makes the core.
    pub(super) fn breaker(&self) -> Result<Breaker, InvalidConfig> {
        let rules = self.rules()?;
        let row = match self.consecutive_failures {
            Some(0) => return Err(InvalidConfig::new("consecutive_failures", 0, "at least 1")),
            row => row,
        };
        // `consecutive_failures` replaces the rates if nothing about rates is set.
        let rates = row.is_none()
            || self.window.is_some()
            || self.failure_rate.is_some()
            || self.slow_calls.is_some()
            || self.min_calls.is_some();
        let Window(kind) = self.window.unwrap_or(Window::time(Duration::from_secs(10)));
        let longest = match kind {
            Kind::Count(calls) => calls,
            Kind::Time(_) => u32::MAX,
        };
        let min_calls = self.min_calls.unwrap_or(20.min(longest));
        let slow = self.slow_calls;
        let limits = Limits {
            failed_ppm: ppm("failure_rate", self.failure_rate.unwrap_or(0.5))?,
            slow: match slow {
                Some(SlowCalls { duration, rate }) => {
                    Some((nanos(duration), ppm("slow_calls", rate)?))
                }
                None => None,
            },
            min_calls,
            row: row.unwrap_or(0),
            abandoned_after: nanos(self.abandoned_after),
        };
        let record = match kind {
            Kind::Time(length) if length.is_zero() => {
                return Err(InvalidConfig::new("window", length, "above zero"));
            }
            Kind::Count(calls) if !(1..=MAX_CALLS).contains(&calls) => {
                return Err(InvalidConfig::new("window", calls, "from 1 to 4096 calls"));
            }
            Kind::Time(length) => Record::Time(TimeWindow::new(nanos(length), slow.is_some())),
            Kind::Count(calls) => Record::Count(CountWindow::new(calls, slow.is_some())),
        };
        if min_calls == 0 || min_calls > longest {
            let allowed = match kind {
                Kind::Count(calls) => format!("from 1 to the window's {calls} calls"),
                Kind::Time(_) => "at least 1".to_owned(),
            };
            return Err(InvalidConfig::new("min_calls", min_calls, allowed));
        }
        Ok(Breaker::new(
            rates.then_some(record),
            row.map(|_| Row::new()),
            limits,
            rules,
        ))
    }

    fn rules(&self) -> Result<Rules, InvalidConfig> {
        let open_for = self.open_for;
        let max_open_for = self
            .max_open_for
            .unwrap_or(open_for.max(Duration::from_secs(1)));
        if max_open_for < open_for {
            let allowed = format!("at least open_for, {open_for:?}");
            return Err(InvalidConfig::new("max_open_for", max_open_for, allowed));
        }
        let probes = self.probes;
        if !(1..=MAX_PROBES).contains(&probes) {
            return Err(InvalidConfig::new("probes", probes, "from 1 to 127"));
        }
        let successes = self.probe_successes.unwrap_or(probes / 2 + 1);
        if !(1..=probes).contains(&successes) {
            let allowed = format!("from 1 to the {probes} probes");
            return Err(InvalidConfig::new("probe_successes", successes, allowed));
        }
        let lease = self.probe_lease;
        if lease.is_zero() {
            return Err(InvalidConfig::new("probe_lease", lease, "above zero"));
        }
        Ok(Rules {
            open_for: nanos(open_for),
            max_open_for: nanos(max_open_for),
            probes: probes as u8,
            successes: successes as u8,
            lease: nanos(lease),
        })
    }
}

/// Converts a rate to parts per million, rounding down.
fn ppm(field: &'static str, rate: f64) -> Result<u32, InvalidConfig> {
    let ppm = (rate * 1e6) as u32; // NaN becomes 0, a value that is too large saturates
    if (1..=1_000_000).contains(&ppm) && rate <= 1.0 {
        return Ok(ppm);
    }
    Err(InvalidConfig::new(
        field,
        rate,
        "a share from 0.000001 to 1",
    ))
}

/// The setters that the builders of the circuit and of the layer share.
macro_rules! circuit_setters {
    () => {
        /// The share of failed calls in the window that opens the circuit, above 0 to 1. In steps
        /// of 0.000001, rounded down. Default: 0.5.
        pub fn failure_rate(mut self, failure_rate: f64) -> Self {
            self.settings.failure_rate = Some(failure_rate);
            self
        }

        /// The calls that the window must hold before rates apply. Default: 20, or the size of a
        /// count window that is smaller.
        pub fn min_calls(mut self, min_calls: u32) -> Self {
            self.settings.min_calls = Some(min_calls);
            self
        }

        /// The calls that rates are computed from. Default: the calls of the last 10 s.
        pub fn window(mut self, window: $crate::circuit_breaker::Window) -> Self {
            self.settings.window = Some(window);
            self
        }

        /// Opens the circuit after this many failures in a row. If it is the only limit that is
        /// set, it replaces the rates. Together with `failure_rate`, `min_calls`, `window` or
        /// `slow_calls`, the limit that is reached first opens the circuit. Default: off.
        pub fn consecutive_failures(mut self, consecutive_failures: u32) -> Self {
            self.settings.consecutive_failures = Some(consecutive_failures);
            self
        }

        /// A call is slow if it takes at least `duration` from its first pending poll. The circuit
        /// opens when the share of slow calls in the window reaches `rate`, above 0 to 1, in steps
        /// of 0.000001, rounded down. A slow probe counts as failed. Default: off.
        pub fn slow_calls(mut self, duration: std::time::Duration, rate: f64) -> Self {
            self.settings.slow_calls = Some($crate::circuit_breaker::SlowCalls { duration, rate });
            self
        }

        /// How long the circuit stays open. The time doubles each time the probes fail, up to
        /// `max_open_for`, and a random part of up to 10 % is subtracted from it. Above 2^35 ms
        /// (1.09 years) the circuit stays open until it is reset. Default: 500 ms.
        pub fn open_for(mut self, open_for: std::time::Duration) -> Self {
            self.settings.open_for = open_for;
            self
        }

        /// The longest open time, whether it comes from doubling or from the `retry_after` of a
        /// verdict. Default: 1 s, or `open_for` if that is longer.
        pub fn max_open_for(mut self, max_open_for: std::time::Duration) -> Self {
            self.settings.max_open_for = Some(max_open_for);
            self
        }

        /// The probes: how many calls may pass while half-open, 1 to 127. Default: 3.
        pub fn probes(mut self, probes: u32) -> Self {
            self.settings.probes = probes;
            self
        }

        /// The successful probes that close the circuit, 1 to `probes`. Default: the majority.
        pub fn probe_successes(mut self, probe_successes: u32) -> Self {
            self.settings.probe_successes = Some(probe_successes);
            self
        }

        /// The time after which probes without a result are written off and new ones may be sent. It
        /// is measured from the sending of the latest probe, and matters only once all `probes` are
        /// sent. Default: 30 s. `Duration::MAX` means never.
        pub fn probe_lease(mut self, probe_lease: std::time::Duration) -> Self {
            self.settings.probe_lease = probe_lease;
            self
        }

        /// A cancelled call counts as failed if it was in flight this long, measured from its first
        /// pending poll, and as nothing otherwise. A call is cancelled when its future is dropped or
        /// its request's deadline passes. Raise the time if callers stop healthy calls, such as long
        /// streams and calls of language models. Default: 10 s. `Duration::MAX` means never.
        pub fn abandoned_after(mut self, abandoned_after: std::time::Duration) -> Self {
            self.settings.abandoned_after = abandoned_after;
            self
        }

        /// What a service does while the circuit is open. Default: reject.
        pub fn when_open(mut self, when_open: $crate::circuit_breaker::WhenOpen) -> Self {
            self.settings.when_open = when_open;
            self
        }

        /// The seed of the random part of open times, to make it repeatable. Default: random.
        pub fn seed(mut self, seed: u64) -> Self {
            self.settings.seed = Some(seed);
            self
        }

        /// The name in errors, events, snapshots and `Debug`. Default: none.
        pub fn name(mut self, name: impl Into<$crate::name::Name>) -> Self {
            self.settings.name = name.into();
            self
        }

        /// Replaces all settings.
        pub fn settings(
            mut self,
            settings: $crate::circuit_breaker::CircuitBreakerSettings,
        ) -> Self {
            self.settings = settings;
            self
        }
    };
}
pub(super) use circuit_setters;
