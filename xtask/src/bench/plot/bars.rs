//! Times as bars, with their figures: for each layout and number of ranks, one for each contestant.

use super::series::{Contestants, Group, colour};
use super::{Area, Drawn, FONT, MARGIN, WIDTH};
use crate::bench::table::{size, time};
use plotters::prelude::*;

/// In pixels.
const BAR: i32 = 16;
const GAP: i32 = 14;
const LABELS: i32 = 210;
const FIGURES: i32 = 90;

/// A bar: what it is about, whose it is, how long.
type Bar = (String, usize, f64);

pub(super) fn height(groups: &[Group], contestants: &Contestants) -> u32 {
    let count = |group| bars(group, contestants).len() as i32;
    let all: i32 = groups
        .iter()
        .map(|group| count(group) * (BAR + 2) + GAP)
        .sum();
    all as u32 + MARGIN
}

pub(super) fn draw(area: &Area, groups: &[Group], contestants: &Contestants) -> Drawn {
    let bars: Vec<Vec<Bar>> = groups
        .iter()
        .map(|group| bars(group, contestants))
        .collect();
    let longest = bars
        .iter()
        .flatten()
        .map(|bar| bar.2)
        .fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(WIDTH as i32 - LABELS - FIGURES - 2 * MARGIN as i32);
    let (left, mut y) = (MARGIN as i32 + LABELS, 0);
    for group in bars {
        let mut about = String::new();
        for (label, contestant, seconds) in group {
            if label != about {
                area.draw(&Text::new(label.clone(), (MARGIN as i32, y), (FONT, 14)))?;
                about = label;
            }
            let right = left + (seconds / longest * room).max(1.0) as i32;
            let fill = colour(contestant).filled();
            area.draw(&Rectangle::new([(left, y), (right, y + BAR)], fill))?;
            area.draw(&Text::new(time(seconds), (right + 6, y), (FONT, 13)))?;
            y += BAR + 2;
        }
        y += GAP;
    }
    Ok(())
}

fn bars(group: &Group, contestants: &Contestants) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (contestant, points) in group.series(contestants) {
        for (bytes, seconds) in points {
            bars.push((bytes, contestant, seconds));
        }
    }
    bars.sort_by_key(|(bytes, contestant, _)| (*bytes, *contestant));
    let label = |bytes| match bytes {
        0 => group.title(),
        bytes => format!("{}, {}", group.title(), size(bytes)),
    };
    let named = |(bytes, contestant, seconds)| (label(bytes), contestant, seconds);
    bars.into_iter().map(named).collect()
}
