//! Models of the breaker for loom, which tries every order of a few threads.

use super::breaker::{Breaker, Limits, Mark, Pass, Settled, Told};
use super::count_window::CountWindow;
use super::row::Row;
use super::state::{Blocked, Event, Phase, Reason, Rules, Trial};
use super::time_window::TimeWindow;
use super::window::Window;
use loom::sync::Arc;
use loom::thread;

/// Tries the orders of two threads, and checks the result of each.
///
/// Loom remembers only the last access to an atomic: after a thread has loaded and stored it, loom no
/// longer tries the orders in which another thread loaded it earlier. So each race runs twice, once
/// with each thread first.
pub(super) fn race<T, A, B>(
    start: impl Fn() -> T + Copy + Send + Sync + 'static,
    one: impl Fn(&T) -> A + Copy + Send + Sync + 'static,
    two: impl Fn(&T) -> B + Copy + Send + Sync + 'static,
    end: impl Fn(&T, A, B) + Copy + Send + Sync + 'static,
) where
    T: Send + Sync + 'static,
    A: 'static,
    B: 'static,
{
    for two_in_front in [false, true] {
        loom::model(move || {
            let shared = Arc::new(start());
            let other = shared.clone();
            if two_in_front {
                let behind = thread::spawn(move || one(&other));
                let b = two(&shared);
                end(&shared, behind.join().unwrap(), b);
            } else {
                let behind = thread::spawn(move || two(&other));
                let a = one(&shared);
                end(&shared, a, behind.join().unwrap());
            }
        });
    }
}

const MS: u64 = 1_000_000;

/// Gives this fixed time and the smallest draw.
struct At(u64);

impl Told for At {
    fn now(&self) -> u64 {
        self.0
    }

    fn draw(&self) -> f64 {
        0.0
    }
}

const BAD: Mark = Mark::Bad { hint: 0 };

/// Opens for 10 ms at a failure rate of 0.4 with at least two calls, or after this many failures in a
/// row.
fn breaker(window: Option<Window>, row: u32, probes: u8) -> Breaker {
    let limits = Limits {
        failed_ppm: 400_000,
        slow: None,
        min_calls: 2,
        row,
        abandoned_after: 10 * MS,
    };
    let rules = Rules {
        open_for: 10 * MS,
        max_open_for: 10 * MS,
        probes,
        successes: probes / 2 + 1,
        lease: 5 * MS,
    };
    Breaker::new(window, (row > 0).then(Row::new), limits, rules)
}

/// A closed breaker, and a call that it let through.
fn closed(window: Option<Window>, row: u32) -> (Breaker, Pass) {
    let breaker = breaker(window, row, 1);
    let pass = breaker.pass().unwrap();
    (breaker, pass)
}

/// A circuit that opened at 0. The first probe may go at 10 ms.
fn opened(probes: u8) -> Breaker {
    let breaker = breaker(None, 1, probes);
    let pass = breaker.pass().unwrap();
    assert!(changed(breaker.settle(pass, BAD, None, &At(0))));
    breaker
}

/// A half-open circuit, a call of the epoch before, and its only probe.
fn half_open(window: Option<Window>) -> (Breaker, Pass, Pass) {
    let (breaker, old) = closed(window, 0);
    for _ in 0..2 {
        breaker.settle(old, BAD, None, &At(0));
    }
    let probe = admit(&breaker, 10).unwrap();
    assert!(probe.is_probe());
    (breaker, old, probe)
}

fn admit(breaker: &Breaker, ms: u64) -> Option<Pass> {
    breaker.admit(&At(ms * MS)).ok().map(|(pass, _)| pass)
}

fn time() -> Option<Window> {
    Some(Window::Time(TimeWindow::new(20 * MS, false)))
}

fn count() -> Option<Window> {
    Some(Window::Count(CountWindow::new(2, false)))
}

fn no_window() -> Option<Window> {
    None
}

fn changed(settled: Settled) -> bool {
    matches!(settled, Settled::Changed(_))
}

fn phase(breaker: &Breaker) -> Phase {
    breaker.state().epoch.phase()
}

fn trial(breaker: &Breaker) -> Trial {
    assert_eq!(phase(breaker), Phase::HalfOpen);
    breaker.state().trial
}

/// The number of counted failures. In these models every call is a failure.
fn counted(breaker: &Breaker, ms: u64) -> u64 {
    let seen = breaker.snapshot(ms * MS);
    assert_eq!(seen.counts.calls, seen.counts.bad);
    seen.row.map_or(seen.counts.bad, u64::from)
}

/// Two failures and a success after two successes: in every order 2 of 5 reach the limit.
fn trips_once(window: Window, times: [u64; 3]) {
    let breaker = Arc::new(breaker(Some(window), 0, 1));
    let pass = breaker.pass().unwrap();
    for _ in 0..2 {
        breaker.settle(pass, Mark::Good, None, &At(times[0]));
    }
    let settle = |mark, at| {
        let breaker = breaker.clone();
        thread::spawn(move || changed(breaker.settle(pass, mark, None, &At(at))))
    };
    let (one, two) = (settle(BAD, times[0]), settle(BAD, times[1]));
    let three = changed(breaker.settle(pass, Mark::Good, None, &At(times[2])));
    let changes = [one.join().unwrap(), two.join().unwrap(), three];
    assert_eq!(changes.into_iter().filter(|changed| *changed).count(), 1);
    assert_eq!(phase(&breaker), Phase::Open);
}

#[test]
fn two_failures_and_a_success_at_the_threshold_trip_a_time_window_once() {
    let window = || Window::Time(TimeWindow::new(2 * MS, false));
    loom::model(move || trips_once(window(), [0, MS / 2, MS / 2]));
    // The failures are in different buckets, and threads with different clocks read them. With three
    // threads that may each turn the window, more preemptions would give too many orders.
    let mut few = loom::model::Builder::new();
    few.preemption_bound = Some(1);
    few.check(move || trips_once(window(), [0, MS, MS]));
}

#[test]
fn two_failures_in_different_buckets_trip_a_time_window_once() {
    race(
        || closed(Some(Window::Time(TimeWindow::new(2 * MS, false))), 0),
        |(breaker, pass)| changed(breaker.settle(*pass, BAD, None, &At(0))),
        |(breaker, pass)| changed(breaker.settle(*pass, BAD, None, &At(MS))),
        |_, one, two| assert!(one ^ two),
    );
}

#[test]
fn two_failures_and_a_success_at_the_threshold_trip_a_count_window_once() {
    loom::model(|| trips_once(Window::Count(CountWindow::new(8, false)), [0, 0, 0]));
}

#[test]
fn of_a_failed_and_a_slow_call_that_reach_the_threshold_one_trips() {
    let windows: [fn() -> Window; 2] = [
        || Window::Time(TimeWindow::new(20 * MS, true)),
        || Window::Count(CountWindow::new(2, true)),
    ];
    for window in windows {
        race(
            move || {
                // One call alone is below `min_calls`.
                let (mut breaker, pass) = closed(Some(window()), 0);
                breaker.limits.slow = Some((MS, 400_000));
                (breaker, pass)
            },
            |(breaker, pass)| changed(breaker.settle(*pass, Mark::Good, Some(0), &At(MS))),
            |(breaker, pass)| changed(breaker.settle(*pass, BAD, None, &At(MS))),
            |_, slow, failed| assert!(slow ^ failed),
        );
    }
}

#[test]
fn of_two_outcomes_that_trip_the_circuit_one_reports_it() {
    race(
        || closed(None, 1),
        |(breaker, pass)| changed(breaker.settle(*pass, BAD, None, &At(0))),
        |(breaker, pass)| changed(breaker.settle(*pass, BAD, None, &At(0))),
        |_, one, two| assert!(one ^ two),
    );
}

#[test]
fn a_thread_that_sees_the_circuit_open_sees_the_open_time() {
    race(
        || closed(None, 1),
        |(breaker, pass)| breaker.settle(*pass, BAD, None, &At(0)),
        |(breaker, _)| breaker.phase(|| 0),
        |_, _, (phase, blocked)| {
            let left = blocked.and_then(Blocked::retry_after);
            match phase {
                Phase::Closed => assert_eq!(left, None),
                phase => assert_eq!((phase, left), (Phase::Open, Some(10 * MS))),
            }
        },
    );
}

#[test]
fn two_admits_at_the_end_of_the_open_time_issue_no_more_than_the_probes() {
    race(
        || opened(1),
        |breaker| admit(breaker, 10),
        |breaker| admit(breaker, 10),
        |breaker, one, two| {
            assert!(one.is_some() ^ two.is_some());
            assert_eq!(trial(breaker).issued, 1);
        },
    );
    race(
        || opened(2),
        |breaker| admit(breaker, 10),
        |breaker| admit(breaker, 10),
        |breaker, one, two| {
            assert!(one.is_some() && two.is_some());
            assert_eq!(trial(breaker).issued, 2);
        },
    );
}

#[test]
fn a_probe_that_ends_while_another_is_dropped_keeps_its_result_and_frees_the_other() {
    race(
        || {
            let breaker = opened(3);
            let [one, two] = [10, 10].map(|ms| admit(&breaker, ms).unwrap());
            (breaker, one, two)
        },
        |(breaker, one, _)| breaker.settle(*one, Mark::Good, None, &At(11 * MS)),
        |(breaker, _, two)| breaker.abandon(*two, false, Some(10 * MS), &At(11 * MS)),
        |(breaker, ..), _, dropped| {
            assert_eq!(dropped, Settled::Returned);
            let trial = trial(breaker);
            assert_eq!((trial.issued, trial.ok, trial.bad), (1, 1, 0));
        },
    );
}

#[test]
fn a_probe_that_ends_as_its_lease_lapses_counts_once_or_not_at_all() {
    race(
        || half_open(count()),
        |(breaker, _, old)| changed(breaker.settle(*old, Mark::Good, None, &At(15 * MS))),
        |(breaker, ..)| admit(breaker, 15).unwrap(),
        |(breaker, ..), closed_by_late, new| {
            if closed_by_late {
                assert_eq!((phase(breaker), new.is_probe()), (Phase::Closed, false));
            } else {
                assert_eq!((trial(breaker).issued, new.is_probe()), (1, true));
                assert!(changed(breaker.settle(new, Mark::Good, None, &At(15 * MS))));
            }
        },
    );
}

#[test]
fn a_lease_never_lapses_on_a_probe_that_was_just_sent() {
    race(
        || {
            let breaker = opened(2);
            admit(&breaker, 10).unwrap();
            breaker
        },
        // One of the two threads gets the second probe. The other then finds a fresh probe whose
        // lease has not lapsed, in every order.
        |breaker| admit(breaker, 20),
        |breaker| admit(breaker, 20),
        |_, one, two| assert!(one.is_some() ^ two.is_some()),
    );
}

#[test]
fn an_outcome_that_comes_as_the_circuit_trips_and_closes_changes_nothing() {
    race(
        || {
            let (breaker, pass) = closed(None, 1);
            assert!(changed(breaker.settle(pass, BAD, None, &At(0))));
            (breaker, pass)
        },
        |(breaker, late)| breaker.settle(*late, BAD, None, &At(10 * MS)),
        |(breaker, _)| {
            let probe = admit(breaker, 10).unwrap();
            assert!(changed(breaker.settle(
                probe,
                Mark::Good,
                None,
                &At(10 * MS)
            )));
        },
        |(breaker, _), outcome, ()| {
            assert_eq!(outcome, Settled::Nothing);
            assert_eq!((phase(breaker), counted(breaker, 10)), (Phase::Closed, 0));
        },
    );
}

/// One outcome arrives during the reset and one after it.
fn a_reset_forgets(window: fn() -> Option<Window>, row: u32, late: Mark) {
    race(
        move || closed(window(), row),
        move |(breaker, stale)| breaker.settle(*stale, late, None, &At(0)),
        |(breaker, _)| {
            assert_eq!(breaker.force(Event::Reset, Reason::Reset), None);
            breaker.settle(breaker.pass().unwrap(), BAD, None, &At(0));
        },
        |(breaker, _), _, ()| assert_eq!(counted(breaker, 0), 1),
    );
}

#[test]
fn an_outcome_that_comes_as_a_time_window_is_reset_counts_before_or_not_at_all() {
    a_reset_forgets(time, 0, BAD);
}

#[test]
fn an_outcome_that_comes_as_a_count_window_is_reset_counts_before_or_not_at_all() {
    a_reset_forgets(count, 0, BAD);
}

#[test]
fn an_outcome_that_comes_as_a_row_is_reset_counts_before_or_not_at_all() {
    a_reset_forgets(no_window, 3, BAD);
    a_reset_forgets(no_window, 3, Mark::Good);
}

/// Another thread lets a call through during the reset.
fn a_reset_counts(window: fn() -> Option<Window>, row: u32) {
    race(
        move || {
            let (breaker, pass) = closed(window(), row);
            breaker.settle(pass, BAD, None, &At(0));
            breaker
        },
        |breaker| {
            let pass = breaker.pass().unwrap();
            let started = breaker.lasts(pass);
            breaker.settle(pass, BAD, None, &At(0));
            (pass, started)
        },
        |breaker| breaker.force(Event::Reset, Reason::Reset),
        |breaker, (pass, started), told| {
            // The call may have opened the circuit before the reset closed it.
            assert!(told.is_none() || breaker.window.is_some());
            let seen = counted(breaker, 0);
            if breaker.pass() != Some(pass) {
                return assert_eq!(seen, 0);
            }
            // A call that ends while the epoch is starting might not be counted.
            assert!(seen == 1 || !started && seen == 0);
            // After that, every call counts.
            breaker.settle(pass, Mark::Good, None, &At(0));
            let more = breaker.window.is_some();
            let calls = breaker.snapshot(0).counts.calls;
            assert!(!more || calls == seen + 1);
        },
    );
}

#[test]
fn a_call_let_through_as_a_time_window_is_reset_is_counted() {
    a_reset_counts(time, 0);
}

#[test]
fn a_call_let_through_as_a_count_window_is_reset_is_counted() {
    a_reset_counts(count, 0);
}

#[test]
fn a_call_let_through_as_a_row_is_reset_is_counted() {
    a_reset_counts(no_window, 3);
}

#[test]
fn a_call_let_through_as_a_probe_closes_the_circuit_is_counted() {
    for window in [time, count] {
        race(
            move || half_open(window()),
            |(breaker, old, _)| {
                breaker.settle(*old, BAD, None, &At(10 * MS));
                let pass = breaker.pass().filter(|&pass| breaker.lasts(pass));
                pass.map(|pass| breaker.settle(pass, BAD, None, &At(10 * MS)))
            },
            |(breaker, _, probe)| {
                assert!(changed(breaker.settle(
                    *probe,
                    Mark::Good,
                    None,
                    &At(10 * MS)
                )));
            },
            |(breaker, ..), call, ()| assert_eq!(counted(breaker, 10), call.is_some().into()),
        );
    }
}

#[test]
fn a_probe_renewed_as_the_circuit_is_reset_counts_once_or_not_at_all() {
    race(
        || half_open(count()),
        |(breaker, _, probe)| {
            let closed = changed(breaker.settle(*probe, Mark::Good, None, &At(10 * MS)));
            if let Some(pass) = breaker.renew(*probe) {
                breaker.settle(pass, BAD, None, &At(10 * MS));
            }
            closed
        },
        |(breaker, ..)| breaker.force(Event::Reset, Reason::Reset).is_some(),
        |(breaker, ..), closed, told| {
            assert!(closed ^ told, "one of the two closes the circuit");
            assert!(counted(breaker, 10) <= 1);
        },
    );
}
