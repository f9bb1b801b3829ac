//! Draws a scene: background, soft shadows, then the objects in order, each antialiased by its signed distance.

use super::compose::{Group, Object, Scene};
use super::kinds::{Background, Texture};
use super::outline::signed_distance;
use crate::pixels::RgbImage;
use crate::rng::Stream;

type Rgb = [f32; 3];

/// Renders a scene at `size` x `size` pixels; `noise` feeds the grain of the background.
pub(super) fn render(scene: &Scene, size: usize, noise: &mut Stream) -> RgbImage {
    let mut canvas = background(&scene.background, size, noise);
    for object in &scene.objects {
        let group = &scene.groups[object.group];
        if scene.shadow > 0.0 {
            draw_shadow(&mut canvas, size, object, scene);
        }
        draw_object(&mut canvas, size, object, group, scene);
    }
    let pixels = canvas.iter().flatten().map(|value| (value * 255.0).round() as u8).collect();
    RgbImage { width: size, height: size, pixels }
}

fn background(background: &Background, size: usize, noise: &mut Stream) -> Vec<Rgb> {
    let mut canvas = Vec::with_capacity(size * size);
    // A faint tilt of brightness and a grain on everything: no two backgrounds are the same.
    let (tilt_x, tilt_y) = (noise.range(-0.05, 0.05), noise.range(-0.05, 0.05));
    let grain = match background {
        Background::Noise(_) => 0.16,
        _ => 0.015,
    };
    let cells = coarse_noise(noise);
    let mut fine = vec![0u8; size * size];
    noise.fill(&mut fine);
    for row in 0..size {
        let y = (row as f32 + 0.5) / size as f32;
        for column in 0..size {
            let x = (column as f32 + 0.5) / size as f32;
            let base = base(background, y, size);
            let fine = f32::from(fine[row * size + column]) / 255.0 - 0.5;
            let coarse = sample_noise(&cells, x, y);
            let offset = tilt_x * (x - 0.5) + tilt_y * (y - 0.5) + grain * (0.6 * fine + coarse);
            canvas.push(base.map(|value| (value + offset).clamp(0.0, 1.0)));
        }
    }
    canvas
}

/// The colour of a background at a height, without grain or tilt, at `size` x `size` pixels.
pub(super) fn base(background: &Background, y: f32, size: usize) -> Rgb {
    match *background {
        Background::Plain(shade) | Background::Noise(shade) => shade.rgb(),
        Background::Gradient(top, bottom) => mix(top.rgb(), bottom.rgb(), y),
        Background::Horizon(sky, ground, level) => {
            let below = ((y - level) * size as f32 + 0.5).clamp(0.0, 1.0);
            let [high, low] = sky.rgb();
            let [far, near] = ground.rgb();
            let sky = mix(high, low, (y / level).min(1.0));
            mix(sky, mix(far, near, ((y - level) / (1.0 - level)).max(0.0)), below)
        }
    }
}

const CELLS: usize = 9;

fn coarse_noise(noise: &mut Stream) -> [[f32; CELLS]; CELLS] {
    let mut cells = [[0.0; CELLS]; CELLS];
    for cell in cells.iter_mut().flatten() {
        *cell = (noise.word() >> 8) as f32 / (1 << 24) as f32 - 0.5;
    }
    cells
}

/// Bilinear interpolation of the cells; x and y in [0, 1].
fn sample_noise(cells: &[[f32; CELLS]; CELLS], x: f32, y: f32) -> f32 {
    let (x, y) = (x * (CELLS - 1) as f32, y * (CELLS - 1) as f32);
    let (column, row) = ((x as usize).min(CELLS - 2), (y as usize).min(CELLS - 2));
    let (fx, fy) = (x - column as f32, y - row as f32);
    let top = cells[row][column] * (1.0 - fx) + cells[row][column + 1] * fx;
    let bottom = cells[row + 1][column] * (1.0 - fx) + cells[row + 1][column + 1] * fx;
    top * (1.0 - fy) + bottom * fy
}

/// A soft ellipse under the object, away from the light.
fn draw_shadow(canvas: &mut [Rgb], size: usize, object: &Object, scene: &Scene) {
    let [cx, cy] = object.centre;
    let r = object.radius;
    let (cx, cy) = (cx - scene.light[0] * r * 0.45, cy - scene.light[1] * r * 0.45);
    for_pixels(size, [cx, cy], r * 1.3, |at, x, y| {
        let d = ((x - cx) / r).hypot((y - cy) / r);
        let dark = scene.shadow * smooth(1.25 - d, 0.7);
        canvas[at] = canvas[at].map(|value| value * (1.0 - dark));
    });
}

fn draw_object(canvas: &mut [Rgb], size: usize, object: &Object, group: &Group, scene: &Scene) {
    let [cx, cy] = object.centre;
    let r = object.radius;
    let (sin, cos) = object.turn.sin_cos();
    for_pixels(size, object.centre, r * 1.25, |at, x, y| {
        let (dx, dy) = ((x - cx) / r, (y - cy) / r);
        let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
        let coverage = (0.5 - signed_distance(group.shape, u, v) * r * size as f32).clamp(0.0, 1.0);
        if coverage == 0.0 {
            return;
        }
        let surface = mix(object.rgb, object.accent_rgb, accent(group.texture, u, v, object, r * size as f32));
        let lit = 1.0 + scene.shading * (dx * scene.light[0] + dy * scene.light[1]);
        let lit = surface.map(|value| (value * lit).clamp(0.0, 1.0));
        canvas[at] = mix(canvas[at], lit, coverage);
    });
}

/// Share of the second colour at a place of the surface, in [0, 1]. Periods never fall below four pixels.
fn accent(texture: Texture, u: f32, v: f32, object: &Object, radius_pixels: f32) -> f32 {
    let period = (4.0 / radius_pixels).max(0.5);
    let soft = 2.0 * period * radius_pixels / 4.0;
    let wave = |x: f32| (std::f32::consts::TAU * (x / period + object.phase)).sin();
    match texture {
        Texture::Plain => 0.0,
        Texture::VerticalStripes => smooth(wave(u) * soft * 0.5 + 0.5, 1.0),
        Texture::HorizontalStripes => smooth(wave(v) * soft * 0.5 + 0.5, 1.0),
        Texture::Checks => smooth(wave(u * 0.8) * wave(v * 0.8) * soft + 0.5, 1.0),
        Texture::Gradient => ((v * 0.7 + u * 0.3) * 0.5 + 0.5).clamp(0.0, 1.0) * 0.85,
        Texture::Dots => {
            let fold = |x: f32| {
                let x = x / (period * 1.1) + object.phase;
                (x - x.floor() - 0.5) * period * 1.1
            };
            let d = fold(u).hypot(fold(v));
            ((0.30 * period * 1.1 - d) * radius_pixels + 0.5).clamp(0.0, 1.0)
        }
    }
}

/// Calls `draw(index, x, y)` for the pixels within `reach` of a centre in both directions.
pub(super) fn for_pixels(size: usize, centre: [f32; 2], reach: f32, mut draw: impl FnMut(usize, f32, f32)) {
    let span = |c: f32| {
        let first = ((c - reach) * size as f32).floor().max(0.0) as usize;
        let last = ((c + reach) * size as f32).ceil().clamp(0.0, size as f32) as usize;
        first..last
    };
    for row in span(centre[1]) {
        for column in span(centre[0]) {
            draw(row * size + column, (column as f32 + 0.5) / size as f32, (row as f32 + 0.5) / size as f32);
        }
    }
}

/// 0 below 0, 1 above `width`, smooth between.
fn smooth(x: f32, width: f32) -> f32 {
    let t = (x / width).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// `a` where `share` is 0, `b` where it is 1.
pub(super) fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    std::array::from_fn(|channel| a[channel] + (b[channel] - a[channel]) * share)
}
