//! Gain in final loss over dense: one panel per modality, a bar per variant, a dot per seed, a whisker for the spread.

use plotters::style::text_anchor::HPos;

use super::super::{ReportError, group::Cell, group::Group, group::capitalised, numbers::Quantity, order};
use super::canvas::{Canvas, Drawn, Type, Weight, draw, text_width};
use super::frame::{Kind, Scale, heading, round_spacing};
use super::{Panel, palette, panel_file};

const WIDTH: f64 = 420.0;
const ROW: f64 = 30.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 48.0;

/// The panels of one group, for the modalities where any variant has a gain; all on the same axis.
pub(in super::super) fn gains(group: &Group) -> Result<Vec<Panel>, ReportError> {
    let names: Vec<&str> = group.variants.iter().map(|variant| variant.name).collect();
    let rows: Vec<Vec<(&str, Cell)>> = group
        .modalities
        .iter()
        .map(|modality| {
            let variants = group.variants.iter().filter(|variant| variant.name != order::DENSE);
            variants.map(|variant| (variant.name, variant.cell(&modality.name))).collect()
        })
        .collect();
    let reach = |cell: &Cell| {
        let spread = cell.gain.mean().zip(cell.gain.spread());
        cell.gain
            .values
            .iter()
            .copied()
            .chain(spread.into_iter().flat_map(|(mean, sd)| [mean - sd, mean + sd]))
            .collect::<Vec<_>>()
    };
    let all: Vec<f64> = rows.iter().flatten().flat_map(|(_, cell)| reach(cell)).map(|gain| 100.0 * gain).collect();
    let (low, high) = all.iter().fold((0.0_f64, 0.0_f64), |(low, high), &gain| (low.min(gain), high.max(gain)));
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let spacing = round_spacing(((high - low) / 5.0).max(0.02));
    let range = ((low / spacing).floor() * spacing, (high / spacing).ceil() * spacing);

    let longest = names.iter().map(|name| text_width(name, 12.5)).fold(0.0, f64::max);
    let axis = Scale::new(Kind::Linear, range, (30.0 + longest, WIDTH - 76.0));
    let mut panels = Vec::new();
    for (modality, rows) in group.modalities.iter().zip(&rows) {
        if rows.iter().all(|(_, cell)| cell.gain.values.is_empty()) {
            continue;
        }
        let file = panel_file(group, "gain", &modality.name);
        let height = TOP + ROW * rows.len() as f64 + BOTTOM;
        let svg = draw(&file, (WIDTH, height), |canvas| {
            heading(canvas, &capitalised(&modality.name), "right of the line: final loss below dense")?;
            axis_lines(canvas, &axis, height)?;
            for (index, (name, cell)) in rows.iter().enumerate() {
                bar(canvas, &axis, TOP + ROW * (index as f64 + 0.5), name, cell, &names)?;
            }
            let zero = axis.at(0.0);
            canvas.line(&[(zero, TOP - 4.0), (zero, height - BOTTOM)], palette::variant(order::DENSE, &names), 1.6, 1.0)
        })?;
        let alt = format!("Gain in final {} loss over dense, per variant.", modality.name);
        panels.push(Panel { file, alt, svg });
    }
    Ok(panels)
}

fn axis_lines(canvas: &Canvas, axis: &Scale, height: f64) -> Drawn {
    let bottom = height - BOTTOM;
    let ticks = axis.ticks(5);
    for (value, text) in &ticks {
        let x = axis.at(*value);
        canvas.line(&[(x, TOP - 4.0), (x, bottom)], palette::GRID, 1.0, 1.0)?;
        let set = Type::new(11.5).colour(palette::MUTED).align(HPos::Center);
        canvas.text((x, bottom + 14.0), text, set)?;
    }
    let middle =
        ticks.first().zip(ticks.last()).map_or(0.0, |(first, last)| 0.5 * (axis.at(first.0) + axis.at(last.0)));
    let set = Type::new(11.5).colour(palette::MUTED).align(HPos::Center);
    canvas.text((middle, bottom + 33.0), "gain over dense in final loss (%)", set)
}

fn bar(canvas: &Canvas, axis: &Scale, y: f64, name: &str, cell: &Cell, names: &[&str]) -> Drawn {
    let weight = if name == order::MOM { Weight::Bold } else { Weight::Normal };
    let label = Type::new(12.5).weight(weight);
    canvas.text((axis.at_start() - 10.0, y), name, label.align(HPos::Right))?;
    let value_x = WIDTH - 14.0;
    let Some(mean) = cell.gain.mean() else {
        let absent = if cell.n_diverged > 0 { "diverged" } else { "no value" };
        return canvas.text((value_x, y), absent, label.colour(palette::MUTED).align(HPos::Right));
    };
    let place = |gain: f64| axis.at(100.0 * gain);
    let (from, to) = (place(mean.min(0.0)), place(mean.max(0.0)));
    let opacity = if name == order::MOM { 1.0 } else { 0.75 };
    canvas.rectangle((from, y - 8.0), (to, y + 8.0), palette::variant(name, names), opacity)?;
    if let Some(spread) = cell.gain.spread() {
        let (low, high) = (place(mean - spread), place(mean + spread));
        canvas.line(&[(low, y), (high, y)], palette::INK, 1.3, 1.0)?;
        for end in [low, high] {
            canvas.line(&[(end, y - 4.0), (end, y + 4.0)], palette::INK, 1.3, 1.0)?;
        }
        for &gain in &cell.gain.values {
            canvas.disc((place(gain), y), 3.6, palette::PAGE)?;
            canvas.disc((place(gain), y), 2.6, palette::INK)?;
        }
    }
    canvas.text((value_x, y), &Quantity::Gain.show(mean), label.align(HPos::Right))
}
