//! Loss at the ends of runs of several lengths, on logarithmic axes: one panel per loss, a thin line per seed, a thick one for their
//! mean.

use super::super::{ReportError, curve, group::Group, group::capitalised};
use super::canvas::draw;
use super::frame::{Frame, Kind, Scale, Titles, beside_labels};
use super::lines::{Lines, Marks, draw_lines};
use super::{Panel, panel_file, subtitle};

const HEIGHT: f64 = 335.0;
const WIDTH: f64 = 420.0;

/// The panels of one group, for the losses that have several ends.
pub(in super::super) fn horizons(group: &Group) -> Result<Vec<Panel>, ReportError> {
    let mut panels = Vec::new();
    for target in &group.targets {
        panels.extend(panel(group, target.name)?);
    }
    Ok(panels)
}

fn panel(group: &Group, target: &str) -> Result<Option<Panel>, ReportError> {
    let names: Vec<&str> = group.variants.iter().map(|variant| variant.name).collect();
    let is_drawn = |&(steps, loss): &(f64, f64)| steps > 0.0 && loss > 0.0 && loss.is_finite();
    let ends = |variant: &super::super::group::Variant| {
        Lines::of(&variant.runs, |paired| curve::ends(paired.run, target).into_iter().filter(is_drawn).collect())
    };
    let lines: Vec<(&str, Lines)> = group.variants.iter().map(|variant| (variant.name, ends(variant))).collect();
    let points = || lines.iter().flat_map(|(_, lines)| lines.points());
    if points().next().is_none() {
        return Ok(None);
    }
    let range = |value: fn((f64, f64)) -> f64| {
        points().map(value).fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (steps, losses) = (range(|point| point.0), range(|point| point.1));
    let frame = Frame {
        x: Scale::new(Kind::Log, (0.95 * steps.0, steps.1), beside_labels(WIDTH, names.iter().copied())),
        y: Scale::new(Kind::Log, (0.995 * losses.0, 1.005 * losses.1), (HEIGHT - 48.0, 58.0)),
    };
    let file = panel_file(group, "horizons", target);
    let title = capitalised(target);
    let titles = Titles {
        title: &title,
        subtitle: &subtitle(group, "at the ends of runs"),
        x: "steps of the run (log scale)",
        y: "final validation loss (log scale)",
    };
    let svg = draw(&file, (WIDTH, HEIGHT), |canvas| {
        frame.draw(canvas, &titles)?;
        draw_lines(canvas, &frame, &lines, &names, Marks::Discs)
    })?;
    let alt = format!("Final {target} loss of runs of several lengths, {} variants.", names.len());
    Ok(Some(Panel { file, alt, svg }))
}
