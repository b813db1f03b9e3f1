//! buttress side by side with its peers. See `benches/README.md` for what each case is.

mod allocations;
mod calls;
mod case;
mod contenders;
mod floor;
mod glue;
mod inner;
mod instructions;
mod measure;
mod plot;
mod report;
mod scale;

use calls::runtime;
use case::{Case, Work};
use contenders::breaker::HOLDING;
use contenders::shared::{self, SharedCase};
use measure::{Effort, side_by_side};
use report::{Cell, Row, SharedCell, SharedRow};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

const REPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers");

fn main() -> Result<(), Box<dyn Error>> {
    let _guard = runtime().enter();
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
    let mut measure_all = |cases: &mut dyn Iterator<Item = &'static Case>, effort| -> Vec<Row> {
        let mut measure = |case| {
            let row = measure(case, effort);
            report.add(&report::details(&row));
            row
        };
        cases.map(&mut measure).collect()
    };
    let mut rows = measure_all(&mut floor::CASES.iter(), one);
    rows.extend(measure_all(&mut floor::CONTENDED.iter(), two));
    rows.extend(measure_all(&mut contenders::cases().chain(HOLDING), one));

    report.add("\n## Memory\n\n");
    report.add(&report::memory(&rows));

    report.add("\n## Two threads\n\n");
    report.add(report::SHARED_DETAILS);
    let measure = |case| {
        let row = measure_shared(case, two);
        report.add(&report::shared_details(&row));
        row
    };
    let shared: Vec<SharedRow> = shared::CASES.iter().map(measure).collect();

    report.add(shared::ABOUT);

    report.add("\n## Scale\n\n");
    report.add(&scale::table(one));

    if !quick {
        report.add("\n## Instructions per call\n\n");
        match instructions::table() {
            Ok(table) => report.add(&table),
            Err(error) => report.add(&format!("Not counted, valgrind does not run: {error}\n")),
        }
    }

    report.add("\n## Side by side\n\n");
    report.add(&report::ratios(&rows, &shared));
    report.add(&format!("\n{}", report::setting()));

    fs::create_dir_all(REPORTS)?;
    fs::write(Path::new(REPORTS).join("report.md"), report.0)?;
    plot::draw(&rows, &Path::new(REPORTS).join("times.svg"))?;
    Ok(())
}

/// The cases whose name holds `part`, for daily work: printed, not written.
fn only(part: &str, one: Effort, two: Effort) -> Result<(), Box<dyn Error>> {
    let known = |case: &&Case| case.name.contains(part);
    let floor = floor::CASES.iter().chain(floor::CONTENDED).filter(known);
    let cases = contenders::cases().chain(HOLDING).filter(known);
    let rows: Vec<Row> = floor.chain(cases).map(|case| measure(case, one)).collect();
    let shared = shared::CASES.iter().filter(|case| case.name.contains(part));
    let shared: Vec<SharedRow> = shared.map(|case| measure_shared(case, two)).collect();
    if rows.is_empty() && shared.is_empty() {
        return Err(format!("no case is named like {part:?}").into());
    }
    print!("{}", report::ratios(&rows, &shared));
    Ok(())
}

/// Of cases on one thread, and on two, which are disturbed more often.
const FULL: (Effort, Effort) = (effort(151, 2, 500), effort(61, 10, 3000));
const QUICK: (Effort, Effort) = (effort(31, 2, 200), effort(15, 10, 2000));

const fn effort(rounds: usize, attempts: usize, micros: u64) -> Effort {
    Effort {
        rounds,
        attempts,
        run: Duration::from_micros(micros),
    }
}

/// Printed as it grows.
#[derive(Default)]
struct Report(String);

impl Report {
    fn add(&mut self, text: &str) {
        print!("{text}");
        let _ = self.0.write_str(text);
    }
}

fn measure(case: &Case, effort: Effort) -> Row {
    let mut contenders = (case.contenders)();
    let samples = side_by_side(&mut contenders, case.work, effort);
    let cells = contenders
        .iter_mut()
        .zip(samples)
        .map(|(contender, sample)| {
            let run = allocations::counting(|| contender.run(100, case.work));
            Cell {
                who: contender.who,
                note: contender.note,
                sample,
                sizes: contender.sizes,
                blocks: run.heap.blocks as f64 / 100.0,
                bytes: run.heap.bytes as f64 / 100.0,
            }
        });
    Row {
        case: case.name,
        cells: cells.collect(),
        absent: case.absent,
    }
}

fn measure_shared(case: &SharedCase, effort: Effort) -> SharedRow {
    let (one, two) = ((case.contenders)(1), (case.contenders)(2));
    let half = one.len();
    let mut contenders: Vec<_> = one.into_iter().chain(two).collect();
    let samples = side_by_side(&mut contenders, Work::Answered, effort);
    let (one, two) = samples.split_at(half);
    let cells = contenders.iter().zip(one).zip(two);
    let cells = cells.map(|((contender, one), two)| SharedCell {
        who: contender.who,
        note: contender.note,
        one: *one,
        two: *two,
    });
    SharedRow {
        case: case.name,
        cells: cells.collect(),
        absent: case.absent,
    }
}
