//! What a store keeps for a fleet, as a function of its state, the request and the time.

use super::quota::{Quota, Rate};
use std::sync::Arc;
use std::time::Duration;

/// What a process asks of the store: the next turns, and what the store needs to decide how many.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ask {
    /// The key of the quota, the same in all processes that share it.
    pub key: Arc<str>,
    /// A random number that this process keeps.
    pub process: u64,
    /// The time per turn. The fleet gets at most one turn per interval, after a burst.
    pub interval: Duration,
    /// The turns that the fleet may use at once after a rest.
    pub burst: u32,
    /// The turns that this process asks for while the quota is used up: those that its calls wait for.
    pub need: u32,
    /// The turns that it asks for otherwise.
    pub want: u32,
    /// The turns that the first waiting call needs. A lease holds a multiple of it.
    pub unit: u32,
    /// How far ahead turns are leased. The same in all processes that share the quota.
    pub max_wait: Duration,
    /// The time that a lease should last.
    pub horizon: Duration,
    /// The turns per second that this process could use.
    pub rate: f64,
    /// The store must not grant turns from before this time, in microseconds on its clock: [`Reply::tat`] of the last
    /// reply to this process, in case the store has lost its data, or the time of an outage; 0 for none.
    pub seen: u64,
    /// When nobody waits for the reply any more, in microseconds on the clock of the store.
    pub not_after: Option<u64>,
}

impl Ask {
    /// A request for one turn of this quota, as the first of a process: for tests of stores.
    #[must_use]
    pub fn new(key: &str, quota: Quota) -> Self {
        let Rate { interval, burst } = quota.rate();
        Self {
            key: key.into(),
            process: 0,
            interval: Duration::from_nanos(interval),
            burst,
            need: 1,
            want: 1,
            unit: 1,
            max_wait: Duration::from_secs(1),
            horizon: Duration::from_millis(100),
            rate: 0.0,
            seen: 0,
            not_after: None,
        }
    }

    /// The same of a part of the quota and of its burst, for a ledger of this process alone.
    pub(super) fn share(&self, share: f64) -> Self {
        let interval = (self.interval.as_nanos() as f64 / share).ceil() as u64;
        Self {
            interval: Duration::from_nanos(interval),
            burst: ((f64::from(self.burst) * share) as u32).max(1),
            seen: 0,
            not_after: None,
            ..self.clone()
        }
    }

    /// Whether a store can have answered this. Turns are not leased further ahead than a call may wait.
    pub(super) fn allows(&self, interval: u64, grant: Granted) -> bool {
        let (max_wait, horizon) = (micros(self.max_wait), micros(self.horizon));
        let burst = interval.saturating_mul(self.burst.into()) / 1_000;
        let longest = burst
            .max(horizon.saturating_mul(2))
            .saturating_add(ROUNDING);
        let most = max_wait.saturating_add(longest);
        match grant {
            Granted::Turns { turns, ahead } => {
                let length = interval.saturating_mul(turns.into()) / 1_000;
                ahead <= i64::try_from(most).unwrap_or(i64::MAX) && length <= longest
            }
            Granted::Full(ahead) => ahead <= most,
            Granted::Late => true,
        }
    }
}

/// What the settings of other processes and roundings may add to a reply that is possible, in microseconds.
const ROUNDING: u64 = 10_000_000;

/// The answer of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reply {
    /// What the process gets.
    pub grant: Granted,
    /// The turns per second that one process gets if it wants more than the others: the max-min fair level.
    pub level: f64,
    /// The processes that asked in the last 3 s.
    pub peers: u32,
    /// The time of the store, in microseconds.
    pub now: u64,
    /// When the next turn of the fleet is due, in microseconds on the clock of the store.
    pub tat: u64,
}

/// What a process gets from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// Turns, one per interval.
    Turns {
        /// How many. At least 1.
        turns: u32,
        /// When the first is due: microseconds from now, below 0 if it is due already.
        ahead: i64,
    },
    /// None: the next turn is due in this many microseconds, more than [`Ask::max_wait`].
    Full(u64),
    /// None: the request came after [`Ask::not_after`].
    Late,
}

/// What a store keeps for one key. For stores of your own: load it, call [`lease`](Self::lease), and save it in one
/// transaction.
///
/// ```
/// use buttress::Quota;
/// use buttress::fleet::{Ask, Granted, Ledger};
///
/// let mut ledger = Ledger::default();
/// let now = 1_800_000_000_000_000;
/// let reply = ledger.lease(&Ask::new("payments-api", Quota::per_second(10)), now);
/// assert!(matches!(reply.grant, Granted::Turns { turns: 1, ahead } if ahead < 0));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The theoretical arrival time of GCRA: when the next turn is due, in microseconds.
    pub tat: u64,
    /// The max-min fair level, in turns per second, and when it was computed.
    pub level: f64,
    /// When [`level`](Self::level) was computed, in microseconds; 0 for never.
    pub leveled: u64,
    /// The processes that asked lately.
    pub peers: Vec<Peer>,
    /// How far ahead of the clock [`tat`](Self::tat) can be, in microseconds, by the settings of any process that asked.
    pub tolerance: u64,
}

/// A process that asked lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peer {
    /// [`Ask::process`].
    pub process: u64,
    /// When it asked last, in microseconds.
    pub at: u64,
    /// [`Ask::rate`], at that time.
    pub rate: f64,
}

/// How often the level is computed.
const LEVEL_EVERY: u64 = 250_000;
/// How long a process counts after it asked.
const PEER_FOR: u64 = 3_000_000;

impl Ledger {
    /// Answers a request at `now`, in microseconds on the clock of the store.
    ///
    /// GCRA in terms of the theoretical arrival time (ITU-T I.371), for several turns at once. A process gets no more
    /// than two horizons of the max-min fair level of what the processes could use.
    pub fn lease(&mut self, ask: &Ask, now: u64) -> Reply {
        if ask.not_after.is_some_and(|last| now > last) {
            return self.reply(Granted::Late, ask, now);
        }
        self.report(ask, now);
        let (horizon, max_wait) = (micros(ask.horizon), micros(ask.max_wait));
        let interval = ask.interval.as_nanos() as f64 / 1e3;
        let ahead = horizon.saturating_mul(2);
        let longest = ahead.max((f64::from(ask.burst) * interval) as u64);
        // Another version of the service may lease further ahead.
        let own = max_wait.saturating_add(longest).saturating_add(1_000);
        self.tolerance = self.tolerance.max(own);
        // A later time was written by a clock that was stepped back since.
        let last = now.saturating_add(self.tolerance);
        let mut tat = self.tat;
        if tat > last {
            tat = now.saturating_add(ahead);
            self.tat = tat;
        }
        if ask.seen > tat && ask.seen <= last {
            tat = ask.seen;
        }
        // The turn that is due now is one of the burst.
        let rest = (f64::from(ask.burst.saturating_sub(1)) * interval) as u64;
        tat = tat.max(now.saturating_sub(rest));
        let later = tat.saturating_sub(now);
        if later > max_wait {
            return Reply {
                tat,
                ..self.reply(Granted::Full(later), ask, now)
            };
        }
        let asked = if later > 0 { ask.need } else { ask.want };
        let ahead = 0_i64
            .saturating_add_unsigned(later)
            .saturating_sub_unsigned(now.saturating_sub(tat));
        let unit = ask.unit.max(1);
        let most = (2.0 * ask.horizon.as_secs_f64() * self.level) as u32;
        let calls = asked.div_ceil(unit).min(most / unit).max(1);
        let turns = calls.saturating_mul(unit);
        self.tat = (tat as f64 + f64::from(turns) * interval).ceil() as u64;
        self.reply(Granted::Turns { turns, ahead }, ask, now)
    }

    fn reply(&self, grant: Granted, ask: &Ask, now: u64) -> Reply {
        let level = if self.leveled == 0 {
            rate(ask)
        } else {
            self.level
        };
        Reply {
            grant,
            level,
            peers: self.peers.len() as u32,
            now,
            tat: self.tat,
        }
    }

    fn report(&mut self, ask: &Ask, now: u64) {
        let (process, rate) = (ask.process, ask.rate);
        self.peers.retain(|peer| peer.process != process);
        let at = now;
        self.peers.push(Peer { process, at, rate });
        if self.leveled > 0 && (self.leveled..=self.leveled + LEVEL_EVERY).contains(&now) {
            return;
        }
        self.leveled = now.max(1);
        self.peers
            .retain(|peer| peer.at <= now && now - peer.at <= PEER_FOR);
        let mut rates: Vec<f64> = self.peers.iter().map(|peer| peer.rate).collect();
        rates.sort_by(f64::total_cmp);
        self.level = level(&rates, self::rate(ask));
    }
}

/// The max-min fair level of these rates: those below it get all, the others get it, and together they get `left`. If
/// all get what they could use, the level is `left`.
fn level(ascending: &[f64], all: f64) -> f64 {
    let mut left = all;
    for (i, rate) in ascending.iter().enumerate() {
        let fair = left / (ascending.len() - i) as f64;
        if *rate > fair {
            return fair;
        }
        left -= rate;
    }
    all
}

/// The turns per second of the quota.
fn rate(ask: &Ask) -> f64 {
    1e6 / (ask.interval.as_nanos().max(1) as f64 / 1e3)
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX >> 8)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000;

    fn ask(process: u64, want: u32, rate: f64) -> Ask {
        Ask {
            process,
            need: want,
            want,
            rate,
            ..Ask::new("k", Quota::per_second(1_000).burst(100))
        }
    }

    fn turns(reply: Reply) -> (u32, i64) {
        match reply.grant {
            Granted::Turns { turns, ahead } => (turns, ahead),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_turns_are_those_of_the_burst_and_the_next_come_after_them() {
        let mut ledger = Ledger::default();
        assert_eq!(turns(ledger.lease(&ask(1, 150, 1.0), NOW)), (150, -99_000));
        assert_eq!(turns(ledger.lease(&ask(2, 10, 1.0), NOW)), (10, 51_000));
    }

    #[test]
    fn a_lease_covers_two_horizons_of_the_fair_level_and_whole_calls() {
        let mut ledger = Ledger::default();
        assert_eq!(turns(ledger.lease(&ask(1, 1_000, 5_000.0), NOW)).0, 200);
        let later = NOW + 300_000;
        ledger.lease(&ask(2, 1, 100.0), later);
        assert_eq!(turns(ledger.lease(&ask(1, 1_000, 5_000.0), later)).0, 180);
        let costly = |unit, want| Ask {
            unit,
            ..ask(1, want, 5_000.0)
        };
        assert_eq!(turns(ledger.lease(&costly(7, 1_000), later)).0, 175);
        assert_eq!(turns(ledger.lease(&costly(70, 10), later)).0, 70);
    }

    #[test]
    fn who_would_wait_too_long_hears_when_the_next_turn_is_due() {
        let mut ledger = Ledger {
            tat: NOW + 1_000_001,
            ..Ledger::default()
        };
        let reply = ledger.lease(&ask(1, 1, 1.0), NOW);
        assert_eq!(reply.grant, Granted::Full(1_000_001));
        assert_eq!(turns(ledger.lease(&ask(1, 1, 1.0), NOW + 1)).1, 1_000_000);
    }

    #[test]
    fn a_request_that_nobody_waits_for_takes_nothing() {
        let mut ledger = Ledger::default();
        let late = Ask {
            not_after: Some(NOW - 1),
            ..ask(1, 1, 1.0)
        };
        let reply = ledger.lease(&late, NOW);
        assert_eq!((reply.grant, reply.peers), (Granted::Late, 0));
        assert_eq!(ledger, Ledger::default());
    }

    #[test]
    fn lost_data_come_back_from_a_process_and_a_clock_stepped_back_holds_nobody_up() {
        let mut ledger = Ledger::default();
        let seen = Ask {
            seen: NOW + 500_000,
            ..ask(1, 1, 1.0)
        };
        assert_eq!(turns(ledger.lease(&seen, NOW)).1, 500_000);
        // An hour back: both what is stored and what was seen are too far ahead.
        let back = NOW - 3_600_000_000;
        assert_eq!(turns(ledger.lease(&seen, back)).1, 200_000);
    }

    #[test]
    fn a_clock_stepped_back_is_noticed_once_also_if_a_lease_may_be_longer_than_the_wait() {
        let patient = |max_wait| Ask {
            max_wait: Duration::from_millis(max_wait),
            horizon: Duration::from_millis(600),
            ..ask(1, 1, 1.0)
        };
        let mut ledger = Ledger::default();
        ledger.lease(&patient(1_000), NOW);
        let back = NOW - 3_600_000_000;
        let reply = ledger.lease(&patient(1_000), back);
        assert_eq!(reply.grant, Granted::Full(1_200_000));
        assert_eq!(
            turns(ledger.lease(&patient(1_000), back + 300_000)).1,
            900_000
        );
    }

    #[test]
    fn a_version_that_leases_less_far_ahead_does_not_take_the_others_for_a_stepped_clock() {
        let costly = Ask {
            unit: 100,
            interval: Duration::from_millis(100),
            ..ask(1, 100, 1.0)
        };
        let mut ledger = Ledger::default();
        // Each lease takes 10 s.
        ledger.lease(&costly, NOW);
        assert_eq!(turns(ledger.lease(&costly, NOW)).1, 100_000);
        let modest = Ask {
            burst: 1,
            ..costly.clone()
        };
        assert_eq!(ledger.lease(&modest, NOW).grant, Granted::Full(10_100_000));
    }

    #[test]
    fn the_level_leaves_modest_processes_what_they_want() {
        let cases: [(&[f64], f64, f64); 4] = [
            (&[10.0, 850.0], 1_000.0, 1_000.0),
            (&[50.0, 50.0, 5_000.0], 1_000.0, 900.0),
            (&[400.0, 600.0, 700.0], 900.0, 300.0),
            (&[], 5.0, 5.0),
        ];
        for (rates, all, expected) in cases {
            assert!((level(rates, all) - expected).abs() < 1e-9, "{rates:?}");
        }
    }

    #[test]
    fn a_process_counts_until_it_has_been_silent_for_3_s() {
        let mut ledger = Ledger::default();
        ledger.lease(&ask(1, 1, 1.0), NOW);
        assert_eq!(ledger.lease(&ask(2, 1, 1.0), NOW + 1).peers, 2);
        assert_eq!(ledger.lease(&ask(2, 1, 1.0), NOW + 3_000_001).peers, 1);
    }
}
