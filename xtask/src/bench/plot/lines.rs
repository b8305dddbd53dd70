//! Bandwidth over size, both logarithmic: a panel for each layout and number of ranks.

use super::series::{Contestants, Group, colour};
use super::{Area, Drawn, FONT};
use crate::bench::table::size;
use plotters::prelude::*;
use std::ops::Range;

/// In pixels, of one row of panels.
const PANEL: u32 = 300;
const MOST_COLUMNS: usize = 3;

pub(super) fn height(groups: &[Group]) -> u32 {
    PANEL * groups.len().div_ceil(columns(groups)) as u32
}

/// As many as there are numbers of ranks, so that layouts lie below one another.
fn columns(groups: &[Group]) -> usize {
    let first = groups.first().map(|group| group.layout);
    let row = groups
        .iter()
        .take_while(|group| Some(group.layout) == first);
    row.count().clamp(1, MOST_COLUMNS)
}

pub(super) fn draw(area: &Area, groups: &[Group], contestants: &Contestants) -> Drawn {
    let columns = columns(groups);
    let rows = groups.len().div_ceil(columns);
    let (x, y) = ranges(groups, contestants);
    for (panel, group) in area.split_evenly((rows, columns)).iter().zip(groups) {
        let mut chart = ChartBuilder::on(panel)
            .caption(group.title(), (FONT, 16))
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(68)
            .build_cartesian_2d(x.clone(), y.clone().log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(240, 240, 240))
            .bold_line_style(RGBColor(215, 215, 215))
            .x_labels(7)
            .x_label_formatter(&|exponent| power(*exponent))
            .y_label_formatter(&|speed| per_second(*speed))
            .x_desc("tensor")
            .label_style((FONT, 12))
            .axis_desc_style((FONT, 13))
            .draw()?;
        for (at, points) in group.series(contestants) {
            let points = points.into_iter().filter_map(place);
            let style = colour(at).stroke_width(if at == 0 { 3 } else { 2 });
            chart.draw_series(LineSeries::new(points, style.filled()).point_size(3))?;
        }
    }
    Ok(())
}

/// Position of a measurement; nothing has no logarithm, and no position.
fn place((bytes, seconds): (u64, f64)) -> Option<(f64, f64)> {
    (bytes > 0 && seconds > 0.0).then(|| ((bytes as f64).log2(), bytes as f64 / seconds / 1e9))
}

/// The label of a power of two; none in between.
fn power(exponent: f64) -> String {
    let whole = exponent.round();
    if (exponent - whole).abs() < 1e-6 && (0.0..63.0).contains(&whole) {
        size(1 << whole as u32)
    } else {
        String::new()
    }
}

/// `10 MB/s`, from gigabytes a second.
fn per_second(speed: f64) -> String {
    let units = [(1.0, "GB/s"), (1e-3, "MB/s"), (1e-6, "KB/s"), (1e-9, "B/s")];
    // A decade that was computed may be a little less than one.
    let fits = |(unit, _): &(f64, &str)| speed > 0.99 * unit;
    let (unit, name) = units.into_iter().find(fits).unwrap_or((1e-9, "B/s"));
    format!("{:.0} {name}", speed / unit)
}

/// Axes of all panels, so that they can be compared: sizes by their powers of two, and whole decades of
/// bandwidth.
fn ranges(groups: &[Group], contestants: &Contestants) -> (Range<f64>, Range<f64>) {
    let series = groups.iter().flat_map(|group| group.series(contestants));
    let points: Vec<_> = series
        .flat_map(|(_, points)| points)
        .filter_map(place)
        .collect();
    let least = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(f64::INFINITY, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
    let x = (least(|point| point.0) - 0.5)..(most(|point| point.0) + 0.5);
    let decade = |speed: f64| 10_f64.powf(speed);
    let low = least(|point| point.1).log10().floor();
    let high = most(|point| point.1).log10().ceil();
    (x, decade(low)..decade(high.max(low + 1.0)))
}
