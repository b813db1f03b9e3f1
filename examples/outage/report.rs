//! The report: one page that needs nothing but a browser.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use plotters::style::RGBColor;

use crate::claims::{Claim, Judgement};
use crate::figures::PhaseFigures;
use crate::record::{CLIENTS, Record};
use crate::{callee, plot, table};

const STYLE: &str = "
body { font: 15px/1.5 sans-serif; color: #222; background: #fff; max-width: 1160px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.15em; margin: 1.8em 0 .3em }
p { margin: .3em 0 }
svg { width: 100%; height: auto; display: block }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .1em .8em; text-align: right }
th { border-bottom: 1px solid #888 }
td:nth-child(-n+2), th:nth-child(-n+2) { text-align: left }
.figures tr:nth-child(3n+1) td { border-top: 1px solid #ddd }
.claims td { text-align: left }
dl { display: grid; grid-template-columns: max-content auto; gap: .1em 1em } dd { margin: 0 } dt { font-weight: bold }
.key { display: inline-block; width: 1.6em; height: .3em; vertical-align: middle; margin: 0 .4em 0 1.2em }
.fails { color: #b00000; font-weight: bold }
";

/// Writes the page to `outage/report.html` in cargo's target directory, and says where that is.
pub fn write(
    record: &Record,
    phases: &[PhaseFigures],
    claims: &[Claim],
) -> Result<PathBuf, Box<dyn Error>> {
    let folder = target().join("outage");
    fs::create_dir_all(&folder)?;
    let path = folder.join("report.html");
    fs::write(&path, page(record, phases, claims)?)?;
    Ok(path)
}

/// Cargo says at run time where the package is; without cargo, it is taken to be here.
fn target() -> PathBuf {
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        return target.into();
    }
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(PathBuf::new, PathBuf::from);
    package.join("target")
}

fn page(
    record: &Record,
    phases: &[PhaseFigures],
    claims: &[Claim],
) -> Result<String, Box<dyn Error>> {
    let clients = legend(&CLIENTS, &plot::COLOURS);
    let breaker = legend(&["breaker of buttress"], &plot::COLOURS[2..]);
    let goodput = figure(
        "Goodput",
        "successful calls per second, logarithmic",
        &clients,
        &plot::goodput(record)?,
    );
    let latency = figure(
        "Latency",
        "what the slowest 1 % of the callers waited, logarithmic",
        &clients,
        &plot::latency(record)?,
    );
    let load = figure(
        "Load on the server",
        "requests received and connections refused per second, logarithmic",
        &clients,
        &plot::load(record)?,
    );
    let state = figure(
        "State of the breaker",
        "as seen every 2 ms",
        &breaker,
        &plot::breaker(record)?,
    );
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>buttress: an outage</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>An outage, with three clients side by side</h1>\n{}\
         <p>Shaded: the phases in which something is wrong. Each point stands for a quarter of a second.</p>\n\
         {goodput}{latency}{load}{state}\
         <h2>Figures</h2>\n{}<p>Longest stall of the machine: {}.</p>\n\
         <h2>Claims</h2>\n{}</body>\n</html>\n",
        numbers(),
        html_table(phases),
        table::stalls(phases),
        html_claims(claims),
    ))
}

fn numbers() -> String {
    let line = |(what, numbers): (&str, String)| format!("<dt>{what}</dt><dd>{numbers}</dd>\n");
    format!(
        "<dl>\n{}</dl>\n",
        callee::in_words().into_iter().map(line).collect::<String>()
    )
}

fn figure(title: &str, what: &str, legend: &str, svg: &str) -> String {
    format!("<h2>{title}</h2>\n<p>{what} {legend}</p>\n{svg}\n")
}

fn legend(names: &[&str], colours: &[RGBColor]) -> String {
    let entry = |(name, RGBColor(red, green, blue)): (&&str, &RGBColor)| {
        format!(
            "<span class=\"key\" style=\"background: rgb({red}, {green}, {blue})\"></span>{name}"
        )
    };
    names.iter().zip(colours).map(entry).collect()
}

fn html_table(phases: &[PhaseFigures]) -> String {
    let line = |cells: &[String], tag: &str| {
        let cells = cells.join(&format!("</{tag}><{tag}>"));
        format!("<tr><{tag}>{cells}</{tag}></tr>\n")
    };
    let head = line(&table::HEADINGS.map(String::from), "th");
    let body = table::rows(phases)
        .iter()
        .map(|row| line(row, "td"))
        .collect::<String>();
    format!("<table class=\"figures\">\n<thead>{head}</thead>\n<tbody>{body}</tbody>\n</table>\n")
}

fn html_claims(claims: &[Claim]) -> String {
    let line = |claim: &Claim| {
        let (class, judgement) = match claim.judgement {
            Judgement::Holds => ("holds", "holds"),
            Judgement::Fails => ("fails", "FAILS"),
            Judgement::NotJudged => ("not-judged", "not judged"),
        };
        format!(
            "<tr class=\"{class}\"><td>{}</td><td>{judgement}</td><td>{}</td></tr>\n",
            claim.text, claim.numbers
        )
    };
    format!(
        "<table class=\"claims\">\n{}</table>\n",
        claims.iter().map(line).collect::<String>()
    )
}
