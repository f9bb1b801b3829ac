//! The lines of variants in one panel: a thin one per seed and a thick one for their mean, with the variant's name at its end.

use super::super::group::Paired;
use super::super::order;
use super::canvas::{Canvas, Drawn, Weight};
use super::frame::{Frame, Label};
use super::palette;

/// A variant's lines, one per seed, and their mean at the steps that every seed has.
pub(super) struct Lines {
    pub(super) seeds: Vec<Vec<(f64, f64)>>,
    mean: Vec<(f64, f64)>,
}

impl Lines {
    /// The line of each run that has one.
    pub(super) fn of(runs: &[Paired], line: impl Fn(&Paired) -> Vec<(f64, f64)>) -> Self {
        let seeds: Vec<Vec<(f64, f64)>> = runs.iter().map(line).filter(|line| !line.is_empty()).collect();
        let mean = match seeds.split_first() {
            None => Vec::new(),
            Some((first, others)) => first
                .iter()
                .filter_map(|&(step, value)| {
                    let at_step =
                        |line: &Vec<(f64, f64)>| line.iter().find(|point| point.0 == step).map(|point| point.1);
                    let sum = others.iter().try_fold(value, |sum, line| Some(sum + at_step(line)?))?;
                    Some((step, sum / seeds.len() as f64))
                })
                .collect(),
        };
        Self { seeds, mean }
    }

    /// Every point of every seed.
    pub(super) fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.seeds.iter().flatten().copied()
    }
}

/// What stands on the points of a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    None,
    Discs,
}

/// Draws the lines of variants by their names, in the colours that these have among `all`.
pub(super) fn draw_lines(canvas: &Canvas, frame: &Frame, lines: &[(&str, Lines)], all: &[&str], marks: Marks) -> Drawn {
    let mut labels = Vec::new();
    // Backwards, so that dense and mom lie on top.
    for &(name, ref lines) in lines.iter().rev() {
        let colour = palette::variant(name, all);
        if lines.seeds.len() > 1 {
            for seed in &lines.seeds {
                frame.line(canvas, seed, colour, 0.8, 0.4)?;
            }
        }
        let (width, weight) = match name {
            order::MOM => (2.8, Weight::Bold),
            order::DENSE => (2.4, Weight::Bold),
            _ => (1.7, Weight::Normal),
        };
        frame.line(canvas, &lines.mean, colour, width, 1.0)?;
        if marks == Marks::Discs {
            for &point in &lines.mean {
                canvas.disc(frame.at(point), 3.0, colour)?;
            }
        }
        if let Some(&end) = lines.mean.last() {
            labels.push(Label { name, end: frame.at(end), colour, weight });
        }
    }
    frame.labels(canvas, &labels)
}

#[cfg(test)]
mod tests {
    use super::super::super::RunResult;
    use super::*;

    #[test]
    fn mean_over_shared_steps_only() {
        let run = RunResult {
            setting: String::new(),
            variant: String::new(),
            seed: 0,
            scale: String::new(),
            modalities: Vec::new(),
            curve: Vec::new(),
            horizons: Vec::new(),
            downstream: None,
            steps: 0,
            tokens: 0,
            active_flops_per_token: 0.0,
            wall_secs: 0.0,
            peak_memory_bytes: 0,
            total_parameters: 0,
            active_parameters: 0,
        };
        let other = RunResult { seed: 1, ..run.clone() };
        let pairs = [Paired { run: &run, dense: None }, Paired { run: &other, dense: None }];
        let lines = Lines::of(&pairs, |paired| {
            if paired.run.seed == 0 { vec![(1.0, 2.0), (2.0, 4.0)] } else { vec![(2.0, 6.0), (3.0, 1.0)] }
        });
        assert_eq!(lines.mean, [(2.0, 5.0)]);
        assert_eq!(lines.points().count(), 4);
    }
}
