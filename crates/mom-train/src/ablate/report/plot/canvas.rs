//! A canvas in points with one decimal. The drawing library counts in whole pixels; it is given ten per point, and the
//! SVG's head is then rewritten to the size in points.

use plotters::coord::Shift;
use plotters::drawing::DrawingAreaErrorKind;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::ReportError;
use super::palette::{Colour, INK, PAGE};

/// Pixels of the drawing library per point.
const PIXELS: f64 = 10.0;
/// The drawing library divides font sizes by this on their way into SVG.
const FONT_FACTOR: f64 = 1.24;
/// Width of an average letter over the font size, for estimates of how long a text is.
const LETTER_WIDTH: f64 = 0.62;

/// The outcome of a drawing call.
pub(super) type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A sheet to draw on; the origin is its upper left corner.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// How a text is set.
#[derive(Clone, Copy)]
pub(super) struct Type {
    pub(super) size: f64,
    pub(super) colour: Colour,
    pub(super) weight: Weight,
    pub(super) align: HPos,
    pub(super) direction: Direction,
}

/// Strength of a text or line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Normal,
    Bold,
}

/// Where a text runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Across,
    Upwards,
}

impl Type {
    /// Left-aligned text in ink.
    pub(super) fn new(size: f64) -> Self {
        Self { size, colour: INK, weight: Weight::Normal, align: HPos::Left, direction: Direction::Across }
    }

    pub(super) fn colour(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }

    pub(super) fn align(self, align: HPos) -> Self {
        Self { align, ..self }
    }

    pub(super) fn weight(self, weight: Weight) -> Self {
        Self { weight, ..self }
    }

    /// Text that reads upwards.
    pub(super) fn upwards(self) -> Self {
        Self { direction: Direction::Upwards, ..self }
    }
}

/// Roughly how wide a text comes out.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * LETTER_WIDTH
}

/// Draws a plot of `width` by `height` points; `plot` names it in errors.
pub(super) fn draw(
    plot: &str,
    (width, height): (f64, f64),
    content: impl FnOnce(&Canvas) -> Drawn,
) -> Result<String, ReportError> {
    let mut svg = String::new();
    let drawn = || -> Drawn {
        let size = ((width * PIXELS) as u32, (height * PIXELS) as u32);
        let canvas = Canvas { area: SVGBackend::with_string(&mut svg, size).into_drawing_area() };
        canvas.area.fill(&PAGE.rgb())?;
        content(&canvas)?;
        canvas.area.present()
    };
    drawn().map_err(|source| ReportError::Plot { plot: plot.to_owned(), source: Box::new(source) })?;

    let body = svg.split_once('\n').map_or("", |(_head, body)| body);
    let (pixel_width, pixel_height) = (width * PIXELS, height * PIXELS);
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {pixel_width} {pixel_height}\" stroke-linejoin=\"round\" stroke-linecap=\"round\">\n{body}"
    ))
}

impl Canvas<'_> {
    /// A line through `points`.
    pub(super) fn line(&self, points: &[(f64, f64)], colour: Colour, width: f64, opacity: f64) -> Drawn {
        if points.len() < 2 {
            return Ok(());
        }
        let style = colour.rgb().mix(opacity).stroke_width(pixels(width) as u32);
        self.area.draw(&PathElement::new(points.iter().map(|&point| at(point)).collect::<Vec<_>>(), style))
    }

    /// A filled rectangle between two corners.
    pub(super) fn rectangle(&self, from: (f64, f64), to: (f64, f64), colour: Colour, opacity: f64) -> Drawn {
        self.area.draw(&Rectangle::new([at(from), at(to)], colour.rgb().mix(opacity).filled()))
    }

    /// A filled disc.
    pub(super) fn disc(&self, centre: (f64, f64), radius: f64, colour: Colour) -> Drawn {
        self.area.draw(&Circle::new(at(centre), pixels(radius), colour.rgb().filled()))
    }

    /// A text whose middle height is at `place`.
    pub(super) fn text(&self, place: (f64, f64), text: &str, set: Type) -> Drawn {
        let font = FontDesc::new(
            FontFamily::Name("system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"),
            set.size * PIXELS * FONT_FACTOR,
            if set.weight == Weight::Bold { FontStyle::Bold } else { FontStyle::Normal },
        );
        let font = match set.direction {
            Direction::Across => font,
            Direction::Upwards => font.transform(FontTransform::Rotate270),
        };
        let colour = set.colour.rgb();
        let style = TextStyle::from(font).color(&colour).pos(Pos::new(set.align, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), at(place), style))
    }
}

fn pixels(points: f64) -> i32 {
    (points * PIXELS).round() as i32
}

fn at((x, y): (f64, f64)) -> (i32, i32) {
    (pixels(x), pixels(y))
}
