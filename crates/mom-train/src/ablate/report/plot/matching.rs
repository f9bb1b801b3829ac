//! Matching steps: for each evaluation of dense, the step at which a variant first has the same smoothed loss. Below
//! the diagonal a variant needs fewer steps than dense.

use plotters::style::text_anchor::HPos;

use super::super::{ReportError, curve, group::Group, group::capitalised, order};
use super::canvas::{Type, Weight, draw};
use super::frame::{Frame, Kind, Scale, Titles, beside_labels};
use super::lines::{Lines, Marks, draw_lines};
use super::{Panel, palette, panel_file, subtitle};

const HEIGHT: f64 = 370.0;
const WIDTH: f64 = 420.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 48.0;

/// The panels of one group, for the modalities where any variant matches dense at all.
pub(in super::super) fn matching(group: &Group) -> Result<Vec<Panel>, ReportError> {
    let mut panels = Vec::new();
    for target in &group.targets {
        if let Some(panel) = panel(group, target.name)? {
            panels.push(panel);
        }
    }
    Ok(panels)
}

fn panel(group: &Group, modality: &str) -> Result<Option<Panel>, ReportError> {
    let names: Vec<&str> = group.variants.iter().map(|variant| variant.name).collect();
    let lines: Vec<(&str, Lines)> = group
        .variants
        .iter()
        .filter(|variant| variant.name != order::DENSE)
        .map(|variant| {
            let line = Lines::of(&variant.runs, |paired| match paired.dense {
                Some(dense) => curve::matching_steps(paired.run, dense, modality),
                None => Vec::new(),
            });
            (variant.name, line)
        })
        .filter(|(_, lines)| !lines.seeds.is_empty())
        .collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let dense_steps = group.variants.iter().flat_map(|variant| &variant.runs).filter_map(|paired| paired.dense);
    let dense_end = dense_steps.map(|dense| dense.steps as f64).fold(0.0, f64::max);
    let points = lines.iter().flat_map(|(_, lines)| lines.points());
    let last_match = points.fold(0.0_f64, |last, (_, matching)| last.max(matching));

    let frame = Frame {
        x: Scale::new(Kind::Linear, (0.0, dense_end), beside_labels(WIDTH, lines.iter().map(|(name, _)| *name))),
        y: Scale::new(Kind::Linear, (0.0, dense_end.max(last_match)), (HEIGHT - BOTTOM, TOP)),
    };
    let file = panel_file(group, "matching", modality);
    let title = capitalised(modality);
    let titles = Titles {
        title: &title,
        subtitle: &subtitle(group, "below the diagonal: fewer steps than dense"),
        x: "dense's step",
        y: "step with the same loss",
    };
    let svg = draw(&file, (WIDTH, HEIGHT), |canvas| {
        // The half of the run that the slope is fitted to.
        let (middle, _) = frame.at((0.5 * dense_end, 0.0));
        canvas.rectangle((middle, TOP), (frame.at((dense_end, 0.0)).0, HEIGHT - BOTTOM), palette::SHADE, 1.0)?;
        frame.draw(canvas, &titles)?;
        let diagonal = [frame.at((0.0, 0.0)), frame.at((dense_end, dense_end))];
        canvas.line(&diagonal, palette::variant(order::DENSE, &names), 1.6, 1.0)?;
        let (x, y) = frame.at((0.30 * dense_end, 0.30 * dense_end));
        canvas.text((x - 8.0, y - 6.0), "dense", Type::new(12.0).weight(Weight::Bold).align(HPos::Right))?;
        draw_lines(canvas, &frame, &lines, &names, Marks::None)
    })?;
    let alt = format!("Step at which each variant reaches dense's {modality} loss, against dense's step.");
    Ok(Some(Panel { file, alt, svg }))
}
