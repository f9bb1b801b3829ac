//! What a picture of the large world holds, drawn before it is painted or told. Lengths are fractions of the picture's side; x
//! goes right, y goes down.

use super::english::{COLOURS, WEATHERS};
use super::meaning::Landscape;
use super::words::{N_MANNERS, N_NAMES, N_NOUNS, N_PATTERNS, N_PLACES, N_VERBS, zipf};
use crate::rng::Stream;

/// Sizes, from tiny to enormous: radii of single things.
pub(super) const RADII: [[f32; 2]; 5] = [[0.08, 0.095], [0.11, 0.13], [0.145, 0.17], [0.19, 0.215], [0.24, 0.27]];
/// The size that is not spoken of.
pub(super) const MEDIUM: usize = 2;

/// One thing, or several that are alike.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Thing {
    /// Ranks of its words.
    pub noun: usize,
    pub colour: usize,
    pub accent: usize,
    /// `None`: of one colour.
    pub pattern: Option<usize>,
    pub verb: usize,
    pub manner: Option<usize>,
    /// Whose it is; its mark is on it.
    pub owner: Option<usize>,
    /// Index in [`RADII`].
    pub size: usize,
    /// One for each of them.
    pub bodies: Vec<Body>,
}

/// Where one of them is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Body {
    pub centre: [f32; 2],
    pub radius: f32,
    /// What its turn differs from the verb's by, in radians.
    pub turn: f32,
    /// Shift of the pattern, in periods.
    pub phase: f32,
    /// What its colours differ by.
    pub tint: [f32; 3],
}

/// A picture's contents. Later things stand before earlier ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Picture {
    /// Rank of the place.
    pub place: usize,
    pub weather: Option<usize>,
    /// Rank of the name of who speaks.
    pub speaker: usize,
    pub things: Vec<Thing>,
    /// Light comes from here: (x, y) of length 1, and how strong the shading is.
    pub light: [f32; 2],
    pub shading: f32,
    /// Shift of the horizon and of the hills.
    pub shift: [f32; 2],
}

/// How many of each thing there are, and how often that is.
const PLANS: [(&[usize], f64); 13] = [
    (&[1], 6.0),
    (&[2], 4.0),
    (&[4], 2.0),
    (&[5], 1.0),
    (&[1, 1], 20.0),
    (&[2, 1], 8.0),
    (&[1, 3], 5.0),
    (&[1, 1, 1], 22.0),
    (&[2, 1, 1], 8.0),
    (&[1, 3, 1], 4.0),
    (&[2, 2, 1], 3.0),
    (&[1, 1, 1, 1], 12.0),
    (&[1, 2, 1, 1], 5.0),
];

impl Picture {
    /// Draws what is there.
    pub fn draw(stream: &mut Stream) -> Self {
        let place = zipf(stream, N_PLACES);
        let weather = stream.chance(0.55).then(|| zipf(stream, WEATHERS.len()));
        let speaker = zipf(stream, N_NAMES);
        let plan = PLANS[stream.weighted(&PLANS.map(|(_, weight)| weight))].0;
        let landscape = Landscape::of(place);
        let mut things: Vec<Thing> = Vec::new();
        let crowd: usize = plan.iter().sum();
        for &count in plan {
            let thing = draw_thing(stream, &things, &landscape, speaker, count, crowd);
            things.push(thing);
        }
        let angle = stream.range(-2.6, -0.5);
        Self {
            place,
            weather,
            speaker,
            things,
            light: [angle.cos(), angle.sin()],
            shading: stream.range(0.0, 0.45),
            shift: [stream.range(-0.03, 0.03), stream.range(0.0, 1.0)],
        }
    }
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// A colour that stands out from others, if one is found in some draws.
fn colour(stream: &mut Stream, from: &[[f32; 3]], least: f32) -> usize {
    let mut best = (0, -1.0);
    for _ in 0..10 {
        let rank = zipf(stream, COLOURS.len());
        let apart = from.iter().map(|&other| distance(COLOURS[rank].rgb, other)).fold(f32::MAX, f32::min);
        if apart > least {
            return rank;
        }
        if apart > best.1 {
            best = (rank, apart);
        }
    }
    best.0
}

fn draw_thing(
    stream: &mut Stream,
    before: &[Thing],
    landscape: &Landscape,
    speaker: usize,
    count: usize,
    crowd: usize,
) -> Thing {
    // A caption says "the glorb": no two things of a picture have one noun.
    let noun = loop {
        let noun = zipf(stream, N_NOUNS);
        if before.iter().all(|thing| thing.noun != noun) {
            break noun;
        }
    };
    let behind = [landscape.sky[1], landscape.ground[0], landscape.ground[1]];
    let main = colour(stream, &behind, 0.35);
    let accent = colour(stream, &[COLOURS[main].rgb], 0.45);
    let pattern = stream.chance(0.6).then(|| zipf(stream, N_PATTERNS));
    let verb = zipf(stream, N_VERBS);
    let manner = stream.chance(0.4).then(|| zipf(stream, N_MANNERS));
    let owner = stream.chance(0.45).then(|| if stream.chance(0.3) { speaker } else { zipf(stream, N_NAMES) });
    let large = if crowd > 3 { 0.3 } else { 1.2 };
    let size = stream.weighted(&[1.0, 1.6, 2.0, 1.6 * large, large]);
    let mut thing = Thing { noun, colour: main, accent, pattern, verb, manner, owner, size, bodies: Vec::new() };
    let single = |thing: &Thing| thing.bodies.len() == 1;
    let overlap = count == 1 && before.last().is_some_and(single) && stream.chance(0.25);
    for _ in 0..count {
        let body = place_body(stream, before, &thing, overlap, crowd);
        thing.bodies.push(body);
    }
    thing
}

/// Finds a place: apart from everything, or, on purpose, before a part of the thing that was placed last.
fn place_body(stream: &mut Stream, before: &[Thing], thing: &Thing, overlap: bool, crowd: usize) -> Body {
    let [low, high] = RADII[thing.size];
    let mut radius = stream.range(low, high) * if crowd > 3 { 0.85 } else { 1.0 };
    let mut centre = [0.5; 2];
    for attempt in 0..60 {
        let margin = radius * 0.9;
        centre = [stream.range(margin, 1.0 - margin), stream.range(margin, 1.0 - margin)];
        let apart = |other: &Body| {
            let [dx, dy] = [centre[0] - other.centre[0], centre[1] - other.centre[1]];
            dx.hypot(dy) / (radius + other.radius)
        };
        let (others, partly_behind) = before.split_at(before.len() - usize::from(overlap));
        let fits = match partly_behind.first() {
            Some(behind) => {
                let clear = others.iter().flat_map(|thing| &thing.bodies).all(|other| apart(other) > 1.0);
                clear && (0.5..0.8).contains(&apart(&behind.bodies[0]))
            }
            None => before.iter().flat_map(|t| &t.bodies).chain(&thing.bodies).all(|other| apart(other) > 1.02),
        };
        if fits {
            break;
        }
        if attempt % 10 == 9 {
            radius *= 0.94;
        }
    }
    let brightness = stream.range(-0.05, 0.05);
    Body {
        centre,
        radius,
        turn: stream.range(-0.15, 0.15),
        phase: stream.range(0.0, 1.0),
        tint: std::array::from_fn(|_| brightness + stream.range(-0.03, 0.03)),
    }
}

impl Thing {
    /// Bounds of the centres along an axis.
    pub fn span(&self, axis: usize) -> (f32, f32) {
        let values = self.bodies.iter().map(|body| body.centre[axis]);
        values.fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(value), high.max(value)))
    }

    /// Mean radius.
    pub fn radius(&self) -> f32 {
        self.bodies.iter().map(|body| body.radius).sum::<f32>() / self.bodies.len() as f32
    }
}
