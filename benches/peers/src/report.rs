//! What was measured, as Markdown.

use crate::case::Sizes;
use crate::contenders::{BUTTRESS, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::floor::FLOOR;
use crate::measure::Sample;
use std::fmt::Write as _;
use std::process::Command;
use std::thread::available_parallelism;

/// One case, measured.
pub struct Row {
    pub case: &'static str,
    pub cells: Vec<Cell>,
    pub absent: &'static [(&'static str, &'static str)],
}

/// One contender in one case.
pub struct Cell {
    pub who: &'static str,
    pub note: Option<&'static str>,
    pub sample: Sample,
    pub sizes: Option<Sizes>,
    /// Taken from the heap per call.
    pub blocks: f64,
    pub bytes: f64,
}

/// One shared layer, measured on one thread and on two.
pub struct SharedRow {
    pub case: &'static str,
    pub cells: Vec<SharedCell>,
    pub absent: &'static [(&'static str, &'static str)],
}

/// Nanoseconds per call, of all threads together.
pub struct SharedCell {
    pub who: &'static str,
    pub note: Option<&'static str>,
    pub one: Sample,
    pub two: Sample,
}

pub const DETAILS: &str = "\
| case | contender | ns per call, median | min | max |
|---|---|---|---|---|
";

/// The lines of one case, one for each contender.
pub fn details(row: &Row) -> String {
    let mut lines = String::new();
    for cell in &row.cells {
        let Sample { median, min, max } = cell.sample;
        let [median, min, max] = [median, min, max].map(number);
        let _ = writeln!(
            lines,
            "| {} | {} | {median} | {min} | {max} |",
            row.case, cell.who
        );
    }
    lines
}

/// The table of memory: what a call takes from the heap, and what services and futures measure.
pub fn memory(rows: &[Row]) -> String {
    let mut table = String::from(
        "| case | buttress | tower | tower-resilience | seatbelt | others |\n|---|---|---|---|---|---|\n",
    );
    let compared = |row: &&Row| row.cells.iter().any(|cell| cell.who == BUTTRESS);
    for row in rows.iter().filter(compared) {
        let _ = write!(table, "| {} |", row.case);
        for who in [BUTTRESS, TOWER, TOWER_RESILIENCE, SEATBELT] {
            let cell = row.cells.iter().find(|cell| cell.who == who);
            let text = cell.map_or("–".to_owned(), Cell::memory);
            let _ = write!(table, " {text} |");
        }
        let others = row.cells.iter().filter(|cell| is_other(cell.who));
        let others: Vec<String> = others
            .map(|cell| format!("{} {}", cell.who, cell.memory()))
            .collect();
        let _ = writeln!(table, " {} |", others.join("; "));
    }
    table.push_str(
        "\nAllocations per call (their bytes) · size of the service + of its future, in bytes.\n",
    );
    table
}

impl Cell {
    fn memory(&self) -> String {
        let heap = if self.blocks < 0.5 {
            "0".to_owned()
        } else {
            format!("{:.0} ({:.0})", self.blocks, self.bytes)
        };
        match self.sizes {
            Some(Sizes { service, future }) => format!("{heap} · {service} + {future}"),
            None => heap,
        }
    }
}

pub const SHARED_DETAILS: &str = "\
| one layer, shared | contender | threads | M calls/s in all, median | worst | best |
|---|---|---|---|---|---|
";

/// The lines of one shared layer, two for each contender.
pub fn shared_details(row: &SharedRow) -> String {
    let mut lines = String::new();
    for cell in &row.cells {
        for (threads, sample) in [(1, cell.one), (2, cell.two)] {
            let [median, worst, best] = [sample.median, sample.max, sample.min].map(throughput);
            let _ = writeln!(
                lines,
                "| {} | {} | {threads} | {median:.2} | {worst:.2} | {best:.2} |",
                row.case, cell.who
            );
        }
    }
    lines
}

/// Millions of calls per second.
fn throughput(nanos: f64) -> f64 {
    1000.0 / nanos
}

/// The table of ratios, and what has to be said about it.
pub fn ratios(rows: &[Row], shared: &[SharedRow]) -> String {
    let mut table = Table::default();
    for row in rows {
        if let [floor] = row.cells.as_slice()
            && floor.who == FLOOR
        {
            let median = number(floor.sample.median);
            table.floor.push(format!("{} {median}", row.case));
        }
    }
    for row in rows {
        let cells = row.cells.iter();
        table.line(&Line {
            case: row.case.to_owned(),
            values: cells
                .map(|cell| Value {
                    who: cell.who,
                    note: cell.note,
                    text: number(cell.sample.median),
                    time: Some(cell.sample.median),
                })
                .collect(),
            absent: row.absent,
        });
    }
    for row in shared {
        let two = |cell: &SharedCell| Value {
            who: cell.who,
            note: cell.note,
            text: format!("{:.2}", throughput(cell.two.median)),
            time: Some(cell.two.median),
        };
        let against_one = |cell: &SharedCell| Value {
            who: cell.who,
            note: cell.note,
            text: format!("{:.2}", cell.one.median / cell.two.median),
            time: None,
        };
        table.line(&Line {
            case: format!("{}, two threads: M calls/s in all", row.case),
            values: row.cells.iter().map(two).collect(),
            absent: row.absent,
        });
        table.line(&Line {
            case: format!("{}, two threads: throughput against one", row.case),
            values: row.cells.iter().map(against_one).collect(),
            absent: row.absent,
        });
    }
    table.finish()
}

struct Line {
    case: String,
    values: Vec<Value>,
    absent: &'static [(&'static str, &'static str)],
}

struct Value {
    who: &'static str,
    note: Option<&'static str>,
    text: String,
    /// Where there is one, its ratio is shown.
    time: Option<f64>,
}

fn is_other(who: &str) -> bool {
    who != BUTTRESS && !COLUMNS.contains(&who)
}

#[derive(Default)]
struct Table {
    lines: String,
    notes: Vec<String>,
    floor: Vec<String>,
}

const COLUMNS: [&str; 3] = [TOWER, TOWER_RESILIENCE, SEATBELT];

impl Table {
    fn line(&mut self, line: &Line) {
        let Some(ours) = line.values.iter().find(|value| value.who == BUTTRESS) else {
            return;
        };
        let _ = write!(self.lines, "| {} | **{}** |", line.case, ours.text);
        for who in COLUMNS {
            let theirs = line.values.iter().find(|value| value.who == who);
            let text = match theirs {
                Some(theirs) => self.against(ours, theirs),
                None => self.absent(line, who),
            };
            let _ = write!(self.lines, " {text} |");
        }
        let others = line.values.iter().filter(|value| is_other(value.who));
        let mut texts: Vec<String> = others
            .map(|theirs| format!("{} {}", theirs.who, self.against(ours, theirs)))
            .collect();
        for (who, _) in line.absent.iter().filter(|(who, _)| is_other(who)) {
            texts.push(format!("{who} {}", self.absent(line, who)));
        }
        let _ = writeln!(self.lines, " {} |", texts.join("; "));
    }

    fn against(&mut self, ours: &Value, theirs: &Value) -> String {
        let mut text = theirs.text.clone();
        if let (Some(ours), Some(theirs)) = (ours.time, theirs.time) {
            let ratio = ours / theirs;
            let _ = if ratio < 0.01 {
                write!(text, " (< × 0.01)")
            } else {
                write!(text, " (× {ratio:.2})")
            };
        }
        if let Some(note) = theirs.note {
            text.push_str(&self.mark(theirs.who, note));
        }
        text
    }

    fn absent(&mut self, line: &Line, who: &str) -> String {
        let known = line.absent.iter().find(|(absent, _)| *absent == who);
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
            "| case | buttress | tower | tower-resilience | seatbelt | others |\n|---|---|---|---|---|---|\n",
        );
        table.push_str(&self.lines);
        table.push_str(
            "\nNanoseconds per call, medians, unless the case says otherwise. In brackets the time of \
             buttress by theirs: below 1, buttress is the faster one.\n\n",
        );
        let _ = writeln!(table, "The floor: {}.\n", self.floor.join(" · "));
        for (at, note) in self.notes.iter().enumerate() {
            let _ = writeln!(table, "- [{}] {note}", at + 1);
        }
        table
    }
}

/// As many digits as mean something.
fn number(nanos: f64) -> String {
    if nanos < 100.0 {
        format!("{nanos:.1}")
    } else {
        format!("{nanos:.0}")
    }
}

/// Where it was measured, and which versions.
pub fn setting() -> String {
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map_or_else(
        |_| "rustc of unknown version".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let cores = available_parallelism().map_or(0, usize::from);
    let mut versions: Vec<String> = COMPARED.iter().filter_map(|name| version(name)).collect();
    versions.sort();
    format!(
        "{} {}, {cores} cores, {rustc}; {}.\n",
        std::env::consts::ARCH,
        std::env::consts::OS,
        versions.join(", ")
    )
}

const COMPARED: [&str; 11] = [
    "failsafe",
    "governor",
    "recloser",
    "seatbelt",
    "tokio",
    "tower",
    "tower-resilience-bulkhead",
    "tower-resilience-circuitbreaker",
    "tower-resilience-ratelimiter",
    "tower-resilience-retry",
    "tower-resilience-timelimiter",
];

/// As the lock file says.
fn version(name: &str) -> Option<String> {
    let lock = include_str!("../Cargo.lock");
    let package = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = lock.split_once(&package)?;
    let (version, _) = rest.split_once('"')?;
    Some(format!("{name} {version}"))
}
