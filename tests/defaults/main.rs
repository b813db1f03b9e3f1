//! Tests the defaults as a system: many clients share a server that they can overload. The clock is
//! paused and all randomness is seeded, so each run can be repeated.
//!
//! `BUTTRESS_SEEDS=60` sets the number of seeds. To print the tables of `ARCHITECTURE.md`, run
//! `BUTTRESS_SEEDS=60 cargo test --release --test defaults -- --ignored --nocapture`.

mod run;
mod server;

use run::{ATTEMPT, ClientKind, Record, Scenario, play};
use server::Mode;

/// How many clients share the server. Each of a hundred clients makes one or two calls per second.
const CLIENTS: [usize; 4] = [1, 4, 20, 100];

fn seeds() -> impl Iterator<Item = u64> {
    let seeds = std::env::var("BUTTRESS_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    1..=seeds
}

/// Runs with stacks: the number of clients, the seed, and the record of the run.
fn stacks(
    scenario: Scenario,
    clients: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = (usize, u64, Record)> {
    let runs = |clients| seeds().map(move |seed| (clients, seed));
    let runs = clients.into_iter().flat_map(runs);
    runs.map(move |(clients, seed)| {
        (
            clients,
            seed,
            play(scenario, clients, ClientKind::Stack, seed),
        )
    })
}

fn assert_back_within(seconds: f64, scenario: Scenario) {
    for (clients, seed, stack) in stacks(scenario, CLIENTS) {
        let back = stack.back_after();
        assert!(
            back <= seconds,
            "{clients} clients, seed {seed}: back after {back:.1} s"
        );
    }
}

#[test]
fn an_overload_costs_at_most_two_points_more_than_without_a_stack() {
    for (clients, seed, stack) in stacks(Scenario::OVERLOAD, CLIENTS) {
        let bare = play(Scenario::OVERLOAD, clients, ClientKind::Bare, seed).success();
        let stack = stack.success();
        assert!(
            stack >= bare - 2.0,
            "{clients} clients, seed {seed}: {stack:.1} %, bare {bare:.1} %"
        );
    }
}

#[test]
fn calls_succeed_again_three_seconds_after_an_overload() {
    assert_back_within(3.0, Scenario::OVERLOAD);
}

#[test]
fn calls_succeed_again_three_seconds_after_an_outage_with_503s() {
    assert_back_within(3.0, Scenario::outage(Mode::Unavailable));
}

#[test]
fn calls_succeed_again_three_seconds_after_an_outage_with_refused_connections() {
    assert_back_within(3.0, Scenario::outage(Mode::Refusing));
}

#[test]
fn calls_succeed_again_an_attempt_and_1500_ms_after_a_hang() {
    let within = ATTEMPT.as_secs_f64() + 1.5;
    assert_back_within(within, Scenario::outage(Mode::Hanging));
}

#[test]
fn retries_hide_an_error_rate_of_one_percent() {
    for (clients, seed, stack) in stacks(Scenario::errors(0.01), CLIENTS) {
        let success = stack.success();
        assert!(
            success >= 99.9,
            "{clients} clients, seed {seed}: {success:.2} %"
        );
    }
}

#[test]
fn in_an_outage_each_client_sends_at_most_a_tenth_more_and_three() {
    for mode in [Mode::Unavailable, Mode::Refusing, Mode::Hanging] {
        for (clients, seed, stack) in stacks(Scenario::outage(mode), [4, 50]) {
            let added = stack.most_added();
            assert!(
                added <= 3.0,
                "{mode:?}, {clients} clients, seed {seed}: 1.1 times its calls and {added:.1}"
            );
        }
    }
}

#[test]
fn retries_hide_a_short_blip_from_a_busy_client() {
    for (_, seed, stack) in stacks(Scenario::blip(1.0), [1]) {
        // About 300 calls fall into the blip.
        let lost = stack.lost();
        assert!(lost <= 15, "seed {seed}: {lost} calls lost");
    }
}

#[test]
#[ignore = "prints the tables of ARCHITECTURE.md"]
fn print_the_tables() {
    println!(
        "| scenario | clients | bare | stack | difference in the worst seed | back after | sends per call |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, scenario) in [
        ("overload", Scenario::OVERLOAD),
        ("overload, a refusal costs half a call", Scenario::COSTLY),
        ("overload for 30 s", Scenario::LONG_OVERLOAD),
        ("outage: 503s", Scenario::outage(Mode::Unavailable)),
        (
            "outage: refused connections",
            Scenario::outage(Mode::Refusing),
        ),
        ("outage: calls hang", Scenario::outage(Mode::Hanging)),
        ("1 % errors", Scenario::errors(0.01)),
        ("5 % errors", Scenario::errors(0.05)),
    ] {
        for clients in [1, 4, 20, 50, 100] {
            row(name, scenario, clients, ClientKind::Stack);
        }
    }
    for clients in [4, 20] {
        let limited = ClientKind::Limited(1.2);
        row(
            "overload, rate limits at 120 % of the capacity",
            Scenario::OVERLOAD,
            clients,
            limited,
        );
    }
    println!("\n| time before the blip | failed calls: bare | stack | at most |");
    println!("|---|---|---|---|");
    for before in [0.0, 0.05, 1.0, 10.0] {
        let runs = runs(Scenario::blip(before), 1, ClientKind::Stack);
        println!(
            "| {before} s | {:.0} | {:.0} | {:.0} |",
            mean(&runs, |(bare, _)| bare.lost() as f64),
            mean(&runs, |(_, stack)| stack.lost() as f64),
            most(&runs, |(_, stack)| stack.lost() as f64),
        );
    }
}

fn row(name: &str, scenario: Scenario, clients: usize, made: ClientKind) {
    let runs = runs(scenario, clients, made);
    println!(
        "| {name} | {clients} | {:.1} % | {:.1} % | {:+.1} | {:.1} s | {:.2} |",
        mean(&runs, |(bare, _)| bare.success()),
        mean(&runs, |(_, stack)| stack.success()),
        -most(&runs, |(bare, stack)| bare.success() - stack.success()),
        most(&runs, |(_, stack)| stack.back_after()),
        most(&runs, |(_, stack)| stack.most_sends_per_call()),
    );
}

/// The run without a stack, and the run with one.
type Run = (Record, Record);

fn runs(scenario: Scenario, clients: usize, made: ClientKind) -> Vec<Run> {
    let play = |made, seed| play(scenario, clients, made, seed);
    seeds()
        .map(|seed| (play(ClientKind::Bare, seed), play(made, seed)))
        .collect()
}

fn mean(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(of).sum::<f64>() / runs.len() as f64
}

fn most(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
}
