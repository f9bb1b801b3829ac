//! What words mean: the outline of a kind of thing, the pattern of a surface, the landscape of a place, the pose of a verb, the
//! trail of a manner, the mark of a person. Each is a pure function of the word's rank, the same in every document: it can be
//! learned, word by word.

use std::f32::consts::TAU;

use super::WORLD;
use super::english::COLOURS;
use crate::rng::{Domain, Stream};

type Rgb = [f32; 3];

/// Keeps the streams of meanings apart, and from those of documents.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Outline = 16,
    Pattern = 17,
    Landscape = 18,
    Pose = 19,
    Trail = 20,
    Mark = 21,
    Speaker = 22,
    Dialect = 23,
    Room = 24,
}

/// The stream of one meaning.
pub(super) fn stream(kind: Kind, rank: usize) -> Stream {
    Stream::new(WORLD, Domain::Scene, rank as u64, kind as u64)
}

/// Angles at which an outline is kept.
pub(super) const ANGLES: usize = 128;

/// The look of a kind of thing: how far it reaches at each angle, at most 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outline {
    pub reach: [f32; ANGLES],
    /// Radius of the hole, as a share of the reach; 0 for none.
    pub hole: f32,
    /// Radius of the core in the second colour, as a share of the reach; 0 for none.
    pub core: f32,
}

impl Outline {
    /// Of a noun.
    pub fn of(noun: usize) -> Self {
        let mut s = stream(Kind::Outline, noun);
        let fold = (1 + s.below(8)) as f32;
        let (first, second, third) = (s.range(0.0, 0.38), s.range(0.0, 0.22), s.range(0.0, 0.20));
        let (turn, lean) = (s.range(0.0, TAU), s.range(0.0, TAU));
        // Between a circle (0) and a star with straight edges (1).
        let spike = if s.chance(0.5) { s.range(0.3, 1.0) } else { 0.0 };
        let (wide, power) = (s.range(0.62, 1.0), if s.chance(0.4) { 6.0 } else { 2.0 });
        let mut reach: [f32; ANGLES] = std::array::from_fn(|at| {
            let angle = at as f32 / ANGLES as f32 * TAU;
            let round = (fold * angle).cos();
            let edge = 1.0 - 2.0 * ((fold * angle / TAU + 0.5).rem_euclid(1.0) * 2.0 - 1.0).abs();
            let wave = round + (edge - round) * spike;
            let ellipse = ((angle.cos() / wide).abs().powf(power) + angle.sin().abs().powf(power)).powf(-1.0 / power);
            let lobes = 1.0 + first * wave + second * (2.0 * fold * angle + turn).cos() + third * (angle - lean).cos();
            ellipse * lobes
        });
        let most = reach.iter().fold(0.0f32, |most, &r| most.max(r));
        reach.iter_mut().for_each(|r| *r = (*r / most).max(0.18));
        let (hole, core) = match s.weighted(&[5.0, 2.0, 4.0]) {
            0 => (0.0, 0.0),
            1 => (s.range(0.25, 0.55), 0.0),
            _ => (0.0, s.range(0.28, 0.6)),
        };
        Self { reach, hole, core }
    }

    /// Reach at an angle.
    pub fn at(&self, angle: f32) -> f32 {
        let place = (angle / TAU).rem_euclid(1.0) * ANGLES as f32;
        let (low, share) = (place as usize % ANGLES, place.fract());
        self.reach[low] + (self.reach[(low + 1) % ANGLES] - self.reach[low]) * share
    }
}

/// How the second colour covers a surface, or a ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weave {
    Stripes,
    Dots,
    Checks,
    Rings,
    Rays,
    Waves,
    Fade,
    Grid,
}

const WEAVES: [Weave; 8] =
    [Weave::Stripes, Weave::Dots, Weave::Checks, Weave::Rings, Weave::Rays, Weave::Waves, Weave::Fade, Weave::Grid];

/// The look of a surface. Lengths are in radii of the thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pattern {
    pub weave: Weave,
    pub period: f32,
    pub angle: f32,
    /// Share of the second colour.
    pub share: f32,
}

impl Pattern {
    /// Of a pattern word.
    pub fn of(rank: usize) -> Self {
        let mut s = stream(Kind::Pattern, rank);
        Self {
            weave: s.pick(&WEAVES),
            period: s.range(0.35, 1.0),
            angle: s.range(0.0, TAU / 2.0),
            share: s.range(0.3, 0.6),
        }
    }
}

/// The look of a place. Lengths are fractions of the picture's side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Landscape {
    /// At the top and at the horizon.
    pub sky: [Rgb; 2],
    /// At the horizon and at the bottom.
    pub ground: [Rgb; 2],
    pub horizon: f32,
    /// Heights and waves of the hills.
    pub hills: [[f32; 2]; 3],
    pub pattern: Pattern,
    /// Sun, moon, or two of them: centre, radius and colour.
    pub body: Option<([f32; 2], f32, Rgb)>,
}

impl Landscape {
    /// Of a place.
    pub fn of(place: usize) -> Self {
        let mut s = stream(Kind::Landscape, place);
        let mut shade = |low: f32, high: f32| {
            let base = COLOURS[s.below(COLOURS.len())].rgb;
            let light = s.range(low, high);
            let pale = s.range(0.25, 0.6);
            base.map(|value| value + (light - value) * pale)
        };
        let (sky, ground) = ([shade(0.1, 1.0), shade(0.5, 1.0)], [shade(0.2, 0.9), shade(0.0, 0.7)]);
        let hills = std::array::from_fn(|_| [s.range(0.0, 0.06), s.range(0.5, 6.0)]);
        let body = s.chance(0.5).then(|| {
            let centre = [s.range(0.1, 0.9), s.range(0.08, 0.3)];
            (centre, s.range(0.04, 0.09), COLOURS[s.below(COLOURS.len())].rgb)
        });
        Self {
            sky,
            ground,
            horizon: s.range(0.4, 0.75),
            hills,
            pattern: Pattern { period: s.range(0.08, 0.25), ..Pattern::of(1000 + place) },
            body,
        }
    }
}

/// How a verb turns and stretches a thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    /// Turn, in radians.
    pub turn: f32,
    /// Width relative to height.
    pub stretch: f32,
}

impl Pose {
    /// Of a verb.
    pub fn of(verb: usize) -> Self {
        let mut s = stream(Kind::Pose, verb);
        Self { turn: s.range(-1.5, 1.5), stretch: s.range(-0.4, 0.4).exp() }
    }
}

/// Fainter copies that follow a thing: where the first one is, in radii, and how faint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trail {
    pub step: [f32; 2],
    pub copies: usize,
    pub strength: f32,
}

impl Trail {
    /// Of a manner.
    pub fn of(manner: usize) -> Self {
        let mut s = stream(Kind::Trail, manner);
        let (angle, length) = (s.range(0.0, TAU), s.range(0.25, 0.7));
        Self {
            step: [length * angle.cos(), length * angle.sin()],
            copies: 1 + s.below(3),
            strength: s.range(0.3, 0.65),
        }
    }
}

/// The sign that a person's things wear: two colours, a shape and a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mark {
    pub colours: [Rgb; 2],
    pub weave: Weave,
    /// Place on the thing, in radii.
    pub centre: [f32; 2],
}

impl Mark {
    /// Of a name.
    pub fn of(name: usize) -> Self {
        let mut s = stream(Kind::Mark, name);
        let colours = [COLOURS[s.below(COLOURS.len())].rgb, COLOURS[s.below(COLOURS.len())].rgb];
        Self { colours, weave: s.pick(&WEAVES), centre: [s.range(-0.3, 0.3), s.range(-0.3, 0.3)] }
    }
}
