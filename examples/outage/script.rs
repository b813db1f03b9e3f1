//! The script: which conditions the callee goes through, and for how long.

use std::time::Duration;

use crate::callee::{OVERLOAD_RATE, SLOWDOWN, UNAVAILABLE_RATE, USUAL_RATE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Healthy,
    Slow,
    Recovered,
    Unavailable,
    Refused,
    Overload,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Recovered => "recovered",
            Self::Unavailable => "503",
            Self::Refused => "refused",
            Self::Overload => "overload",
        }
    }

    pub fn in_words(self) -> String {
        match self {
            Self::Healthy => "the callee is well".into(),
            Self::Slow => format!("every request takes {SLOWDOWN} times as long"),
            Self::Recovered => "the callee is well again".into(),
            Self::Unavailable => {
                "every answer is 503 with Retry-After, and there are more calls than were agreed to"
                    .into()
            }
            Self::Refused => "the listener and every connection are closed".into(),
            Self::Overload => "twice as many calls as the callee can serve".into(),
        }
    }

    /// The callee is well.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Healthy | Self::Recovered)
    }

    /// Calls per second, by each client.
    pub fn rate(self) -> u32 {
        match self {
            Self::Overload => OVERLOAD_RATE,
            Self::Unavailable => UNAVAILABLE_RATE,
            Self::Healthy | Self::Slow | Self::Recovered | Self::Refused => USUAL_RATE,
        }
    }
}

/// One part of the script, with its times counted from the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    pub condition: Condition,
    pub start: Duration,
    pub end: Duration,
}

/// How long each phase lasts, in milliseconds.
struct Lengths {
    healthy: u64,
    slow: u64,
    unavailable: u64,
    refused: u64,
    overload: u64,
    /// Each of the four. They must hold the longest open time and one second.
    recovered: u64,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub phases: Vec<Phase>,
}

impl Script {
    /// The whole outage, in less than a minute.
    pub fn full() -> Self {
        Self::new(&Lengths {
            healthy: 4_000,
            slow: 5_000,
            unavailable: 7_000,
            refused: 7_000,
            overload: 5_000,
            recovered: 5_000,
        })
    }

    /// The same outage for CI.
    pub fn quick() -> Self {
        Self::new(&Lengths {
            healthy: 1_250,
            slow: 2_500,
            unavailable: 2_250,
            refused: 2_000,
            overload: 2_500,
            recovered: 3_250,
        })
    }

    fn new(lengths: &Lengths) -> Self {
        let recovered = (Condition::Recovered, lengths.recovered);
        let parts = [
            (Condition::Healthy, lengths.healthy),
            (Condition::Slow, lengths.slow),
            recovered,
            (Condition::Unavailable, lengths.unavailable),
            recovered,
            (Condition::Refused, lengths.refused),
            recovered,
            (Condition::Overload, lengths.overload),
            recovered,
        ];
        let mut start = Duration::ZERO;
        let phases = parts.map(|(condition, millis)| {
            let phase = Phase {
                condition,
                start,
                end: start + Duration::from_millis(millis),
            };
            start = phase.end;
            phase
        });
        Self {
            phases: phases.to_vec(),
        }
    }

    pub fn length(&self) -> Duration {
        self.phases.last().map_or(Duration::ZERO, |last| last.end)
    }

    /// The phase at a moment of the run; the last one lasts for ever.
    pub fn phase_at(&self, at: Duration) -> usize {
        let ended = self.phases.partition_point(|phase| phase.end <= at);
        ended.min(self.phases.len() - 1)
    }
}
