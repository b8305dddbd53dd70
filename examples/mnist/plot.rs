//! The plot of loss and accuracy over the epochs.

use crate::training::Epoch;
use plotters::prelude::*;
use std::error::Error;

/// Draws loss (left axis) and accuracy in percent (right axis) as SVG.
pub(crate) fn svg(epochs: &[Epoch]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut text = String::new();
    draw(epochs, &mut text).map_err(|error| format!("can't draw the plot: {error}"))?;
    Ok(text)
}

fn draw(epochs: &[Epoch], text: &mut String) -> Result<(), Box<dyn Error>> {
    let points = |value: fn(&Epoch) -> f64| {
        epochs
            .iter()
            .enumerate()
            .map(move |(i, epoch)| ((i + 1) as f64, value(epoch)))
            // A loss that has run away has no place on an axis.
            .filter(|(_, value)| value.is_finite())
    };
    let highest = epochs
        .iter()
        .map(|epoch| epoch.loss)
        .filter(|loss| loss.is_finite())
        .fold(0.0, f64::max)
        .max(1e-6);
    let lowest = epochs
        .iter()
        .map(|epoch| epoch.accuracy)
        .fold(1.0, f64::min)
        * 100.0;
    let ages = 0.5..epochs.len().max(1) as f64 + 0.5;

    let area = SVGBackend::with_string(text, (720, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Training", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(55)
        .right_y_label_area_size(55)
        .build_cartesian_2d(ages.clone(), 0.0..highest * 1.1)?
        .set_secondary_coord(ages, (lowest - 1.0).max(0.0)..100.5);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("epoch")
        .y_desc("loss")
        .x_labels(epochs.len().clamp(2, 20))
        .x_label_formatter(&|epoch| format!("{epoch:.0}"))
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc("accuracy, %")
        .draw()?;
    let swatch = |color: RGBColor| move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color);
    chart
        .draw_series(LineSeries::new(points(|e| e.loss), BLUE.stroke_width(2)).point_size(3))?
        .label("loss")
        .legend(swatch(BLUE));
    chart
        .draw_secondary_series(
            LineSeries::new(points(|e| e.accuracy * 100.0), RED.stroke_width(2)).point_size(3),
        )?
        .label("accuracy")
        .legend(swatch(RED));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_epochs_is_drawn() {
        for count in [0, 1, 5] {
            let svg = svg(&vec![Epoch::default(); count]).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        }
    }

    #[test]
    fn a_loss_that_ran_away_is_left_out() {
        let mut epochs = [Epoch::default(); 3];
        (epochs[1].loss, epochs[2].loss) = (f64::INFINITY, f64::NAN);
        assert!(svg(&epochs).unwrap().ends_with("</svg>\n"));
    }
}
