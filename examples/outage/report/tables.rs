//! The figures as tables.

use super::words::after;
use crate::claims::{Claim, Judgement};
use crate::clients::Kind;
use crate::figures::{ActFigures, Figures, percent};

pub struct Table {
    class: &'static str,
    head: Vec<&'static str>,
    /// Each with the class of its row.
    rows: Vec<(&'static str, Vec<String>)>,
}

/// The whole act, a row for each kind of clients.
pub fn totals(act: &ActFigures) -> Table {
    let best = |kind| if kind == Kind::Buttress { "best" } else { "" };
    let row = |kind: Kind| {
        let side = act.side(kind);
        let whole = &side.whole;
        let cells = vec![
            kind.name().into(),
            format!("{:.1} %", whole.success()),
            whole.lost().to_string(),
            format!("{:.2}", whole.sends_per_call()),
            format!("{:.2} s", whole.longest.as_secs_f64()),
            format!("{:.0} %", side.wasted),
            after(side.back),
        ];
        (best(kind), cells)
    };
    Table {
        class: "",
        head: vec![
            "clients",
            "succeeded",
            "calls lost",
            "sends per call",
            "longest wait",
            "work wasted",
            "back to normal",
        ],
        rows: act.act.kinds.iter().copied().map(row).collect(),
    }
}

/// Every phase of every act, a row for each kind of clients.
pub fn phases(acts: &[ActFigures]) -> Table {
    let mut rows = Vec::new();
    for act in acts {
        for phase in ["before", "during", "after"] {
            for side in &act.sides {
                let figures = match phase {
                    "before" => &side.before,
                    "during" => &side.during,
                    _ => &side.after,
                };
                let place = format!("{phase} {}, {}", act.act.trouble.name(), side.kind.name());
                rows.push(("", row(place, figures)));
            }
        }
    }
    Table {
        class: "",
        head: vec![
            "phase, clients",
            "calls",
            "succeeded",
            "rejected",
            "p99 wait",
            "sends per call",
        ],
        rows,
    }
}

fn row(place: String, figures: &Figures) -> Vec<String> {
    vec![
        place,
        figures.calls.to_string(),
        format!("{:.1} %", figures.success()),
        format!("{:.1} %", percent(figures.rejected(), figures.calls)),
        format!("{:.0} ms", figures.p99.as_secs_f64() * 1e3),
        format!("{:.2}", figures.sends_per_call()),
    ]
}

impl Table {
    pub fn claims(claims: &[Claim]) -> Self {
        let row = |claim: &Claim| {
            let class = if claim.judgement == Judgement::Fails {
                "fails"
            } else {
                ""
            };
            let judgement = claim.judgement.name().into();
            (
                class,
                vec![claim.text.clone(), judgement, claim.figures.clone()],
            )
        };
        Self {
            class: "words",
            head: vec!["claim", "", "measured"],
            rows: claims.iter().map(row).collect(),
        }
    }

    pub fn html(&self) -> String {
        let line = |class: &str, tag: &str, cells: &[String]| {
            let cells = cells.join(&format!("</{tag}><{tag}>"));
            format!("<tr class=\"{class}\"><{tag}>{cells}</{tag}></tr>\n")
        };
        let head = line(
            "",
            "th",
            &self
                .head
                .iter()
                .map(|cell| (*cell).into())
                .collect::<Vec<_>>(),
        );
        let rows = self.rows.iter();
        let body = rows
            .map(|(class, cells)| line(class, "td", cells))
            .collect::<String>();
        format!(
            "<table class=\"{}\">\n<thead>{head}</thead>\n<tbody>{body}</tbody>\n</table>\n",
            self.class
        )
    }

    /// In columns, the first flush left and the others flush right.
    pub fn text(&self) -> String {
        let mut lines = vec![
            self.head
                .iter()
                .map(|cell| (*cell).into())
                .collect::<Vec<String>>(),
        ];
        lines.extend(self.rows.iter().map(|(_, cells)| cells.clone()));
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].len())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &Vec<String>| {
            let cells = cells.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ") + "\n"
        };
        lines.iter().map(line).collect()
    }
}
