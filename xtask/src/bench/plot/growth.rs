//! Time over the number of processes, both logarithmic: a panel for each size.

use super::series::{Contestants, Group, colour};
use super::{Area, Drawn, FONT};
use crate::bench::table::{size, time};
use plotters::prelude::*;
use std::collections::BTreeMap;

/// In pixels, of one row of panels.
const PANEL: u32 = 300;
const COLUMNS: usize = 3;

/// Points of one contestant: the logarithm of the number of processes, and seconds.
type Points = Vec<(f64, f64)>;

pub(super) fn height(groups: &[Group], contestants: &Contestants) -> u32 {
    PANEL * panels(groups, contestants).len().div_ceil(COLUMNS) as u32
}

pub(super) fn draw(area: &Area, groups: &[Group], contestants: &Contestants) -> Drawn {
    let panels = panels(groups, contestants);
    let shape = (panels.len().div_ceil(COLUMNS), COLUMNS);
    for (panel, (bytes, series)) in area.split_evenly(shape).iter().zip(panels) {
        let all = || series.values().flatten();
        let least = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::INFINITY, f64::min);
        let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::NEG_INFINITY, f64::max);
        let x = (least(|point| point.0) - 0.3)..(most(|point| point.0) + 0.3);
        // Whole decades.
        let low = least(|point| point.1).log10().floor();
        let high = most(|point| point.1).log10().ceil().max(low + 1.0);
        let y = 10_f64.powf(low)..10_f64.powf(high);
        let title = match bytes {
            0 => "no bytes".to_owned(),
            bytes => size(bytes),
        };
        let mut chart = ChartBuilder::on(panel)
            .caption(title, (FONT, 16))
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(68)
            .build_cartesian_2d(x, y.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(240, 240, 240))
            .bold_line_style(RGBColor(215, 215, 215))
            .x_labels(9)
            .x_label_formatter(&|exponent| processes(*exponent))
            .y_label_formatter(&|seconds| time(*seconds))
            .x_desc("processes")
            .label_style((FONT, 12))
            .axis_desc_style((FONT, 13))
            .draw()?;
        for (at, points) in series {
            let style = colour(at).stroke_width(if at == 0 { 3 } else { 2 });
            chart.draw_series(LineSeries::new(points, style.filled()).point_size(3))?;
        }
    }
    Ok(())
}

/// What each contestant measured, by bytes and contestant. Nothing has no logarithm, and no point.
fn panels(groups: &[Group], contestants: &Contestants) -> BTreeMap<u64, BTreeMap<usize, Points>> {
    let mut panels: BTreeMap<u64, BTreeMap<usize, Points>> = BTreeMap::new();
    for group in groups {
        for (contestant, points) in group.series(contestants) {
            for (bytes, seconds) in points.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
                let panel = panels.entry(bytes).or_default();
                let series = panel.entry(contestant).or_default();
                series.push(((group.ranks as f64).log2(), seconds));
            }
        }
    }
    panels
}

/// The label of a power of two; none in between.
fn processes(exponent: f64) -> String {
    let whole = exponent.round();
    if (exponent - whole).abs() < 1e-6 && (0.0..63.0).contains(&whole) {
        (1_u64 << whole as u32).to_string()
    } else {
        String::new()
    }
}
