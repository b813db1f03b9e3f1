//! Colours and the style sheet, for light and dark pages.

use plotters::style::RGBColor;

use crate::clients::Kind;

/// A colour of the plots, which the style sheet replaces on dark pages.
#[derive(Clone, Copy, Debug)]
pub struct Colour {
    name: &'static str,
    pub light: RGBColor,
    dark: RGBColor,
}

const fn colour(name: &'static str, light: [u8; 3], dark: [u8; 3]) -> Colour {
    let [light, dark] = [
        RGBColor(light[0], light[1], light[2]),
        RGBColor(dark[0], dark[1], dark[2]),
    ];
    Colour { name, light, dark }
}

pub const INK: Colour = colour("ink", [40, 40, 40], [221, 221, 221]);
pub const GRID: Colour = colour("grid", [226, 226, 226], [62, 62, 66]);
pub const TROUBLE: Colour = colour("trouble", [253, 236, 230], [70, 42, 34]);
const BARE: Colour = colour("bare", [140, 140, 140], [150, 150, 150]);
const NAIVE: Colour = colour("naive", [224, 110, 20], [255, 154, 77]);
const CAREFUL: Colour = colour("careful", [176, 50, 125], [240, 123, 192]);
const DEFAULTS: Colour = colour("defaults", [55, 155, 215], [125, 210, 255]);
const BUTTRESS: Colour = colour("buttress", [0, 70, 160], [110, 150, 255]);

pub fn of(kind: Kind) -> Colour {
    match kind {
        Kind::Bare => BARE,
        Kind::Naive => NAIVE,
        Kind::Careful => CAREFUL,
        Kind::Defaults => DEFAULTS,
        Kind::Buttress => BUTTRESS,
    }
}

impl Colour {
    pub fn variable(self) -> String {
        format!("--{}", self.name)
    }
}

fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

pub fn sheet() -> String {
    let mut colours = vec![INK, GRID, TROUBLE];
    colours.extend(Kind::ALL.map(of));
    let each = |rule: fn(String, Colour) -> String| {
        let rules = colours
            .iter()
            .map(|&colour| rule(colour.variable(), colour));
        rules.collect::<Vec<_>>().join(" ")
    };
    let light = each(|variable, colour| format!("{variable}: {};", hex(colour.light)));
    let dark = each(|variable, colour| format!("{variable}: {};", hex(colour.dark)));
    let plots = each(|variable, colour| {
        let drawn = hex(colour.light);
        format!(
            "svg [fill=\"{drawn}\"] {{ fill: var({variable}) }} \
             svg [stroke=\"{drawn}\"] {{ stroke: var({variable}) }}\n"
        )
    });
    format!(
        ":root {{ color-scheme: light dark; --page: #FFFFFF; {light} }}\n\
         @media (prefers-color-scheme: dark) {{ :root {{ --page: #1B1B1E; {dark} }} }}\n\
         {plots}{SHEET}"
    )
}

const SHEET: &str = "
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 800px; margin: 1.5em auto; padding: 0 14px }
h1 { font-size: 1.6em; line-height: 1.25 } h2 { font-size: 1.25em; margin: 2em 0 .4em }
h2:first-letter { text-transform: uppercase } h3 { font-size: 1.05em; margin: 1.6em 0 .2em } p { margin: .4em 0 }
svg { width: 100%; height: auto; display: block }
.narrow { display: none }
table { border-collapse: collapse; width: 100%; margin: 1em 0; font-size: .92em;
  font-variant-numeric: tabular-nums }
td, th { padding: .25em .4em; text-align: right; vertical-align: top; border-bottom: 1px solid var(--grid) }
th { border-bottom-color: var(--ink) }
td { white-space: nowrap } td:first-child, .words td { white-space: normal }
td:first-child, th:first-child, .words td { text-align: left }
.best td { font-weight: 600 } .fails td { color: #D03030; font-weight: 600 }
.key { font-size: .9em } .key span { white-space: nowrap; margin-right: 1em }
.key i { display: inline-block; width: 1.4em; height: .3em; vertical-align: middle; margin-right: .4em }
dt { font-weight: 600; margin-top: .5em } dd { margin: 0 }
@media (max-width: 560px) {
  body { font-size: 15px; margin: .5em auto; padding: 0 10px }
  .wide { display: none } .narrow { display: block }
  table { font-size: .78em } td, th { padding: .2em .2em }
}
";
