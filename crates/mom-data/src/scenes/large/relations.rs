//! Which relations of two things hold in a picture: what a caption may say.

use super::compose::{Picture, Thing};
use super::english::COLOURS;

/// Of one thing, seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
    InFront,
    Behind,
    Near,
    FarFrom,
    Larger,
    Smaller,
    Brighter,
    Darker,
    SameColour,
}

impl Relation {
    /// The words between the two, most of them behind "is". Comparisons end with "than" or "as".
    pub fn ways(self) -> &'static [&'static str] {
        match self {
            Self::LeftOf => &["to the left of", "left of", "on the left of"],
            Self::RightOf => &["to the right of", "right of", "on the right of"],
            Self::Above => &["above", "over", "higher than"],
            Self::Below => &["below", "under", "beneath", "lower than"],
            Self::InFront => &["in front of", "partly in front of"],
            Self::Behind => &["behind", "partly behind"],
            Self::Near => &["near", "beside", "next to", "close to"],
            Self::FarFrom => &["far from"],
            Self::Larger => &["larger than"],
            Self::Smaller => &["smaller than"],
            Self::Brighter => &["brighter than"],
            Self::Darker => &["darker than"],
            Self::SameColour => &["in the same colour as"],
        }
    }

    /// Whether it says where a thing is.
    pub fn is_place(self) -> bool {
        !matches!(self, Self::Larger | Self::Smaller | Self::Brighter | Self::Darker | Self::SameColour)
    }
}

/// All relations of `a` to `b` that hold, at least one of them of place.
pub(super) fn relations(picture: &Picture, a: usize, b: usize) -> Vec<Relation> {
    let (first, second) = (&picture.things[a], &picture.things[b]);
    let mut holds = places(first, second, a > b);
    let sizes = first.radius() / second.radius();
    if first.size > second.size && sizes > 1.15 {
        holds.push(Relation::Larger);
    }
    if first.size < second.size && sizes < 1.0 / 1.15 {
        holds.push(Relation::Smaller);
    }
    // Two plain things: a pattern has two brightnesses.
    if first.pattern.is_none() && second.pattern.is_none() {
        let light = brightness(first) - brightness(second);
        if light > 0.2 {
            holds.push(Relation::Brighter);
        }
        if light < -0.2 {
            holds.push(Relation::Darker);
        }
    }
    if first.colour == second.colour {
        holds.push(Relation::SameColour);
    }
    holds
}

fn brightness(thing: &Thing) -> f32 {
    let [r, g, b] = COLOURS[thing.colour].rgb;
    0.3 * r + 0.6 * g + 0.1 * b
}

fn places(a: &Thing, b: &Thing, a_is_later: bool) -> Vec<Relation> {
    // Two things that overlap are told apart by depth alone.
    if let ([first], [second]) = (a.bodies.as_slice(), b.bodies.as_slice()) {
        let [dx, dy] = [first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]];
        let reach = first.radius + second.radius;
        if dx.hypot(dy) < 0.85 * reach {
            return vec![if a_is_later { Relation::InFront } else { Relation::Behind }];
        }
        if dx.hypot(dy) > 0.62 {
            return vec![Relation::FarFrom, side(a, b).unwrap_or(Relation::FarFrom)];
        }
    }
    match side(a, b) {
        Some(relation) => vec![relation],
        None => vec![Relation::Near],
    }
}

/// The side on which all of `a` is, seen from all of `b`, where there is one.
fn side(a: &Thing, b: &Thing) -> Option<Relation> {
    let ((ax0, ax1), (bx0, bx1)) = (a.span(0), b.span(0));
    let ((ay0, ay1), (by0, by1)) = (a.span(1), b.span(1));
    let gaps = [
        (Relation::LeftOf, bx0 - ax1),
        (Relation::RightOf, ax0 - bx1),
        (Relation::Above, by0 - ay1),
        (Relation::Below, ay0 - by1),
    ];
    let widest = gaps.into_iter().fold((Relation::Near, 0.08), |best, gap| if gap.1 > best.1 { gap } else { best });
    (widest.0 != Relation::Near).then_some(widest.0)
}

/// Whether one thing lies between two others, from left to right.
pub(super) fn is_between(picture: &Picture, middle: usize, a: usize, b: usize) -> bool {
    let span = |thing: usize| picture.things[thing].span(0);
    let ((low, high), (a0, a1), (b0, b1)) = (span(middle), span(a), span(b));
    (a1 + 0.06 < low && high + 0.06 < b0) || (b1 + 0.06 < low && high + 0.06 < a0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Domain, Stream};

    /// What holds of `b` and `a` where it holds of `a` and `b`.
    fn opposite(relation: Relation) -> Relation {
        match relation {
            Relation::LeftOf => Relation::RightOf,
            Relation::RightOf => Relation::LeftOf,
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
            Relation::InFront => Relation::Behind,
            Relation::Behind => Relation::InFront,
            Relation::Larger => Relation::Smaller,
            Relation::Smaller => Relation::Larger,
            Relation::Brighter => Relation::Darker,
            Relation::Darker => Relation::Brighter,
            same => same,
        }
    }

    #[test]
    fn relations_hold_both_ways() {
        let mut seen = Vec::new();
        for index in 0..3000 {
            let picture = Picture::draw(&mut Stream::new(1, Domain::Scene, index, 1));
            for a in 0..picture.things.len() {
                for b in (0..picture.things.len()).filter(|&b| b != a) {
                    let holds = relations(&picture, a, b);
                    assert!(holds.iter().any(|relation| relation.is_place()));
                    let back: Vec<Relation> = relations(&picture, b, a).into_iter().map(opposite).collect();
                    assert_eq!(holds, back, "document {index}");
                    seen.extend(holds);
                }
            }
        }
        for relation in [Relation::InFront, Relation::FarFrom, Relation::SameColour, Relation::Darker, Relation::Near] {
            assert!(seen.contains(&relation), "{relation:?}");
        }
    }
}
