//! Outlines of every shape, in the sizes and turns that objects have.

use std::sync::OnceLock;

use super::super::super::kinds::Shape;
use super::super::super::outline::signed_distance;
use super::canvas::SIDE;

/// Radii in pixels: from the smallest objects to the largest, each an eighth larger than the one before.
const SMALLEST: f32 = 2.5;
const LARGEST: f32 = 9.4;
const GROWTH: f32 = 1.125;

/// Half pixels along a side.
pub(super) const HALVES: usize = 2 * SIDE;

/// An outline at a place within its pixel.
pub(super) struct Template {
    /// Offsets (row, column) of the pixels that it covers from the pixel that its centre is in, and how much of each.
    pub cover: Vec<(i32, i32, f32)>,
    /// Pixels that it covers.
    pub area: f32,
    /// Pixels from its centre's to the farthest that it covers, down or across.
    pub reach: usize,
}

/// All outlines of one shape.
pub(super) struct Outlines {
    pub shape: Shape,
    /// Radii in pixels, ascending.
    pub radii: Vec<f32>,
    /// Number of turns.
    pub n_turns: usize,
    /// By radius, turn, and the half of its pixel that the centre is in, down and across.
    templates: Vec<Template>,
}

/// Where an outline stands, on a grid of half pixels, and which it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    pub shape: usize,
    pub radius: usize,
    pub turn: usize,
    /// Down and across, in half pixels: between 0 and [`HALVES`].
    pub place: [usize; 2],
}

impl Pose {
    pub fn outlines(&self) -> &'static Outlines {
        &outlines()[self.shape]
    }

    pub fn template(&self) -> &'static Template {
        self.outlines().template(self.radius, self.turn, [self.place[0] % 2, self.place[1] % 2])
    }

    /// Pixels that it covers in the picture, and how much of each.
    pub fn pixels(&self) -> impl Iterator<Item = (usize, f32)> + use<> {
        let [row, column] = self.place.map(|half| (half / 2) as i32);
        self.template().cover.iter().filter_map(move |&(down, across, cover)| {
            let (row, column) = (usize::try_from(row + down).ok()?, usize::try_from(column + across).ok()?);
            (row < SIDE && column < SIDE).then_some((row * SIDE + column, cover))
        })
    }

    pub fn centre(&self) -> [f32; 2] {
        [self.place[1], self.place[0]].map(|half| (half as f32 + 0.5) / HALVES as f32)
    }

    /// As a fraction of the side.
    pub fn radius(&self) -> f32 {
        self.outlines().radii[self.radius] / SIDE as f32
    }
}

impl Outlines {
    fn new(shape: Shape) -> Self {
        // Turns that make another outline, within those that are drawn.
        let turns: &[f32] = match shape {
            Shape::Circle | Shape::Ring | Shape::Diamond => &[0.0],
            Shape::Square | Shape::Cross | Shape::Triangle | Shape::Heart => &[-0.12, 0.0, 0.12],
            Shape::Crescent => &[-0.4, -0.2, 0.0, 0.2, 0.4],
            Shape::Star => &[-0.5, -0.25, 0.0, 0.25, 0.5],
            Shape::Hexagon => &[-0.39, -0.13, 0.13, 0.39],
        };
        let radii: Vec<f32> =
            std::iter::successors(Some(SMALLEST), |r| Some(r * GROWTH)).take_while(|r| *r <= LARGEST).collect();
        let mut templates = Vec::new();
        for &radius in &radii {
            for &turn in turns {
                for half in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                    templates.push(Template::new(shape, radius, turn, half));
                }
            }
        }
        Self { shape, radii, n_turns: turns.len(), templates }
    }

    pub fn template(&self, radius: usize, turn: usize, [down, across]: [usize; 2]) -> &Template {
        &self.templates[(radius * self.n_turns + turn) * 4 + 2 * down + across]
    }
}

impl Template {
    fn new(shape: Shape, radius: f32, turn: f32, half: [usize; 2]) -> Self {
        let (sin, cos) = turn.sin_cos();
        let reach = (1.25 * radius).ceil() as i32 + 1;
        // The centre lies in the middle of its half pixel.
        let [down, across] = half.map(|half| 0.5 * half as f32 + 0.25);
        let mut cover = Vec::new();
        for row in -reach..=reach {
            for column in -reach..=reach {
                let dy = (row as f32 + 0.5 - down) / radius;
                let dx = (column as f32 + 0.5 - across) / radius;
                let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
                let share = (0.5 - signed_distance(shape, u, v) * radius).clamp(0.0, 1.0);
                if share > 0.0 {
                    cover.push((row, column, share));
                }
            }
        }
        let area = cover.iter().map(|(.., share)| share).sum();
        let reach = cover.iter().map(|(row, column, _)| row.abs().max(column.abs())).max().unwrap_or(0) as usize;
        Self { cover, area, reach }
    }
}

/// Of all shapes, in the order of [`Shape::ALL`].
pub(super) fn outlines() -> &'static [Outlines] {
    static ALL: OnceLock<Vec<Outlines>> = OnceLock::new();
    ALL.get_or_init(|| Shape::ALL.into_iter().map(Outlines::new).collect())
}
