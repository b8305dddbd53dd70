//! Rows as a drawing: time over processes for growth, bandwidth over size where there are several sizes, bars where
//! there is one.
//!
//! One colour is one contestant, wherever it is drawn; the legend stands above all.
//!
//! Imports point one way: `plot` > `growth`, `lines`, `bars` > `series`.

mod bars;
mod growth;
mod lines;
mod series;

use super::programs::Bench;
use super::rows::Row;
use crate::error::Error;
use plotters::prelude::*;
use series::{Contestants, Group};

/// Result of drawing.
type Drawn = Result<(), Box<dyn std::error::Error>>;
/// Target of drawing.
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// In pixels.
const WIDTH: u32 = 1080;
const LEGEND_LINE: u32 = 22;
const MARGIN: u32 = 16;
const FONT: &str = "sans-serif";

/// Draws all rows into one SVG.
///
/// # Errors
///
/// When the library that draws can't.
pub(super) fn svg(rows: &[Row]) -> Result<String, Error> {
    let mut text = String::new();
    draw(rows, &mut text).map_err(|cause| Error::Plot(cause.to_string()))?;
    Ok(text)
}

fn draw(rows: &[Row], text: &mut String) -> Drawn {
    let contestants = Contestants::of(rows);
    let benches = series::groups(rows);
    let legend = legend_places(&contestants);
    let legend_height = legend.last().map_or(0, |(_, y)| y + LEGEND_LINE) + MARGIN;
    let heights: Vec<u32> = benches
        .iter()
        .map(|(bench, groups)| height(bench, groups, &contestants))
        .collect();
    let whole = legend_height + heights.iter().sum::<u32>() + MARGIN;

    let area = SVGBackend::with_string(text, (WIDTH, whole)).into_drawing_area();
    area.fill(&WHITE)?;
    for (at, (x, y)) in legend.into_iter().enumerate() {
        let (x, y) = ((MARGIN + x) as i32, (MARGIN + y) as i32);
        let colour = series::colour(at).filled();
        area.draw(&Rectangle::new([(x, y), (x + 18, y + 10)], colour))?;
        let name = contestants.name(at).to_owned();
        area.draw(&Text::new(name, (x + 24, y - 2), (FONT, 14)))?;
    }
    let mut rest = area.split_vertically(legend_height).1;
    for ((bench, groups), height) in benches.iter().zip(heights) {
        let (top, below) = rest.split_vertically(height);
        rest = below;
        let top = top.titled(bench, (FONT, 20))?;
        match Form::of(bench, groups) {
            Form::Growth => growth::draw(&top, groups, &contestants)?,
            Form::Lines => lines::draw(&top, groups, &contestants)?,
            Form::Bars => bars::draw(&top, groups, &contestants)?,
        }
    }
    area.present()?;
    Ok(())
}

/// Form in which the rows of a bench are drawn.
enum Form {
    Growth,
    Lines,
    Bars,
}

impl Form {
    fn of(bench: &str, groups: &[Group]) -> Self {
        if bench.starts_with(Bench::Growth.name()) {
            Self::Growth
        } else if groups.iter().any(Group::has_several_sizes) {
            Self::Lines
        } else {
            Self::Bars
        }
    }
}

fn height(bench: &str, groups: &[Group], contestants: &Contestants) -> u32 {
    let title = 30;
    title
        + match Form::of(bench, groups) {
            Form::Growth => growth::height(groups, contestants),
            Form::Lines => lines::height(groups),
            Form::Bars => bars::height(groups, contestants),
        }
}

/// Positions of the contestants' entries: side by side, and on the next line where the width ends.
fn legend_places(contestants: &Contestants) -> Vec<(u32, u32)> {
    let (mut x, mut y) = (0, 0);
    (0..contestants.len())
        .map(|at| {
            // The SVG's reader chooses the font, so its widths are a guess on the safe side.
            let width = 50 + 8 * contestants.name(at).chars().count() as u32;
            if x > 0 && x + width > WIDTH - 2 * MARGIN {
                (x, y) = (0, y + LEGEND_LINE);
            }
            let place = (x, y);
            x += width;
            place
        })
        .collect()
}

#[cfg(test)]
mod tests;
