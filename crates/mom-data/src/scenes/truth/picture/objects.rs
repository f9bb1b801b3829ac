//! Objects before a background: outlines that cover what the background does not explain.
//!
//! Every pixel has a weight from -1 (background) to 1 (something else). The outline with the largest sum of the weights that it
//! covers is an object: it has all of it and little else. What it covers counts no more, and the next one is looked for.

use super::canvas::{AREA, Canvas, Rgb, SIDE, squared_distance};
use super::templates::{HALVES, Pose, outlines};

/// Objects that are looked for, at most: one more than scenes have.
const MOST: usize = 5;
/// Distance from the background at which a pixel may be either, at least.
const EITHER: f32 = 0.13;
/// Darkest shadow on the background that is taken for one.
const SHADOW: f32 = 0.3;
/// Least sum of weights of an object, and least share of its outline's area.
const LEAST_SUM: f32 = 6.0;
const LEAST_SHARE: f32 = 0.3;
/// Steps of a search that climbs.
const CLIMB: usize = 24;

/// An object that was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The outline of each shape that covers it best, and its sum of weights.
    pub by_shape: Vec<(Pose, f32)>,
    /// Which of them is best.
    pub best: usize,
}

impl Seen {
    pub fn pose(&self) -> &Pose {
        &self.by_shape[self.best].0
    }
}

/// Objects of a picture, those found first being the plainest.
pub(super) fn find(canvas: &Canvas, background: &[Rgb]) -> Vec<Seen> {
    let weights = weights(canvas, background);
    let mut left = weights.clone();
    let mut seen: Vec<Seen> = Vec::new();
    while seen.len() < MOST {
        let Some(found) = best(&left, coarse(&left)) else { break };
        let (pose, sum) = &found.by_shape[found.best];
        if *sum < LEAST_SUM || *sum < LEAST_SHARE * pose.template().area {
            break;
        }
        explain(&mut left, pose);
        seen.push(found);
    }
    // Each once more, with what the others cover out of the way: objects that overlap.
    for index in 0..seen.len() {
        let mut own = weights.clone();
        for (_, other) in seen.iter().enumerate().filter(|(other, _)| *other != index) {
            for (at, cover) in other.pose().pixels() {
                own[at] *= 1.0 - cover;
            }
        }
        let starts = seen[index].by_shape.iter().map(|(pose, _)| *pose).collect();
        if let Some(again) = best(&own, starts) {
            seen[index] = again;
        }
    }
    seen
}

/// Pixels that objects cover, with a rim.
pub(super) fn covered(seen: &[Seen]) -> Vec<bool> {
    let mut covered = vec![false; AREA];
    for (at, _) in seen.iter().flat_map(|seen| rim(seen.pose()).pixels()) {
        covered[at] = true;
    }
    covered
}

/// How little each pixel is the background's, lit or in shadow.
fn weights(canvas: &Canvas, background: &[Rgb]) -> Vec<f32> {
    let distance = |(pixel, behind): (&Rgb, &Rgb)| {
        let norm: f32 = behind.iter().map(|b| b * b).sum();
        let less: f32 = behind.iter().zip(pixel).map(|(b, p)| (b - p) * b).sum();
        let shadow = (less / norm.max(1e-6)).clamp(0.0, SHADOW);
        squared_distance(*pixel, behind.map(|b| b * (1.0 - shadow))).sqrt()
    };
    let distances: Vec<f32> = canvas.pixels.iter().zip(background).map(distance).collect();
    // Most of a picture is background: where that is grainy, more is needed to be something else.
    let mut sorted = distances.clone();
    sorted.sort_by(f32::total_cmp);
    let either = EITHER.max(2.5 * sorted[AREA * 2 / 5]).min(0.3);
    distances.iter().map(|distance| (distance / either - 1.0).clamp(-1.0, 1.0)).collect()
}

/// Sum of the weights under an outline.
fn sum(weights: &[f32], pose: &Pose) -> f32 {
    let [row, column] = pose.place.map(|half| (half / 2) as i32);
    let mut sum = 0.0;
    for &(down, across, cover) in &pose.template().cover {
        let (row, column) = (row + down, column + across);
        if (0..SIDE as i32).contains(&row) && (0..SIDE as i32).contains(&column) {
            sum += cover * weights[row as usize * SIDE + column as usize];
        }
    }
    sum
}

/// The best outline of each shape on a coarse grid of places, sizes and turns.
fn coarse(weights: &[f32]) -> Vec<Pose> {
    let near = |row: usize, column: usize| {
        let rows = row.saturating_sub(2)..(row + 3).min(SIDE);
        rows.into_iter()
            .any(|r| (column.saturating_sub(2)..(column + 3).min(SIDE)).any(|c| weights[r * SIDE + c] > 0.0))
    };
    let places: Vec<[usize; 2]> = (1..SIDE)
        .flat_map(|row| (1..SIDE).map(move |column| (row, column)))
        .filter(|&(row, column)| (row + column) % 2 == 0 && near(row, column))
        .map(|(row, column)| [2 * row, 2 * column])
        .collect();
    let positive = Positive::of(weights);
    let mut starts = Vec::new();
    for (shape, of) in outlines().iter().enumerate() {
        let mut best: Option<(Pose, f32)> = None;
        // From the largest on: what covers less, or has less to cover, than the best has needs no look.
        for radius in (0..of.radii.len()).rev().step_by(2) {
            for turn in (0..of.n_turns).filter(|turn| of.n_turns < 4 || turn % 2 == 0) {
                let template = of.template(radius, turn, [0, 0]);
                for &place in &places {
                    let most = template.area.min(positive.around(place, template.reach));
                    if best.is_some_and(|(_, sum)| most <= sum) {
                        continue;
                    }
                    let pose = Pose { shape, radius, turn, place };
                    let sum = sum(weights, &pose);
                    if best.is_none_or(|(_, most)| sum > most) {
                        best = Some((pose, sum));
                    }
                }
            }
        }
        starts.extend(best.map(|(pose, _)| pose));
    }
    starts
}

/// Sums of the positive weights above and left of each corner of the pixels.
struct Positive(Vec<f32>);

impl Positive {
    fn of(weights: &[f32]) -> Self {
        const WIDTH: usize = SIDE + 1;
        let mut sums = vec![0.0; WIDTH * WIDTH];
        for row in 0..SIDE {
            let mut of_row = 0.0;
            for column in 0..SIDE {
                of_row += weights[row * SIDE + column].max(0.0);
                sums[(row + 1) * WIDTH + column + 1] = sums[row * WIDTH + column + 1] + of_row;
            }
        }
        Self(sums)
    }

    /// Sum over the square of pixels within a reach of a place.
    fn around(&self, place: [usize; 2], reach: usize) -> f32 {
        let [rows, columns] = place.map(|half| (half / 2).saturating_sub(reach)..(half / 2 + reach + 1).min(SIDE));
        let at = |row: usize, column: usize| self.0[row * (SIDE + 1) + column];
        at(rows.end, columns.end) - at(rows.start, columns.end) - at(rows.end, columns.start)
            + at(rows.start, columns.start)
    }
}

/// Climbs from a start of each shape; `None` without a start.
fn best(weights: &[f32], starts: Vec<Pose>) -> Option<Seen> {
    let by_shape: Vec<(Pose, f32)> = starts.into_iter().map(|start| climb(weights, start)).collect();
    let best = (0..by_shape.len()).max_by(|&a, &b| by_shape[a].1.total_cmp(&by_shape[b].1))?;
    Some(Seen { by_shape, best })
}

fn climb(weights: &[f32], start: Pose) -> (Pose, f32) {
    let mut best = (start, sum(weights, &start));
    for _ in 0..CLIMB {
        let pose = best.0;
        let of = pose.outlines();
        let mut next = best;
        let mut try_out = |pose: Pose| {
            let sum = sum(weights, &pose);
            if sum > next.1 {
                next = (pose, sum);
            }
        };
        for step in
            [[0, 1], [1, 0], [0, -1], [-1, 0], [1, 1], [1, -1], [-1, 1], [-1, -1], [0, 2], [2, 0], [0, -2], [-2, 0]]
        {
            let moved = |at: usize, by: isize| (at as isize + by).clamp(0, HALVES as isize - 1) as usize;
            let place = [moved(pose.place[0], step[0]), moved(pose.place[1], step[1])];
            try_out(Pose { place, ..pose });
            if pose.radius + 1 < of.radii.len() {
                try_out(Pose { place, radius: pose.radius + 1, ..pose });
            }
            if pose.radius > 0 {
                try_out(Pose { place, radius: pose.radius - 1, ..pose });
            }
        }
        for radius in [pose.radius.saturating_sub(1), (pose.radius + 1).min(of.radii.len() - 1)] {
            try_out(Pose { radius, ..pose });
        }
        for turn in 0..of.n_turns {
            try_out(Pose { turn, ..pose });
        }
        if next.1 <= best.1 {
            break;
        }
        best = next;
    }
    best
}

/// Takes what an object covers out of the weights, and the rim of it that is neither.
fn explain(weights: &mut [f32], pose: &Pose) {
    for (at, cover) in rim(pose).pixels() {
        weights[at] = weights[at].min(weights[at] * (1.0 - cover));
    }
    for (at, cover) in pose.pixels() {
        weights[at] *= 1.0 - cover;
    }
}

/// The same outline, a size larger.
fn rim(pose: &Pose) -> Pose {
    Pose { radius: (pose.radius + 1).min(pose.outlines().radii.len() - 1), ..*pose }
}
