use crate::error::Rejection;
use crate::name::Name;
use crate::verdict::Verdict;
use metrics::{Histogram, histogram};
use quanta::Clock;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::OnceLock;

/// How a call or an attempt ended: a place in [`WORDS`].
#[derive(Clone, Copy)]
pub(crate) struct Ended(usize);

const WORDS: [&str; 13] = [
    "healthy",
    "transient",
    "throttled",
    "permanent",
    "local",
    "ignored",
    "timed_out",
    "deadline_passed",
    "circuit_open",
    "rate_limited",
    "too_costly",
    "overloaded",
    "cancelled",
];

impl Ended {
    pub(crate) const CANCELLED: Self = Self(12);

    pub(crate) fn with(verdict: Verdict, rejection: Option<Rejection>) -> Self {
        Self(match (rejection, verdict) {
            (None, Verdict::Healthy) => 0,
            (None, Verdict::Transient { .. }) => 1,
            (None, Verdict::Throttled { .. }) => 2,
            (None, Verdict::Permanent) => 3,
            (None, Verdict::Local) => 4,
            (None, Verdict::Ignored) => 5,
            (Some(Rejection::TimedOut { .. }), _) => 6,
            (Some(Rejection::DeadlinePassed { .. }), _) => 7,
            (Some(Rejection::CircuitOpen { .. }), _) => 8,
            (Some(Rejection::RateLimited { .. }), _) => 9,
            (Some(Rejection::TooCostly { .. }), _) => 10,
            (Some(Rejection::Overloaded { .. }), _) => 11,
        })
    }
}

/// A moment of a call. Empty if nobody measures.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moment(Option<NonZeroU64>);

/// Measures the calls and attempts of a retry layer, once it is switched on.
#[derive(Default)]
pub(crate) struct Meter(OnceLock<Durations>);

struct Durations {
    clock: Clock,
    name: Name,
    /// By [`Ended`].
    calls: [OnceLock<Histogram>; WORDS.len()],
    attempts: [[OnceLock<Histogram>; WORDS.len()]; 3],
    /// Makes the other metrics, so that they are there from the first call on.
    others: Box<dyn Fn() + Send + Sync>,
}

impl Meter {
    /// Does nothing if it is on.
    pub(crate) fn switch_on(&self, name: Name, others: impl Fn() + Send + Sync + 'static) {
        self.0.get_or_init(|| Durations {
            clock: Clock::new(),
            name,
            calls: Default::default(),
            attempts: Default::default(),
            others: Box::new(others),
        });
    }

    /// Now, if somebody measures.
    #[inline]
    pub(crate) fn begin(&self) -> Moment {
        Moment(self.0.get().and_then(|on| NonZeroU64::new(on.clock.raw())))
    }

    /// Records an attempt that began at `since`. Returns its end.
    #[inline]
    pub(crate) fn attempt(&self, since: Moment, number: u32, ended: Ended) -> Moment {
        let (Some(on), Moment(Some(since))) = (self.0.get(), since) else {
            return Moment::default();
        };
        let now = on.clock.raw();
        on.attempt(number, ended).record(on.seconds(since, now));
        Moment(NonZeroU64::new(now))
    }

    /// Records a call that began at `since` and ended at `end`.
    #[inline]
    pub(crate) fn call(&self, since: Moment, end: Moment, ended: Ended) {
        if let (Some(on), Moment(Some(since)), Moment(Some(end))) = (self.0.get(), since, end) {
            on.call(ended).record(on.seconds(since, end.get()));
        }
    }

    /// Records a call of one attempt, both of which began at `since`.
    #[inline]
    pub(crate) fn call_of_one(&self, since: Moment, ended: Ended) {
        if let (Some(on), Moment(Some(since))) = (self.0.get(), since) {
            let seconds = on.seconds(since, on.clock.raw());
            on.attempt(1, ended).record(seconds);
            on.call(ended).record(seconds);
        }
    }
}

impl Durations {
    #[inline]
    fn call(&self, ended: Ended) -> &Histogram {
        self.calls[ended.0].get_or_init(|| {
            self.histogram(|name| {
                histogram!("buttress.call.duration", "name" => name, "outcome" => WORDS[ended.0])
            })
        })
    }

    #[inline]
    fn attempt(&self, number: u32, ended: Ended) -> &Histogram {
        let row = number.clamp(1, 3) as usize - 1;
        self.attempts[row][ended.0].get_or_init(|| {
            let attempt = ["1", "2", "3+"][row];
            self.histogram(|name| {
                histogram!("buttress.attempt.duration", "name" => name, "attempt" => attempt, "outcome" => WORDS[ended.0])
            })
        })
    }

    #[cold]
    fn histogram(&self, make: impl FnOnce(&'static str) -> Histogram) -> Histogram {
        super::events::describe();
        (self.others)();
        make(super::events::label(self.name))
    }

    #[inline]
    fn seconds(&self, since: NonZeroU64, now: u64) -> f64 {
        self.clock.delta_as_nanos(since.get(), now) as f64 * 1e-9
    }
}

impl Moment {
    /// Whether there is something to record.
    pub(crate) fn is_some(self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.0.get().is_some() { "on" } else { "off" };
        f.debug_tuple("Meter").field(&state).finish()
    }
}
