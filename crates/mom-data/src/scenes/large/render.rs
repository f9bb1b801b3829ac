//! Paints a picture of the large world: sky, hills and ground, then the things in their order with trails, patterns, cores and
//! marks, then the weather over all.

use std::f32::consts::TAU;

use super::super::render::{for_pixels, mix};
use super::compose::{Body, Picture, Thing};
use super::english::{COLOURS, WEATHERS};
use super::meaning::{Landscape, Mark, Outline, Pattern, Pose, Trail, Weave};
use crate::pixels::RgbImage;
use crate::rng::Stream;

type Rgb = [f32; 3];

/// Paints at `size` x `size` pixels; `noise` feeds the grain and the weather.
pub(super) fn render(picture: &Picture, size: usize, noise: &mut Stream) -> RgbImage {
    let mut canvas = background(picture, size, noise);
    for thing in &picture.things {
        let look = Look::of(thing);
        for body in &thing.bodies {
            draw(&mut canvas, size, body, &look, picture);
        }
    }
    if let Some(weather) = picture.weather {
        cover(&mut canvas, size, weather, noise);
    }
    let pixels = canvas.iter().flatten().map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    RgbImage { width: size, height: size, pixels }
}

fn background(picture: &Picture, size: usize, noise: &mut Stream) -> Vec<Rgb> {
    let landscape = Landscape::of(picture.place);
    let tilt = [noise.range(-0.08, 0.08), noise.range(-0.05, 0.05)];
    let mut grain = vec![0u8; size * size];
    noise.fill(&mut grain);
    let side = size as f32;
    let horizon: Vec<f32> = (0..size)
        .map(|column| {
            let x = (column as f32 + 0.5) / side;
            let hills =
                landscape.hills.iter().enumerate().map(|(at, [height, waves])| {
                    height * (TAU * (waves * x + picture.shift[1] * (at + 1) as f32)).sin()
                });
            landscape.horizon + picture.shift[0] + hills.sum::<f32>()
        })
        .collect();
    let mut canvas = Vec::with_capacity(size * size);
    for row in 0..size {
        let y = (row as f32 + 0.5) / side;
        for (column, &level) in horizon.iter().enumerate() {
            let x = (column as f32 + 0.5) / side;
            let below = ((y - level) * side + 0.5).clamp(0.0, 1.0);
            let mut base = [0.0; 3];
            if below < 1.0 {
                base = mix(landscape.sky[0], landscape.sky[1], (y / level).clamp(0.0, 1.0));
                if let Some((centre, radius, rgb)) = landscape.body {
                    let inside = (radius - (x - centre[0]).hypot(y - centre[1])) * side + 0.5;
                    base = mix(base, rgb, inside.clamp(0.0, 1.0));
                }
            }
            if below > 0.0 {
                let depth = ((y - level) / (1.0 - level)).clamp(0.0, 1.0);
                let woven = weave(&landscape.pattern, x, y, picture.shift[1], side);
                let ground = mix(landscape.ground[0], landscape.ground[1], depth).map(|v| v * (1.0 - 0.16 * woven));
                base = mix(base, ground, below);
            }
            let fine = (f32::from(grain[row * size + column]) / 255.0 - 0.5) * 0.02;
            let offset = tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5) + fine;
            canvas.push(base.map(|value| (value + offset).clamp(0.0, 1.0)));
        }
    }
    canvas
}

/// What the words for a thing mean.
struct Look {
    outline: Outline,
    pattern: Option<Pattern>,
    pose: Pose,
    trail: Option<Trail>,
    mark: Option<Mark>,
    rgb: Rgb,
    accent: Rgb,
}

impl Look {
    fn of(thing: &Thing) -> Self {
        Self {
            outline: Outline::of(thing.noun),
            pattern: thing.pattern.map(Pattern::of),
            pose: Pose::of(thing.verb),
            trail: thing.manner.map(Trail::of),
            mark: thing.owner.map(Mark::of),
            rgb: COLOURS[thing.colour].rgb,
            accent: COLOURS[thing.accent].rgb,
        }
    }
}

/// A thing, behind it its trail.
fn draw(canvas: &mut [Rgb], size: usize, body: &Body, look: &Look, picture: &Picture) {
    if let Some(trail) = look.trail {
        for copy in (1..=trail.copies).rev() {
            let offset = trail.step.map(|step| step * copy as f32 * body.radius);
            let centre = [body.centre[0] + offset[0], body.centre[1] + offset[1]];
            let ghost = Body { centre, radius: body.radius * 0.9, ..*body };
            draw_one(canvas, size, &ghost, look, picture, trail.strength.powi(copy as i32));
        }
    }
    draw_one(canvas, size, body, look, picture, 1.0);
}

fn draw_one(canvas: &mut [Rgb], size: usize, body: &Body, look: &Look, picture: &Picture, strength: f32) {
    let (r, side) = (body.radius, size as f32);
    let (sin, cos) = (look.pose.turn + body.turn).sin_cos();
    // A stretched thing stays within its radius.
    let narrow = [look.pose.stretch.min(1.0), look.pose.stretch.recip().min(1.0)];
    let scale = r * side * narrow[0].min(narrow[1]);
    let tinted = |rgb: Rgb| -> Rgb { std::array::from_fn(|i| (rgb[i] + body.tint[i]).clamp(0.0, 1.0)) };
    let (main, accent) = (tinted(look.rgb), tinted(look.accent));
    for_pixels(size, body.centre, r * 1.1, |at, x, y| {
        let (dx, dy) = ((x - body.centre[0]) / r, (y - body.centre[1]) / r);
        let (u, v) = ((dx * cos + dy * sin) / narrow[0], (dy * cos - dx * sin) / narrow[1]);
        let distance = u.hypot(v);
        if distance > 1.2 {
            return;
        }
        let reach = look.outline.at(v.atan2(u));
        let edge = |at: f32| ((at * reach - distance) * scale + 0.5).clamp(0.0, 1.0);
        let coverage = edge(1.0) * if look.outline.hole > 0.0 { 1.0 - edge(look.outline.hole) } else { 1.0 };
        if coverage == 0.0 {
            return;
        }
        let woven = look.pattern.map_or(0.0, |pattern| weave(&pattern, u, v, body.phase, r * side));
        let mut surface = mix(main, accent, woven);
        if look.outline.core > 0.0 {
            surface = mix(surface, accent, edge(look.outline.core));
        }
        if let Some(mark) = look.mark {
            let from = [u - mark.centre[0], v - mark.centre[1]];
            let inside = ((0.3 - from[0].hypot(from[1])) * scale + 0.5).clamp(0.0, 1.0);
            if inside > 0.0 {
                let pattern = Pattern { weave: mark.weave, period: 0.3, angle: 0.0, share: 0.5 };
                let woven = weave(&pattern, from[0], from[1], 0.25, r * side);
                surface = mix(surface, mix(mark.colours[0], mark.colours[1], woven), inside);
            }
        }
        let lit = 1.0 + picture.shading * (dx * picture.light[0] + dy * picture.light[1]);
        canvas[at] = mix(canvas[at], surface.map(|value| (value * lit).clamp(0.0, 1.0)), coverage * strength);
    });
}

/// Share of the second colour at a place, in [0, 1]; `unit` is the length 1 in pixels. A period has four pixels at least.
fn weave(pattern: &Pattern, u: f32, v: f32, phase: f32, unit: f32) -> f32 {
    let period = pattern.period.max(4.0 / unit);
    let (sin, cos) = pattern.angle.sin_cos();
    let (a, b) = (u * cos + v * sin, v * cos - u * sin);
    // How deep x is inside of a band around the middle of its period, in pixels.
    let band = |x: f32| {
        let place = (x / period + phase).rem_euclid(1.0);
        (pattern.share / 2.0 - (place - 0.5).abs()) * period * unit
    };
    let inside = |depth: f32| (depth + 0.5).clamp(0.0, 1.0);
    match pattern.weave {
        Weave::Stripes => inside(band(a)),
        Weave::Grid => inside(band(a).max(band(b))),
        Weave::Checks => {
            let (first, second) = (inside(band(a)), inside(band(b)));
            first * (1.0 - second) + second * (1.0 - first)
        }
        Weave::Dots => {
            let fold = |x: f32| ((x / period + phase).rem_euclid(1.0) - 0.5) * period;
            inside((pattern.share * period * 0.7 - fold(a).hypot(fold(b))) * unit)
        }
        Weave::Rings => inside(band(u.hypot(v))),
        Weave::Rays => {
            let rays = (TAU / (2.0 * period)).round().max(2.0);
            inside(((rays * (b.atan2(a) + phase)).sin() - 1.0 + 2.0 * pattern.share) * unit * u.hypot(v) / rays)
        }
        Weave::Waves => inside(band(a + 0.3 * period * (TAU * b / (2.0 * period)).sin())),
        Weave::Fade => (a * 0.5 + 0.5).clamp(0.0, 1.0) * 0.9,
    }
}

/// The veil of a weather, and what falls.
fn cover(canvas: &mut [Rgb], size: usize, weather: usize, noise: &mut Stream) {
    let weather = &WEATHERS[weather];
    let thickness = weather.thickness * noise.range(0.75, 1.25);
    canvas.iter_mut().for_each(|pixel| *pixel = mix(*pixel, weather.veil, thickness));
    for _ in 0..weather.streaks {
        let (mut x, mut y) = (noise.range(0.0, 1.0), noise.range(0.0, 1.0));
        let pixels = 1 + (weather.length * size as f32) as usize;
        for _ in 0..pixels {
            let (column, row) = ((x * size as f32) as usize, (y * size as f32) as usize);
            if column < size && row < size {
                let pixel = &mut canvas[row * size + column];
                *pixel = mix(*pixel, weather.veil.map(|value| value * 0.5 + 0.5), 0.7);
            }
            (x, y) = (x + 0.3 / size as f32, y + 1.0 / size as f32);
        }
    }
}
