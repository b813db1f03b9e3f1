//! The numbers: what the server can do, what the clients are allowed, and what goes wrong when.
//!
//! Work, queue and timeout are chosen such that a full queue takes longer than a caller waits. That
//! is what makes an overload outlive its cause: the server works through calls that nobody waits
//! for, so the calls behind them are late as well, and retries keep the queue full. See Bronson et
//! al., "Metastable Failures in Distributed Systems", `HotOS` 2021.

use std::time::Duration;

use crate::clients::Kind;

/// Calls the server works on at once.
pub const WORKERS: usize = 8;
/// How long a worker takes for one call.
pub const WORK: Duration = Duration::from_millis(40);
/// Calls per second that the workers can do.
pub const CAPACITY: f64 = 200.0;
/// Calls that wait for a worker. A full queue takes 150 / 200 s, which is longer than `ATTEMPT`.
pub const QUEUE: usize = 150;
/// How long a worker takes to respond 503 to a call that finds the queue full.
pub const REFUSAL: Duration = Duration::from_millis(10);
/// How much longer work takes while the server is slow.
pub const SLOWDOWN: u32 = 10;
/// What a failing server asks for. The header counts whole seconds.
pub const RETRY_AFTER_SECONDS: u64 = 1;

/// Clients of each kind.
pub const CLIENTS: u32 = 10;
/// Calls per second of all clients of one kind, at random times (a Poisson process).
pub const USUAL_LOAD: f64 = 0.72 * CAPACITY;

/// How long any client waits for one attempt.
pub const ATTEMPT: Duration = Duration::from_millis(500);
/// How long buttress and the careful retry take for a call at most, all attempts and waits included.
pub const DEADLINE: Duration = Duration::from_millis(2500);
/// Attempts of the clients that retry, the first included.
pub const ATTEMPTS: u32 = 3;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Twice the usual load.
    Overload,
    /// Work takes ten times as long.
    Slow,
    /// Every response is a 503 with `Retry-After`, and there are twice as many calls.
    Failing,
    /// The server closes its listener and all connections.
    Refused,
}

impl Trouble {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Refused => "refused",
        }
    }

    /// Calls per second, in multiples of the usual load.
    pub const fn load(self) -> f64 {
        match self {
            Self::Overload | Self::Failing => 2.0,
            Self::Slow | Self::Refused => 1.0,
        }
    }

    pub fn in_words(self) -> String {
        match self {
            Self::Overload => "twice the usual load".into(),
            Self::Slow => format!("every call takes the server {SLOWDOWN} times as long"),
            Self::Failing => format!(
                "the server responds 503 with Retry-After: {RETRY_AFTER_SECONDS} to everything, \
                 and there are twice as many calls"
            ),
            Self::Refused => "the server refuses all connections".into(),
        }
    }
}

/// The part of an act in which a call is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Before,
    During,
    After,
    /// Not judged: the load goes on, so that the last judged calls meet the usual load.
    Tail,
}

/// One trouble, with healthy times before and after it. Each kind has a fresh server.
#[derive(Clone, Debug)]
pub struct Act {
    pub trouble: Trouble,
    pub kinds: &'static [Kind],
    /// When the trouble starts, counted from the start of the act.
    pub start: Duration,
    /// When the trouble ends.
    pub end: Duration,
    /// The end of what is judged.
    pub judged: Duration,
    /// Retrying clients without this crate must be below 50 % from here on.
    pub metastable: Duration,
}

const TAIL: Duration = Duration::from_secs(1);

impl Act {
    fn new(trouble: Trouble, kinds: &'static [Kind], seconds: [u64; 3]) -> Self {
        let [before, during, after] = seconds.map(Duration::from_secs);
        Self {
            trouble,
            kinds,
            start: before,
            end: before + during,
            judged: before + during + after,
            metastable: before + during + after * 3 / 4,
        }
    }

    pub fn overload() -> Self {
        Self::new(Trouble::Overload, &Kind::ALL, [5, 3, 20])
    }

    /// The shorter form for CI.
    pub fn quick_overload() -> Self {
        let mut act = Self::new(Trouble::Overload, &Kind::ALL, [5, 3, 12]);
        act.metastable = act.end + Duration::from_secs(6);
        act
    }

    /// Three outages, each with servers of its own, played at the same time.
    pub fn outages() -> [Self; 3] {
        [Trouble::Slow, Trouble::Failing, Trouble::Refused]
            .map(|trouble| Self::new(trouble, &[Kind::Bare, Kind::Buttress], [2, 6, 5]))
    }

    pub fn trouble_lasts(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    pub fn trouble_in_words(&self) -> String {
        format!("from {:?} to {:?}", self.start, self.end)
    }

    /// When the last call is made.
    pub fn length(&self) -> Duration {
        self.judged + TAIL
    }

    pub fn phase(&self, at: Duration) -> Phase {
        match at {
            _ if at < self.start => Phase::Before,
            _ if at < self.end => Phase::During,
            _ if at < self.judged => Phase::After,
            _ => Phase::Tail,
        }
    }

    /// Calls per second at a time.
    pub fn load(&self, at: Duration) -> f64 {
        if self.phase(at) == Phase::During {
            self.trouble.load() * USUAL_LOAD
        } else {
            USUAL_LOAD
        }
    }
}
