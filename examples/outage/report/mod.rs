//! What the run shows: tables, sentences and plots, for the terminal and as one HTML page without
//! anything from the network.

mod plot;
mod style;
mod tables;
mod words;

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use self::tables::Table;
use crate::claims::{Claim, Judgement};
use crate::clients::Kind;
use crate::figures::ActFigures;
use crate::run::Record;
use crate::scenario::Trouble;

pub use self::words::settings;

/// The totals of the overload and what happened in each act, for the terminal.
pub fn text(acts: &[ActFigures]) -> String {
    let mut text = String::new();
    for act in acts {
        if act.act.trouble == Trouble::Overload {
            text += &tables::totals(act).text();
            text += "\n";
            text += &wrapped(words::totals());
            text += "\n";
        }
        let trouble = act.act.trouble;
        let words = words::what_happened(act).join(" ");
        let words = format!("{}: {}. {words}", trouble.name(), trouble.in_words());
        text += "\n";
        text += &wrapped(&words);
        text += "\n";
    }
    text
}

/// In lines of at most 100 characters.
fn wrapped(words: &str) -> String {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        if line.len() + word.len() > 98 {
            lines.push(word.into());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// Writes the page to `outage/report.html` in cargo's target directory, and returns its path.
pub fn write(
    records: &[Record],
    acts: &[ActFigures],
    claims: &[Claim],
) -> Result<PathBuf, Box<dyn Error>> {
    let folder = target().join("outage");
    fs::create_dir_all(&folder)?;
    let path = folder.join("report.html");
    fs::write(&path, page(records, acts, claims)?)?;
    Ok(path)
}

/// Cargo says at run time where the package is. Without cargo it is the working directory.
fn target() -> PathBuf {
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        return target.into();
    }
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from);
    package.join("target")
}

fn page(
    records: &[Record],
    acts: &[ActFigures],
    claims: &[Claim],
) -> Result<String, Box<dyn Error>> {
    let mut main = String::new();
    for (record, act) in records.iter().zip(acts) {
        main += &match act.act.trouble {
            Trouble::Overload => overload(record, act)?,
            _ => outage(record, act)?,
        };
    }
    let held = claims
        .iter()
        .filter(|claim| claim.judgement == Judgement::Holds)
        .count();
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>buttress: an outage</title>\n<style>{}</style>\n</head>\n<body>\n{main}\
         <h2>All figures</h2>\n{}\
         <h2>Claims: {held} of {} hold</h2>\n{}\
         <h2>Servers and clients</h2>\n<dl>{}</dl>\n\
         </body>\n</html>\n",
        style::sheet(),
        tables::phases(acts).html(),
        claims.len(),
        Table::claims(claims).html(),
        settings()
            .map(|(what, words)| format!("<dt>{what}</dt><dd>{words}</dd>\n"))
            .concat(),
    ))
}

fn overload(record: &Record, act: &ActFigures) -> Result<String, Box<dyn Error>> {
    let [successes, sends, wasted] = words::what_happened(act);
    let plots = [
        (
            "Successful calls per second",
            successes,
            plot::successes(record)?,
        ),
        ("Requests sent per second", sends, plot::sends(record)?),
        ("Work that nobody waited for", wasted, plot::wasted(record)?),
    ];
    let plots = plots.map(|(title, words, svg)| {
        let legend = legend(act.act.kinds);
        format!("<h3>{title}</h3>\n<p>{words}</p>\n{legend}{svg}\n")
    });
    Ok(format!(
        "<h1>An overload of {} s, and who comes back from it</h1>\n<p>{}</p>\n{}<p class=\"key\">{}</p>\n{}",
        act.act.trouble_lasts().as_secs(),
        words::introduction(),
        tables::totals(act).html(),
        words::totals(),
        plots.concat(),
    ))
}

fn outage(record: &Record, act: &ActFigures) -> Result<String, Box<dyn Error>> {
    let trouble = act.act.trouble;
    Ok(format!(
        "<h2>{}: {}</h2>\n{}{}{}<p class=\"key\">Circuits of buttress that are not closed:</p>\n{}",
        trouble.name(),
        trouble.in_words(),
        words::what_happened(act)
            .map(|words| format!("<p>{words}</p>\n"))
            .concat(),
        legend(act.act.kinds),
        plot::successes(record)?,
        plot::circuits(record)?,
    ))
}

fn legend(kinds: &[Kind]) -> String {
    let entry = |&kind: &Kind| {
        let (colour, name) = (style::of(kind).variable(), kind.name());
        format!("<span><i style=\"background: var({colour})\"></i>{name}</span>")
    };
    let entries = kinds.iter().map(entry).collect::<Vec<_>>().join(" ");
    format!("<p class=\"key\">{entries}</p>\n")
}
