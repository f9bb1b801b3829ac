//! k-means: k-means++ seeding (Arthur and Vassilvitskii 2007) and Lloyd's iterations.
//!
//! Distances come from |x - c|^2 = |x|^2 - 2 x.c + |c|^2, with the first term left out where only the nearest centroid
//! matters. Everything is summed in a fixed order (by block, blocks in order), so the result does not depend on the number
//! of threads.

use rayon::prelude::*;

use crate::rng::{Domain, Stream};

/// Points that one task works on.
const BLOCK: usize = 1024;

/// Centroids in a layout for fast assignment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Centroids {
    dim: usize,
    /// (n_centroids, dim)
    rows: Vec<f32>,
    /// (dim, n_centroids): the same, transposed, so that the inner loop runs over centroids.
    columns: Vec<f32>,
    /// |c|^2 / 2, (n_centroids)
    half_norms: Vec<f32>,
}

impl Centroids {
    /// Takes centroids (n_centroids, dim); `rows.len()` must be a multiple of `dim`.
    pub fn new(rows: Vec<f32>, dim: usize) -> Self {
        let n = rows.len() / dim;
        let mut columns = vec![0.0; rows.len()];
        for (centroid, row) in rows.chunks_exact(dim).enumerate() {
            for (d, &value) in row.iter().enumerate() {
                columns[d * n + centroid] = value;
            }
        }
        let half_norms = rows.chunks_exact(dim).map(|row| row.iter().map(|v| v * v).sum::<f32>() * 0.5).collect();
        Self { dim, rows, columns, half_norms }
    }

    pub fn len(&self) -> usize {
        self.half_norms.len()
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All centroids (n_centroids, dim).
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// One centroid (dim), if there is such.
    pub fn row(&self, centroid: u32) -> Option<&[f32]> {
        self.rows.chunks_exact(self.dim).nth(centroid as usize)
    }

    /// Index of the nearest centroid of each point (n_points, dim); the lowest of equals.
    pub fn assign(&self, points: &[f32]) -> Vec<u32> {
        let mut scores = vec![0.0; self.len()];
        points.chunks_exact(self.dim).map(|point| self.nearest(point, &mut scores).0).collect()
    }

    /// The nearest centroid c of x and |c|^2 / 2 - x.c.
    fn nearest(&self, point: &[f32], scores: &mut [f32]) -> (u32, f32) {
        scores.copy_from_slice(&self.half_norms);
        for (&x, column) in point.iter().zip(self.columns.chunks_exact(scores.len())) {
            for (score, &c) in scores.iter_mut().zip(column) {
                *score -= x * c;
            }
        }
        let mut best = (0, f32::INFINITY);
        for (centroid, &score) in scores.iter().enumerate() {
            if score < best.1 {
                best = (centroid as u32, score);
            }
        }
        best
    }
}

/// Sums of the points of each centroid.
struct Sums {
    totals: Vec<f64>,
    counts: Vec<u32>,
    /// Squared distance and index of the point that lies farthest from its centroid.
    farthest: (f32, usize),
}

/// Fits `n_centroids` centroids to points (n_points, dim), at least one point.
pub(super) fn fit(points: &[f32], dim: usize, n_centroids: usize, seed: u64, n_iterations: usize) -> Centroids {
    let mut centroids = Centroids::new(seed_centroids(points, dim, n_centroids, seed), dim);
    for _ in 0..n_iterations {
        let blocks: Vec<Sums> = points
            .par_chunks(BLOCK * dim)
            .enumerate()
            .map(|(block, points)| block_sums(&centroids, points, block * BLOCK))
            .collect();
        let rows = new_rows(&centroids, points, blocks);
        if rows == centroids.rows {
            break;
        }
        centroids = Centroids::new(rows, dim);
    }
    centroids
}

fn block_sums(centroids: &Centroids, points: &[f32], first: usize) -> Sums {
    let (dim, n) = (centroids.dim, centroids.len());
    let mut sums = Sums { totals: vec![0.0; n * dim], counts: vec![0; n], farthest: (-1.0, first) };
    let mut scores = vec![0.0; n];
    for (index, point) in points.chunks_exact(dim).enumerate() {
        let (centroid, score) = centroids.nearest(point, &mut scores);
        let centroid = centroid as usize;
        sums.counts[centroid] += 1;
        for (total, &x) in sums.totals[centroid * dim..][..dim].iter_mut().zip(point) {
            *total += f64::from(x);
        }
        let distance = point.iter().map(|x| x * x).sum::<f32>() + 2.0 * score;
        if distance > sums.farthest.0 {
            sums.farthest = (distance, first + index);
        }
    }
    sums
}

/// Means; the first empty centroid moves to the farthest point, further ones stay where they are until the next pass.
fn new_rows(centroids: &Centroids, points: &[f32], blocks: Vec<Sums>) -> Vec<f32> {
    let (dim, n) = (centroids.dim, centroids.len());
    let mut sum = Sums { totals: vec![0.0; n * dim], counts: vec![0; n], farthest: (-1.0, 0) };
    for block in blocks {
        sum.totals.iter_mut().zip(block.totals).for_each(|(total, part)| *total += part);
        sum.counts.iter_mut().zip(block.counts).for_each(|(count, part)| *count += part);
        if block.farthest.0 > sum.farthest.0 {
            sum.farthest = block.farthest;
        }
    }
    let mut rows = centroids.rows.clone();
    let mut spare = (sum.farthest.0 > 1e-6).then_some(sum.farthest.1);
    for (centroid, row) in rows.chunks_exact_mut(dim).enumerate() {
        if sum.counts[centroid] > 0 {
            let scale = 1.0 / f64::from(sum.counts[centroid]);
            for (value, total) in row.iter_mut().zip(&sum.totals[centroid * dim..]) {
                *value = (total * scale) as f32;
            }
        } else if let Some(point) = spare.take() {
            row.copy_from_slice(&points[point * dim..][..dim]);
        }
    }
    rows
}

/// k-means++: each further centroid is a point drawn in proportion to its squared distance from those chosen before.
fn seed_centroids(points: &[f32], dim: usize, n_centroids: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, Domain::Codebook, dim as u64, n_centroids as u64);
    let n_points = points.len() / dim;
    let mut rows = Vec::with_capacity(n_centroids * dim);
    let mut distances = vec![f32::INFINITY; n_points];
    let mut chosen = stream.below(n_points);
    for _ in 0..n_centroids {
        let centre = &points[chosen * dim..][..dim];
        rows.extend_from_slice(centre);
        distances.par_chunks_mut(BLOCK).zip(points.par_chunks(BLOCK * dim)).for_each(|(distances, points)| {
            for (nearest, point) in distances.iter_mut().zip(points.chunks_exact(dim)) {
                *nearest = nearest.min(squared_distance(point, centre));
            }
        });
        let total: f64 = distances.iter().map(|&d| f64::from(d)).sum();
        chosen = draw(&distances, stream.unit() * total);
    }
    rows
}

/// The first point whose running sum of distances exceeds `left`.
fn draw(distances: &[f32], mut left: f64) -> usize {
    for (point, &distance) in distances.iter().enumerate() {
        left -= f64::from(distance);
        if left < 0.0 {
            return point;
        }
    }
    // All points are chosen already, or rounding: any point with a distance, else the first.
    distances.iter().rposition(|&distance| distance > 0.0).unwrap_or(0)
}

fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    // Eight partial sums, so that the loop can be vectorised.
    let mut sums = [0.0f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            let d = a[lane] - b[lane];
            sums[lane] += d * d;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three clouds around (0, 0, 0), (10, 0, 0) and (0, 10, 0).
    fn clouds() -> Vec<f32> {
        let mut stream = Stream::new(1, Domain::Codebook, 0, 0);
        (0..3000)
            .flat_map(|i| {
                let mut near = |centre| centre + stream.range(-1.0, 1.0);
                [near(if i % 3 == 1 { 10.0 } else { 0.0 }), near(if i % 3 == 2 { 10.0 } else { 0.0 }), near(0.0)]
            })
            .collect()
    }

    #[test]
    fn clouds_are_found_and_two_fits_agree() {
        let points = clouds();
        let centroids = fit(&points, 3, 3, 5, 20);
        assert_eq!(centroids, fit(&points, 3, 3, 5, 20));
        let codes = centroids.assign(&points);
        for (i, code) in codes.iter().enumerate() {
            assert_eq!(*code, codes[i % 3]);
        }
        let mut distinct = codes[..3].to_vec();
        distinct.sort_unstable();
        assert_eq!(distinct, [0, 1, 2]);
    }

    #[test]
    fn assignment_is_the_nearest_by_plain_distance() {
        let points = clouds();
        let centroids = fit(&points, 3, 40, 9, 5);
        for (point, code) in points.chunks_exact(3).zip(centroids.assign(&points)) {
            let chosen = squared_distance(point, centroids.row(code).unwrap());
            let best = centroids.rows().chunks_exact(3).map(|c| squared_distance(point, c)).fold(f32::MAX, f32::min);
            assert!(chosen <= best + 1e-4, "{chosen} {best}");
        }
    }

    #[test]
    fn fewer_points_than_centroids_is_no_panic() {
        let centroids = fit(&[1.0, 2.0, 1.0, 2.0], 2, 5, 0, 5);
        assert_eq!(centroids.len(), 5);
        assert_eq!(centroids.assign(&[1.0, 2.0]), [0]);
    }
}
