//! The circuit through its handle: when it opens, for how long, and how it closes again.

use buttress::circuit_breaker::{Circuit, CircuitBuilder, CircuitState, Window};
use buttress::error::Rejected;
use buttress::{Rejection, Verdict};
use std::collections::HashSet;
use std::panic::catch_unwind;
use std::time::Duration;
use tokio::time::advance;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A millisecond earlier.
fn just_before(duration: Duration) -> Duration {
    duration.saturating_sub(MS)
}

/// One call after the other: good `S`, bad `F`, without a verdict `I`, throttled `T`.
fn calls(circuit: &Circuit, outcomes: &str) {
    for outcome in outcomes.chars() {
        let verdict = match outcome {
            'S' => Verdict::Healthy,
            'F' => Verdict::TRANSIENT,
            'I' => Verdict::Ignored,
            'T' => Verdict::THROTTLED,
            _ => unreachable!("{outcome}"),
        };
        let permit = circuit.try_acquire().expect("the call may go");
        permit.settle(verdict);
    }
}

/// A good call that takes this long.
async fn call_lasting(circuit: &Circuit, duration: Duration) {
    let permit = circuit.try_acquire().expect("the call may go");
    advance(duration).await;
    permit.settle(Verdict::Healthy);
}

/// A call that its caller gives up after this long.
async fn call_cancelled_after(circuit: &Circuit, duration: Duration) {
    let permit = circuit.try_acquire().expect("the call may go");
    advance(duration).await;
    drop(permit);
}

/// The `retry_after` of a call that is rejected.
fn rejected(circuit: &Circuit) -> Option<Duration> {
    match circuit.try_acquire() {
        Err(Rejected(Rejection::CircuitOpen { retry_after, .. })) => retry_after,
        other => panic!("not rejected: {other:?}"),
    }
}

/// A circuit that one failure opens, and one probe decides.
fn brittle() -> CircuitBuilder {
    Circuit::builder().consecutive_failures(1).probes(1)
}

/// The same, open for 5 s, doubled up to a minute.
fn brittle_for_seconds() -> CircuitBuilder {
    brittle().open_for(5 * SECOND).max_open_for(60 * SECOND)
}

/// Opens a circuit that one failure opens, and waits until probes may go.
async fn open_and_wait(circuit: &Circuit) {
    calls(circuit, "F");
    advance(circuit.snapshot().retry_after.unwrap()).await;
}

// Closed.

#[tokio::test(start_paused = true)]
async fn a_rate_opens_the_circuit_from_its_threshold_and_min_calls_on() {
    let cases = [
        ("SSSSSSSSSS", CircuitState::Closed),
        ("SSSSSSSSSF", CircuitState::Open),
        ("FSSSSSSSSF", CircuitState::Open),
        ("SSSSSSSSF", CircuitState::Closed),
    ];
    for (outcomes, state) in cases {
        let circuit = Circuit::builder().failure_rate(0.1).min_calls(10).build();
        let circuit = circuit.unwrap();
        calls(&circuit, outcomes);
        assert_eq!(circuit.state(), state, "{outcomes}");
    }
}

fn half_of_five() -> Circuit {
    let circuit = Circuit::builder().failure_rate(0.5).min_calls(5);
    circuit.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rate_below_the_threshold_leaves_the_circuit_closed() {
    let circuit = half_of_five();
    calls(&circuit, "SSSFF");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_failure_that_reaches_the_threshold_opens_the_circuit() {
    let circuit = half_of_five();
    calls(&circuit, "SSSFFF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_fast_success_never_opens_the_circuit() {
    let circuit = half_of_five();
    calls(&circuit, "FFFSS"); // 60 % at the fifth call, which is a success
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_failure_opens_what_a_success_left_above_the_threshold() {
    let circuit = half_of_five();
    calls(&circuit, "FFFSSF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_counts_as_a_failure() {
    let circuit = brittle().build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(Verdict::Permanent);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_is_not_counted() {
    let circuit = half_of_five();
    calls(&circuit, "TTTTTTTTTT");
    assert_eq!(circuit.snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn an_ignored_call_is_not_counted() {
    let circuit = half_of_five();
    calls(&circuit, "IIIIIIIIII");
    assert_eq!(circuit.snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_count_window_has_no_rate_below_min_calls_and_slides_above() {
    let window = Window::count(10);
    let circuit = Circuit::builder().window(window).min_calls(10);
    let circuit = circuit.failure_rate(1.0).build().unwrap();
    let mut rates = Vec::new();
    for outcomes in ["SSFF", "FFFFSSSS", "SSS"] {
        calls(&circuit, outcomes);
        rates.push(circuit.snapshot().failure_rate());
    }
    assert_eq!(rates, [None, Some(0.6), Some(0.3)]);
}

#[tokio::test(start_paused = true)]
async fn a_count_window_forgets_its_oldest_call_first() {
    let circuit = Circuit::builder().window(Window::count(4)).min_calls(1);
    let circuit = circuit.build().unwrap();
    circuit.force_closed();
    let mut rates = Vec::new();
    for outcome in ["F", "S", "S", "S", "S"] {
        calls(&circuit, outcome);
        rates.push(circuit.snapshot().failure_rate().unwrap());
    }
    assert_eq!(rates, [1.0, 0.5, 1.0 / 3.0, 0.25, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_long_time_of_success_does_not_outweigh_a_count_window() {
    let circuit = Circuit::builder().window(Window::count(10));
    let circuit = circuit.failure_rate(0.5).build().unwrap();
    calls(&circuit, &"S".repeat(10_000));
    let mut failures = 0;
    while circuit.state() == CircuitState::Closed && failures < 100 {
        calls(&circuit, "F");
        failures += 1;
    }
    assert_eq!(failures, 5);
}

/// Calls and failures in a window of 10 s: three failures, then a success so much later.
async fn counted_after(pause: Duration) -> Vec<(u64, u64)> {
    let mut counted = Vec::new();
    // From every tenth of the window, for what is special about its first and last.
    for tenth in 0..10 {
        let circuit = Circuit::builder().window(Window::time(10 * SECOND));
        let circuit = circuit.build().unwrap();
        advance(tenth * SECOND).await;
        calls(&circuit, "FFF");
        advance(pause).await;
        calls(&circuit, "S");
        let snapshot = circuit.snapshot();
        counted.push((snapshot.calls, snapshot.failures));
    }
    counted
}

#[tokio::test(start_paused = true)]
async fn a_time_window_forgets_what_is_older_than_itself() {
    for seconds in [10, 14] {
        let counted = counted_after(seconds * SECOND).await;
        assert_eq!(counted, [(1, 0); 10], "after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_window_remembers_what_is_younger_than_itself() {
    let counted = counted_after(just_before(10 * SECOND)).await;
    assert_eq!(counted, [(4, 3); 10]);
}

#[tokio::test(start_paused = true)]
async fn a_time_window_trips_after_any_idling_as_on_the_first_day() {
    for days in [0, 1, 2, 3, 30] {
        let circuit = half_of_five();
        // Two rounds over all buckets, so that each holds something old.
        for _ in 0..20 {
            calls(&circuit, "SSSSS");
            advance(SECOND).await;
        }
        advance(10 * SECOND + days * DAY).await;
        let mut failures = 0;
        while circuit.state() == CircuitState::Closed && failures < 100 {
            calls(&circuit, "F");
            failures += 1;
        }
        assert_eq!(failures, 5, "idle for {days} days");
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_a_row_of_failures() {
    let circuit = Circuit::builder().consecutive_failures(2).build().unwrap();
    calls(&circuit, "FSF");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_row_of_failures_opens_the_circuit() {
    let circuit = Circuit::builder().consecutive_failures(2).build().unwrap();
    calls(&circuit, "FSFF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_row_of_failures_is_not_ended_by_a_call_without_a_verdict() {
    let circuit = Circuit::builder().consecutive_failures(2).build().unwrap();
    calls(&circuit, "FITF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_failures_in_a_row_alone_takes_the_place_of_the_rate() {
    let circuit = Circuit::builder().consecutive_failures(3).build().unwrap();
    calls(&circuit, &"FFS".repeat(40)); // 67 %
    assert_eq!(circuit.state(), CircuitState::Closed);
}

fn row_of_three_and_window_of_ten() -> Circuit {
    let circuit = Circuit::builder().consecutive_failures(3);
    circuit.window(Window::count(10)).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn beside_a_window_a_row_of_failures_opens_the_circuit() {
    let circuit = row_of_three_and_window_of_ten();
    calls(&circuit, "FFF"); // too few for a rate
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn beside_failures_in_a_row_a_window_opens_the_circuit() {
    let circuit = row_of_three_and_window_of_ten();
    calls(&circuit, "SFSFSFSFSF");
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_slow_calls_of_all_can_open_the_circuit() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 1.0).min_calls(3);
    let circuit = circuit.build().unwrap();
    for _ in 0..3 {
        call_lasting(&circuit, 100 * MS).await;
    }
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_slow_calls_below_the_threshold_leaves_the_circuit_closed() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 0.5).min_calls(3);
    let circuit = circuit.build().unwrap();
    calls(&circuit, "SS");
    call_lasting(&circuit, 100 * MS).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_call_just_below_the_duration_of_slow_calls_is_not_slow() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 1.0);
    let circuit = circuit.min_calls(1).build().unwrap();
    call_lasting(&circuit, 99 * MS).await;
    assert_eq!(circuit.snapshot().slow_rate(), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_failure_counts_as_both() {
    let circuit = Circuit::builder().slow_calls(100 * MS, 1.0);
    let circuit = circuit.build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    advance(100 * MS).await;
    permit.settle(Verdict::TRANSIENT);
    let snapshot = circuit.snapshot();
    let counts = (snapshot.calls, snapshot.failures, snapshot.slow_calls);
    assert_eq!(counts, (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn calls_cancelled_at_abandoned_after_open_the_circuit() {
    let circuit = Circuit::builder().build().unwrap();
    let permits: Vec<_> = (0..20).map(|_| circuit.try_acquire().unwrap()).collect();
    advance(10 * SECOND).await;
    drop(permits);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_just_before_abandoned_after_is_not_counted() {
    let circuit = Circuit::builder().build().unwrap();
    call_cancelled_after(&circuit, just_before(10 * SECOND)).await;
    assert_eq!(circuit.snapshot().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_when_it_is_slow_is_not_a_failure_yet() {
    let circuit = Circuit::builder().slow_calls(3 * SECOND, 1.0);
    let circuit = circuit.build().unwrap();
    call_cancelled_after(&circuit, 3 * SECOND).await;
    let younger = circuit.snapshot().failures;
    call_cancelled_after(&circuit, 10 * SECOND).await;
    assert_eq!((younger, circuit.snapshot().failures), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn abandoned_after_goes_before_the_duration_of_slow_calls() {
    let circuit = Circuit::builder().slow_calls(3 * SECOND, 1.0);
    let circuit = circuit.abandoned_after(5 * SECOND).build().unwrap();
    call_cancelled_after(&circuit, just_before(5 * SECOND)).await;
    let younger = circuit.snapshot().failures;
    call_cancelled_after(&circuit, 5 * SECOND).await;
    assert_eq!((younger, circuit.snapshot().failures), (0, 1));
}

// Open.

#[tokio::test(start_paused = true)]
async fn a_rejection_says_what_remains_of_the_open_time() {
    let circuit = brittle_for_seconds().build().unwrap();
    calls(&circuit, "F");
    let open = circuit.snapshot().retry_after.unwrap();
    let first = rejected(&circuit);
    advance(500 * MS).await;
    let later = rejected(&circuit);
    assert_eq!(
        (first, later),
        (Some(open), Some(open.saturating_sub(500 * MS)))
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_up_to_the_last_millisecond() {
    let circuit = brittle().build().unwrap();
    calls(&circuit, "F");
    advance(just_before(circuit.snapshot().retry_after.unwrap())).await;
    assert_eq!(rejected(&circuit), Some(MS));
}

#[tokio::test(start_paused = true)]
async fn a_probe_goes_at_the_very_end_of_the_open_time() {
    let circuit = brittle().build().unwrap();
    calls(&circuit, "F");
    advance(circuit.snapshot().retry_after.unwrap()).await;
    let _probe = circuit.try_acquire().unwrap();
    assert_eq!(circuit.snapshot().probes_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_failure_does_not_prolong_the_open_time() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    calls(&circuit, "F");
    advance(SECOND).await;
    let before = circuit.snapshot();
    stale.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stale_success_does_not_close_an_open_circuit() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    calls(&circuit, "F");
    stale.settle(Verdict::Healthy);
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn open_times_double_up_to_their_maximum() {
    let circuit = brittle_for_seconds().build().unwrap();
    for longest in [5, 10, 20, 40, 60, 60, 60] {
        calls(&circuit, "F");
        let open = circuit.snapshot().retry_after.unwrap();
        let drawn_from = longest * SECOND * 9 / 10..=longest * SECOND;
        assert!(drawn_from.contains(&open), "{open:?} of {longest} s");
        advance(open).await;
    }
}

#[tokio::test(start_paused = true)]
async fn open_times_of_months_double_without_overflow() {
    // A power of two, which would come out as zero where it wraps: 208 days.
    let base = Duration::from_nanos(1 << 54);
    let circuit = brittle().open_for(base).max_open_for(Duration::MAX);
    let circuit = circuit.build().unwrap();
    for _ in 0..40 {
        calls(&circuit, "F");
        let open = circuit.snapshot().retry_after.unwrap();
        assert!(open >= base * 9 / 10, "{open:?}");
        advance(open).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_close_open_times_start_at_the_base_again() {
    let circuit = brittle_for_seconds().build().unwrap();
    for _ in 0..3 {
        open_and_wait(&circuit).await;
    }
    calls(&circuit, "SF");
    assert!(circuit.snapshot().retry_after.unwrap() <= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn circuits_that_open_together_probe_apart_even_at_the_longest_open_time() {
    let mut open = HashSet::new();
    for _ in 0..100 {
        let circuit = brittle().open_for(60 * SECOND).max_open_for(60 * SECOND);
        let circuit = circuit.build().unwrap();
        calls(&circuit, "F");
        open.insert(circuit.snapshot().retry_after.unwrap());
    }
    // Of 6000 values that a millisecond tells apart; twenty would be coarse already.
    assert!(open.len() > 80, "{} open times of 100", open.len());
}

fn open_times_of(seed: u64) -> Vec<Duration> {
    let circuit = brittle().open_for(60 * SECOND).seed(seed).build().unwrap();
    let open = |_| {
        circuit.reset();
        calls(&circuit, "F");
        circuit.snapshot().retry_after.unwrap()
    };
    (0..10).map(open).collect()
}

#[tokio::test(start_paused = true)]
async fn a_seed_repeats_its_open_times() {
    assert_eq!(open_times_of(7), open_times_of(7));
}

#[tokio::test(start_paused = true)]
async fn another_seed_draws_other_open_times() {
    assert_ne!(open_times_of(7), open_times_of(8));
}

fn transient(retry_after: Duration) -> Verdict {
    let retry_after = buttress::verdict::RetryAfter::Delay(retry_after);
    Verdict::Transient { retry_after }
}

#[tokio::test(start_paused = true)]
async fn the_callees_wish_lengthens_the_open_time() {
    let circuit = brittle_for_seconds().build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(transient(20 * SECOND));
    assert_eq!(rejected(&circuit), Some(20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_callees_wish_does_not_shorten_the_open_time() {
    let circuit = brittle_for_seconds().build().unwrap();
    let permit = circuit.try_acquire().unwrap();
    permit.settle(transient(SECOND));
    assert!(rejected(&circuit).unwrap() >= 5 * SECOND * 9 / 10);
}

#[tokio::test(start_paused = true)]
async fn a_wish_of_ages_opens_the_circuit_for_no_longer_than_max_open_for() {
    for wish in [Duration::from_secs(u64::MAX), Duration::MAX] {
        let circuit = brittle().max_open_for(60 * SECOND).build().unwrap();
        let permit = circuit.try_acquire().unwrap();
        permit.settle(transient(wish));
        assert_eq!(rejected(&circuit), Some(60 * SECOND));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probes_wish_lengthens_the_open_time_too() {
    let circuit = brittle_for_seconds().build().unwrap();
    open_and_wait(&circuit).await;
    let probe = circuit.try_acquire().unwrap();
    probe.settle(transient(30 * SECOND));
    assert_eq!(rejected(&circuit), Some(30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_open_for_ever_knows_no_time() {
    let circuit = brittle().open_for(Duration::MAX).build().unwrap();
    calls(&circuit, "F");
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_open_for_ever_never_closes_by_itself() {
    let circuit = brittle().open_for(Duration::MAX).build().unwrap();
    calls(&circuit, "F");
    for _ in 0..10 {
        advance(365 * DAY).await;
        assert_eq!(circuit.state(), CircuitState::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_time_that_is_over_reads_as_half_open_without_traffic() {
    let circuit = brittle().build().unwrap();
    calls(&circuit, "F");
    let open = circuit.snapshot().retry_after.unwrap();
    advance(just_before(open)).await;
    let before = circuit.state();
    advance(MS).await;
    assert_eq!(
        (before, circuit.state()),
        (CircuitState::Open, CircuitState::HalfOpen)
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_an_open_time_that_is_over_knows_no_wait() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    advance(DAY).await;
    let snapshot = circuit.snapshot();
    assert_eq!(
        (snapshot.state, snapshot.retry_after),
        (CircuitState::HalfOpen, None)
    );
}

// Half-open.

#[tokio::test(start_paused = true)]
async fn the_majority_of_three_probes_decides() {
    let cases = [
        ("SS", CircuitState::Closed),
        ("FF", CircuitState::Open),
        ("SFS", CircuitState::Closed),
        ("FSF", CircuitState::Open),
    ];
    for (outcomes, state) in cases {
        let circuit = Circuit::builder().consecutive_failures(1).build().unwrap();
        open_and_wait(&circuit).await;
        let (undecided, last) = outcomes.split_at(outcomes.len() - 1);
        calls(&circuit, undecided);
        assert_eq!(
            circuit.state(),
            CircuitState::HalfOpen,
            "{outcomes} too early"
        );
        calls(&circuit, last);
        assert_eq!(circuit.state(), state, "{outcomes}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_all_probes_out_a_call_is_rejected_without_a_time() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(3);
    let circuit = circuit.build().unwrap();
    open_and_wait(&circuit).await;
    let _probes = [(); 3].map(|()| circuit.try_acquire().unwrap());
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_stale_success_does_not_close_the_circuit() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    stale.settle(Verdict::Healthy);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stale_failure_does_not_reopen_the_circuit() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    stale.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_earlier_round_does_not_decide_a_later_one() {
    for verdict in [Verdict::Healthy, Verdict::TRANSIENT] {
        let circuit = Circuit::builder().consecutive_failures(1).probes(2);
        let circuit = circuit.probe_successes(2).build().unwrap();
        open_and_wait(&circuit).await;
        let stale = circuit.try_acquire().unwrap();
        open_and_wait(&circuit).await;
        calls(&circuit, "S"); // one of two
        let before = circuit.snapshot();
        stale.settle(verdict);
        assert_eq!(circuit.snapshot(), before, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_call_without_a_verdict_does_not_free_a_probe() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    stale.settle(Verdict::Ignored);
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_stale_cancellation_does_not_free_a_probe() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    let _probe = circuit.try_acquire().unwrap();
    drop(stale);
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_from_before_an_outage_does_not_count_after_it() {
    let circuit = brittle().build().unwrap();
    let stale = circuit.try_acquire().unwrap();
    open_and_wait(&circuit).await;
    calls(&circuit, "S");
    stale.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_closes_counts_from_nothing() {
    for window in [Window::count(4), Window::time(60 * SECOND)] {
        let circuit = Circuit::builder().window(window).min_calls(4);
        let circuit = circuit.probes(1).build().unwrap();
        calls(&circuit, "FFF");
        open_and_wait(&circuit).await;
        calls(&circuit, "S");
        assert_eq!(circuit.snapshot().calls, 0, "{window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_young_is_free_in_the_same_tick() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    drop(circuit.try_acquire().unwrap());
    let _next = circuit.try_acquire().unwrap();
    assert_eq!(circuit.snapshot().probes_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_just_before_abandoned_after_is_no_result() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    call_cancelled_after(&circuit, just_before(10 * SECOND)).await;
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_at_abandoned_after_is_bad() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    call_cancelled_after(&circuit, 10 * SECOND).await;
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_dropped_by_a_thread_that_panics_is_only_cancelled() {
    let circuit = brittle().build().unwrap();
    open_and_wait(&circuit).await;
    let probe = circuit.try_acquire().unwrap();
    let panic = catch_unwind(move || {
        let _probe = probe;
        panic!("for a reason of the caller's");
    });
    assert!(panic.is_err());
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_answers_is_written_off_after_the_lease() {
    let circuit = brittle().probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let _hung = circuit.try_acquire().unwrap();
    advance(just_before(30 * SECOND)).await;
    assert_eq!(rejected(&circuit), None);
    advance(MS).await;
    assert!(circuit.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_success_after_the_lease_does_not_close_the_circuit() {
    let circuit = brittle().probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let hung = circuit.try_acquire().unwrap();
    advance(30 * SECOND).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    hung.settle(Verdict::Healthy);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_lease_does_not_reopen_the_circuit() {
    let circuit = brittle().probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let hung = circuit.try_acquire().unwrap();
    advance(30 * SECOND).await;
    let _probe = circuit.try_acquire().unwrap();
    let before = circuit.snapshot();
    hung.settle(Verdict::TRANSIENT);
    assert_eq!(circuit.snapshot(), before);
}

#[tokio::test(start_paused = true)]
async fn a_lease_writes_off_every_probe_that_is_out() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(3);
    let circuit = circuit.build().unwrap();
    open_and_wait(&circuit).await;
    let _hung = [(); 3].map(|()| circuit.try_acquire().unwrap());
    advance(30 * SECOND).await;
    let _probes = [(); 3].map(|()| circuit.try_acquire().unwrap());
    assert_eq!(circuit.snapshot().probes_out, 3);
}

#[tokio::test(start_paused = true)]
async fn a_lease_runs_from_the_latest_probe() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(2);
    let circuit = circuit.probe_lease(30 * SECOND).build().unwrap();
    open_and_wait(&circuit).await;
    let _first = circuit.try_acquire().unwrap();
    advance(20 * SECOND).await;
    let _second = circuit.try_acquire().unwrap();
    advance(just_before(30 * SECOND)).await;
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_keeps_the_results_so_far() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(2);
    let circuit = circuit.probe_successes(2).build().unwrap();
    open_and_wait(&circuit).await;
    calls(&circuit, "S");
    let _hung = circuit.try_acquire().unwrap();
    advance(30 * SECOND).await;
    calls(&circuit, "S");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn good_calls_further_apart_than_the_lease_close_the_circuit() {
    let circuit = Circuit::builder().consecutive_failures(1);
    let circuit = circuit.probe_lease(30 * SECOND).probe_successes(2);
    let circuit = circuit.build().unwrap();
    open_and_wait(&circuit).await;
    calls(&circuit, "S");
    advance(40 * SECOND).await;
    calls(&circuit, "S");
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn no_lease_lapses_while_another_probe_may_go() {
    let circuit = Circuit::builder().consecutive_failures(1).probes(3);
    let circuit = circuit.probe_successes(2).build().unwrap();
    open_and_wait(&circuit).await;
    let slow = circuit.try_acquire().unwrap();
    advance(40 * SECOND).await;
    calls(&circuit, "S");
    slow.settle(Verdict::Healthy);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_end_never_lapses() {
    let circuit = brittle().probe_lease(Duration::MAX).build().unwrap();
    open_and_wait(&circuit).await;
    let _hung = circuit.try_acquire().unwrap();
    advance(10 * 365 * DAY).await;
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn probes_without_a_verdict_do_not_decide() {
    for undecided in ["IIII", "TTTT"] {
        let circuit = Circuit::builder().consecutive_failures(1).build().unwrap();
        open_and_wait(&circuit).await;
        calls(&circuit, undecided);
        assert_eq!(circuit.state(), CircuitState::HalfOpen, "{undecided}");
        calls(&circuit, "SS");
        assert_eq!(circuit.state(), CircuitState::Closed, "{undecided}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_is_bad() {
    let circuit = brittle().slow_calls(100 * MS, 1.0).build().unwrap();
    open_and_wait(&circuit).await;
    call_lasting(&circuit, 100 * MS).await;
    assert_eq!(circuit.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_probe_just_below_the_duration_of_slow_calls_is_good() {
    let circuit = brittle().slow_calls(100 * MS, 1.0).build().unwrap();
    open_and_wait(&circuit).await;
    call_lasting(&circuit, 99 * MS).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
}

// By hand.

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_open_ignores_time() {
    let circuit = brittle().build().unwrap();
    circuit.force_open();
    advance(365 * DAY).await;
    assert_eq!(rejected(&circuit), None);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_closed_rejects_nobody() {
    let circuit = brittle().build().unwrap();
    circuit.force_closed();
    calls(&circuit, &"F".repeat(100));
    assert_eq!(circuit.state(), CircuitState::ForcedClosed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_closed_still_counts() {
    let circuit = Circuit::builder().build().unwrap();
    circuit.force_closed();
    calls(&circuit, "SFFF");
    let snapshot = circuit.snapshot();
    assert_eq!((snapshot.calls, snapshot.failures), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn reset_ends_a_forced_state() {
    for force in [Circuit::force_open, Circuit::force_closed] {
        let circuit = brittle().build().unwrap();
        force(&circuit);
        circuit.reset();
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn reset_makes_a_circuit_as_new() {
    for window in [Window::count(10), Window::time(10 * SECOND)] {
        let circuit = Circuit::builder().consecutive_failures(4).window(window);
        let circuit = circuit.build().unwrap();
        let new = circuit.snapshot();
        calls(&circuit, "SFFF");
        circuit.reset();
        assert_eq!(circuit.snapshot(), new, "{window:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reset_starts_open_times_at_the_base_again() {
    let circuit = brittle_for_seconds().build().unwrap();
    for _ in 0..3 {
        open_and_wait(&circuit).await;
    }
    circuit.reset();
    calls(&circuit, "F");
    assert!(circuit.snapshot().retry_after.unwrap() <= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn no_outcome_undoes_what_was_done_by_hand() {
    let hands = [
        (
            Circuit::force_open as fn(&Circuit),
            CircuitState::ForcedOpen,
        ),
        (Circuit::force_closed, CircuitState::ForcedClosed),
        (Circuit::reset, CircuitState::Closed),
    ];
    for (hand, state) in hands {
        for verdict in [Verdict::Healthy, Verdict::TRANSIENT] {
            let circuit = brittle().build().unwrap();
            let call = circuit.try_acquire().unwrap();
            open_and_wait(&circuit).await;
            let probe = circuit.try_acquire().unwrap();
            hand(&circuit);
            call.settle(verdict);
            probe.settle(verdict);
            assert_eq!(circuit.state(), state, "{verdict:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_before_a_state_set_by_hand_is_not_counted_in_it() {
    let hands: [fn(&Circuit); 3] = [Circuit::force_open, Circuit::force_closed, Circuit::reset];
    for hand in hands {
        let circuit = Circuit::builder().build().unwrap();
        calls(&circuit, "F");
        let stale = circuit.try_acquire().unwrap();
        hand(&circuit);
        let before = circuit.snapshot();
        stale.settle(Verdict::TRANSIENT);
        assert_eq!((before.calls, circuit.snapshot().calls), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_name_is_in_snapshot_and_debug() {
    let circuit = brittle().name("payments").build().unwrap();
    let debug = format!("{circuit:?}");
    assert!(debug.contains("payments"), "{debug}");
    assert_eq!(circuit.snapshot().name.as_str(), Some("payments"));
}

// Settings.

#[test]
fn a_setting_out_of_its_range_is_named() {
    let new = Circuit::builder;
    let cases = [
        ("failure_rate", new().failure_rate(0.0)),
        ("failure_rate", new().failure_rate(-0.5)),
        ("failure_rate", new().failure_rate(1.000_001)),
        ("failure_rate", new().failure_rate(0.000_000_9)),
        ("failure_rate", new().failure_rate(f64::NAN)),
        ("failure_rate", new().failure_rate(f64::INFINITY)),
        ("slow_calls", new().slow_calls(SECOND, 0.0)),
        ("slow_calls", new().slow_calls(SECOND, 1.000_001)),
        ("slow_calls", new().slow_calls(SECOND, f64::NAN)),
        ("min_calls", new().min_calls(0)),
        ("min_calls", new().window(Window::count(10)).min_calls(11)),
        ("window", new().window(Window::time(Duration::ZERO))),
        ("window", new().window(Window::count(0))),
        ("window", new().window(Window::count(4_097))),
        ("consecutive_failures", new().consecutive_failures(0)),
        (
            "max_open_for",
            new().open_for(SECOND).max_open_for(just_before(SECOND)),
        ),
        ("probes", new().probes(0)),
        ("probes", new().probes(128)),
        ("probe_successes", new().probe_successes(0)),
        ("probe_successes", new().probes(2).probe_successes(3)),
        ("probe_lease", new().probe_lease(Duration::ZERO)),
    ];
    for (field, builder) in cases {
        let error = builder.clone().build().expect_err(field);
        assert_eq!(error.field(), field, "{builder:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_legal_extreme_panics() {
    let new = || Circuit::builder().min_calls(1);
    let builders = [
        new().failure_rate(0.000_001),
        new().failure_rate(1.0),
        new().min_calls(u32::MAX),
        new().window(Window::time(Duration::MAX)),
        new().window(Window::time(Duration::from_nanos(1))),
        new().window(Window::count(1)),
        new().window(Window::count(4_096)),
        new().consecutive_failures(u32::MAX),
        new().slow_calls(Duration::ZERO, 1.0),
        new().slow_calls(Duration::MAX, 0.000_001),
        new().open_for(Duration::ZERO),
        new().open_for(Duration::ZERO).max_open_for(Duration::ZERO),
        new().open_for(Duration::MAX),
        new().max_open_for(Duration::MAX),
        new().probes(127),
        new().probes(127).probe_successes(127),
        new().probe_lease(Duration::from_nanos(1)),
        new().probe_lease(Duration::MAX),
        new().abandoned_after(Duration::ZERO),
        new().abandoned_after(Duration::MAX),
    ];
    for builder in builders {
        let circuit = builder.build().unwrap();
        let verdicts = [
            transient(Duration::MAX),
            Verdict::Healthy,
            Verdict::Permanent,
            Verdict::Ignored,
        ];
        for pause in [Duration::ZERO, 60 * SECOND, 3 * 365 * DAY] {
            for verdict in verdicts {
                if let Ok(permit) = circuit.try_acquire() {
                    advance(MS).await;
                    permit.settle(verdict);
                }
                drop(circuit.try_acquire());
                advance(pause).await;
                let _seen = circuit.snapshot();
            }
        }
    }
}
