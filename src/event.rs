//! The events of all layers. Subscribe to them through [`tracing`](https://docs.rs/tracing).
//!
//! Use events to find out why a single call was retried or rejected, and when a circuit changed its
//! state. For metrics, read the [counters](#counters).
//!
//! A layer emits each event under its name, which is also its message. Names, levels, targets and
//! fields are part of the public interface. There is nothing to set: filter by target and level in
//! your subscriber, for instance `buttress=debug`.
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
//! | `store_down` | WARN | `buttress::rate_limit` | |
//! | `store_up` | INFO | `buttress::rate_limit` | `down_ms` |
//! | `overloaded` | DEBUG | `buttress::load_shed` | `reason`, `limit` |
//! | `chaos_on` | WARN | `buttress::chaos` | `for_ms` |
//! | `chaos_off` | INFO | `buttress::chaos` | |
//! | `injected` | INFO | `buttress::chaos` | `fault`, `delay_ms` |
//! | `hedged` | DEBUG | `buttress::hedge` | `hedge` (the number of the copy, from 1), `after_ms` |
//! | `hedge_won` | DEBUG | `buttress::hedge` | `hedge` |
//! | `hedge_denied` | DEBUG | `buttress::hedge` | `reason` |
//! | `fell_back` | DEBUG | `buttress::fallback` | `verdict`, `rejected_by` |
//! | `served_stale` | DEBUG | `buttress::fallback` | `verdict`, `age_ms` |
//! | `degraded` | INFO | `buttress::fallback` | `verdict` |
//! | `restored` | INFO | `buttress::fallback` | |
//! | `limit_changed` | INFO | `buttress::load_shed` | `from`, `to` |
//!
//! The field `name` is the name of the layer. It is absent if the layer has no name. Fields that
//! end in `_ms` are in milliseconds. The values of `verdict` are those of [`Verdict`] in lower
//! case. The values of `reason` are explained at [`TransitionReason`], [`GiveUpReason`] and
//! [`OverloadReason`]. [`http::ClientError`](crate::http::ClientError) adds one event,
//! `unknown_client_error`, and [`http::HeaderChaosLayer`](crate::http::HeaderChaosLayer) adds `chaos_refused`.
//!
//! # Observers
//!
//! To handle events in code of your own, implement [`Observe`] and add it with `observe` to a handle or a layer, or
//! with [`observer`](crate::http::StackBuilder::observer) to a stack. An observer receives four events more, of calls
//! that went well: [`Event::Recovered`], [`Event::ProbeSent`], [`Event::WaitedForSlot`] and [`Event::WaitedForTurn`].
//!
//! # Counters
//!
//! A snapshot has the counts since its handle or layer was made. Layers count from the start, with or without observers.
//!
//! | counters | from |
//! |---|---|
//! | [`TimeoutSnapshot`](crate::timeout::TimeoutSnapshot) | [`TimeoutLayer::snapshot`](crate::TimeoutLayer::snapshot) |
//! | [`RetrySnapshot`](crate::retry::RetrySnapshot) | [`RetryLayer::snapshot`](crate::RetryLayer::snapshot) |
//! | [`CircuitSnapshot`](crate::circuit_breaker::CircuitSnapshot) | [`Circuit::snapshot`](crate::circuit_breaker::Circuit::snapshot) |
//! | [`RateLimitSnapshot`](crate::rate_limit::RateLimitSnapshot) | [`RateLimiter::snapshot`](crate::rate_limit::RateLimiter::snapshot) |
//! | [`LoadShedSnapshot`](crate::load_shed::LoadShedSnapshot) | [`ConcurrencyLimit::snapshot`](crate::load_shed::ConcurrencyLimit::snapshot) |
//!
//! ```
//! use buttress::LoadShedLayer;
//! use buttress::load_shed::Overloads;
//!
//! let layer = LoadShedLayer::new(1);
//! let limit = layer.limit().clone();
//! let _slot = limit.try_acquire().unwrap();
//! assert!(limit.try_acquire().is_err());
//! let overloads: Overloads = limit.snapshot().rejected;
//! assert_eq!(overloads.full, 1);
//! ```

mod emit;
mod observe;

pub use observe::Observe;
pub(crate) use observe::{Observers, drop_panics};

use crate::error::Rejection;
use crate::name::Name;
use crate::verdict::Verdict;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// An event of a layer. The [module page](self) lists names, levels and fields.
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
    /// A failed call will be retried.
    Retrying {
        /// The name of the layer.
        name: Name,
        /// The attempt that ended, from 1.
        attempt: u32,
        /// How long the call waits before the next attempt.
        wait: Duration,
        /// The verdict on that attempt.
        verdict: Verdict,
    },
    /// A failed call is not retried although its verdict allows it.
    GaveUp {
        /// The name of the layer.
        name: Name,
        /// The attempt that ended, from 1.
        attempt: u32,
        /// The verdict on that attempt.
        verdict: Verdict,
        /// Why there is no further attempt.
        reason: GiveUpReason,
    },
    /// A call succeeded by a retry.
    Recovered {
        /// The name of the layer.
        name: Name,
        /// The attempt that succeeded, from 2.
        attempt: u32,
    },
    /// A circuit changed its state: `opened`, `half_opened` or `closed`.
    Transition {
        /// The name of the circuit.
        name: Name,
        /// The state before.
        from: CircuitState,
        /// The state after.
        to: CircuitState,
        /// What caused the transition.
        reason: TransitionReason,
        /// The calls in the window. If probes caused the transition: the probes that have a result.
        calls: u64,
        /// How many of them failed.
        failures: u64,
        /// How many of them were slow.
        slow_calls: u64,
    },
    /// A half-open circuit let a call through as a probe.
    ProbeSent {
        /// The name of the circuit.
        name: Name,
    },
    /// An open circuit rejected a call.
    CircuitRejected {
        /// The name of the circuit.
        name: Name,
        /// The time until a probe may be sent, if it is known.
        retry_after: Option<Duration>,
    },
    /// A rate limit rejected a call.
    RateLimited {
        /// The name of the limiter.
        name: Name,
        /// What the call costs.
        cost: u32,
        /// The time until the call would be admitted, if it is known.
        retry_after: Option<Duration>,
    },
    /// A call costs more than the burst of its rate limit.
    TooCostly {
        /// The name of the limiter.
        name: Name,
        /// What the call costs.
        cost: u32,
        /// The burst: the largest cost that the limit admits.
        burst: u32,
    },
    /// A call got its turn after a wait.
    WaitedForTurn {
        /// The name of the limiter.
        name: Name,
        /// How long the call waited.
        wait: Duration,
    },
    /// A rate limiter was paused because the upstream sent a 429.
    Paused {
        /// The name of the limiter.
        name: Name,
        /// How long the limiter admits no calls.
        pause: Duration,
    },
    /// The store of a fleet has failed several times in a row: until it answers, this process keeps to its share.
    StoreDown {
        /// The name of the limiter.
        name: Name,
    },
    /// The store of a fleet answers again.
    StoreUp {
        /// The name of the limiter.
        name: Name,
        /// The time since `store_down`.
        down: Duration,
    },
    /// Faults are injected from now on.
    ChaosOn {
        /// The name of the layer.
        name: Name,
        /// For how long, if it ends by itself.
        length: Option<Duration>,
    },
    /// Faults are no longer injected.
    ChaosOff {
        /// The name of the layer.
        name: Name,
    },
    /// A call got a fault.
    Injected {
        /// The name of the layer.
        name: Name,
        /// The word for the [`Fault`](crate::chaos::Fault).
        fault: &'static str,
        /// How long the call is delayed.
        delay: Duration,
    },
    /// A copy of a late call was sent.
    Hedged {
        /// The name of the layer.
        name: Name,
        /// The number of the copy, from 1.
        hedge: u32,
        /// How long the call had been pending.
        after: Duration,
    },
    /// A copy had the answer of its call.
    HedgeWon {
        /// The name of the layer.
        name: Name,
        /// The number of the copy, from 1.
        hedge: u32,
    },
    /// A copy was due and not sent.
    HedgeDenied {
        /// The name of the layer.
        name: Name,
        /// Why it was not sent.
        reason: HedgeDenied,
    },
    /// A fallback was asked for the answer of a failed call.
    FellBack {
        /// The name of the fallback.
        name: Name,
        /// The verdict on the failed call.
        verdict: Verdict,
        /// Why the call was rejected, if it was.
        rejection: Option<Rejection>,
    },
    /// A failed call was answered by a kept response.
    ServedStale {
        /// The name of the layer.
        name: Name,
        /// The verdict on the failed call.
        verdict: Verdict,
        /// How old the response is.
        age: Duration,
    },
    /// The first call after a success fell back.
    Degraded {
        /// The name of the fallback.
        name: Name,
        /// The verdict on the failed call.
        verdict: Verdict,
    },
    /// The first call after a fallback succeeded.
    Restored {
        /// The name of the fallback.
        name: Name,
    },
    /// A load shed rejected a call.
    Overloaded {
        /// The name of the limit.
        name: Name,
        /// Why the call was rejected.
        reason: OverloadReason,
        /// The most calls that may be in flight at once.
        limit: usize,
    },
    /// A call got its slot after a wait.
    WaitedForSlot {
        /// The name of the limit.
        name: Name,
        /// How long the call waited.
        wait: Duration,
    },
    /// Your code, or an action on a page, changed a concurrency limit.
    LimitChanged {
        /// The name of the limit.
        name: Name,
        /// The limit before.
        from: usize,
        /// The limit now.
        to: usize,
    },
}

/// The state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls pass and are counted.
    Closed,
    /// Calls are rejected until the open time ends.
    Open,
    /// The open time has ended, and a few calls pass as probes (trial calls). An open circuit whose
    /// time has ended reads as half-open even before the next call.
    HalfOpen,
    /// Calls are rejected until you reset the circuit or force it closed.
    ForcedOpen,
    /// Calls pass and are counted. The circuit does not open until you reset it or force it open.
    ForcedClosed,
}

/// Makes an enum of reasons, with their snake-case words for events, and a struct that counts them.
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
            /// The word for this reason in events.
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

        impl $counts {
            /// The counts with the words of their reasons.
            pub(crate) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($word), self.$word),)*].into_iter()
            }
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
    /// What caused a transition of a circuit.
    TransitionReason,
    /// Transitions of a circuit, by reason.
    Transitions {
        /// Too many calls of the window failed.
        FailureRate = failure_rate,
        /// Too many calls of the window were slow.
        SlowCalls = slow_calls,
        /// Too many calls failed in a row.
        ConsecutiveFailures = consecutive_failures,
        /// The open time had ended, and a call came.
        OpenTimeOver = open_time_over,
        /// Too many probes failed.
        ProbesFailed = probes_failed,
        /// Enough probes succeeded.
        ProbesSucceeded = probes_succeeded,
        /// Probes had no result within their lease.
        LeaseLapsed = lease_lapsed,
        /// Your code forced the circuit open or closed.
        Forced = forced,
        /// Your code reset the circuit.
        Reset = reset,
    }
}

reasons! {
    /// Why a failed call is not retried although its verdict allows it.
    GiveUpReason,
    /// Failed calls that were not retried, by reason.
    GiveUps {
        /// All attempts were used.
        Attempts = attempts,
        /// The request could not be copied, or it may have been processed and is not idempotent.
        NotReplayable = not_replayable,
        /// The upstream asks for a wait above `max_retry_after`.
        RetryAfter = retry_after,
        /// The next attempt would start after the deadline of the request.
        Deadline = deadline,
        /// The budget had no token.
        Budget = budget,
    }
}

reasons! {
    /// Why a copy of a late call was due and not sent.
    HedgeDenied,
    /// Copies of late calls that were due and not sent, by reason.
    HedgeDenials {
        /// The budget had no token.
        Budget = budget,
        /// The request could not be copied.
        NotReplayable = not_replayable,
    }
}

reasons! {
    /// Why a load shed rejected a call.
    OverloadReason,
    /// Rejections of a load shed, by reason.
    Overloads {
        /// No slot and no place in the queue was free.
        Full = full,
        /// The inner service was not ready.
        InnerNotReady = inner_not_ready,
        /// No slot became free within the longest wait of the queue.
        WaitedTooLong = waited_too_long,
        /// No slot became free before the deadline of the request.
        Deadline = deadline,
    }
}

impl CircuitState {
    /// The word for this state in events.
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

/// All states of a circuit.
pub(crate) const STATES: [CircuitState; 5] = [
    CircuitState::Closed,
    CircuitState::Open,
    CircuitState::HalfOpen,
    CircuitState::ForcedOpen,
    CircuitState::ForcedClosed,
];

/// Retries that were granted, by the verdict on the attempt before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retries {
    /// [`Verdict::Transient`].
    pub transient: u64,
    /// [`Verdict::Throttled`].
    pub throttled: u64,
    /// [`Verdict::Local`].
    pub local: u64,
}

impl Retries {
    /// The counts with the words of their verdicts.
    pub(crate) fn by_verdict(&self) -> [(&'static str, u64); 3] {
        [
            ("transient", self.transient),
            ("throttled", self.throttled),
            ("local", self.local),
        ]
    }
}

/// Counts events of one kind, since its handle was made.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    // Relaxed, here and below: no other memory depends on a count.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts by reason `R`. An enum of reasons has at most nine.
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
