//! The plots. Each is drawn twice, for wide and for narrow screens, and the style sheet shows one.

use std::error::Error;
use std::time::Duration;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::style::{self, Colour, GRID, INK, TROUBLE};
use crate::clients::Kind;
use crate::run::{Call, Record, Side};
use crate::scenario::{Act, CLIENTS};

/// The time that one point of a curve stands for.
const BIN: Duration = Duration::from_millis(500);
const FONT: (&str, u32) = ("sans-serif", 13);

struct Curve {
    colour: Colour,
    width: u32,
    points: Vec<(f64, f64)>,
}

/// Successful calls per second, by when they ended.
pub fn successes(record: &Record) -> Result<String, Box<dyn Error>> {
    per_second(record, |call| call.succeeded().then_some((call.ended, 1)))
}

/// Sends per second, by when their call was made.
pub fn sends(record: &Record) -> Result<String, Box<dyn Error>> {
    per_second(record, |call| Some((call.fired, call.sends)))
}

fn per_second(
    record: &Record,
    count: impl Fn(&Call) -> Option<(Duration, u32)>,
) -> Result<String, Box<dyn Error>> {
    let values = |side: &Side| {
        let counted = side.calls.iter().filter_map(&count);
        let counted = counted.map(|(at, count)| (at, f64::from(count)));
        sums(&record.act, counted)
            .map(|count| count / BIN.as_secs_f64())
            .collect()
    };
    plot(&record.act, &curves(record, values), "/s")
}

/// The share of the workers' time that was wasted, in per cent.
pub fn wasted(record: &Record) -> Result<String, Box<dyn Error>> {
    let values = |side: &Side| {
        let time = |wanted: fn(bool) -> bool| {
            let work = side.work.iter().filter(move |work| wanted(work.useful));
            sums(
                &record.act,
                work.map(|work| (work.at, work.took.as_secs_f64())),
            )
        };
        let shares = time(|useful| !useful).zip(time(|_| true));
        shares
            .map(|(wasted, all)| wasted / all.max(f64::MIN_POSITIVE) * 100.0)
            .collect()
    };
    plot(&record.act, &curves(record, values), " %")
}

/// How many circuits of buttress are not closed.
pub fn circuits(record: &Record) -> Result<String, Box<dyn Error>> {
    let side = record.sides.iter().find(|side| side.kind == Kind::Buttress);
    let open = &side.expect("every act has it").open;
    let until = open.iter().skip(1).map(|open| open.from);
    let until = until.chain([record.act.judged]);
    let steps = open.iter().zip(until).flat_map(|(open, until)| {
        let count = open.count as f64;
        [
            (open.from.as_secs_f64(), count),
            (until.as_secs_f64(), count),
        ]
    });
    let curve = Curve {
        colour: style::of(Kind::Buttress),
        width: 2,
        points: steps.collect(),
    };
    plot(&record.act, &[curve], &format!(" of {CLIENTS}"))
}

/// One curve for each kind.
fn curves(record: &Record, values: impl Fn(&Side) -> Vec<f64>) -> Vec<Curve> {
    let curve = |side: &Side| Curve {
        colour: style::of(side.kind),
        // Thin ones are drawn over thick ones, so that equal curves can all be seen.
        width: match side.kind {
            Kind::Bare | Kind::Naive => 6,
            Kind::Defaults => 4,
            Kind::Careful | Kind::Buttress => 2,
        },
        points: middles().zip(values(side)).collect(),
    };
    record.sides.iter().map(curve).collect()
}

fn middles() -> impl Iterator<Item = f64> {
    (0_u32..).map(|bin| (BIN * bin + BIN / 2).as_secs_f64())
}

/// The sum of the values in each bin of the judged time.
fn sums(act: &Act, values: impl Iterator<Item = (Duration, f64)>) -> impl Iterator<Item = f64> {
    let bin = |at: Duration| (at.as_millis() / BIN.as_millis()) as usize;
    let mut sums = vec![0.0; bin(act.judged)];
    for (at, value) in values {
        if let Some(sum) = sums.get_mut(bin(at)) {
            *sum += value;
        }
    }
    sums.into_iter()
}

fn plot(act: &Act, curves: &[Curve], unit: &str) -> Result<String, Box<dyn Error>> {
    let wide = draw(act, curves, unit, (780, 230))?;
    let narrow = draw(act, curves, unit, (380, 220))?;
    Ok(format!(
        "<div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div>\n"
    ))
}

fn draw(
    act: &Act,
    curves: &[Curve],
    unit: &str,
    size: (u32, u32),
) -> Result<String, Box<dyn Error>> {
    let values = curves.iter().flat_map(|curve| &curve.points);
    let top = 1.08 * values.map(|&(_, value)| value).fold(1.0, f64::max);
    let end = act.judged.as_secs_f64();
    let font = || FONT.into_font().color(&INK.light);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(4)
        .margin_top(20)
        .margin_right(14)
        .x_label_area_size(34)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..end, 0.0..top)?;

    let trouble = [act.start, act.end].map(|at| at.as_secs_f64());
    let shade = Rectangle::new(
        [(trouble[0], 0.0), (trouble[1], top)],
        TROUBLE.light.filled(),
    );
    chart.draw_series([shade])?;
    let style = font().pos(Pos::new(HPos::Center, VPos::Bottom));
    let middle = (f64::midpoint(trouble[0], trouble[1]), top);
    chart.draw_series([Text::new(act.trouble.name(), middle, style)])?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .x_labels(if size.0 > 500 { 16 } else { 8 })
        .x_label_formatter(&|second| format!("{second:.0}"))
        .y_labels(5)
        .y_label_formatter(&|value| format!("{value:.0}{unit}"))
        .max_light_lines(0)
        .bold_line_style(GRID.light)
        .axis_style(INK.light)
        .label_style(font())
        .draw()?;
    for curve in curves {
        let line = curve.colour.light.stroke_width(curve.width);
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), line))?;
    }
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}
