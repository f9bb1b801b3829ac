//! Validation loss against step: one panel per modality, a thin line per seed and a thick one for their mean.

use super::super::{ReportError, curve, group::Group, group::capitalised};
use super::canvas::draw;
use super::frame::{Frame, Kind, Scale, Titles, beside_labels};
use super::lines::{Lines, Marks, draw_lines};
use super::{Panel, panel_file, subtitle};

const HEIGHT: f64 = 335.0;
const WIDTH: f64 = 420.0;
/// Share of the run, from its start, that may rise out of the frame: there the loss falls from chance level.
const START_SHARE: f64 = 0.1;
/// A loss range wider than this factor is drawn on a logarithmic axis.
const LOG_FROM: f64 = 1.8;

/// The panels of one group, for the modalities that have a finite loss.
pub(in super::super) fn curves(group: &Group) -> Result<Vec<Panel>, ReportError> {
    let mut panels = Vec::new();
    for target in &group.targets {
        if let Some(panel) = panel(group, target.name, &subtitle(group, target.loss))? {
            panels.push(panel);
        }
    }
    Ok(panels)
}

fn panel(group: &Group, modality: &str, loss: &str) -> Result<Option<Panel>, ReportError> {
    let names: Vec<&str> = group.variants.iter().map(|variant| variant.name).collect();
    let lines: Vec<(&str, Lines)> = group
        .variants
        .iter()
        .map(|variant| (variant.name, Lines::of(&variant.runs, |paired| curve::points(paired.run, modality))))
        .collect();
    let points = || lines.iter().flat_map(|(_, lines)| lines.points());
    if points().next().is_none() {
        return Ok(None);
    }
    let last_step = points().fold(0.0_f64, |last, point| last.max(point.0));
    let settled = || points().filter(|point| point.0 >= START_SHARE * last_step).map(|point| point.1);
    let (lowest, highest) = (settled().fold(f64::INFINITY, f64::min), settled().fold(f64::NEG_INFINITY, f64::max));
    let kind = if lowest > 0.0 && highest / lowest > LOG_FROM { Kind::Log } else { Kind::Linear };
    let range = match kind {
        Kind::Log => (lowest * (highest / lowest).powf(-0.03), highest),
        Kind::Linear => (lowest - 0.03 * (highest - lowest), highest),
    };

    let frame = Frame {
        x: Scale::new(Kind::Linear, (0.0, last_step), beside_labels(WIDTH, names.iter().copied())),
        y: Scale::new(kind, range, (HEIGHT - 48.0, 58.0)),
    };
    let file = panel_file(group, "curves", modality);
    let title = capitalised(modality);
    let y_title = if kind == Kind::Log { "validation loss (log scale)" } else { "validation loss" };
    let svg = draw(&file, (WIDTH, HEIGHT), |canvas| {
        frame.draw(canvas, &Titles { title: &title, subtitle: loss, x: "training step", y: y_title })?;
        draw_lines(canvas, &frame, &lines, &names, Marks::None)
    })?;
    let alt = format!("Validation loss of {modality} against training step, {} variants.", names.len());
    Ok(Some(Panel { file, alt, svg }))
}

#[cfg(test)]
mod tests {
    use super::super::super::group::joint_in_words;
    use super::super::canvas::text_width;
    use super::*;

    #[test]
    fn what_a_joint_loss_is_fits_into_its_panel() {
        for setting in mom_models::Setting::NAMES {
            let subtitle = format!("{}; one seed", joint_in_words(setting));
            assert!(text_width(&subtitle, 12.0) < WIDTH - 2.0 * 14.0, "{subtitle}");
        }
    }
}
