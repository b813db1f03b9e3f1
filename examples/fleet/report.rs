//! The table, and the page with the plots.

use crate::process::QUOTA;
use crate::{DEMAND, Record, Run};
use plotters::prelude::*;
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

/// The length of a step of the plots, in seconds. Each point is the mean of half a second.
const STEP: f64 = 0.1;
const MEAN: f64 = 0.5;

pub(crate) fn table(run: &Run) -> String {
    let mut table = format!(
        "\n{:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}\n",
        "process", "wants/s", "up/s", "down/s", "back/s", "wait p50", "p99", "trips/s"
    );
    for (i, (demand, record)) in DEMAND.iter().zip(&run.records).enumerate() {
        let _ = write!(table, "{:>8} {demand:>8}", i + 1);
        for (from, to) in phases(run) {
            let _ = write!(table, " {:>8.0}", rate(&record.sent, from, to));
        }
        let (p50, p99) = (wait(record, 0.5), wait(record, 0.99));
        let trips = record.trips as f64 / run.length;
        let _ = writeln!(table, " {p50:>9.1?} {p99:>9.1?} {trips:>9.1}");
    }
    let _ = write!(table, "{:>8} {:>8}", "fleet", DEMAND.iter().sum::<u32>());
    for (from, to) in phases(run) {
        let all: f64 = run
            .records
            .iter()
            .map(|record| rate(&record.sent, from, to))
            .sum();
        let _ = write!(table, " {all:>8.0}");
    }
    let _ = writeln!(table, "   of a quota of {QUOTA}/s");
    table
}

fn phases(run: &Run) -> [(f64, f64); 3] {
    [
        (0.0, run.killed),
        (run.killed, run.restarted),
        (run.restarted, run.length),
    ]
}

fn rate(sent: &[(f64, Duration)], from: f64, to: f64) -> f64 {
    sent.iter()
        .filter(|(at, _)| (from..to).contains(at))
        .count() as f64
        / (to - from)
}

fn wait(record: &Record, part: f64) -> Duration {
    let mut waits: Vec<Duration> = record.sent.iter().map(|(_, wait)| *wait).collect();
    waits.sort_unstable();
    let last = waits.len().saturating_sub(1) as f64;
    waits
        .get((last * part) as usize)
        .copied()
        .unwrap_or_default()
}

/// Writes `fleet/report.html` in cargo's target directory, and returns its path.
pub(crate) fn write(run: &Run) -> Result<PathBuf, Box<dyn Error>> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || {
            env::var_os("CARGO_MANIFEST_DIR")
                .map_or_else(PathBuf::new, PathBuf::from)
                .join("target")
        },
        PathBuf::from,
    );
    let folder = target.join("fleet");
    fs::create_dir_all(&folder)?;
    let path = folder.join("report.html");
    let all: Vec<(f64, Duration)> = run
        .records
        .iter()
        .flat_map(|record| record.sent.clone())
        .collect();
    let fleet = plot(run, "All processes", &[all], f64::from(QUOTA) * 1.5, true)?;
    let each: Vec<_> = run
        .records
        .iter()
        .map(|record| record.sent.clone())
        .collect();
    let each = plot(run, "Each process", &each, 450.0, false)?;
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>One quota for a fleet</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em auto; max-width: 60em }} svg {{ width: 100%; height: auto }}</style>\n\
         </head>\n<body>\n<h1>One quota for a fleet</h1>\n\
         <p>Ten processes share {QUOTA} calls per second. While the store is away (grey), each keeps to a tenth.</p>\n\
         {fleet}\n{each}\n<pre>{}</pre>\n</body>\n</html>\n",
        table(run)
    );
    fs::write(&path, page)?;
    Ok(path)
}

fn plot(
    run: &Run,
    title: &str,
    lines: &[Vec<(f64, Duration)>],
    top: f64,
    quota: bool,
) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 340)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..run.length, 0.0..top)?;
        let away = [(run.killed, 0.0), (run.restarted, top)];
        chart.draw_series([Rectangle::new(away, BLACK.mix(0.12).filled())])?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("seconds")
            .y_desc("calls per second")
            .draw()?;
        for (i, sent) in lines.iter().enumerate() {
            let color = Palette99::pick(i);
            chart.draw_series(LineSeries::new(points(run, sent), color.stroke_width(2)))?;
        }
        if quota {
            let line = [(0.0, f64::from(QUOTA)), (run.length, f64::from(QUOTA))];
            chart.draw_series(LineSeries::new(line, RED.stroke_width(1)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn points(run: &Run, sent: &[(f64, Duration)]) -> Vec<(f64, f64)> {
    let steps = (run.length / STEP) as u32;
    let at = (0..=steps)
        .map(|step| f64::from(step) * STEP)
        .filter(|at| *at >= MEAN);
    at.map(|at| (at, rate(sent, at - MEAN, at))).collect()
}
