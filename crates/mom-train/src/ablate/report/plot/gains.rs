//! Gain in final loss over dense: one panel per modality, a bar per variant, a dot per seed, a whisker for the interval, a
//! band for the null.

use plotters::style::text_anchor::HPos;

use super::super::group::{Cell, Group, Variant, capitalised};
use super::super::{ReportError, numbers::Quantity, order};
use super::canvas::{Canvas, Drawn, Type, Weight, draw, text_width};
use super::frame::{Kind, Scale, heading, round_spacing};
use super::{Panel, palette, panel_file, subtitle};
use crate::ablate::statistics::Interval;

const WIDTH: f64 = 420.0;
const ROW: f64 = 30.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 48.0;

/// An interval is drawn to so many times the largest gain.
const WIDEST: f64 = 2.0;

/// A variant's row.
struct Bar<'a> {
    name: &'a str,
    cell: Cell,
    interval: Option<Interval>,
}

/// The panels of one group, for the modalities where any variant has a gain; all on the same axis.
pub(in super::super) fn gains<'a>(group: &Group<'a>) -> Result<Vec<Panel>, ReportError> {
    let names: Vec<&str> = group.variants.iter().map(|variant| variant.name).collect();
    let rows: Vec<Vec<Bar>> = group
        .targets
        .iter()
        .map(|target| {
            let variants = group.variants.iter().filter(|variant| variant.name != order::DENSE);
            let row = |variant: &Variant<'a>| Bar {
                name: variant.name,
                cell: variant.cell(target.name),
                interval: group.comparison(variant.name, target.name).and_then(|of| of.gain?.interval),
            };
            variants.map(row).collect()
        })
        .collect();
    let values: Vec<f64> = rows.iter().flatten().flat_map(|bar| bar.cell.gain.values.iter().copied()).collect();
    if values.is_empty() {
        return Ok(Vec::new());
    }
    // An interval that stands on little may be much wider than all there is: it then runs out of the frame.
    let largest = values.iter().fold(0.0_f64, |largest, gain| largest.max(gain.abs()));
    let ends = rows.iter().flatten().filter_map(|bar| bar.interval).flat_map(|of| [of.low, of.high]);
    let ends = ends.map(|end| end.clamp(-WIDEST * largest, WIDEST * largest));
    let reach = |(low, high): (f64, f64), gain: f64| (low.min(100.0 * gain), high.max(100.0 * gain));
    let (low, high) = values.iter().copied().chain(ends).fold((0.0, 0.0), reach);
    let spacing = round_spacing(((high - low) / 5.0).max(0.02));
    let range = ((low / spacing).floor() * spacing, (high / spacing).ceil() * spacing);

    let longest = names.iter().map(|name| text_width(name, 12.5)).fold(0.0, f64::max);
    let axis = Scale::new(Kind::Linear, range, (30.0 + longest, WIDTH - 76.0));
    let mut panels = Vec::new();
    for (target, rows) in group.targets.iter().zip(&rows) {
        if rows.iter().all(|bar| bar.cell.gain.values.is_empty()) {
            continue;
        }
        let file = panel_file(group, "gain", target.name);
        let null = rows.iter().find(|bar| bar.name == order::NULL);
        let height = TOP + ROW * rows.len() as f64 + BOTTOM;
        let svg = draw(&file, (WIDTH, height), |canvas| {
            let below = subtitle(group, "right of the line: final loss below dense");
            heading(canvas, &capitalised(target.name), &below)?;
            if let Some(null) = null {
                band(canvas, &axis, height, &null.cell)?;
            }
            axis_lines(canvas, &axis, height)?;
            for (index, row) in rows.iter().enumerate() {
                bar(canvas, &axis, TOP + ROW * (index as f64 + 0.5), row, &names)?;
            }
            let zero = axis.at(0.0);
            canvas.line(&[(zero, TOP - 4.0), (zero, height - BOTTOM)], palette::variant(order::DENSE, &names), 1.6, 1.0)
        })?;
        let alt = format!("Gain in final {} loss over dense, per variant.", target.name);
        panels.push(Panel { file, alt, svg });
    }
    Ok(panels)
}

/// Where the null's differences lie: what chance alone makes.
fn band(canvas: &Canvas, axis: &Scale, height: f64, null: &Cell) -> Drawn {
    let (low, high) =
        null.gain.values.iter().fold((0.0_f64, 0.0_f64), |(low, high), &gain| (low.min(gain), high.max(gain)));
    let (from, to) = (axis.at(100.0 * low), axis.at(100.0 * high));
    canvas.rectangle((from, TOP - 4.0), (to, height - BOTTOM), palette::NULL, 0.25)
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

fn bar(canvas: &Canvas, axis: &Scale, y: f64, bar: &Bar, names: &[&str]) -> Drawn {
    let Bar { name, cell, interval } = bar;
    let name = *name;
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
    if let Some(Interval { low, high }) = *interval {
        let ends = [low, high].map(place);
        let [from, to] = ends.map(|end| axis.inside(end));
        canvas.line(&[(from, y), (to, y)], palette::INK, 1.3, 1.0)?;
        // What runs out of the frame has no end there.
        for end in ends.into_iter().filter(|&end| end == axis.inside(end)) {
            canvas.line(&[(end, y - 4.0), (end, y + 4.0)], palette::INK, 1.3, 1.0)?;
        }
    }
    if cell.gain.values.len() > 1 {
        for &gain in &cell.gain.values {
            canvas.disc((place(gain), y), 3.6, palette::PAGE)?;
            canvas.disc((place(gain), y), 2.6, palette::INK)?;
        }
    }
    canvas.text((value_x, y), &Quantity::Gain.show(mean), label.align(HPos::Right))
}
