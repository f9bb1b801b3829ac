//! Axes: scales, ticks, the frame of a panel, and labels that stand beside the ends of lines.

use plotters::style::text_anchor::HPos;

use super::canvas::{Canvas, Drawn, Type, Weight, text_width};
use super::palette::{Colour, GRID, INK, MUTED};

const TICK_SIZE: f64 = 11.5;
const LABEL_GAP: f64 = 14.5;
const LABEL_SIZE: f64 = 12.0;

/// Maps values to places along one axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    kind: Kind,
    start: f64,
    end: f64,
}

/// Linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    Log,
}

impl Scale {
    /// A scale that puts the value `from` at `start` and `to` at `end`. An empty range is widened.
    pub(super) fn new(kind: Kind, (from, to): (f64, f64), (start, end): (f64, f64)) -> Self {
        let (from, to) = if to > from {
            (from, to)
        } else {
            let margin = if from == 0.0 { 1.0 } else { 0.05 * from.abs() };
            (from - margin, from + margin)
        };
        Self { from, to, kind, start, end }
    }

    /// Where `value` is.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = match self.kind {
            Kind::Linear => (value - self.from) / (self.to - self.from),
            Kind::Log => (value / self.from).ln() / (self.to / self.from).ln(),
        };
        self.start + share * (self.end - self.start)
    }

    /// The nearest place that is on the axis.
    pub(super) fn inside(&self, place: f64) -> f64 {
        place.clamp(self.start.min(self.end), self.start.max(self.end))
    }

    /// Where the scale begins.
    pub(super) fn at_start(&self) -> f64 {
        self.start
    }

    /// About `count` round values within the scale, with their texts.
    pub(super) fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let spacing = round_spacing((self.to - self.from) / count as f64);
        let first = (self.from / spacing - 1e-9).ceil() as i64;
        let last = (self.to / spacing + 1e-9).floor() as i64;
        (first..=last).map(|index| index as f64 * spacing).map(|value| (value, tick_text(value, spacing))).collect()
    }
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
pub(super) fn round_spacing(at_least: f64) -> f64 {
    let power = 10f64.powf(at_least.log10().floor());
    [1.0, 2.0, 2.5, 5.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|&spacing| spacing >= at_least * 0.999)
        .unwrap_or(10.0 * power)
}

fn tick_text(value: f64, spacing: f64) -> String {
    if spacing >= 1000.0 && value != 0.0 {
        return format!("{}k", value / 1000.0).replace('-', "−");
    }
    let mut decimals = 0;
    while decimals < 9 && (spacing * 10f64.powi(decimals) - (spacing * 10f64.powi(decimals)).round()).abs() > 1e-6 {
        decimals += 1;
    }
    // Adding zero turns -0 into 0.
    format!("{:.*}", decimals as usize, value + 0.0).replace('-', "−")
}

/// The rectangle that the data is drawn in.
pub(super) struct Frame {
    pub(super) x: Scale,
    pub(super) y: Scale,
}

/// Texts around a frame.
pub(super) struct Titles<'a> {
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

impl Frame {
    /// Draws titles, grid and tick labels.
    pub(super) fn draw(&self, canvas: &Canvas, titles: &Titles) -> Drawn {
        let (left, right, top, bottom) = (self.x.start, self.x.end, self.y.end, self.y.start);
        heading(canvas, titles.title, titles.subtitle)?;
        for (value, text) in self.y.ticks(5) {
            let y = self.y.at(value);
            canvas.line(&[(left, y), (right, y)], GRID, 1.0, 1.0)?;
            canvas.text((left - 8.0, y), &text, Type::new(TICK_SIZE).colour(MUTED).align(HPos::Right))?;
        }
        for (value, text) in self.x.ticks(5) {
            let x = self.x.at(value);
            canvas.line(&[(x, bottom), (x, bottom + 4.0)], MUTED, 1.0, 1.0)?;
            canvas.text((x, bottom + 15.0), &text, Type::new(TICK_SIZE).colour(MUTED).align(HPos::Center))?;
        }
        canvas.line(&[(left, bottom), (right, bottom)], MUTED, 1.0, 1.0)?;
        let title = Type::new(TICK_SIZE).colour(MUTED).align(HPos::Center);
        canvas.text((0.5 * (left + right), bottom + 34.0), titles.x, title)?;
        canvas.text((14.0, 0.5 * (top + bottom)), titles.y, title.upwards())
    }

    /// The place of a point.
    pub(super) fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.at(x), self.y.at(y))
    }

    /// Draws a line through values, cut where it leaves the frame above or below.
    pub(super) fn line(
        &self,
        canvas: &Canvas,
        values: &[(f64, f64)],
        colour: Colour,
        width: f64,
        opacity: f64,
    ) -> Drawn {
        let places: Vec<(f64, f64)> = values.iter().map(|&value| self.at(value)).collect();
        for part in cut(&places, self.y.end, self.y.start) {
            canvas.line(&part, colour, width, opacity)?;
        }
        Ok(())
    }

    /// Draws names beside the right edge, each at the height of its line's end, moved apart where they would touch.
    pub(super) fn labels(&self, canvas: &Canvas, labels: &[Label]) -> Drawn {
        let ends: Vec<f64> = labels.iter().map(|label| label.end.1.clamp(self.y.end, self.y.start)).collect();
        let places = spread_out(&ends, LABEL_GAP, (self.y.end - 4.0, self.y.start + 4.0));
        for ((label, end), place) in labels.iter().zip(ends).zip(places) {
            let x = self.x.end;
            let leader = [(label.end.0, end), (x + 5.0, end), (x + 17.0, place), (x + 21.0, place)];
            if x - label.end.0 > LABEL_GAP {
                // The line stopped early: a mark shows where, and a faint leader does not pass for the line.
                canvas.disc((label.end.0, end), 3.0, label.colour)?;
                canvas.line(&leader, label.colour, 0.7, 0.35)?;
            } else {
                canvas.line(&leader, label.colour, 1.0, 0.75)?;
            }
            canvas.text((x + 26.0, place), label.name, Type::new(LABEL_SIZE).colour(INK).weight(label.weight))?;
        }
        Ok(())
    }
}

/// Where the x axis lies in a panel of this width, if these names are to stand beside it.
pub(super) fn beside_labels<'a>(width: f64, names: impl Iterator<Item = &'a str>) -> (f64, f64) {
    let longest = names.map(|name| text_width(name, LABEL_SIZE)).fold(0.0, f64::max);
    (62.0, width - 38.0 - longest)
}

/// A name at the end of a line.
pub(super) struct Label<'a> {
    pub(super) name: &'a str,
    pub(super) end: (f64, f64),
    pub(super) colour: Colour,
    pub(super) weight: Weight,
}

/// The title of a panel and what it shows, at the upper left.
pub(super) fn heading(canvas: &Canvas, title: &str, subtitle: &str) -> Drawn {
    canvas.text((14.0, 18.0), title, Type::new(14.5).weight(Weight::Bold))?;
    canvas.text((14.0, 37.0), subtitle, Type::new(12.0).colour(MUTED))
}

/// The parts of a line between `top` and `bottom`, ended on the edges where it crosses them.
fn cut(places: &[(f64, f64)], top: f64, bottom: f64) -> Vec<Vec<(f64, f64)>> {
    let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in places.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        let rise = to.1 - from.1;
        if rise == 0.0 {
            if from.1 < top || from.1 > bottom {
                continue;
            }
        } else {
            let (a, b) = ((top - from.1) / rise, (bottom - from.1) / rise);
            enter = enter.max(a.min(b));
            leave = leave.min(a.max(b));
        }
        if enter >= leave {
            continue;
        }
        let between = |share: f64| (from.0 + share * (to.0 - from.0), from.1 + share * rise);
        let (start, end) = (between(enter), between(leave));
        match parts.last_mut().filter(|part| part.last() == Some(&start)) {
            Some(part) => part.push(end),
            None => parts.push(vec![start, end]),
        }
    }
    parts
}

/// Places at least `gap` apart, in the order of `wanted`, as near to it as that allows, within `(top, bottom)`.
///
/// Neighbours that would touch form a block around the mean of what they want; blocks that touch merge.
fn spread_out(wanted: &[f64], gap: f64, (top, bottom): (f64, f64)) -> Vec<f64> {
    struct Block {
        start: f64,
        members: Vec<usize>,
    }
    let mut by_height: Vec<usize> = (0..wanted.len()).collect();
    by_height.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    // More labels than fit stand closer.
    let gap = gap.min((bottom - top) / wanted.len().max(2).saturating_sub(1) as f64);
    let start = |members: &[usize]| {
        let shifts = members.iter().enumerate().map(|(index, &member)| wanted[member] - index as f64 * gap);
        let lowest = bottom - (members.len() - 1) as f64 * gap;
        (shifts.sum::<f64>() / members.len() as f64).min(lowest).max(top)
    };
    let mut blocks: Vec<Block> = Vec::new();
    for member in by_height {
        let mut block = Block { start: start(&[member]), members: vec![member] };
        while let Some(above) = blocks.pop_if(|above| above.start + above.members.len() as f64 * gap > block.start) {
            block.members = [above.members, block.members].concat();
            block.start = start(&block.members);
        }
        blocks.push(block);
    }
    let mut places = vec![0.0; wanted.len()];
    for block in blocks {
        for (index, member) in block.members.into_iter().enumerate() {
            places[member] = block.start + index as f64 * gap;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::new(Kind::Linear, (0.93, 2.1), (0.0, 100.0));
        let ticks: Vec<String> = scale.ticks(5).into_iter().map(|(_, text)| text).collect();
        assert_eq!(ticks, ["1.00", "1.25", "1.50", "1.75", "2.00"]);
        let scale = Scale::new(Kind::Linear, (0.0, 800.0), (0.0, 100.0));
        let ticks: Vec<String> = scale.ticks(5).into_iter().map(|(_, text)| text).collect();
        assert_eq!(ticks, ["0", "200", "400", "600", "800"]);
        assert_eq!(tick_text(250_000.0, 50_000.0), "250k");
        assert_eq!(tick_text(-2.5, 2.5), "−2.5");
    }

    #[test]
    fn scales_map_their_ends() {
        let scale = Scale::new(Kind::Log, (1.0, 100.0), (50.0, 0.0));
        assert!((scale.at(10.0) - 25.0).abs() < 1e-12);
        let flat = Scale::new(Kind::Linear, (3.0, 3.0), (0.0, 10.0));
        assert!((flat.at(3.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn labels_keep_apart_and_inside() {
        let places = spread_out(&[50.0, 51.0, 10.0, 100.0], 10.0, (0.0, 100.0));
        assert_eq!(places, [45.5, 55.5, 10.0, 100.0]);
        let crowded = spread_out(&[98.0; 5], 10.0, (0.0, 100.0));
        assert_eq!(crowded, [60.0, 70.0, 80.0, 90.0, 100.0]);
        let many = spread_out(&[5.0; 21], 10.0, (0.0, 100.0));
        assert!((many[20] - 100.0).abs() < 1e-9 && many[0] == 0.0);
    }

    #[test]
    fn lines_are_cut_at_the_frame() {
        let parts = cut(&[(0.0, -10.0), (2.0, 10.0), (3.0, 20.0), (4.0, 40.0)], 0.0, 30.0);
        assert_eq!(parts, [vec![(1.0, 0.0), (2.0, 10.0), (3.0, 20.0), (3.5, 30.0)]]);
        assert!(cut(&[(0.0, -1.0), (1.0, -1.0)], 0.0, 30.0).is_empty());
    }
}
