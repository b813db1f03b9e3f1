//! The figures as a table, for the terminal and for the report.

use std::time::Duration;

use crate::claims;
use crate::figures::{Figures, PhaseFigures, share};
use crate::record::CLIENTS;
use crate::script::Condition;

pub const HEADINGS: [&str; 9] = [
    "phase",
    "client",
    "calls",
    "succeeded",
    "rejected fast",
    "p50",
    "p99",
    "sends/call",
    "recovery",
];

pub fn rows(phases: &[PhaseFigures]) -> Vec<[String; 9]> {
    let mut rows = Vec::new();
    for (index, phase) in phases.iter().enumerate() {
        let clients = CLIENTS
            .iter()
            .zip([&phase.bare, &phase.naive, &phase.buttress]);
        for (number, (client, figures)) in clients.enumerate() {
            let place = if number == 0 {
                claims::place(index, phase)
            } else {
                String::new()
            };
            rows.push(row(place, client, figures, phase.phase.condition));
        }
    }
    rows
}

fn row(place: String, client: &str, figures: &Figures, condition: Condition) -> [String; 9] {
    let recovery = match figures.recovery {
        _ if condition != Condition::Recovered => String::new(),
        Some(after) => format!("{:.2} s", after.as_secs_f64()),
        None => "never".into(),
    };
    [
        place,
        client.into(),
        figures.calls.to_string(),
        percent(figures.succeeded, figures.calls),
        percent(figures.rejected(), figures.calls),
        millis(figures.p50),
        millis(figures.p99),
        format!("{:.2}", figures.sends_per_call()),
        recovery,
    ]
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * share(part, whole))
}

pub fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// The table in columns of equal width, the first two flush left and the rest flush right.
pub fn text(phases: &[PhaseFigures]) -> String {
    let mut lines = vec![HEADINGS.map(String::from)];
    lines.extend(rows(phases));
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 9] = std::array::from_fn(width);
    let aligned = |line: &[String; 9]| {
        let cells = line.iter().zip(widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            ..2 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(aligned).collect::<Vec<_>>().join("\n")
}

/// The longest stall of each phase, which every claim on a time allows for.
pub fn stalls(phases: &[PhaseFigures]) -> String {
    let stall = |(index, phase): (usize, &PhaseFigures)| {
        format!("{} {}", claims::place(index, phase), millis(phase.stall))
    };
    phases
        .iter()
        .enumerate()
        .map(stall)
        .collect::<Vec<_>>()
        .join(", ")
}
