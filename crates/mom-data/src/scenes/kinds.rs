//! The kinds of things a scene is made of, and their colours, RGB in [0, 1].

/// Outline of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Ring,
    Star,
    Diamond,
    Cross,
    Hexagon,
    Crescent,
    Heart,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 10] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Ring,
        Self::Star,
        Self::Diamond,
        Self::Cross,
        Self::Hexagon,
        Self::Crescent,
        Self::Heart,
    ];
}

/// Named colour of an object; each object's own colour is jittered around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Black,
    White,
    Grey,
    Teal,
}

impl Colour {
    /// All colours.
    pub const ALL: [Self; 12] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Brown,
        Self::Black,
        Self::White,
        Self::Grey,
        Self::Teal,
    ];

    /// RGB in [0, 1].
    pub const fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.85, 0.13, 0.13],
            Self::Orange => [0.96, 0.53, 0.10],
            Self::Yellow => [0.96, 0.85, 0.18],
            Self::Green => [0.16, 0.62, 0.24],
            Self::Blue => [0.15, 0.33, 0.83],
            Self::Purple => [0.51, 0.22, 0.70],
            Self::Pink => [0.96, 0.56, 0.74],
            Self::Brown => [0.48, 0.30, 0.16],
            Self::Black => [0.08, 0.08, 0.09],
            Self::White => [0.96, 0.96, 0.95],
            Self::Grey => [0.53, 0.54, 0.56],
            Self::Teal => [0.10, 0.66, 0.66],
        }
    }
}

/// Surface of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Texture {
    Plain,
    VerticalStripes,
    HorizontalStripes,
    Dots,
    Checks,
    Gradient,
}

/// Size of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Size {
    Small,
    Medium,
    Large,
}

/// What is behind the objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Background {
    /// One shade.
    Plain(Shade),
    /// From one shade at the top to another at the bottom.
    Gradient(Shade, Shade),
    /// One shade with coarse noise.
    Noise(Shade),
    /// A ground below a sky; the horizon lies at the given height.
    Horizon(Sky, Ground, f32),
}

/// Shade of a background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shade {
    Pale,
    Dark,
    Grey,
    Blue,
    Green,
    Rosy,
    Sandy,
}

/// Upper part of a landscape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sky {
    Blue,
    Grey,
    Evening,
    Night,
}

/// Lower part of a landscape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ground {
    Field,
    Sand,
    Snow,
    Water,
    Floor,
}

impl Shade {
    pub(super) const ALL: [Self; 7] =
        [Self::Pale, Self::Dark, Self::Grey, Self::Blue, Self::Green, Self::Rosy, Self::Sandy];

    pub(super) const fn rgb(self) -> [f32; 3] {
        match self {
            Self::Pale => [0.90, 0.89, 0.85],
            Self::Dark => [0.15, 0.15, 0.20],
            Self::Grey => [0.62, 0.63, 0.65],
            Self::Blue => [0.60, 0.75, 0.92],
            Self::Green => [0.66, 0.82, 0.62],
            Self::Rosy => [0.93, 0.76, 0.76],
            Self::Sandy => [0.86, 0.77, 0.58],
        }
    }
}

impl Sky {
    pub(super) const ALL: [Self; 4] = [Self::Blue, Self::Grey, Self::Evening, Self::Night];

    pub(super) const fn rgb(self) -> [[f32; 3]; 2] {
        match self {
            Self::Blue => [[0.36, 0.60, 0.92], [0.74, 0.86, 0.97]],
            Self::Grey => [[0.58, 0.60, 0.64], [0.80, 0.81, 0.82]],
            Self::Evening => [[0.45, 0.32, 0.55], [0.98, 0.68, 0.42]],
            Self::Night => [[0.04, 0.05, 0.14], [0.13, 0.16, 0.32]],
        }
    }
}

impl Ground {
    pub(super) const ALL: [Self; 5] = [Self::Field, Self::Sand, Self::Snow, Self::Water, Self::Floor];

    pub(super) const fn rgb(self) -> [[f32; 3]; 2] {
        match self {
            Self::Field => [[0.42, 0.64, 0.28], [0.25, 0.46, 0.17]],
            Self::Sand => [[0.90, 0.80, 0.56], [0.78, 0.66, 0.42]],
            Self::Snow => [[0.95, 0.96, 0.98], [0.82, 0.86, 0.92]],
            Self::Water => [[0.30, 0.52, 0.70], [0.10, 0.28, 0.48]],
            Self::Floor => [[0.62, 0.44, 0.28], [0.44, 0.29, 0.17]],
        }
    }
}
