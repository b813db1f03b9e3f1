//! A lease, and what decides about leases.

use super::ledger::Ask;

/// What does not change.
#[derive(Clone, Debug)]
pub(crate) struct LeaseSettings {
    /// The request to send, but for what the state decides.
    pub(crate) ask: Ask,
    /// How long a call waits for the store, in nanoseconds.
    pub(crate) timeout: u64,
    pub(crate) without_store: WithoutStore,
}

/// What a process of a fleet does while its store does not answer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum WithoutStore {
    /// It keeps to this part of the quota and of its burst, above 0 and at most 1.
    Share(f64),
    /// It keeps to an equal part: the quota over the number of processes that the store last counted, or a tenth of
    /// the quota if it never answered. The default.
    EqualShare,
    /// It rejects calls once the leased turns are used up.
    Refuse,
    /// It admits all calls.
    Open,
}

/// The default of [`WithoutStore::EqualShare`] if nobody knows how many processes there are.
pub(super) const UNKNOWN: f64 = 0.1;

/// A row of turns on the timeline of the process, in nanoseconds: `start + interval`, and so on up to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) interval: u64,
    /// After this time its turns have lapsed.
    pub(super) until: u64,
}

impl Lease {
    pub(super) const NONE: Self = Self {
        start: 0,
        last: 0,
        interval: 1,
        until: 0,
    };

    pub(super) fn turns_after(&self, newest: u64) -> u64 {
        self.last.saturating_sub(newest.max(self.start)) / self.interval
    }

    pub(super) fn turns(&self) -> u64 {
        self.turns_after(self.start)
    }

    pub(super) fn due(&self, newest: u64, units: u64) -> u64 {
        newest + units * self.interval
    }
}
