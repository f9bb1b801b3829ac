//! Words of the captions: synonyms, plurals, and how a noun phrase is put together.

use super::compose::Group;
use super::kinds::{Colour, Ground, Shade, Shape, Size, Sky, Texture};
use crate::rng::Stream;

/// Words of a caption in their order; "," and "." are words of their own.
pub(super) type Words = Vec<&'static str>;

/// Article or number at the head of a noun phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// "a", "an", "two", "a pair of", ...
    Indefinite,
    /// "the".
    Definite,
}

/// How much of a group a noun phrase tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Shape and mostly colour, often size and texture.
    Full,
    /// Colour and shape.
    Short,
}

/// Singular and plural of a shape; the first of each list is the common name.
pub(super) fn nouns(shape: Shape) -> &'static [[&'static str; 2]] {
    match shape {
        Shape::Circle => &[["circle", "circles"], ["circle", "circles"], ["disc", "discs"]],
        Shape::Square => &[["square", "squares"], ["square", "squares"], ["box", "boxes"]],
        Shape::Triangle => &[["triangle", "triangles"]],
        Shape::Ring => &[["ring", "rings"], ["ring", "rings"], ["hoop", "hoops"]],
        Shape::Star => &[["star", "stars"]],
        Shape::Diamond => &[["diamond", "diamonds"]],
        Shape::Cross => &[["cross", "crosses"]],
        Shape::Hexagon => &[["hexagon", "hexagons"]],
        Shape::Crescent => &[["crescent", "crescents"], ["moon", "moons"]],
        Shape::Heart => &[["heart", "hearts"]],
    }
}

pub(super) fn colour(colour: Colour) -> &'static [&'static str] {
    match colour {
        Colour::Red => &["red", "red", "crimson"],
        Colour::Orange => &["orange"],
        Colour::Yellow => &["yellow", "yellow", "golden"],
        Colour::Green => &["green"],
        Colour::Blue => &["blue"],
        Colour::Purple => &["purple", "violet"],
        Colour::Pink => &["pink"],
        Colour::Brown => &["brown"],
        Colour::Black => &["black"],
        Colour::White => &["white"],
        Colour::Grey => &["grey"],
        Colour::Teal => &["teal", "turquoise"],
    }
}

pub(super) fn size(size: Size) -> &'static [&'static str] {
    match size {
        Size::Small => &["small", "small", "little", "tiny"],
        Size::Medium => &[],
        Size::Large => &["large", "big", "huge"],
    }
}

/// Adjectives of a texture.
pub(super) fn texture(texture: Texture) -> &'static [&'static str] {
    match texture {
        Texture::Plain => &["plain", "solid"],
        Texture::VerticalStripes | Texture::HorizontalStripes => &["striped"],
        Texture::Dots => &["dotted", "spotted"],
        Texture::Checks => &["checkered"],
        Texture::Gradient => &["shaded"],
    }
}

fn count(count: usize) -> &'static str {
    match count {
        2 => "two",
        3 => "three",
        _ => "four",
    }
}

/// The noun of a group, in its number.
pub(super) fn noun(stream: &mut Stream, group: &Group) -> &'static str {
    stream.pick(nouns(group.shape))[usize::from(group.count > 1)]
}

/// A noun phrase: head, size, texture, colour, noun, and sometimes "with white dots".
pub(super) fn noun_phrase(stream: &mut Stream, group: &Group, head: Head, detail: Detail) -> Words {
    let full = detail == Detail::Full;
    let mut words = Words::new();
    if full && stream.chance(0.65) && !size(group.size).is_empty() {
        words.push(stream.pick(size(group.size)));
    }
    let patterned = !matches!(group.texture, Texture::Plain | Texture::Gradient);
    let told = if group.texture == Texture::Plain { 0.12 } else { 0.7 };
    let mut with = Words::new();
    if full && stream.chance(told) {
        if patterned && stream.chance(0.5) {
            with = with_pattern(stream, group);
        } else {
            words.push(stream.pick(texture(group.texture)));
        }
    }
    if !full || stream.chance(0.95) {
        words.push(stream.pick(colour(group.colour)));
    }
    words.push(noun(stream, group));
    words.extend(with);
    let mut phrase = match head {
        Head::Definite => vec!["the"],
        Head::Indefinite if group.count == 2 && stream.chance(0.15) => vec!["a", "pair", "of"],
        Head::Indefinite if group.count > 1 => vec![count(group.count)],
        Head::Indefinite => vec![article(words[0])],
    };
    phrase.extend(words);
    phrase
}

fn with_pattern(stream: &mut Stream, group: &Group) -> Words {
    let accent = stream.pick(colour(group.accent));
    let mut words = vec!["with"];
    if stream.chance(0.75) {
        words.push(accent);
    }
    match group.texture {
        Texture::VerticalStripes if words.len() == 1 => words.push("vertical"),
        Texture::HorizontalStripes if words.len() == 1 => words.push("horizontal"),
        _ => {}
    }
    words.push(match group.texture {
        Texture::Dots => "dots",
        Texture::Checks => "checks",
        _ => "stripes",
    });
    words
}

/// "a" or "an" before a word.
pub(super) fn article(next: &str) -> &'static str {
    if next.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The form of a verb that agrees with a group.
pub(super) fn agree(group: Group, [singular, plural]: [&'static str; 2]) -> &'static str {
    if group.count > 1 { plural } else { singular }
}

/// Verbs of place, as singular and plural.
pub(super) const VERBS: [[&str; 2]; 8] = [
    ["is", "are"],
    ["sits", "sit"],
    ["stands", "stand"],
    ["floats", "float"],
    ["rests", "rest"],
    ["hangs", "hang"],
    ["lies", "lie"],
    ["appears", "appear"],
];

/// Phrases before what is seen.
pub(super) const LOOKS: [&[&str]; 6] = [
    &["we", "see"],
    &["one", "can", "see"],
    &["the", "picture", "shows"],
    &["this", "image", "shows"],
    &["here", "we", "have"],
    &["look", "at"],
];

/// Two phrases for a place in the picture.
pub(super) type Place = [&'static [&'static str]; 2];

pub(super) const TOP: Place = [&["at", "the", "top"], &["near", "the", "top"]];
pub(super) const BOTTOM: Place = [&["at", "the", "bottom"], &["near", "the", "bottom"]];
pub(super) const LEFT: Place = [&["on", "the", "left"], &["on", "the", "left", "side"]];
pub(super) const RIGHT: Place = [&["on", "the", "right"], &["on", "the", "right", "side"]];
pub(super) const MIDDLE: Place = [&["in", "the", "middle"], &["at", "the", "centre"]];
pub(super) const ANYWHERE: Place = [&["in", "the", "picture"], &["in", "view"]];
/// All of them.
pub(super) const PLACES: [Place; 6] = [TOP, BOTTOM, LEFT, RIGHT, MIDDLE, ANYWHERE];

/// Grains of a background.
pub(super) const GRAINS: [&str; 3] = ["grainy", "rough", "noisy"];

pub(super) fn shade(shade: Shade) -> &'static str {
    match shade {
        Shade::Pale => "pale",
        Shade::Dark => "dark",
        Shade::Grey => "grey",
        Shade::Blue => "blue",
        Shade::Green => "green",
        Shade::Rosy => "rosy",
        Shade::Sandy => "sandy",
    }
}

pub(super) fn sky(sky: Sky) -> &'static [&'static [&'static str]] {
    match sky {
        Sky::Blue => &[&["a", "blue", "sky"], &["a", "clear", "sky"]],
        Sky::Grey => &[&["a", "grey", "sky"], &["clouds"]],
        Sky::Evening => &[&["an", "evening", "sky"], &["a", "sunset"]],
        Sky::Night => &[&["a", "night", "sky"], &["a", "dark", "sky"]],
    }
}

pub(super) fn ground(ground: Ground) -> &'static [&'static [&'static str]] {
    match ground {
        Ground::Field => &[&["a", "green", "field"], &["a", "meadow"], &["grass"]],
        Ground::Sand => &[&["a", "beach"], &["yellow", "sand"]],
        Ground::Snow => &[&["white", "snow"], &["a", "snowy", "field"]],
        Ground::Water => &[&["a", "lake"], &["blue", "water"]],
        Ground::Floor => &[&["a", "brown", "floor"], &["a", "wooden", "floor"]],
    }
}
