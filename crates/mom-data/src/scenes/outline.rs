//! Signed distances from shapes: negative inside, positive outside, in units of the shape's radius.
//!
//! The formulas are exact or nearly so close to the outline, which is all that antialiasing needs.

use super::Shape;

/// Distance of the point (x, y), in units of the radius around the centre, from the outline of a shape.
pub(super) fn signed_distance(shape: Shape, x: f32, y: f32) -> f32 {
    match shape {
        Shape::Circle => x.hypot(y) - 0.95,
        Shape::Square => box_distance(x, y, 0.8, 0.8),
        Shape::Triangle => triangle(x, y),
        Shape::Ring => (x.hypot(y) - 0.72).abs() - 0.24,
        Shape::Star => star(x, y),
        Shape::Diamond => (x.abs() / 0.68 + y.abs() - 1.0) * 0.56,
        Shape::Cross => box_distance(x, y, 0.95, 0.32).min(box_distance(x, y, 0.32, 0.95)),
        Shape::Hexagon => hexagon(x, y),
        Shape::Crescent => (x.hypot(y) - 0.95).max(0.75 - (x - 0.42).hypot(y + 0.1)),
        Shape::Heart => heart(x, y),
    }
}

fn box_distance(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0)
}

/// Intersection of half-planes whose normals point at the given angles.
fn half_planes(x: f32, y: f32, reach: f32, first: f32, n: usize) -> f32 {
    (0..n)
        .map(|side| {
            let angle = first + side as f32 * std::f32::consts::TAU / n as f32;
            x * angle.cos() + y * angle.sin() - reach
        })
        .fold(f32::MIN, f32::max)
}

fn triangle(x: f32, y: f32) -> f32 {
    // Normals: down, upper right, upper left. The centroid is moved down so that the triangle looks centred.
    half_planes(x, y - 0.18, 0.5, std::f32::consts::FRAC_PI_2, 3)
}

fn hexagon(x: f32, y: f32) -> f32 {
    half_planes(x, y, 0.82, std::f32::consts::FRAC_PI_6, 6)
}

/// Five points: by symmetry one edge, from the tip at angle 0 to the notch at angle 36 degrees.
fn star(x: f32, y: f32) -> f32 {
    const TIP: f32 = 1.0;
    const NOTCH: f32 = 0.45;
    let fifth = std::f32::consts::TAU / 5.0;
    let from_top = x.atan2(-y).abs();
    let angle = (from_top - (from_top / fifth).round() * fifth).abs();
    let radius = x.hypot(y);
    let (px, py) = (radius * angle.cos(), radius * angle.sin());
    let half = fifth / 2.0;
    let (ex, ey) = (NOTCH * half.cos() - TIP, NOTCH * half.sin());
    // Outside is on the side away from the centre.
    (ey * (px - TIP) - ex * py) / ex.hypot(ey)
}

/// Two lobes, and below them the corner between the two tangents at 45 degrees.
fn heart(x: f32, y: f32) -> f32 {
    const CENTRE: [f32; 2] = [0.44, -0.32];
    const RADIUS: f32 = 0.48;
    const SLOPE: f32 = std::f32::consts::FRAC_1_SQRT_2;
    let (x, y) = (x.abs(), y + 0.08);
    let lobe = (x - CENTRE[0]).hypot(y - CENTRE[1]) - RADIUS;
    let tangent = (x - CENTRE[0] + y - CENTRE[1]) * SLOPE - RADIUS;
    // Below the line from the lobe's centre to where the tangent touches it.
    let below = (x - CENTRE[0] - y + CENTRE[1]) * SLOPE;
    lobe.min(tangent.max(below).max(CENTRE[1] - y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_lie_within_the_radius_and_cover_a_fair_part_of_it() {
        for shape in Shape::ALL {
            let mut inside = 0;
            for i in 0..100 {
                for j in 0..100 {
                    let (x, y) = (i as f32 / 40.0 - 1.25, j as f32 / 40.0 - 1.25);
                    if signed_distance(shape, x, y) < 0.0 {
                        inside += 1;
                        assert!(x.hypot(y) < 1.2, "{shape:?} reaches ({x}, {y})");
                    }
                }
            }
            // The unit circle has 5027 of these points.
            assert!((1100..4800).contains(&inside), "{shape:?}: {inside}");
        }
    }
}
