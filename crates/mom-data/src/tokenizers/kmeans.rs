//! k-means: k-means++ seeding (Arthur and Vassilvitskii 2007) and Lloyd's iterations.
//!
//! Distances come from |x - c|^2 = |x|^2 - 2 x.c + |c|^2, with the first term left out where only the nearest centroid
//! matters. Everything is summed in a fixed order, so the result does not depend on the number of threads.

use rayon::prelude::*;

use crate::rng::{Domain, Stream};

/// Points that one task works on.
const BLOCK: usize = 256;
/// Centroids up to which they are seeded by k-means++, whose time is that of an iteration for each centroid.
const MANY: usize = 1024;

/// What [`fit`] gives.
pub(super) struct Fitted {
    pub centroids: Centroids,
    /// Centroids that no point is nearest to.
    pub n_empty: usize,
}

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
        let mut nearest = Vec::with_capacity(points.len() / self.dim);
        let mut scores = Vec::new();
        for points in points.chunks(BLOCK * self.dim) {
            self.nearest(points, &mut scores, |centroid, _| nearest.push(centroid));
        }
        nearest
    }

    /// For each of some points (n_points, dim) the nearest centroid c of x, and |c|^2 / 2 - x.c.
    fn nearest(&self, points: &[f32], scores: &mut Vec<f32>, mut found: impl FnMut(u32, f32)) {
        let (n_points, n, dim) = (points.len() / self.dim, self.len(), self.dim);
        scores.clear();
        (0..n_points).for_each(|_| scores.extend_from_slice(&self.half_norms));
        // SAFETY: scores holds (n_points, n), points (n_points, dim) and columns (dim, n) values, all row-major as the strides
        // say: the first was just filled, the second is what n_points was computed from, the third is made so in `new`.
        unsafe {
            gemm::gemm(
                n_points,
                n,
                dim,
                scores.as_mut_ptr(),
                1,
                n as isize,
                true,
                points.as_ptr(),
                1,
                dim as isize,
                self.columns.as_ptr(),
                1,
                n as isize,
                1.0,
                -1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        for scores in scores.chunks_exact(n) {
            let mut best = (0, f32::INFINITY);
            for (centroid, &score) in scores.iter().enumerate() {
                if score < best.1 {
                    best = (centroid as u32, score);
                }
            }
            found(best.0, best.1);
        }
    }
}

/// Fits `n_centroids` centroids to points (n_points, dim), at least one point. `progress` is told the iterations done.
pub(super) fn fit(
    points: &[f32],
    dim: usize,
    n_centroids: usize,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Fitted {
    let n_iterations = if n_centroids <= MANY { 15 } else { 6 };
    let seeds = if n_centroids <= MANY {
        seed_centroids(points, dim, n_centroids, seed)
    } else {
        random_centroids(points, dim, n_centroids, seed)
    };
    let mut centroids = Centroids::new(seeds, dim);
    let mut n_empty = 0;
    for iteration in 0..n_iterations {
        progress(iteration, n_iterations);
        let nearest: Vec<(u32, f32)> = points
            .par_chunks(BLOCK * dim)
            .flat_map_iter(|points| {
                let mut nearest = Vec::with_capacity(BLOCK);
                let mut squares = points.chunks_exact(dim).map(|point| point.iter().map(|x| x * x).sum::<f32>());
                centroids.nearest(points, &mut Vec::new(), |centroid, score| {
                    nearest.push((centroid, squares.next().unwrap_or(0.0) + 2.0 * score));
                });
                nearest
            })
            .collect();
        let rows;
        (rows, n_empty) = new_rows(&centroids, points, &nearest);
        if rows == centroids.rows {
            break;
        }
        centroids = Centroids::new(rows, dim);
    }
    Fitted { centroids, n_empty }
}

/// Means of the points of each centroid, each summed in the order of its points, and how many have none: the first of these
/// moves to the point that lies farthest from its centroid, further ones stay where they are until the next pass.
fn new_rows(centroids: &Centroids, points: &[f32], nearest: &[(u32, f32)]) -> (Vec<f32>, usize) {
    let (dim, n) = (centroids.dim, centroids.len());
    let mut starts = vec![0usize; n + 1];
    nearest.iter().for_each(|&(centroid, _)| starts[centroid as usize + 1] += 1);
    (0..n).for_each(|centroid| starts[centroid + 1] += starts[centroid]);
    let mut places = starts.clone();
    let mut sorted = vec![0u32; nearest.len()];
    let mut farthest = (-1.0, 0);
    for (point, &(centroid, distance)) in nearest.iter().enumerate() {
        let place = &mut places[centroid as usize];
        sorted[*place] = point as u32;
        *place += 1;
        if distance > farthest.0 {
            farthest = (distance, point);
        }
    }
    let mut rows = centroids.rows.clone();
    rows.par_chunks_exact_mut(dim).enumerate().for_each(|(centroid, row)| {
        let own = &sorted[starts[centroid]..starts[centroid + 1]];
        if own.is_empty() {
            return;
        }
        let mut totals = vec![0.0f64; dim];
        for &point in own {
            let point = &points[point as usize * dim..][..dim];
            totals.iter_mut().zip(point).for_each(|(total, &x)| *total += f64::from(x));
        }
        let scale = 1.0 / own.len() as f64;
        row.iter_mut().zip(totals).for_each(|(value, total)| *value = (total * scale) as f32);
    });
    let empty: Vec<usize> = (0..n).filter(|&centroid| starts[centroid] == starts[centroid + 1]).collect();
    if let Some(&centroid) = empty.first()
        && farthest.0 > 1e-6
    {
        rows[centroid * dim..][..dim].copy_from_slice(&points[farthest.1 * dim..][..dim]);
    }
    (rows, empty.len())
}

/// Points at random, different ones as long as there are enough: where k-means++ would take hours.
fn random_centroids(points: &[f32], dim: usize, n_centroids: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, Domain::Codebook, dim as u64, n_centroids as u64);
    let mut order: Vec<u32> = (0..(points.len() / dim) as u32).collect();
    stream.shuffle(&mut order);
    let chosen = order.iter().cycle().take(n_centroids);
    chosen.flat_map(|&point| &points[point as usize * dim..][..dim]).copied().collect()
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
        distances.par_chunks_mut(4 * BLOCK).zip(points.par_chunks(4 * BLOCK * dim)).for_each(|(distances, points)| {
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
        let centroids = fit(&points, 3, 3, 5, &mut |_, _| {}).centroids;
        assert_eq!(centroids, fit(&points, 3, 3, 5, &mut |_, _| {}).centroids);
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
        let centroids = fit(&points, 3, 40, 9, &mut |_, _| {}).centroids;
        for (point, code) in points.chunks_exact(3).zip(centroids.assign(&points)) {
            let chosen = squared_distance(point, centroids.row(code).unwrap());
            let best = centroids.rows().chunks_exact(3).map(|c| squared_distance(point, c)).fold(f32::MAX, f32::min);
            assert!(chosen <= best + 1e-4, "{chosen} {best}");
        }
    }

    #[test]
    fn fewer_points_than_centroids_is_no_panic() {
        let centroids = fit(&[1.0, 2.0, 1.0, 2.0], 2, 5, 0, &mut |_, _| {}).centroids;
        assert_eq!(centroids.len(), 5);
        assert_eq!(centroids.assign(&[1.0, 2.0]), [0]);
    }
}
