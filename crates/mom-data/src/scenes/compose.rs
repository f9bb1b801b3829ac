//! What a scene holds: groups of like objects, their places, and the background. Lengths are fractions of the image side;
//! x goes right, y goes down.

use super::kinds::{Background, Colour, Ground, Shade, Shape, Size, Sky, Texture};
use crate::rng::Stream;

/// Objects that share shape, colour, texture and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Outline.
    pub shape: Shape,
    /// Main colour.
    pub colour: Colour,
    /// Surface.
    pub texture: Texture,
    /// Second colour of the surface.
    pub accent: Colour,
    /// Size.
    pub size: Size,
    /// Number of objects.
    pub count: usize,
}

/// One object. Later objects are drawn over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Index of its group.
    pub group: usize,
    /// Centre (x, y).
    pub centre: [f32; 2],
    /// Radius of the circle around the shape.
    pub radius: f32,
    /// Turn, in radians.
    pub turn: f32,
    /// Own colour, RGB in [0, 1].
    pub rgb: [f32; 3],
    /// Own second colour.
    pub accent_rgb: [f32; 3],
    /// Shift of the texture, in [0, 1).
    pub phase: f32,
}

/// A composed scene.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Groups, one to four.
    pub groups: Vec<Group>,
    /// Objects of all groups, one to four, in drawing order.
    pub objects: Vec<Object>,
    /// What is behind them.
    pub background: Background,
    /// Direction to the light (x, y), of length 1.
    pub light: [f32; 2],
    /// Strength of shading on the objects, in [0, 1].
    pub shading: f32,
    /// Darkness of the objects' shadows, in [0, 1).
    pub shadow: f32,
}

/// Numbers of objects per group, and how often each is drawn.
const PLANS: [(&[usize], f64); 11] = [
    (&[1], 10.0),
    (&[2], 8.0),
    (&[3], 6.0),
    (&[4], 3.0),
    (&[1, 1], 30.0),
    (&[2, 1], 12.0),
    (&[1, 2], 8.0),
    (&[3, 1], 5.0),
    (&[2, 2], 6.0),
    (&[1, 1, 1], 10.0),
    (&[2, 1, 1], 2.0),
];

impl Scene {
    /// Draws a scene.
    pub(super) fn draw(stream: &mut Stream) -> Self {
        let background = draw_background(stream);
        let weights = PLANS.map(|(_, weight)| weight);
        let plan = PLANS[stream.weighted(&weights)].0;
        let crowd: usize = plan.iter().sum();
        let mut groups: Vec<Group> = Vec::new();
        for &count in plan {
            groups.push(draw_group(stream, count, crowd, &groups, &background));
        }
        let objects = place(stream, &groups);
        let angle = stream.range(-2.6, -0.5);
        Self {
            groups,
            objects,
            background,
            light: [angle.cos(), angle.sin()],
            shading: stream.range(0.0, 0.45),
            shadow: if stream.chance(0.6) { stream.range(0.15, 0.4) } else { 0.0 },
        }
    }

    /// The objects of a group.
    pub fn members(&self, group: usize) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |object| object.group == group)
    }
}

fn draw_background(stream: &mut Stream) -> Background {
    let shade = stream.pick(&Shade::ALL);
    match stream.weighted(&[3.0, 2.0, 2.0, 4.0]) {
        0 => Background::Plain(shade),
        1 => loop {
            let other = stream.pick(&Shade::ALL);
            if other != shade {
                break Background::Gradient(shade, other);
            }
        },
        2 => Background::Noise(shade),
        _ => {
            let sky = stream.pick(&[Sky::Blue, Sky::Grey, Sky::Evening, Sky::Night]);
            let ground = stream.pick(&[Ground::Field, Ground::Sand, Ground::Snow, Ground::Water, Ground::Floor]);
            Background::Horizon(sky, ground, stream.range(0.45, 0.75))
        }
    }
}

/// Colours that the background shows, to keep the objects apart from it.
fn background_colours(background: &Background) -> Vec<[f32; 3]> {
    match *background {
        Background::Plain(shade) | Background::Noise(shade) => vec![shade.rgb()],
        Background::Gradient(top, bottom) => vec![top.rgb(), bottom.rgb()],
        Background::Horizon(sky, ground, _) => [sky.rgb(), ground.rgb()].concat(),
    }
}

fn draw_group(stream: &mut Stream, count: usize, crowd: usize, before: &[Group], background: &Background) -> Group {
    let behind = background_colours(background);
    let stands_out = |colour: Colour| behind.iter().all(|&other| distance(colour.rgb(), other) > 0.33);
    let (mut shape, mut colour);
    loop {
        shape = stream.pick(&Shape::ALL);
        colour = stream.pick(&Colour::ALL);
        let new = before.iter().all(|group| group.shape != shape || group.colour != colour);
        if new && stands_out(colour) {
            break;
        }
    }
    let texture = match stream.weighted(&[4.0, 1.2, 1.2, 1.2, 1.0, 1.0]) {
        0 => Texture::Plain,
        1 => Texture::VerticalStripes,
        2 => Texture::HorizontalStripes,
        3 => Texture::Dots,
        4 => Texture::Checks,
        _ => Texture::Gradient,
    };
    let accent = loop {
        let accent = stream.pick(&Colour::ALL);
        if distance(accent.rgb(), colour.rgb()) > 0.45 {
            break accent;
        }
    };
    let large = if crowd > 2 { 0.5 } else { 2.0 };
    let size = [Size::Small, Size::Medium, Size::Large][stream.weighted(&[1.5, 2.0, large])];
    Group { shape, colour, texture, accent, size, count }
}

fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Finds places: apart from each other, save that a second group may overlap the first object on purpose.
fn place(stream: &mut Stream, groups: &[Group]) -> Vec<Object> {
    let overlap = groups.len() == 2 && groups[1].count == 1 && stream.chance(0.35);
    let crowd: usize = groups.iter().map(|group| group.count).sum();
    let squeeze = if crowd > 2 { 0.85 } else { 1.0 };
    let mut objects: Vec<Object> = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for _ in 0..group.count {
            let mut radius = squeeze * size_radius(stream, group.size);
            let mut centre = [0.5; 2];
            for attempt in 0..60 {
                let margin = radius * 0.9;
                centre = [stream.range(margin, 1.0 - margin), stream.range(margin, 1.0 - margin)];
                let apart = |other: &Object| {
                    let [dx, dy] = [centre[0] - other.centre[0], centre[1] - other.centre[1]];
                    (dx * dx + dy * dy).sqrt() / (radius + other.radius)
                };
                let fits = if overlap && index == 1 {
                    (0.55..0.85).contains(&apart(&objects[0])) && objects[1..].iter().all(|o| apart(o) > 1.0)
                } else {
                    objects.iter().all(|other| apart(other) > 1.02)
                };
                if fits {
                    break;
                }
                if attempt % 10 == 9 {
                    radius *= 0.93;
                }
            }
            objects.push(make_object(stream, index, group, centre, radius));
        }
    }
    objects
}

fn size_radius(stream: &mut Stream, size: Size) -> f32 {
    match size {
        Size::Small => stream.range(0.10, 0.125),
        Size::Medium => stream.range(0.15, 0.185),
        Size::Large => stream.range(0.22, 0.28),
    }
}

fn make_object(stream: &mut Stream, index: usize, group: &Group, centre: [f32; 2], radius: f32) -> Object {
    let most = match group.shape {
        Shape::Circle | Shape::Ring | Shape::Diamond => 0.0,
        Shape::Square | Shape::Cross | Shape::Triangle | Shape::Heart => 0.18,
        Shape::Crescent => 0.5,
        Shape::Star | Shape::Hexagon => 0.6,
    };
    let mut jitter = |rgb: [f32; 3]| {
        let brightness = stream.range(-0.05, 0.05);
        rgb.map(|value| (value + brightness + stream.range(-0.04, 0.04)).clamp(0.0, 1.0))
    };
    let (rgb, accent_rgb) = (jitter(group.colour.rgb()), jitter(group.accent.rgb()));
    let turn = stream.range(-most, most);
    Object { group: index, centre, radius, turn, rgb, accent_rgb, phase: stream.range(0.0, 1.0) }
}
