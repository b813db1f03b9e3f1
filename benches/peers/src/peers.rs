//! Compares buttress with other libraries. `benches/README.md` describes the cases.

mod allocations;
mod calls;
mod case;
mod contenders;
mod floor;
mod glue;
mod instructions;
mod machine;
mod measure;
mod plot;
mod report;
mod scale;
mod targets;
mod tasks;
mod upstream;

use case::{Case, Way};
use contenders::breaker::HOLDING;
use contenders::{shared, stack};
use measure::{Effort, side_by_side};
use report::{Cell, Row};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tasks::main_runtime;

const REPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers");

fn main() -> Result<(), Box<dyn Error>> {
    let _guard = main_runtime().enter();
    if instructions::is_one_run() {
        return Ok(());
    }
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (one, two) = if quick { QUICK } else { FULL };
    if let Some((_, part)) = std::env::args()
        .zip(std::env::args().skip(1))
        .find(|(arg, _)| arg == "--only")
    {
        return only(&part, one, two);
    }
    let mut report = Report::default();

    report.add("\n## The floor, and each contender\n\n");
    report.add(report::DETAILS);
    let mut rows = report.rows(floor::cases(), one, report::details);
    let contended = floor::CONTENDED.iter().copied();
    rows.extend(report.rows(contended, two, report::details));
    rows.extend(report.rows(one_thread(), one, report::details));

    report.add("\n## Two threads\n\n");
    report.add(report::SHARED_DETAILS);
    let shared = report.rows(shared::cases(), two, report::shared_details);
    report.add(shared::ABOUT);

    report.add("\n## Memory\n\n");
    report.add(&report::memory(&rows));
    report.add("\n");
    report.add(&report::stack_sizes(&stack::sizes()));

    report.add("\n## Scale\n\n");
    report.add(&scale::table(one));

    if !quick {
        report.add("\n## Instructions per call\n\n");
        match instructions::table() {
            Ok(table) => report.add(&table),
            Err(error) => report.add(&format!(
                "Not counted, because valgrind cannot be run: {error}\n"
            )),
        }
    }

    report.add("\n## A current-thread runtime\n\n");
    report.add(&report::current_thread(&rows));

    report.add("\n## Side by side\n\n");
    report.add(&report::ratios(&rows, &shared));

    report.add("\n## Targets\n\n");
    report.add(&targets::table(&rows, &shared).unwrap_or_default());
    report.add(&format!("\n{}", machine::setting()));

    fs::create_dir_all(REPORTS)?;
    fs::write(Path::new(REPORTS).join("report.md"), report.0)?;
    plot::draw(&rows, &Path::new(REPORTS).join("times.svg"))?;
    Ok(())
}

/// All cases on one thread, without the floor.
fn one_thread() -> impl Iterator<Item = Case> {
    contenders::cases().chain(HOLDING.iter().copied())
}

/// Prints the cases whose names contain `part`. Writes no report.
fn only(part: &str, one: Effort, two: Effort) -> Result<(), Box<dyn Error>> {
    let known = |case: &Case| case.name().contains(part);
    let floor = floor::cases().chain(floor::CONTENDED.iter().copied());
    let cases = floor.chain(one_thread()).filter(known);
    let rows: Vec<Row> = cases.map(|case| measure(case, one)).collect();
    let shared = shared::cases().filter(known);
    let shared: Vec<Row> = shared.map(|case| measure(case, two)).collect();
    if rows.is_empty() && shared.is_empty() {
        return Err(format!("no case has {part:?} in its name").into());
    }
    print!("{}", report::ratios(&rows, &shared));
    if let Some(targets) = targets::table(&rows, &shared) {
        print!("\n{targets}");
    }
    print!("\n{}", machine::setting());
    Ok(())
}

/// The effort for cases on one thread and on two. Runs on two threads are disturbed more often.
const FULL: (Effort, Effort) = (effort(121, 2, 500), effort(41, 6, 2000));
const QUICK: (Effort, Effort) = (effort(31, 2, 200), effort(11, 6, 1000));

const fn effort(rounds: usize, attempts: usize, micros: u64) -> Effort {
    Effort {
        rounds,
        attempts,
        run: Duration::from_micros(micros),
    }
}

/// The report. It is printed as it grows.
#[derive(Default)]
struct Report(String);

impl Report {
    fn add(&mut self, text: &str) {
        print!("{text}");
        let _ = self.0.write_str(text);
    }

    /// Measures the cases and adds the lines of each one.
    fn rows(
        &mut self,
        cases: impl Iterator<Item = Case>,
        effort: Effort,
        lines: fn(&Row) -> String,
    ) -> Vec<Row> {
        let measure = |case| {
            let row = measure(case, effort);
            self.add(&lines(&row));
            row
        };
        cases.map(measure).collect()
    }
}

fn measure(case: Case, effort: Effort) -> Row {
    let mut contenders = (case.contenders)();
    let samples = side_by_side(&mut contenders, case.work, effort);
    let cells = contenders
        .iter_mut()
        .zip(samples)
        .map(|(contender, samples)| {
            let ways = [Way::Task, Way::Hand];
            let way = ways
                .into_iter()
                .find(|way| contender.ways().any(|known| known == *way));
            let heap = way.map(|way| {
                let run = allocations::counting(|| contender.run(way, 100, case.work));
                let per_call = |taken: u64| taken as f64 / run.calls as f64;
                (per_call(run.heap.blocks), per_call(run.heap.bytes))
            });
            Cell {
                who: contender.who,
                note: contender.note,
                samples,
                sizes: contender.sizes,
                blocks: heap.map(|(blocks, _)| blocks),
                bytes: heap.map(|(_, bytes)| bytes),
            }
        });
    Row {
        case: case.name(),
        cells: cells.collect(),
        absent: case.absent,
    }
}
