//! How much of a charge can be given back, when its real cost turns out to be lower.
//!
//! The *slack* of a quota is how far it is from having all of its burst. A charge that is lowered later leaves the quota
//! as if the lower cost had been taken from the start, as long as the slack since then was never below the difference.
//! If it was, the quota had all of its burst at that moment, and what is given back beyond that would be too much.

use std::collections::{BTreeSet, VecDeque};

/// The lowest slack since each charge that is not settled yet.
#[derive(Debug, Default)]
pub(super) struct Slack {
    /// The numbers of the charges that are not settled.
    open: BTreeSet<u64>,
    /// `(charge, slack)`: a moment after this charge and before the next one, and the slack at that moment. Both rise
    /// from front to back, because a moment with no more slack than an earlier one makes that one pointless.
    lows: VecDeque<(u64, u64)>,
}

impl Slack {
    /// A charge was made, when this was the slack. Charges have rising numbers.
    pub(super) fn charged(&mut self, charge: u64, slack: u64) {
        if let Some(last) = charge.checked_sub(1).filter(|_| !self.open.is_empty()) {
            self.low(last, slack);
        }
        self.open.insert(charge);
    }

    fn low(&mut self, after: u64, slack: u64) {
        while self.lows.back().is_some_and(|(_, known)| *known >= slack) {
            self.lows.pop_back();
        }
        self.lows.push_back((after, slack));
    }

    /// The lowest slack since a charge, at most `now`.
    pub(super) fn since(&self, charge: u64, now: u64) -> u64 {
        let first = self.lows.partition_point(|(after, _)| *after < charge);
        self.lows
            .get(first)
            .map_or(now, |(_, slack)| now.min(*slack))
    }

    /// A charge was lowered by so much: the slack was lower ever since.
    pub(super) fn lowered(&mut self, charge: u64, by: u64) {
        let first = self.lows.partition_point(|(after, _)| *after < charge);
        let later: Vec<_> = self.lows.drain(first..).collect();
        for (after, slack) in later {
            self.low(after, slack - by);
        }
    }

    /// A charge is settled.
    pub(super) fn close(&mut self, charge: u64) {
        self.open.remove(&charge);
        match self.open.first() {
            None => self.lows.clear(),
            // Nobody asks about the time before the oldest charge.
            Some(oldest) => {
                let useless = self.lows.partition_point(|(after, _)| after < oldest);
                self.lows.drain(..useless);
            }
        }
    }
}
