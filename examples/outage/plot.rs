//! The four plots, each an SVG that stands in the page as it is.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use buttress::circuit_breaker::CircuitState;
use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{BIN, bin, bins, percentile};
use crate::record::{Change, Outcome, Record, Side};
use crate::script::Script;

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The clients' colours, in their order. They differ in lightness too.
pub const COLOURS: [RGBColor; 3] = [
    RGBColor(170, 170, 170),
    RGBColor(224, 110, 20),
    RGBColor(0, 70, 160),
];

const SIZE: (u32, u32) = (1120, 300);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const TROUBLE: RGBColor = RGBColor(253, 236, 230);
const FONT: &str = "sans-serif";

/// A line through (second, value) points.
struct Curve {
    colour: RGBColor,
    width: u32,
    points: Vec<(f64, f64)>,
}

/// The upright axis of a plot.
struct Axis {
    range: Range<f64>,
    labels: usize,
    format: fn(&f64) -> String,
}

/// Successful calls per second, when they succeeded.
pub fn goodput(record: &Record) -> Result<String, Box<dyn Error>> {
    let curves = curves(record, |side, bins| {
        let good = side
            .calls
            .iter()
            .filter(|call| call.outcome == Outcome::Succeeded);
        rates(good.map(|call| call.ended), bins)
    });
    draw(&record.script, &rate_axis(3.2), &curves)
}

/// Sends per second.
pub fn load(record: &Record) -> Result<String, Box<dyn Error>> {
    let curves = curves(record, |side, bins| {
        rates(side.sends.iter().map(|send| send.at), bins)
    });
    draw(&record.script, &rate_axis(4.2), &curves)
}

/// The 99th percentile of what callers waited, by when their calls were due.
pub fn latency(record: &Record) -> Result<String, Box<dyn Error>> {
    let curves = curves(record, |side, bins| {
        let mut waits = vec![Vec::new(); bins];
        for call in &side.calls {
            waits[bin(call.due)].push(call.waited());
        }
        for waits in &mut waits {
            waits.sort_unstable();
        }
        let millis = |waits: &Vec<Duration>| percentile(waits, 99).as_secs_f64() * 1e3;
        waits
            .iter()
            .map(|waits| millis(waits).max(0.1).log10())
            .collect()
    });
    let axis = Axis {
        range: -1.0..4.0,
        labels: 6,
        format: |power| match whole(*power) {
            Some(power @ ..3) => format!("{} ms", 10_f64.powi(power)),
            Some(power) => format!("{} s", 10_f64.powi(power - 3)),
            None => String::new(),
        },
    };
    draw(&record.script, &axis, &curves)
}

/// The state of the breaker.
pub fn breaker(record: &Record) -> Result<String, Box<dyn Error>> {
    let axis = Axis {
        range: -0.4..2.6,
        labels: 4,
        format: |level| match whole(*level) {
            Some(0) => "closed".into(),
            Some(1) => "half-open".into(),
            Some(2) => "open".into(),
            _ => String::new(),
        },
    };
    let points = steps(&record.breaker, record.script.length());
    draw(
        &record.script,
        &axis,
        &[Curve {
            colour: COLOURS[2],
            width: 2,
            points,
        }],
    )
}

/// A logarithmic axis, from one call per second to a power of ten. The smallest rate that a bin can
/// have is four, so that one stands for none.
fn rate_axis(power: f64) -> Axis {
    Axis {
        range: -0.1..power,
        labels: 5,
        format: |power| match whole(*power) {
            Some(0) => "0 /s".into(),
            Some(power) => format!("{} /s", 10_f64.powi(power)),
            None => String::new(),
        },
    }
}

/// The number on an axis, if it is a whole one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the axes have small numbers"
)]
fn whole(number: f64) -> Option<i32> {
    ((number - number.round()).abs() < 1e-6).then_some(number.round() as i32)
}

/// One curve for each client, of one value for each bin.
fn curves(record: &Record, values: impl Fn(&Side, usize) -> Vec<f64>) -> [Curve; 3] {
    let bins = bins(record.script.length());
    // What is drawn later is thinner, so that curves on top of each other can all be seen.
    let mut pens = COLOURS.into_iter().zip([7, 4, 2]);
    record.sides.each_ref().map(|side| {
        let (colour, width) = pens.next().expect("there is a pen for each client");
        let middles = (0_u32..).map(|bin| (BIN * bin + BIN / 2).as_secs_f64());
        Curve {
            colour,
            width,
            points: middles.zip(values(side, bins)).collect(),
        }
    })
}

/// Events per second in each bin, as powers of ten.
fn rates(events: impl Iterator<Item = Duration>, bins: usize) -> Vec<f64> {
    let mut counts = vec![0_u32; bins];
    for at in events {
        if let Some(count) = counts.get_mut(bin(at)) {
            *count += 1;
        }
    }
    counts
        .iter()
        .map(|&count| (f64::from(count) / BIN.as_secs_f64()).max(1.0).log10())
        .collect()
}

/// A line that goes along and up, never aslant.
fn steps(changes: &[Change], end: Duration) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for change in changes {
        let (at, to) = (change.at.as_secs_f64(), level(change.to));
        if let Some(&(_, from)) = points.last() {
            points.push((at, from));
        }
        points.push((at, to));
    }
    if let Some(&(_, last)) = points.last() {
        points.push((end.as_secs_f64(), last));
    }
    points
}

fn level(state: CircuitState) -> f64 {
    match state {
        CircuitState::Open | CircuitState::ForcedOpen => 2.0,
        CircuitState::HalfOpen => 1.0,
        _ => 0.0,
    }
}

fn draw(script: &Script, axis: &Axis, curves: &[Curve]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(6)
        .margin_top(26)
        .x_label_area_size(40)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..script.length().as_secs_f64(), axis.range.clone())?;
    mark_phases(&mut chart, script, axis)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .x_labels(24)
        .x_label_formatter(&|second| format!("{second:.0}"))
        .y_labels(axis.labels)
        .y_label_formatter(&axis.format)
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 15).into_font().color(&INK))
        .draw()?;
    for curve in curves {
        chart.draw_series(LineSeries::new(
            curve.points.iter().copied(),
            curve.colour.stroke_width(curve.width),
        ))?;
    }
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

/// Shades the phases in which something is wrong, and names them all above the plot.
fn mark_phases(chart: &mut Chart<'_>, script: &Script, axis: &Axis) -> Result<(), Box<dyn Error>> {
    let Range {
        start: bottom,
        end: top,
    } = axis.range;
    let style = (FONT, 15)
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Bottom));
    for phase in &script.phases {
        let (start, end) = (phase.start.as_secs_f64(), phase.end.as_secs_f64());
        if !phase.condition.is_good() {
            let shade = Rectangle::new([(start, bottom), (end, top)], TROUBLE.filled());
            chart.draw_series([shade])?;
        }
        let middle = f64::midpoint(start, end);
        chart.draw_series([Text::new(
            phase.condition.name(),
            (middle, top),
            style.clone(),
        )])?;
    }
    Ok(())
}
