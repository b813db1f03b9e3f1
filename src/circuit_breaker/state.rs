//! The states of a circuit, their packing into one word, and the transitions: pure functions.
//!
//! `[phase:3][epoch:20][payload:41]`. The payload of an open circuit is
//! `[reopened:5][deadline in ms:36]`, of a half-open one `[reopened:5][spare:15][issued:7][ok:7][bad:7]`.
//!
//! An epoch wraps after 2^20 transitions: only an outcome that outlives exactly so many would be
//! taken for a newer one. A deadline wraps after 2.18 years, so it is compared modulo that: one that
//! lies further ahead than the longest open time, and some 70 minutes for threads whose clock is
//! late, is one that has passed.

use crate::chance::scale;
use std::num::NonZeroU64;

const MS: u64 = 1_000_000;
const EPOCH: u64 = (1 << 20) - 1;
const REOPENED: u8 = (1 << 5) - 1;
const DEADLINE: u64 = (1 << 36) - 1;

/// The most probes that fit their field.
pub(super) const MAX_PROBES: u32 = 127;
/// The longest open time that fits the deadline, half of its range: 1.09 years. Above it a circuit
/// is open for ever.
pub(super) const LONGEST: u64 = (1 << 35) * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) epoch: u32,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Open { reopened: u8, until_ms: u64 },
    OpenForEver,
    HalfOpen(Trial),
    ForcedOpen,
    ForcedClosed,
}

/// The probes of a half-open circuit. Results always number fewer than would decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trial {
    /// How often in a row the circuit has re-opened.
    pub(super) reopened: u8,
    /// Probes that are out or have a result.
    pub(super) issued: u8,
    pub(super) ok: u8,
    pub(super) bad: u8,
}

/// What a transition needs to know, as configured. Times in nanoseconds, 2^64 − 1 for "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) open_for: u64,
    pub(super) max_open_for: u64,
    pub(super) probes: u8,
    pub(super) successes: u8,
    pub(super) lease: u64,
}

/// What happens to a circuit. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    /// A call asks to be let through; the latest probe went out at `issued_at`.
    Admit {
        now: u64,
        issued_at: u64,
    },
    /// A probe came back good.
    Good,
    /// A probe came back bad. The callee wishes to be left alone for `hint`.
    Bad {
        now: u64,
        hint: u64,
        draw: f64,
    },
    /// A probe came back without a verdict.
    Return,
    /// Too many calls failed, or were slow.
    Trip {
        now: u64,
        hint: u64,
        draw: f64,
    },
    ForceOpen,
    ForceClosed,
    Reset,
}

impl From<u64> for State {
    fn from(word: u64) -> Self {
        let field = |shift: u32, bits: u32| word >> shift & ((1 << bits) - 1);
        let phase = match word >> 61 {
            0 => Phase::Closed,
            1 => Phase::Open {
                reopened: field(36, 5) as u8,
                until_ms: field(0, 36),
            },
            2 => Phase::OpenForEver,
            3 => Phase::HalfOpen(Trial {
                reopened: field(36, 5) as u8,
                issued: field(14, 7) as u8,
                ok: field(7, 7) as u8,
                bad: field(0, 7) as u8,
            }),
            4 => Phase::ForcedOpen,
            _ => Phase::ForcedClosed,
        };
        Self {
            epoch: field(41, 20) as u32,
            phase,
        }
    }
}

impl From<State> for u64 {
    fn from(state: State) -> Self {
        // No field reaches into another: `|` could as well be `^`.
        let (phase, payload) = match state.phase {
            Phase::Closed => (0, 0),
            Phase::Open { reopened, until_ms } => (1, u64::from(reopened) << 36 | until_ms),
            Phase::OpenForEver => (2, 0),
            Phase::HalfOpen(Trial {
                reopened,
                issued,
                ok,
                bad,
            }) => {
                let results = u64::from(issued) << 14 | u64::from(ok) << 7 | u64::from(bad);
                (3, u64::from(reopened) << 36 | results)
            }
            Phase::ForcedOpen => (4, 0),
            Phase::ForcedClosed => (5, 0),
        };
        phase << 61 | u64::from(state.epoch) << 41 | payload
    }
}

/// Why a call cannot go now: when to look again, and whether a probe may go then. One word, since
/// it is handed through every rejection: `[may go:1][nanoseconds from now:63]`, all ones for a time
/// that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocked(NonZeroU64);

impl Blocked {
    const FLAG: u64 = 1 << 63;
    pub(super) const UNKNOWN: Self = Self(NonZeroU64::MAX);

    /// A probe may go after so many nanoseconds.
    fn until_over(left: u64) -> Self {
        NonZeroU64::new(left | Self::FLAG).map_or(Self::UNKNOWN, Self)
    }

    /// The probes that are out will be written off after so many nanoseconds, not counting those
    /// that come back before.
    fn until_lapse(left: u64) -> Self {
        NonZeroU64::new(left.min(Self::FLAG - 1)).map_or(Self::UNKNOWN, Self)
    }

    /// When a probe may go, where that is known. Nanoseconds from now.
    pub(super) fn retry_after(self) -> Option<u64> {
        let known = self != Self::UNKNOWN && self.0.get() >= Self::FLAG;
        known.then_some(self.0.get() & !Self::FLAG)
    }

    /// When to look again, if nothing else happens before. Nanoseconds from now.
    pub(super) fn look_after(self) -> Option<u64> {
        (self != Self::UNKNOWN).then_some(self.0.get() & !Self::FLAG)
    }
}

impl State {
    pub(super) const NEW: Self = Self {
        epoch: 0,
        phase: Phase::Closed,
    };

    /// Whether a call could go, as a probe or freely.
    #[inline]
    pub(super) fn look(self, rules: &Rules, now: u64, issued_at: u64) -> Result<(), Blocked> {
        match self.phase {
            Phase::Closed | Phase::ForcedClosed => Ok(()),
            Phase::OpenForEver | Phase::ForcedOpen => Err(Blocked::UNKNOWN),
            Phase::Open { until_ms, .. } => match remaining(until_ms, now, rules) {
                None => Ok(()),
                Some(left) => Err(Blocked::until_over(left)),
            },
            Phase::HalfOpen(trial) if trial.issued < rules.probes => Ok(()),
            Phase::HalfOpen(_) if rules.lease == u64::MAX => Err(Blocked::UNKNOWN),
            // The lease lapses only with no place left.
            Phase::HalfOpen(_) => match rules.lease.saturating_sub(now.saturating_sub(issued_at)) {
                0 => Ok(()),
                left => Err(Blocked::until_lapse(left)),
            },
        }
    }

    /// Whether calls pass freely, and are counted in the windows.
    pub(super) fn passes(self) -> bool {
        matches!(self.phase, Phase::Closed | Phase::ForcedClosed)
    }

    /// The state after an event; `None` where it changes nothing.
    pub(super) fn after(self, event: Event, rules: &Rules) -> Option<Self> {
        match (event, self.phase) {
            (Event::ForceOpen, _) => Some(self.next(Phase::ForcedOpen)),
            (Event::ForceClosed, _) => Some(self.next(Phase::ForcedClosed)),
            (Event::Reset, _) => Some(self.next(Phase::Closed)),

            (Event::Trip { now, hint, draw }, Phase::Closed) => {
                Some(self.next(opened(0, now, hint, draw, rules)))
            }

            (Event::Admit { now, issued_at }, phase) => {
                self.look(rules, now, issued_at).ok()?;
                match phase {
                    Phase::Open { reopened, .. } => {
                        let first = Trial {
                            reopened,
                            issued: 1,
                            ok: 0,
                            bad: 0,
                        };
                        Some(self.next(Phase::HalfOpen(first)))
                    }
                    Phase::HalfOpen(trial) if trial.issued < rules.probes => {
                        Some(self.with(Trial {
                            issued: trial.issued + 1,
                            ..trial
                        }))
                    }
                    // What is out when a lease lapses is written off, by an epoch of its own;
                    // results stay.
                    Phase::HalfOpen(trial) => {
                        let issued = trial.ok + trial.bad + 1;
                        Some(self.next(Phase::HalfOpen(Trial { issued, ..trial })))
                    }
                    _ => None,
                }
            }

            (Event::Good, Phase::HalfOpen(trial)) => {
                let trial = Trial {
                    ok: trial.ok + 1,
                    ..trial
                };
                let closes = trial.ok == rules.successes;
                Some(if closes {
                    self.next(Phase::Closed)
                } else {
                    self.with(trial)
                })
            }
            (Event::Bad { now, hint, draw }, Phase::HalfOpen(trial)) => {
                let trial = Trial {
                    bad: trial.bad + 1,
                    ..trial
                };
                // With more of them the successes cannot be reached any more.
                if trial.bad <= rules.probes - rules.successes {
                    return Some(self.with(trial));
                }
                let reopened = (trial.reopened + 1).min(REOPENED);
                Some(self.next(opened(reopened, now, hint, draw, rules)))
            }
            (Event::Return, Phase::HalfOpen(trial)) => Some(self.with(Trial {
                issued: trial.issued - 1,
                ..trial
            })),

            _ => None,
        }
    }

    /// Into a new epoch: what is outstanding no longer counts.
    fn next(self, phase: Phase) -> Self {
        Self {
            epoch: (self.epoch + 1) & EPOCH as u32,
            phase,
        }
    }

    fn with(self, trial: Trial) -> Self {
        Self {
            phase: Phase::HalfOpen(trial),
            ..self
        }
    }
}

/// The open state after `reopened` returns to it in a row.
fn opened(reopened: u8, now: u64, hint: u64, draw: f64, rules: &Rules) -> Phase {
    if rules.open_for > LONGEST {
        return Phase::OpenForEver;
    }
    let time = rules
        .open_for
        .saturating_mul(1 << reopened)
        .min(rules.max_open_for);
    let time = time - scale(time / 10, draw);
    let time = time.max(hint.min(rules.max_open_for)).min(LONGEST);
    // Rounded up: no probe goes early.
    let until_ms = now.saturating_add(time).div_ceil(MS) & DEADLINE;
    Phase::Open { reopened, until_ms }
}

/// What is left of an open time; `None` when it is over.
#[inline]
fn remaining(until_ms: u64, now: u64, rules: &Rules) -> Option<u64> {
    let left = until_ms.wrapping_sub(now / MS) & DEADLINE;
    // A thread may have read the clock before another opened the circuit.
    let late = 1 << 22;
    let ahead = 1..=rules.max_open_for.min(LONGEST).div_ceil(MS) + late;
    ahead.contains(&left).then(|| left * MS - now % MS)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
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

    fn admit(now: u64) -> Event {
        Event::Admit {
            now,
            issued_at: now,
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
        let open = State::NEW.after(wish, &RULES).unwrap();
        for late in [0, 1, 2, 3, 10, 50_000] {
            assert_eq!(
                open.after(admit(now - late * MS), &RULES),
                None,
                "{late} ms"
            );
        }
    }

    /// The open time in ms, for a circuit that opens at 0.
    fn open_ms(state: State) -> u64 {
        let Phase::Open { until_ms, .. } = state.phase else {
            panic!("{state:?}")
        };
        until_ms
    }

    #[test]
    fn every_state_survives_packing_at_the_edges_of_its_fields() {
        let phases = [
            Phase::Closed,
            Phase::Open {
                reopened: 31,
                until_ms: DEADLINE,
            },
            Phase::Open {
                reopened: 0,
                until_ms: 0,
            },
            Phase::OpenForEver,
            Phase::HalfOpen(Trial {
                reopened: 31,
                issued: 127,
                ok: 126,
                bad: 127,
            }),
            Phase::HalfOpen(Trial {
                reopened: 0,
                issued: 1,
                ok: 0,
                bad: 0,
            }),
            Phase::ForcedOpen,
            Phase::ForcedClosed,
        ];
        for phase in phases {
            for epoch in [0, 1, EPOCH as u32] {
                let state = State { epoch, phase };
                assert_eq!(State::from(u64::from(state)), state);
            }
        }
    }

    #[test]
    fn an_epoch_wraps_without_touching_its_neighbours() {
        let last = State {
            epoch: EPOCH as u32,
            phase: Phase::Closed,
        };
        let next = last.after(Event::ForceOpen, &RULES).unwrap();
        assert_eq!(
            next,
            State {
                epoch: 0,
                phase: Phase::ForcedOpen
            }
        );
        assert_eq!(State::from(u64::from(next)), next);
    }

    #[test]
    fn the_results_of_all_probes_always_decide() {
        // (probes, successes, results, the phase they lead to)
        let cases = [
            (3, 2, "ss", "closed"),
            (3, 2, "ff", "open"),
            (3, 2, "sfs", "closed"),
            (3, 2, "fsf", "open"),
            (1, 1, "s", "closed"),
            (1, 1, "f", "open"),
            (2, 2, "f", "open"),
            (2, 2, "ss", "closed"),
            (4, 1, "fffs", "closed"),
            (4, 1, "ffff", "open"),
        ];
        for (probes, successes, results, expected) in cases {
            let rules = Rules {
                probes,
                successes,
                ..RULES
            };
            let mut state = State::NEW.after(trip(0), &rules).unwrap();
            for _ in results.bytes() {
                state = state.after(admit(5 * SECOND), &rules).unwrap();
            }
            for (i, result) in results.bytes().enumerate() {
                assert!(
                    matches!(state.phase, Phase::HalfOpen(_)),
                    "{results} decided at {i}"
                );
                let event = if result == b's' {
                    Event::Good
                } else {
                    bad(5 * SECOND)
                };
                state = state.after(event, &rules).unwrap();
            }
            let phase = match state.phase {
                Phase::Closed => "closed",
                Phase::Open { .. } => "open",
                _ => "undecided",
            };
            assert_eq!(phase, expected, "{results}");
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
                // As many good ones as do not close, as many bad ones as do not re-open.
                let (ok, bad) = (successes - 1, probes - successes);
                assert_eq!(ok + bad + 1, probes);
                let phase = Phase::HalfOpen(Trial {
                    reopened: 0,
                    issued: probes,
                    ok,
                    bad,
                });
                let state = State { epoch: 0, phase };
                let closed = state.after(Event::Good, &rules).unwrap();
                assert_eq!(closed.phase, Phase::Closed);
                let open = state
                    .after(
                        Event::Bad {
                            now: 0,
                            hint: 0,
                            draw: 0.0,
                        },
                        &rules,
                    )
                    .unwrap();
                assert!(matches!(open.phase, Phase::Open { .. }));
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
        let mut state = State::NEW.after(trip(0), &rules).unwrap();
        let mut times = vec![open_ms(state)];
        for _ in 0..40 {
            let half = State {
                phase: half_open(state),
                ..state
            };
            state = half.after(bad(0), &rules).unwrap();
            times.push(open_ms(state));
            assert_eq!(State::from(u64::from(state)), state);
        }
        assert_eq!(times[..5], [5_000, 10_000, 20_000, 40_000, 60_000]);
        assert!(times[5..].iter().all(|&time| time == 60_000));
        let half = State {
            phase: half_open(state),
            ..state
        };
        let closed = half.after(Event::Good, &rules).unwrap();
        assert_eq!(open_ms(closed.after(trip(0), &rules).unwrap()), 5_000);
    }

    fn half_open(state: State) -> Phase {
        let Phase::Open { reopened, .. } = state.phase else {
            panic!("{state:?}")
        };
        Phase::HalfOpen(Trial {
            reopened,
            issued: 1,
            ok: 0,
            bad: 0,
        })
    }

    #[test]
    fn the_draw_shortens_an_open_time_by_a_tenth_at_most() {
        let open = |draw| {
            let event = Event::Trip {
                now: 0,
                hint: 0,
                draw,
            };
            open_ms(State::NEW.after(event, &RULES).unwrap())
        };
        assert_eq!(open(0.0), 5_000);
        assert_eq!(open(0.5), 4_750);
        assert_eq!(open(1.0 - f64::EPSILON / 2.0), 4_500);
    }

    #[test]
    fn the_callees_wish_lengthens_an_open_time_up_to_its_maximum() {
        for (hint, time) in [(0, 5_000), (20 * SECOND, 20_000), (u64::MAX, 60_000)] {
            let event = Event::Trip {
                now: 0,
                hint,
                draw: 0.9,
            };
            assert_eq!(
                open_ms(State::NEW.after(event, &RULES).unwrap()).max(5_000),
                time
            );
        }
        // Not even where the maximum is without bound.
        let rules = Rules {
            max_open_for: u64::MAX,
            ..RULES
        };
        let event = Event::Trip {
            now: 0,
            hint: u64::MAX,
            draw: 0.0,
        };
        assert!(matches!(
            State::NEW.after(event, &rules).unwrap().phase,
            Phase::Open { .. }
        ));
    }

    #[test]
    fn an_open_time_beyond_the_deadlines_field_is_for_ever() {
        for open_for in [LONGEST + 1, u64::MAX] {
            let rules = Rules {
                open_for,
                max_open_for: u64::MAX,
                ..RULES
            };
            let state = State::NEW.after(trip(0), &rules).unwrap();
            assert_eq!(state.phase, Phase::OpenForEver);
            assert_eq!(state.after(admit(u64::MAX), &rules), None);
        }
        let rules = Rules {
            open_for: LONGEST,
            max_open_for: LONGEST,
            ..RULES
        };
        let state = State::NEW.after(trip(0), &rules).unwrap();
        assert_eq!(state.after(admit(LONGEST - 1), &rules), None);
        assert!(state.after(admit(LONGEST), &rules).is_some());
    }

    #[test]
    fn a_deadline_holds_across_the_wrap_of_its_field() {
        let wrap = (DEADLINE + 1) * MS;
        for now in [
            0,
            1,
            wrap - 1,
            wrap - 5 * SECOND,
            wrap - 2 * SECOND,
            wrap,
            3 * wrap - 1,
        ] {
            let open = State::NEW.after(trip(now), &RULES).unwrap();
            let edge = (now + 5 * SECOND).div_ceil(MS) * MS;
            let left = open.look(&RULES, now, 0).unwrap_err().retry_after();
            assert_eq!(left, Some(edge - now));
            assert_eq!(
                open.look(&RULES, edge - 1, 0).unwrap_err().retry_after(),
                Some(1)
            );
            for later in [0, SECOND, 86_400 * SECOND, 2 * 365 * 86_400 * SECOND] {
                assert_eq!(open.look(&RULES, edge + later, 0), Ok(()), "{now} {later}");
            }
        }
    }

    #[test]
    fn what_blocks_a_call_says_when_to_look_again() {
        let cases = [
            (Blocked::UNKNOWN, None, None),
            (Blocked::until_over(1), Some(1), Some(1)),
            (Blocked::until_over(LONGEST), Some(LONGEST), Some(LONGEST)),
            (Blocked::until_lapse(1), None, Some(1)),
            (
                Blocked::until_lapse(u64::MAX - 1),
                None,
                Some(u64::MAX >> 1),
            ),
        ];
        for (blocked, retry_after, look_after) in cases {
            assert_eq!(
                (blocked.retry_after(), blocked.look_after()),
                (retry_after, look_after)
            );
        }
    }

    #[test]
    fn a_lease_lapses_only_with_no_slot_left_and_keeps_the_results() {
        let phase = |issued, ok, bad| {
            Phase::HalfOpen(Trial {
                reopened: 4,
                issued,
                ok,
                bad,
            })
        };
        let state = State {
            epoch: 7,
            phase: phase(3, 1, 0),
        };
        let at = |now| Event::Admit { now, issued_at: 0 };
        assert_eq!(state.after(at(30 * SECOND - 1), &RULES), None);
        let lapsed = state.after(at(30 * SECOND), &RULES).unwrap();
        assert_eq!(
            lapsed,
            State {
                epoch: 8,
                phase: phase(2, 1, 0)
            }
        );

        let spare = State {
            epoch: 7,
            phase: phase(2, 1, 0),
        };
        let issued = spare.after(at(40 * SECOND), &RULES).unwrap();
        assert_eq!(
            issued,
            State {
                epoch: 7,
                phase: phase(3, 1, 0)
            }
        );

        let never = Rules {
            lease: u64::MAX,
            ..RULES
        };
        assert_eq!(state.after(at(u64::MAX), &never), None);
    }

    #[test]
    fn forced_states_heed_neither_time_nor_outcome() {
        for (force, phase) in [
            (Event::ForceOpen, Phase::ForcedOpen),
            (Event::ForceClosed, Phase::ForcedClosed),
        ] {
            let state = State::NEW.after(force, &RULES).unwrap();
            assert_eq!(state.phase, phase);
            for event in [admit(u64::MAX), Event::Good, bad(0), Event::Return, trip(0)] {
                assert_eq!(state.after(event, &RULES), None, "{event:?}");
            }
            assert_eq!(
                state.after(Event::Reset, &RULES).unwrap().phase,
                Phase::Closed
            );
        }
    }
}
