//! The plots: validation-loss curves, matching steps and gains. One SVG file per panel, so that a page can set panels
//! side by side on a wide screen and below each other on a narrow one without shrinking their text.

mod canvas;
mod curves;
mod frame;
mod gains;
mod horizons;
mod matching;
mod palette;
mod rates;

pub(super) use curves::curves;
pub(super) use gains::gains;
pub(super) use horizons::horizons;
pub(super) use matching::matching;
pub(super) use palette::dark_colours;
pub(super) use rates::rates;

use super::group::{Group, Paired, file_name};

/// One drawn panel.
pub(super) struct Panel {
    /// File name, ending in `.svg`.
    pub(super) file: String,
    /// What the panel shows, for those who cannot see it.
    pub(super) alt: String,
    /// The SVG document.
    pub(super) svg: String,
}

/// The file name of a panel.
fn panel_file(group: &Group, kind: &str, modality: &str) -> String {
    format!("{}-{kind}-{}.svg", group.stem, file_name(modality))
}

/// What stands below a title; what stands on one seed says so.
fn subtitle(group: &Group, text: &str) -> String {
    if group.is_one_seed() { format!("{text}; one seed") } else { text.to_owned() }
}

/// A variant's lines, one per seed, and their mean at the steps that every seed has.
struct Lines {
    seeds: Vec<Vec<(f64, f64)>>,
    mean: Vec<(f64, f64)>,
}

impl Lines {
    fn of(runs: &[Paired], line: impl Fn(&Paired) -> Vec<(f64, f64)>) -> Self {
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
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.seeds.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::RunResult;
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
