//! The states of a circuit, and the transitions between them, as pure functions.

use crate::chance::scale;
use std::num::NonZeroU64;

/// The largest number of probes.
pub(super) const MAX_PROBES: u32 = 127;
/// The longest open time that ends: 2^35 ms, 1.09 years. A circuit with a longer one stays open
/// until it is reset.
pub(super) const LONGEST: u64 = (1 << 35) * MS;

const MS: u64 = 1_000_000;

/// How a circuit treats calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    ForcedClosed,
    Open,
    HalfOpen,
    ForcedOpen,
}

impl Phase {
    /// Whether calls pass without a probe, and are counted.
    pub(super) fn passes(self) -> bool {
        matches!(self, Self::Closed | Self::ForcedClosed)
    }
}

/// An epoch, the time between two transitions: its number and its phase.
/// `[number:60][starting:1][phase:3]`.
///
/// An epoch never comes again: 2^60 transitions take 3 600 years at 10^7 per second. An epoch that
/// counts calls is *starting* while the windows start over: it lets calls through and counts none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

const STARTING: u64 = 1 << 3;
const NUMBER: u32 = 4;

impl Epoch {
    pub(super) const FIRST: Self = Self(Phase::Closed as u64);

    #[inline]
    pub(super) fn phase(self) -> Phase {
        match self.0 & 7 {
            0 => Phase::Closed,
            1 => Phase::ForcedClosed,
            2 => Phase::Open,
            3 => Phase::HalfOpen,
            _ => Phase::ForcedOpen,
        }
    }

    pub(super) fn next(self, phase: Phase) -> Self {
        Self(((self.0 >> NUMBER) + 1) << NUMBER | phase as u64)
    }

    pub(super) fn starting(self) -> Self {
        Self(self.0 | STARTING)
    }

    #[inline]
    pub(super) fn started(self) -> Self {
        Self(self.0 & !STARTING)
    }
}

impl From<u64> for Epoch {
    fn from(word: u64) -> Self {
        Self(word)
    }
}

impl From<Epoch> for u64 {
    fn from(epoch: Epoch) -> Self {
        epoch.0
    }
}

/// The state of a circuit. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) epoch: Epoch,
    /// How many times in a row the circuit has re-opened, at most 63.
    pub(super) reopened: u8,
    /// When an open circuit lets a probe through; 2^64 − 1 for never.
    pub(super) until: u64,
    /// The probes of a half-open circuit.
    pub(super) trial: Trial,
}

/// The probes that were sent and their results. A result that decides is not stored: it ends the
/// trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trial {
    /// The probes in flight and the probes with a result.
    pub(super) issued: u8,
    pub(super) ok: u8,
    pub(super) bad: u8,
    /// When the latest probe was sent.
    pub(super) issued_at: u64,
}

/// The settings that transitions depend on. Times are in nanoseconds, 2^64 − 1 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) open_for: u64,
    pub(super) max_open_for: u64,
    pub(super) probes: u8,
    pub(super) successes: u8,
    pub(super) lease: u64,
}

/// What caused a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    FailureRate,
    SlowCalls,
    ConsecutiveFailures,
    OpenTimeOver,
    ProbesFailed,
    ProbesSucceeded,
    LeaseLapsed,
    Forced,
    Reset,
}

/// What can happen to a circuit. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    /// A call asks to go as a probe.
    Admit {
        now: u64,
    },
    /// A probe succeeded.
    Good,
    /// A probe failed. The upstream asks for no calls during the next `hint`.
    Bad {
        now: u64,
        hint: u64,
        draw: f64,
    },
    /// A probe ended without a verdict.
    Return,
    /// Too many calls failed or were slow.
    Trip {
        now: u64,
        hint: u64,
        draw: f64,
    },
    ForceOpen,
    ForceClosed,
    Reset,
}

/// Why a call cannot go now: when to look again, and whether a probe may go then. One word, because
/// every rejection carries it: `[a probe may go:1][nanoseconds from now:63]`. All 64 bits are set if
/// the time is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocked(NonZeroU64);

const MAY_GO: u64 = 1 << 63;

impl Blocked {
    pub(super) const UNKNOWN: Self = Self(NonZeroU64::MAX);

    /// When a probe may go, if that is known. Nanoseconds from now.
    pub(super) fn retry_after(self) -> Option<u64> {
        let known = self != Self::UNKNOWN && self.0.get() >= MAY_GO;
        known.then_some(self.0.get() & !MAY_GO)
    }

    /// When to look again unless the circuit changes earlier. Nanoseconds from now.
    pub(super) fn look_after(self) -> Option<u64> {
        (self != Self::UNKNOWN).then_some(self.0.get() & !MAY_GO)
    }
}

/// When a circuit that holds calls back lets one through. The same layout as [`Blocked`], but with
/// a point in time. A time beyond 2^63 ns (292 years) means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate(pub(super) u64);

impl Gate {
    const FREE: Self = Self(0);
    const SHUT: Self = Self(u64::MAX);

    /// Closed until `time`, when a probe may go.
    fn until_over(time: u64) -> Self {
        if time < MAY_GO - 1 {
            Self(time | MAY_GO)
        } else {
            Self::SHUT
        }
    }

    /// Closed until `time`, when the probes in flight are written off unless one returns earlier.
    fn until_lapse(time: u64) -> Self {
        if time < MAY_GO - 1 {
            Self(time)
        } else {
            Self::SHUT
        }
    }

    pub(super) fn look(self, now: u64) -> Result<(), Blocked> {
        if self == Self::SHUT {
            return Err(Blocked::UNKNOWN);
        }
        match NonZeroU64::new((self.0 & !MAY_GO).saturating_sub(now)) {
            None => Ok(()),
            Some(left) => Err(Blocked(left | (self.0 & MAY_GO))),
        }
    }
}

impl State {
    pub(super) const NEW: Self = Self {
        epoch: Epoch::FIRST,
        reopened: 0,
        until: 0,
        trial: Trial {
            issued: 0,
            ok: 0,
            bad: 0,
            issued_at: 0,
        },
    };

    pub(super) fn gate(&self, rules: &Rules) -> Gate {
        match self.epoch.phase() {
            Phase::Closed | Phase::ForcedClosed => Gate::FREE,
            Phase::ForcedOpen => Gate::SHUT,
            Phase::Open => Gate::until_over(self.until),
            Phase::HalfOpen if self.trial.issued < rules.probes => Gate::FREE,
            // The lease lapses only if no probe is left.
            Phase::HalfOpen => Gate::until_lapse(self.trial.issued_at.saturating_add(rules.lease)),
        }
    }

    /// The state after an event; `None` if the event changes nothing.
    pub(super) fn after(self, event: Event, rules: &Rules) -> Option<Self> {
        let trial = self.trial;
        match (event, self.epoch.phase()) {
            // In this phase no call is in flight that would have to be forgotten.
            (Event::ForceOpen, Phase::ForcedOpen) => None,
            (Event::ForceOpen, _) => Some(self.next(Phase::ForcedOpen)),
            (Event::ForceClosed, _) => Some(self.next(Phase::ForcedClosed)),
            (Event::Reset, _) => Some(self.next(Phase::Closed)),

            (Event::Trip { now, hint, draw }, Phase::Closed) => {
                Some(self.opened(0, now, hint, draw, rules))
            }

            (Event::Admit { now }, phase @ (Phase::Open | Phase::HalfOpen)) => {
                self.gate(rules).look(now).ok()?;
                if phase == Phase::HalfOpen && trial.issued < rules.probes {
                    return Some(self.with(Trial {
                        issued: trial.issued + 1,
                        issued_at: now.max(trial.issued_at),
                        ..trial
                    }));
                }
                // Either the open time is over or the lease has lapsed. A new epoch writes off the probes
                // in flight; the results stay.
                let next = Self {
                    reopened: self.reopened,
                    ..self.next(Phase::HalfOpen)
                };
                Some(next.with(Trial {
                    issued: trial.ok + trial.bad + 1,
                    issued_at: now,
                    ..trial
                }))
            }

            (Event::Good, Phase::HalfOpen) if trial.ok + 1 == rules.successes => {
                Some(self.next(Phase::Closed))
            }
            (Event::Good, Phase::HalfOpen) => Some(self.with(Trial {
                ok: trial.ok + 1,
                ..trial
            })),
            // One more failure than this makes `probe_successes` unreachable.
            (Event::Bad { now, hint, draw }, Phase::HalfOpen)
                if trial.bad == rules.probes - rules.successes =>
            {
                let reopened = (self.reopened + 1).min(63);
                Some(self.opened(reopened, now, hint, draw, rules))
            }
            (Event::Bad { .. }, Phase::HalfOpen) => Some(self.with(Trial {
                bad: trial.bad + 1,
                ..trial
            })),
            (Event::Return, Phase::HalfOpen) => Some(self.with(Trial {
                issued: trial.issued - 1,
                ..trial
            })),

            _ => None,
        }
    }

    /// Begins a new epoch: calls in flight no longer count.
    fn next(self, phase: Phase) -> Self {
        Self {
            epoch: self.epoch.next(phase),
            ..Self::NEW
        }
    }

    fn with(self, trial: Trial) -> Self {
        Self { trial, ..self }
    }

    /// The open state of a circuit that has re-opened this many times in a row.
    fn opened(self, reopened: u8, now: u64, hint: u64, draw: f64, rules: &Rules) -> Self {
        let until = if rules.open_for > LONGEST {
            u64::MAX
        } else {
            let time = rules
                .open_for
                .saturating_mul(1 << reopened)
                .min(rules.max_open_for);
            let time = time - scale(time / 10, draw);
            let time = time.max(hint.min(rules.max_open_for)).min(LONGEST);
            // Rounded up to the resolution of timers: no probe goes early, and a timer for the end
            // of the open time does not ring before it.
            now.saturating_add(time).div_ceil(MS).saturating_mul(MS)
        };
        Self {
            reopened,
            until,
            ..self.next(Phase::Open)
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const YEAR: u64 = 365 * 86_400 * SECOND;
    const RULES: Rules = Rules {
        open_for: 5 * SECOND,
        max_open_for: 60 * SECOND,
        probes: 3,
        successes: 2,
        lease: 30 * SECOND,
    };

    fn trip(now: u64) -> Event {
        Event::Trip {
            now,
            hint: 0,
            draw: 0.0,
        }
    }

    fn bad(now: u64) -> Event {
        Event::Bad {
            now,
            hint: 0,
            draw: 0.0,
        }
    }

    fn opened(event: Event, rules: &Rules) -> State {
        let open = State::NEW.after(event, rules).unwrap();
        assert_eq!(open.epoch.phase(), Phase::Open);
        open
    }

    fn look(state: State, now: u64) -> Result<(), Blocked> {
        state.gate(&RULES).look(now)
    }

    /// A half-open state with the epoch number 7.
    fn half_open(issued: u8, ok: u8, bad: u8) -> State {
        State {
            epoch: Epoch(7 << NUMBER).next(Phase::HalfOpen),
            reopened: 4,
            until: 0,
            trial: Trial {
                issued,
                ok,
                bad,
                issued_at: 0,
            },
        }
    }

    #[test]
    fn a_clock_read_before_the_circuit_opened_lets_no_probe_through() {
        let now = 50 * SECOND;
        let wish = Event::Trip {
            now,
            hint: u64::MAX,
            draw: 0.0,
        };
        let open = opened(wish, &RULES);
        for late in [0, 1, 2, 3, 10, 50_000] {
            let now = now - late * MS;
            assert_eq!(open.after(Event::Admit { now }, &RULES), None, "{late} ms");
        }
    }

    #[test]
    fn an_epoch_has_its_phase_and_differs_from_every_earlier_one() {
        let phases = [
            Phase::Closed,
            Phase::ForcedClosed,
            Phase::Open,
            Phase::HalfOpen,
            Phase::ForcedOpen,
        ];
        for number in (0..60).map(|bit| 1_u64 << bit).chain([0, (1 << 60) - 2]) {
            for (before, after) in phases.iter().flat_map(|&a| phases.map(|b| (a, b))) {
                let before = Epoch(number << NUMBER | before as u64);
                let next = before.next(after);
                assert_eq!((next.phase(), next.0 >> NUMBER), (after, number + 1));
                assert_eq!(next.starting().phase(), after);
                assert_ne!(next.starting(), next);
                assert_eq!(next.starting().started(), next);
            }
        }
    }

    #[test]
    fn the_results_of_all_probes_always_decide() {
        // (probes, successes, results, the phase that follows)
        let cases = [
            (3, 2, "ss", Phase::Closed),
            (3, 2, "ff", Phase::Open),
            (3, 2, "sfs", Phase::Closed),
            (3, 2, "fsf", Phase::Open),
            (1, 1, "s", Phase::Closed),
            (1, 1, "f", Phase::Open),
            (2, 2, "f", Phase::Open),
            (2, 2, "ss", Phase::Closed),
            (4, 1, "fffs", Phase::Closed),
            (4, 1, "ffff", Phase::Open),
        ];
        for (probes, successes, results, expected) in cases {
            let rules = Rules {
                probes,
                successes,
                ..RULES
            };
            let mut state = opened(trip(0), &rules);
            for _ in results.bytes() {
                let now = 5 * SECOND;
                state = state.after(Event::Admit { now }, &rules).unwrap();
            }
            for (i, result) in results.bytes().enumerate() {
                let phase = state.epoch.phase();
                assert_eq!(phase, Phase::HalfOpen, "{results} decided at {i}");
                let event = if result == b's' {
                    Event::Good
                } else {
                    bad(5 * SECOND)
                };
                state = state.after(event, &rules).unwrap();
            }
            assert_eq!(state.epoch.phase(), expected, "{results}");
        }
    }

    #[test]
    fn any_number_of_results_that_fills_the_probes_decides() {
        for probes in 1..=127_u8 {
            for successes in 1..=probes {
                let rules = Rules {
                    probes,
                    successes,
                    ..RULES
                };
                // One success less than closes, and as many failures as still do not re-open.
                let (ok, failed) = (successes - 1, probes - successes);
                assert_eq!(ok + failed + 1, probes);
                let state = half_open(probes, ok, failed);
                let closed = state.after(Event::Good, &rules).unwrap();
                assert_eq!(closed.epoch.phase(), Phase::Closed);
                let open = state.after(bad(0), &rules).unwrap();
                assert_eq!(open.epoch.phase(), Phase::Open);
            }
        }
    }

    #[test]
    fn open_times_double_up_to_their_maximum_and_start_over_after_a_close() {
        let rules = Rules {
            probes: 1,
            successes: 1,
            ..RULES
        };
        let mut state = opened(trip(0), &rules);
        let mut times = vec![state.until];
        for _ in 0..100 {
            let now = state.until;
            let half = state.after(Event::Admit { now }, &rules).unwrap();
            state = half.after(bad(now), &rules).unwrap();
            times.push(state.until - now);
        }
        assert_eq!(times[..5], [5, 10, 20, 40, 60].map(|time| time * SECOND));
        assert!(times[5..].iter().all(|&time| time == 60 * SECOND));
        let now = state.until;
        let half = state.after(Event::Admit { now }, &rules).unwrap();
        let closed = half.after(Event::Good, &rules).unwrap();
        let open = closed.after(trip(now), &rules).unwrap();
        assert_eq!(open.until - now, 5 * SECOND);
    }

    #[test]
    fn the_shortest_open_time_doubles_up_to_its_maximum_too() {
        let rules = Rules {
            open_for: 1,
            probes: 1,
            successes: 1,
            ..RULES
        };
        let mut state = half_open(1, 0, 0);
        for _ in 0..100 {
            state = state.after(bad(0), &rules).unwrap();
            let now = state.until;
            state = state.after(Event::Admit { now }, &rules).unwrap();
        }
        let open = state.after(bad(0), &rules).unwrap();
        assert_eq!(open.until, 60 * SECOND);
    }

    #[test]
    fn the_draw_shortens_an_open_time_by_a_tenth_at_most() {
        let open = |draw| {
            let (now, hint) = (0, 0);
            opened(Event::Trip { now, hint, draw }, &RULES).until / MS
        };
        assert_eq!(open(0.0), 5_000);
        assert_eq!(open(0.5), 4_750);
        assert_eq!(open(1.0 - f64::EPSILON / 2.0), 4_500);
    }

    #[test]
    fn retry_after_lengthens_an_open_time_up_to_its_maximum() {
        for (hint, time) in [(0, 5_000), (20 * SECOND, 20_000), (u64::MAX, 60_000)] {
            let (now, draw) = (0, 0.9);
            let open = opened(Event::Trip { now, hint, draw }, &RULES);
            assert_eq!((open.until / MS).max(5_000), time);
        }
        // The hint never opens the circuit for ever, even if the maximum is unlimited.
        let rules = Rules {
            max_open_for: u64::MAX,
            ..RULES
        };
        let (now, hint, draw) = (0, u64::MAX, 0.0);
        let open = opened(Event::Trip { now, hint, draw }, &rules);
        assert_eq!(open.until, LONGEST);
    }

    #[test]
    fn an_open_time_beyond_the_longest_never_ends() {
        for open_for in [LONGEST + 1, u64::MAX] {
            let rules = Rules {
                open_for,
                max_open_for: u64::MAX,
                ..RULES
            };
            let open = opened(trip(0), &rules);
            assert_eq!(look(open, u64::MAX), Err(Blocked::UNKNOWN));
            let now = u64::MAX;
            assert_eq!(open.after(Event::Admit { now }, &rules), None);
        }
        let rules = Rules {
            open_for: LONGEST,
            max_open_for: LONGEST,
            ..RULES
        };
        let open = opened(trip(0), &rules);
        let admit = |now| open.after(Event::Admit { now }, &rules);
        assert_eq!(admit(LONGEST - 1), None);
        assert!(admit(LONGEST).is_some());
    }

    #[test]
    fn an_open_time_ends_on_time_at_any_reading_of_the_clock() {
        // Near the powers of two, in milliseconds and nanoseconds, and over two centuries.
        let powers = (0..63).map(|bit| (1_u64 << bit).saturating_sub(2 * SECOND));
        for now in powers.chain([0, 1, 100 * YEAR, 200 * YEAR, 290 * YEAR]) {
            let open = opened(trip(now), &RULES);
            let edge = (now + 5 * SECOND).div_ceil(MS) * MS;
            let left = |now| look(open, now).map_err(Blocked::retry_after);
            assert_eq!(left(now), Err(Some(edge - now)), "{now}");
            assert_eq!(left(edge - 1), Err(Some(1)), "{now}");
            for later in [0, SECOND, 86_400 * SECOND, 2 * YEAR, 100 * YEAR] {
                assert_eq!(left(edge + later), Ok(()), "{now} {later}");
            }
        }
    }

    #[test]
    fn a_blocked_call_knows_when_to_look_again() {
        let far = MAY_GO - 2;
        let cases = [
            (Gate::SHUT, None, None),
            (Gate::until_over(u64::MAX), None, None),
            (Gate::until_over(11), Some(1), Some(1)),
            (Gate::until_over(far), Some(far - 10), Some(far - 10)),
            (Gate::until_lapse(u64::MAX), None, None),
            (Gate::until_lapse(11), None, Some(1)),
            (Gate::until_lapse(far), None, Some(far - 10)),
        ];
        for (gate, retry_after, look_after) in cases {
            let blocked = gate.look(10).unwrap_err();
            let seen = (blocked.retry_after(), blocked.look_after());
            assert_eq!(seen, (retry_after, look_after), "{gate:?}");
        }
        for gate in [Gate::FREE, Gate::until_over(10), Gate::until_lapse(10)] {
            assert_eq!(gate.look(10), Ok(()), "{gate:?}");
        }
    }

    #[test]
    fn a_lease_lapses_only_with_no_probe_left_and_keeps_the_results() {
        let at = |now| Event::Admit { now };
        let state = half_open(3, 1, 0);
        assert_eq!(state.after(at(30 * SECOND - 1), &RULES), None);
        let lapsed = state.after(at(30 * SECOND), &RULES).unwrap();
        let mut expected = half_open(2, 1, 0);
        expected.epoch = expected.epoch.next(Phase::HalfOpen);
        expected.trial.issued_at = 30 * SECOND;
        assert_eq!(lapsed, expected);

        let issued = half_open(2, 1, 0).after(at(40 * SECOND), &RULES).unwrap();
        let mut expected = half_open(3, 1, 0);
        expected.trial.issued_at = 40 * SECOND;
        assert_eq!(issued, expected);

        let never = Rules {
            lease: u64::MAX,
            ..RULES
        };
        assert_eq!(state.after(at(u64::MAX), &never), None);
    }

    #[test]
    fn a_probe_sent_by_a_late_clock_does_not_shorten_the_lease() {
        let at = |now| Event::Admit { now };
        let state = half_open(1, 0, 0).after(at(20 * SECOND), &RULES).unwrap();
        let full = state.after(at(0), &RULES).unwrap();
        assert_eq!(full.after(at(50 * SECOND - 1), &RULES), None);
    }

    #[test]
    fn forced_states_ignore_time_and_outcomes() {
        for (force, phase) in [
            (Event::ForceOpen, Phase::ForcedOpen),
            (Event::ForceClosed, Phase::ForcedClosed),
        ] {
            let state = State::NEW.after(force, &RULES).unwrap();
            assert_eq!(state.epoch.phase(), phase);
            let now = u64::MAX;
            let events = [Event::Admit { now }, Event::Good, bad(0), trip(0)];
            for event in events.into_iter().chain([Event::Return]) {
                assert_eq!(state.after(event, &RULES), None, "{event:?}");
            }
            let reset = state.after(Event::Reset, &RULES).unwrap();
            assert_eq!(reset.epoch.phase(), Phase::Closed);
        }
    }
}
