//! Plots the times of all cases on a logarithmic scale, with one line per case. A dot is a
//! contender's time in a task, a ring its time by hand.

use crate::case::Way;
use crate::contenders::{BUTTRESS, SEATBELT, TOWER, TOWER_RESILIENCE};
use crate::report::Row;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::path::Path;

const LEFT: i32 = 500;
const RIGHT: i32 = 1160;
const TOP: u32 = 60;
const LINE: u32 = 24;
/// The range of the scale, in powers of ten.
const FROM: f64 = 0.0;
const TO: f64 = 6.5;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const OTHERS: RGBColor = RGBColor(150, 150, 150);
const LEGEND: [(&str, RGBColor); 5] = [
    (BUTTRESS, RGBColor(0, 70, 160)),
    (TOWER, RGBColor(30, 150, 90)),
    (TOWER_RESILIENCE, RGBColor(200, 40, 40)),
    (SEATBELT, RGBColor(224, 140, 20)),
    ("others", OTHERS),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn draw(rows: &[Row], file: &Path) -> Result<(), Box<dyn Error>> {
    let height = TOP + LINE * rows.len() as u32;
    let area = SVGBackend::new(file, (1200, height + 50)).into_drawing_area();
    let bottom = height.cast_signed();
    area.fill(&WHITE)?;
    for (x, (who, colour)) in (LEFT..).step_by(130).zip(LEGEND) {
        dot(&area, (x, 24), colour)?;
        text(&area, who, (x + 10, 24), HPos::Left)?;
    }
    for (power, label) in (0..).zip(["1 ns", "10", "100", "1 µs", "10", "100", "1 ms"]) {
        let x = across(10_f64.powi(power));
        let line = vec![(x, TOP.cast_signed() - 8), (x, bottom)];
        area.draw(&PathElement::new(line, GRID.stroke_width(1)))?;
        text(&area, label, (x, bottom + 16), HPos::Center)?;
    }
    let first = (TOP + LINE / 2).cast_signed();
    for (y, row) in (first..).step_by(LINE as usize).zip(rows) {
        text(&area, &row.case, (LEFT - 14, y), HPos::Right)?;
        // Draw buttress last, on top of the others.
        let cells = row.cells.iter();
        for cell in cells.rev() {
            let known = LEGEND.iter().find(|(who, _)| *who == cell.who);
            let colour = known.map_or(OTHERS, |(_, colour)| *colour);
            if let Some(nanos) = cell.median(Way::Task) {
                dot(&area, (across(nanos), y), colour)?;
            }
            if let Some(nanos) = cell.median(Way::Hand) {
                let ring = Circle::new((across(nanos), y), 6, colour.stroke_width(2));
                area.draw(&ring)?;
            }
        }
    }
    area.present()?;
    Ok(())
}

fn across(nanos: f64) -> i32 {
    let share = (nanos.log10() - FROM) / (TO - FROM);
    LEFT + (share * f64::from(RIGHT - LEFT)) as i32
}

fn dot(area: &Area<'_>, at: (i32, i32), colour: RGBColor) -> Result<(), Box<dyn Error>> {
    area.draw(&Circle::new(at, 6, colour.filled()))?;
    Ok(())
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos) -> Result<(), Box<dyn Error>> {
    let style = TextStyle::from(("sans-serif", 13).into_font())
        .color(&INK)
        .pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.replace('`', ""), at, style))?;
    Ok(())
}
