//! Formats the results as Markdown.

use crate::case::{Sizes, Way};
use crate::contenders::stack::StackSizes;
use crate::contenders::{ASSEMBLED, BUTTRESS, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::floor::FLOOR;
use crate::measure::Sample;
use std::fmt::Write as _;

/// The results of one case.
pub struct Row {
    pub case: String,
    pub cells: Vec<Cell>,
    pub absent: &'static [(&'static str, &'static str)],
}

impl Row {
    pub fn cell(&self, who: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.who == who)
    }
}

/// The results of one contender in one case.
pub struct Cell {
    pub who: &'static str,
    pub note: Option<&'static str>,
    pub samples: Vec<(Way, Sample)>,
    pub sizes: Option<Sizes>,
    /// Allocations per call, if they were counted.
    pub blocks: Option<f64>,
    pub bytes: Option<f64>,
}

impl Cell {
    /// The median in nanoseconds per call.
    pub fn median(&self, way: Way) -> Option<f64> {
        let sample = self.samples.iter().find(|(known, _)| *known == way);
        sample.map(|(_, sample)| sample.median)
    }

    fn memory(&self) -> String {
        let heap = match (self.blocks, self.bytes) {
            (Some(blocks), Some(bytes)) if blocks >= 0.5 => format!("{blocks:.0} ({bytes:.0})"),
            _ => "0".to_owned(),
        };
        match self.sizes {
            Some(Sizes { service, future }) => format!("{heap} · {service} + {future}"),
            None => heap,
        }
    }
}

pub const DETAILS: &str = "\
| case | contender | how | ns per call, median | min | max |
|---|---|---|---|---|---|
";

/// The lines of one case: one per contender and way.
pub fn details(row: &Row) -> String {
    let mut lines = String::new();
    for cell in &row.cells {
        for (way, Sample { median, min, max }) in &cell.samples {
            let [median, min, max] = [median, min, max].map(|nanos| number(*nanos));
            let _ = writeln!(
                lines,
                "| {} | {} | {} | {median} | {min} | {max} |",
                row.case,
                cell.who,
                way.name()
            );
        }
    }
    lines
}

pub const SHARED_DETAILS: &str = "\
| one layer or stack, shared | contender | how | total M calls/s, median | worst | best |
|---|---|---|---|---|---|
";

/// The lines of one shared layer: one per contender and way.
pub fn shared_details(row: &Row) -> String {
    let mut lines = String::new();
    for cell in &row.cells {
        for (way, sample) in &cell.samples {
            let [median, worst, best] = [sample.median, sample.max, sample.min].map(throughput);
            let _ = writeln!(
                lines,
                "| {} | {} | {} | {median:.2} | {worst:.2} | {best:.2} |",
                row.case,
                cell.who,
                way.name()
            );
        }
    }
    lines
}

/// Converts nanoseconds per call to millions of calls per second.
pub fn throughput(nanos: f64) -> f64 {
    1000.0 / nanos
}

/// The table of memory: allocations per call, and the sizes of services and futures.
pub fn memory(rows: &[Row]) -> String {
    let mut table = String::from(
        "| case | buttress | tower | tower-resilience | seatbelt | others |\n|---|---|---|---|---|---|\n",
    );
    let compared = |row: &&Row| row.cell(BUTTRESS).is_some();
    for row in rows.iter().filter(compared) {
        let _ = write!(table, "| {} |", row.case);
        for who in [BUTTRESS, TOWER, TOWER_RESILIENCE, SEATBELT] {
            let text = row.cell(who).map_or("–".to_owned(), Cell::memory);
            let _ = write!(table, " {text} |");
        }
        let others = row.cells.iter().filter(|cell| is_other(cell.who));
        let others: Vec<String> = others
            .map(|cell| format!("{} {}", cell.who, cell.memory()))
            .collect();
        let _ = writeln!(table, " {} |", others.join("; "));
    }
    table.push_str(
        "\nAllocations per call (their bytes) · size of the service + size of its future, in bytes.\n",
    );
    table
}

/// The table of the stack's sizes, by type of request.
pub fn stack_sizes(sizes: &[StackSizes]) -> String {
    let mut table = format!(
        "| requests | size | future: {BUTTRESS} | {ASSEMBLED} | service: {BUTTRESS} | {ASSEMBLED} |\n\
         |---|---|---|---|---|---|\n"
    );
    for size in sizes {
        let StackSizes {
            requests,
            request,
            ours,
            assembled,
        } = size;
        let _ = writeln!(
            table,
            "| {requests} | {request} | {} | {} | {} | {} |",
            ours.future, assembled.future, ours.service, assembled.service
        );
    }
    table.push_str(
        "\nThe stack of five with two timeouts, in bytes. The future of the innermost service has 16 bytes.\n",
    );
    table
}

/// The ratios that differ between a current-thread runtime and one with a worker.
pub fn current_thread(rows: &[Row]) -> String {
    let mut lines = String::new();
    let mut compared = 0;
    for row in rows {
        let Some(ours) = row.cell(BUTTRESS) else {
            continue;
        };
        for theirs in row.cells.iter().filter(|cell| cell.who != BUTTRESS) {
            let [worker, current] =
                [Way::Task, Way::CurrentThread].map(|way| ours.median(way).zip(theirs.median(way)));
            let (Some(worker), Some(current)) = (worker, current) else {
                continue;
            };
            compared += 1;
            let ratio = |(ours, theirs): (f64, f64)| ours / theirs;
            if (ratio(current) / ratio(worker) - 1.0).abs() > 0.1 {
                let [worker, current] = [worker, current].map(|both| {
                    let (ours, theirs) = (number(both.0), number(both.1));
                    format!("{ours}, {theirs} ({})", times(ratio(both)))
                });
                let (case, who) = (&row.case, theirs.who);
                let _ = writeln!(lines, "| {case} | {who} | {worker} | {current} |");
            }
        }
    }
    format!(
        "| case | peer | one worker: buttress, peer | current thread: buttress, peer |\n\
         |---|---|---|---|\n{lines}\n\
         The ratios, out of {compared}, that differ by more than 10 %.\n"
    )
}

/// The table of ratios, with its footnotes.
pub fn ratios(rows: &[Row], shared: &[Row]) -> String {
    let mut table = Table::default();
    for row in rows {
        for cell in row.cells.iter().filter(|cell| cell.who == FLOOR) {
            for (way, sample) in &cell.samples {
                let how = match cell.samples.len() {
                    1 => String::new(),
                    _ => format!(", {}", way.name()),
                };
                let median = number(sample.median);
                table.floor.push(format!("{}{how} {median}", row.case));
            }
        }
    }
    for row in rows {
        for way in [Way::Task, Way::Hand] {
            table.line(row, way.name(), |cell| {
                let time = cell.median(way)?;
                Some((number(time), Some(time)))
            });
        }
    }
    let ways = [
        ("in tasks", Way::Workers(2), Way::Workers(1)),
        ("by hand", Way::Threads(2), Way::Threads(1)),
    ];
    for row in shared {
        for (how, two, one) in ways {
            let how_many = format!("two threads, {how}: total M calls/s");
            table.line(row, &how_many, |cell| {
                let time = cell.median(two)?;
                Some((format!("{:.2}", throughput(time)), Some(time)))
            });
            let against_one =
                format!("two threads, {how}: total throughput relative to one thread");
            table.line(row, &against_one, |cell| {
                let gain = cell.median(one)? / cell.median(two)?;
                Some((format!("{gain:.2}"), None))
            });
        }
    }
    table.finish()
}

fn is_other(who: &str) -> bool {
    who != BUTTRESS && !COLUMNS.contains(&who)
}

const COLUMNS: [&str; 3] = [TOWER, TOWER_RESILIENCE, SEATBELT];

#[derive(Default)]
struct Table {
    lines: String,
    notes: Vec<String>,
    floor: Vec<String>,
}

/// The text of a cell, and the time for its ratio, if it has one.
type Value = (String, Option<f64>);

impl Table {
    /// Adds a line, unless there is no value for buttress.
    fn line(&mut self, row: &Row, how: &str, value: impl Fn(&Cell) -> Option<Value>) {
        let Some(ours) = row.cell(BUTTRESS).and_then(&value) else {
            return;
        };
        let _ = write!(self.lines, "| {} | {how} | **{}** |", row.case, ours.0);
        for who in COLUMNS {
            let text = match row.cell(who) {
                Some(theirs) => self.against(&ours, theirs, value(theirs)),
                None => self.absent(row, who),
            };
            let _ = write!(self.lines, " {text} |");
        }
        let others = row.cells.iter().filter(|cell| is_other(cell.who));
        let mut texts: Vec<String> = others
            .map(|theirs| {
                let text = self.against(&ours, theirs, value(theirs));
                format!("{} {text}", theirs.who)
            })
            .collect();
        for (who, _) in row.absent.iter().filter(|(who, _)| is_other(who)) {
            texts.push(format!("{who} {}", self.absent(row, who)));
        }
        let _ = writeln!(self.lines, " {} |", texts.join("; "));
    }

    fn against(&mut self, ours: &Value, theirs: &Cell, value: Option<Value>) -> String {
        let (mut text, time) = value.unwrap_or_else(|| ("–".to_owned(), None));
        if let (Some(ours), Some(theirs)) = (ours.1, time) {
            let _ = write!(text, " ({})", times(ours / theirs));
        }
        if let Some(note) = theirs.note {
            text.push_str(&self.mark(theirs.who, note));
        }
        text
    }

    fn absent(&mut self, row: &Row, who: &str) -> String {
        let known = row.absent.iter().find(|(absent, _)| *absent == who);
        let mark = known.map(|(who, why)| self.mark(who, why));
        format!("–{}", mark.unwrap_or_default())
    }

    fn mark(&mut self, who: &str, note: &str) -> String {
        let note = format!("{who}: {note}");
        let known = self.notes.iter().position(|known| *known == note);
        let at = known.unwrap_or_else(|| {
            self.notes.push(note);
            self.notes.len() - 1
        });
        format!(" [{}]", at + 1)
    }

    fn finish(self) -> String {
        let mut table = String::from(
            "| case | how | buttress | tower | tower-resilience | seatbelt | others |\n|---|---|---|---|---|---|---|\n",
        );
        table.push_str(&self.lines);
        table.push_str(
            "\nMedians in nanoseconds per call, unless the column \"how\" names another unit. In brackets \
             the time of buttress divided by the time of the peer: below 1, buttress is faster.\n\n",
        );
        if !self.floor.is_empty() {
            let _ = writeln!(table, "The floor: {}.\n", self.floor.join(" · "));
        }
        for (at, note) in self.notes.iter().enumerate() {
            let _ = writeln!(table, "- [{}] {note}", at + 1);
        }
        table
    }
}

fn times(ratio: f64) -> String {
    if ratio < 0.01 {
        "< × 0.01".to_owned()
    } else {
        format!("× {ratio:.2}")
    }
}

/// Rounds to as many digits as are significant.
pub fn number(nanos: f64) -> String {
    if nanos < 100.0 {
        format!("{nanos:.1}")
    } else {
        format!("{nanos:.0}")
    }
}
