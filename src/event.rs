//! What the layers report: one type for all events, and one place that decides where they go.
//!
//! Each event is emitted through [`tracing`](https://docs.rs/tracing) under its name, which is also
//! its message. Names, levels, targets and fields are part of the interface.
//!
//! | event | level | target | fields besides `name` |
//! |---|---|---|---|
//! | `timed_out` | DEBUG | `buttress::timeout` | `after_ms` |
//! | `deadline_passed` | DEBUG | `buttress::timeout` | |
//! | `retrying` | DEBUG | `buttress::retry` | `attempt` (the one that ended, from 1), `wait_ms`, `verdict` |
//! | `gave_up` | DEBUG | `buttress::retry` | `attempt`, `verdict`, `reason` |
//! | `opened` | WARN | `buttress::circuit_breaker` | `from`, `to`, `reason`, `calls`, `failures`, `slow_calls` |
//! | `half_opened` | INFO | `buttress::circuit_breaker` | the same |
//! | `closed` | INFO | `buttress::circuit_breaker` | the same |
//! | `rejected` | DEBUG | `buttress::circuit_breaker` | `retry_after_ms` |
//! | `rate_limited` | DEBUG | `buttress::rate_limit` | `cost`, `retry_after_ms` |
//! | `too_costly` | DEBUG | `buttress::rate_limit` | `cost`, `burst` |
//! | `paused` | DEBUG | `buttress::rate_limit` | `pause_ms` |
//! | `overloaded` | DEBUG | `buttress::load_shed` | `reason`, `limit` |
//!
//! The field `name` is the name of the layer; it is absent if the layer has none. What the values of
//! `reason` mean is said at [`TransitionReason`], [`GiveUpReason`] and [`OverloadReason`].

use crate::name::Name;
use crate::time::millis;
use crate::verdict::Verdict;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tracing::{Level, event};

/// Something that a layer reports. See the [module](self) for names, levels and fields.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A timeout ran out.
    TimedOut {
        /// The name of the layer.
        name: Name,
        /// The timeout, as configured.
        after: Duration,
    },
    /// The deadline that a request carried passed.
    DeadlinePassed {
        /// The name of the layer.
        name: Name,
    },
    /// A call will be sent again.
    Retrying {
        /// The name of the layer.
        name: Name,
        /// The attempt that ended, from 1.
        attempt: u32,
        /// How long the next attempt waits.
        wait: Duration,
        /// What the outcome of the attempt was judged as.
        verdict: Verdict,
    },
    /// A failed call is not sent again.
    GaveUp {
        /// The name of the layer.
        name: Name,
        /// The attempt that ended, from 1.
        attempt: u32,
        /// What the outcome of the attempt was judged as.
        verdict: Verdict,
        /// Why there is no other attempt.
        reason: GiveUpReason,
    },
    /// A circuit changed its state: `opened`, `half_opened` or `closed`.
    Transition {
        /// The name of the circuit.
        name: Name,
        /// The state before.
        from: CircuitState,
        /// The state after.
        to: CircuitState,
        /// What led to it.
        reason: TransitionReason,
        /// The calls in the window; with probes, the probes that have a result.
        calls: u64,
        /// The failed ones among them.
        failures: u64,
        /// The slow ones among them.
        slow_calls: u64,
    },
    /// An open circuit rejected a call.
    CircuitRejected {
        /// The name of the circuit.
        name: Name,
        /// How long until a probe may be sent, where that is known.
        retry_after: Option<Duration>,
    },
    /// A rate limit rejected a call.
    RateLimited {
        /// The name of the limiter.
        name: Name,
        /// What the call costs.
        cost: u32,
        /// How long until the call would be granted, where that is known.
        retry_after: Option<Duration>,
    },
    /// A call costs more than its rate limit ever grants at once.
    TooCostly {
        /// The name of the limiter.
        name: Name,
        /// What the call costs.
        cost: u32,
        /// The most that is granted at once.
        burst: u32,
    },
    /// A rate limiter was paused because the upstream asked for it.
    Paused {
        /// The name of the limiter.
        name: Name,
        /// How long it grants nothing.
        pause: Duration,
    },
    /// A load shed rejected a call.
    Overloaded {
        /// The name of the limit.
        name: Name,
        /// Why the call was rejected.
        reason: OverloadReason,
        /// How many calls may be in flight.
        limit: usize,
    },
}

/// What a circuit does at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls pass and are counted.
    Closed,
    /// Calls are rejected until the open time is over.
    Open,
    /// The open time is over: a few calls may pass, as probes. An open circuit whose time is over
    /// reads as half-open even before the next call comes.
    HalfOpen,
    /// Calls are rejected until somebody resets the circuit or forces it closed.
    ForcedOpen,
    /// Calls pass and are counted, and nothing opens the circuit until somebody resets it or forces
    /// it open.
    ForcedClosed,
}

/// Makes an enum of reasons, whose snake-case words appear in events, and a struct that counts them.
macro_rules! reasons {
    (
        $(#[$about:meta])* $name:ident,
        $(#[$counts_about:meta])* $counts:ident {
            $(#[doc = $doc:literal] $variant:ident = $word:ident,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = concat!("`", stringify!($word), "`: ", $doc)] $variant,)*
        }

        impl $name {
            /// The word for it in events.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($word),)* }
            }
        }

        $(#[$counts_about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $counts {
            $(#[doc = $doc] pub $word: u64,)*
        }

        impl From<&Counters<$name>> for $counts {
            fn from(counters: &Counters<$name>) -> Self {
                Self { $($word: counters.counts[$name::$variant as usize].get(),)* }
            }
        }

        impl From<$name> for usize {
            fn from(reason: $name) -> Self {
                reason as Self
            }
        }
    };
}

reasons! {
    /// What changed the state of a circuit.
    TransitionReason,
    /// Transitions of a circuit, by reason.
    Transitions {
        /// Too many calls of the window failed.
        FailureRate = failure_rate,
        /// Too many calls of the window were slow.
        SlowCalls = slow_calls,
        /// Too many calls failed in a row.
        ConsecutiveFailures = consecutive_failures,
        /// The open time was over, and a call came.
        OpenTimeOver = open_time_over,
        /// Too many probes failed.
        ProbesFailed = probes_failed,
        /// Enough probes succeeded.
        ProbesSucceeded = probes_succeeded,
        /// Probes did not come back within their lease.
        LeaseLapsed = lease_lapsed,
        /// Somebody forced the circuit open or closed.
        Forced = forced,
        /// Somebody reset the circuit.
        Reset = reset,
    }
}

reasons! {
    /// Why a failed call is not sent again.
    GiveUpReason,
    /// Failed calls that were not sent again, by reason.
    GiveUps {
        /// All attempts were made.
        Attempts = attempts,
        /// The request cannot be sent twice.
        NotReplayable = not_replayable,
        /// The upstream asks for a longer wait than is allowed.
        RetryAfter = retry_after,
        /// The next attempt would come after the deadline of the request.
        Deadline = deadline,
        /// The budget had no token.
        Budget = budget,
    }
}

reasons! {
    /// Why a load shed rejected a call.
    OverloadReason,
    /// Rejections of a load shed, by reason.
    Overloads {
        /// No slot was free, and no place in the queue.
        Full = full,
        /// The inner service was not ready.
        InnerNotReady = inner_not_ready,
        /// No slot became free within the allowed wait.
        WaitedTooLong = waited_too_long,
        /// No slot became free before the deadline of the request.
        Deadline = deadline,
    }
}

impl CircuitState {
    /// The word for it in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }
}

impl Event {
    /// Sends the event to where events go.
    pub(crate) fn emit(self) {
        match self {
            Self::TimedOut { name, after } => event!(
                name: "timed_out", target: "buttress::timeout", Level::DEBUG,
                name = name.as_str(), after_ms = millis(after), "timed_out"
            ),
            Self::DeadlinePassed { name } => event!(
                name: "deadline_passed", target: "buttress::timeout", Level::DEBUG,
                name = name.as_str(), "deadline_passed"
            ),
            Self::Retrying {
                name,
                attempt,
                wait,
                verdict,
            } => event!(
                name: "retrying", target: "buttress::retry", Level::DEBUG,
                name = name.as_str(), attempt, wait_ms = millis(wait), verdict = verdict.as_str(),
                "retrying"
            ),
            Self::GaveUp {
                name,
                attempt,
                verdict,
                reason,
            } => event!(
                name: "gave_up", target: "buttress::retry", Level::DEBUG,
                name = name.as_str(), attempt, verdict = verdict.as_str(),
                reason = reason.as_str(), "gave_up"
            ),
            Self::Transition {
                name,
                from,
                to,
                reason,
                calls,
                failures,
                slow_calls,
            } => {
                macro_rules! changed {
                    ($event:literal, $level:expr) => {
                        event!(
                            name: $event, target: "buttress::circuit_breaker", $level,
                            name = name.as_str(), from = from.as_str(), to = to.as_str(),
                            reason = reason.as_str(), calls, failures, slow_calls, $event
                        )
                    };
                }
                match to {
                    CircuitState::Open | CircuitState::ForcedOpen => {
                        changed!("opened", Level::WARN);
                    }
                    CircuitState::HalfOpen => changed!("half_opened", Level::INFO),
                    CircuitState::Closed | CircuitState::ForcedClosed => {
                        changed!("closed", Level::INFO);
                    }
                }
            }
            Self::CircuitRejected { name, retry_after } => event!(
                name: "rejected", target: "buttress::circuit_breaker", Level::DEBUG,
                name = name.as_str(), retry_after_ms = retry_after.map(millis), "rejected"
            ),
            Self::RateLimited {
                name,
                cost,
                retry_after,
            } => event!(
                name: "rate_limited", target: "buttress::rate_limit", Level::DEBUG,
                name = name.as_str(), cost, retry_after_ms = retry_after.map(millis),
                "rate_limited"
            ),
            Self::TooCostly { name, cost, burst } => event!(
                name: "too_costly", target: "buttress::rate_limit", Level::DEBUG,
                name = name.as_str(), cost, burst, "too_costly"
            ),
            Self::Paused { name, pause } => event!(
                name: "paused", target: "buttress::rate_limit", Level::DEBUG,
                name = name.as_str(), pause_ms = millis(pause), "paused"
            ),
            Self::Overloaded {
                name,
                reason,
                limit,
            } => event!(
                name: "overloaded", target: "buttress::load_shed", Level::DEBUG,
                name = name.as_str(), reason = reason.as_str(), limit, "overloaded"
            ),
        }
    }
}

/// Counts events of one kind since a handle was made.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    // Relaxed, here and below: a count orders nothing.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts by reason `R`, of which there are up to nine.
#[derive(Debug)]
pub(crate) struct Counters<R> {
    counts: [Count; 9],
    reasons: PhantomData<R>,
}

impl<R> Default for Counters<R> {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            reasons: PhantomData,
        }
    }
}

impl<R: Into<usize>> Counters<R> {
    pub(crate) fn add(&self, reason: R) {
        self.counts[reason.into()].add();
    }
}
