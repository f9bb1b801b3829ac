//! Joint loss by learning rate: one panel, a line per variant, a ring around the rate that it is compared at.

use super::super::{ArmRates, ReportError, group::Group, order};
use super::canvas::{Weight, draw};
use super::frame::{Frame, Kind, Label, Scale, Titles, beside_labels};
use super::{Panel, palette};

const HEIGHT: f64 = 335.0;
const WIDTH: f64 = 420.0;

/// An arm's rates.
struct Line<'a> {
    name: &'a str,
    best: Option<f64>,
    /// Rates and losses, of those that have one.
    points: Vec<(f64, f64)>,
}

/// The only panel of a group; none where there are no rates to choose from.
pub(in super::super) fn rates(group: &Group) -> Result<Vec<Panel>, ReportError> {
    let points = |arm: &ArmRates| -> Vec<(f64, f64)> {
        let scored = arm.rates().iter().filter_map(|rate| Some((rate.rate, rate.score()?)));
        scored.filter(|(_, score)| score.is_finite() && *score > 0.0).collect()
    };
    let arms: Vec<Line> =
        group.arms.iter().map(|arm| Line { name: &arm.variant, best: arm.best(), points: points(arm) }).collect();
    let all = || arms.iter().flat_map(|line| line.points.iter().copied());
    if all().next().is_none() {
        return Ok(Vec::new());
    }
    let range = |value: fn((f64, f64)) -> f64| {
        all().map(value).fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (of_rates, losses) = (range(|point| point.0), range(|point| point.1));
    let names: Vec<&str> = arms.iter().map(|line| line.name).collect();
    let frame = Frame {
        x: Scale::new(Kind::Log, (0.9 * of_rates.0, 1.1 * of_rates.1), beside_labels(WIDTH, names.iter().copied())),
        y: Scale::new(Kind::Linear, (losses.0 * 0.998, losses.1 * 1.002), (HEIGHT - 48.0, 58.0)),
    };
    let is_bracket = group.arms.iter().any(|arm| arm.bracket_steps.is_some());
    let file = format!("{}-rates.svg", group.stem);
    let titles = Titles {
        title: "Learning rates",
        subtitle: if is_bracket { "a bracket, one seed; rings mark the best" } else { "rings mark the best" },
        x: "learning rate (log scale)",
        y: "joint validation loss",
    };
    let svg = draw(&file, (WIDTH, HEIGHT), |canvas| {
        frame.draw(canvas, &titles)?;
        let mut labels = Vec::new();
        for Line { name, best, points } in arms.iter().rev() {
            let colour = palette::variant(name, &names);
            frame.line(canvas, points, colour, if *name == order::MOM { 2.4 } else { 1.7 }, 1.0)?;
            for &point in points {
                if Some(point.0) == *best {
                    canvas.disc(frame.at(point), 6.0, colour)?;
                    canvas.disc(frame.at(point), 4.0, palette::PAGE)?;
                }
                canvas.disc(frame.at(point), 2.6, colour)?;
            }
            if let Some(&end) = points.last() {
                labels.push(Label { name, end: frame.at(end), colour, weight: Weight::Normal });
            }
        }
        frame.labels(canvas, &labels)
    })?;
    let alt = format!("Joint validation loss by learning rate, {} variants.", names.len());
    Ok(vec![Panel { file, alt, svg }])
}
