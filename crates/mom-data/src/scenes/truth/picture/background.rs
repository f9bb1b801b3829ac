//! The background that explains most of a picture.

use std::sync::OnceLock;

use super::super::super::kinds::{Background, Ground, Shade, Sky};
use super::super::super::render::base;
use super::super::facts::BackgroundFacts;
use super::canvas::{AREA, Canvas, Rgb, SIDE, squared_distance};

/// Squared distance beyond which a pixel is no worse: it may be an object's.
const FARTHEST: f32 = 0.05;
/// Heights of the horizon that are tried.
const N_LEVELS: usize = 13;

/// A background and its pixels, without grain.
pub(super) struct Fitted {
    pub facts: BackgroundFacts,
    pub pixels: Vec<Rgb>,
}

/// The one that fits best; pixels of objects (`covered`, empty for none) do not count.
pub(super) fn fit(canvas: &Canvas, covered: &[bool]) -> &'static Fitted {
    static ALL: OnceLock<Vec<Fitted>> = OnceLock::new();
    let all = ALL.get_or_init(all);
    let cost = |fitted: &Fitted| -> f32 {
        let pixels = canvas.pixels.iter().zip(&fitted.pixels).enumerate();
        let counts = pixels.filter(|(at, _)| !covered.get(*at).copied().unwrap_or(false));
        counts.map(|(_, (a, b))| squared_distance(*a, *b).min(FARTHEST)).sum()
    };
    let mut best = (&all[0], f32::MAX);
    for fitted in all {
        let cost = cost(fitted);
        if cost < best.1 {
            best = (fitted, cost);
        }
    }
    best.0
}

fn all() -> Vec<Fitted> {
    let mut kinds: Vec<Background> = Vec::new();
    for top in Shade::ALL {
        for bottom in Shade::ALL {
            kinds.push(if top == bottom { Background::Plain(top) } else { Background::Gradient(top, bottom) });
        }
    }
    for sky in Sky::ALL {
        for ground in Ground::ALL {
            let level = |i: usize| 0.45 + 0.3 * i as f32 / (N_LEVELS - 1) as f32;
            kinds.extend((0..N_LEVELS).map(|i| Background::Horizon(sky, ground, level(i))));
        }
    }
    let fitted = |kind: Background| {
        let centre = |i: usize| (i as f32 + 0.5) / SIDE as f32;
        let pixels = (0..AREA).map(|at| base(&kind, centre(at / SIDE), SIDE)).collect();
        Fitted { facts: BackgroundFacts::from(&kind), pixels }
    };
    kinds.into_iter().map(fitted).collect()
}
