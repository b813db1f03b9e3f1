//! The defaults, seen as a system: clients that share a server which they can overload. The clock
//! is paused and all chance is seeded, so that each run can be repeated.
//!
//! `BUTTRESS_SEEDS=60` tries so many seeds. `ARCHITECTURE.md` shows what this prints:
//! `BUTTRESS_SEEDS=60 cargo test --release --test defaults -- --ignored --nocapture`

mod run;
mod server;

use run::{ATTEMPT, Made, Record, Scenario, play};
use server::Mode;

/// The clients that share the server. A hundred make one or two calls per second each.
const CLIENTS: [usize; 4] = [1, 4, 20, 100];

fn seeds() -> impl Iterator<Item = u64> {
    let seeds = std::env::var("BUTTRESS_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    1..=seeds
}

/// Runs of stacks: the number of clients, the seed, the record.
fn stacks(
    scenario: Scenario,
    clients: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = (usize, u64, Record)> {
    let runs = |clients| seeds().map(move |seed| (clients, seed));
    let runs = clients.into_iter().flat_map(runs);
    runs.map(move |(clients, seed)| (clients, seed, play(scenario, clients, Made::Stack, seed)))
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
        let bare = play(Scenario::OVERLOAD, clients, Made::Bare, seed).success();
        let stack = stack.success();
        assert!(
            stack >= bare - 2.0,
            "{clients} clients, seed {seed}: {stack:.1} %, bare {bare:.1} %"
        );
    }
}

#[test]
fn all_is_well_three_seconds_after_an_overload() {
    assert_back_within(3.0, Scenario::OVERLOAD);
}

#[test]
fn all_is_well_three_seconds_after_an_outage_by_503() {
    assert_back_within(3.0, Scenario::outage(Mode::Unavailable));
}

#[test]
fn all_is_well_three_seconds_after_an_outage_by_refusal() {
    assert_back_within(3.0, Scenario::outage(Mode::Refusing));
}

#[test]
fn all_is_well_an_attempt_and_a_second_and_a_half_after_a_hang() {
    let within = ATTEMPT.as_secs_f64() + 1.5;
    assert_back_within(within, Scenario::outage(Mode::Hanging));
}

#[test]
fn one_error_in_a_hundred_calls_is_hidden() {
    for (clients, seed, stack) in stacks(Scenario::errors(0.01), CLIENTS) {
        let success = stack.success();
        assert!(
            success >= 99.9,
            "{clients} clients, seed {seed}: {success:.2} %"
        );
    }
}

#[test]
fn in_an_outage_each_client_adds_a_tenth_of_its_calls_and_three() {
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
fn a_blip_of_a_busy_client_is_hidden() {
    for (_, seed, stack) in stacks(Scenario::blip(1.0), [1]) {
        // Of 300 calls that meet it.
        let lost = stack.lost();
        assert!(lost <= 15, "seed {seed}: {lost} calls lost");
    }
}

#[test]
#[ignore = "prints the table of ARCHITECTURE.md"]
fn the_table() {
    println!("| scenario | clients | bare | stack | at worst | back | sends per call |");
    println!("|---|---|---|---|---|---|---|");
    for (name, scenario) in [
        ("overload", Scenario::OVERLOAD),
        ("overload, costly refusals", Scenario::COSTLY),
        ("overload for 30 s", Scenario::LONG_OVERLOAD),
        ("outage by 503", Scenario::outage(Mode::Unavailable)),
        ("outage by refusal", Scenario::outage(Mode::Refusing)),
        ("outage by a hang", Scenario::outage(Mode::Hanging)),
        ("1 % errors", Scenario::errors(0.01)),
        ("5 % errors", Scenario::errors(0.05)),
    ] {
        for clients in [1, 4, 20, 50, 100] {
            row(name, scenario, clients, Made::Stack);
        }
    }
    for clients in [4, 20] {
        let limited = Made::Limited(1.2);
        row(
            "overload, rate limits",
            Scenario::OVERLOAD,
            clients,
            limited,
        );
    }
    println!("\n| blip after | bare: lost | stack: lost | at most |");
    println!("|---|---|---|---|");
    for before in [0.0, 0.05, 1.0, 10.0] {
        let runs = runs(Scenario::blip(before), 1, Made::Stack);
        println!(
            "| {before} s | {:.0} | {:.0} | {:.0} |",
            mean(&runs, |(bare, _)| bare.lost() as f64),
            mean(&runs, |(_, stack)| stack.lost() as f64),
            most(&runs, |(_, stack)| stack.lost() as f64),
        );
    }
}

fn row(name: &str, scenario: Scenario, clients: usize, made: Made) {
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

/// One without a stack, and one with.
type Run = (Record, Record);

fn runs(scenario: Scenario, clients: usize, made: Made) -> Vec<Run> {
    let play = |made, seed| play(scenario, clients, made, seed);
    seeds()
        .map(|seed| (play(Made::Bare, seed), play(made, seed)))
        .collect()
}

fn mean(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(of).sum::<f64>() / runs.len() as f64
}

fn most(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
}
