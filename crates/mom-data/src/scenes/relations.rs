//! Where groups are, seen from one another, and how that is said.

use super::compose::Scene;

/// Where one group is, seen from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
    InFront,
    Behind,
    Near,
}

impl Relation {
    pub(super) const ALL: [Self; 7] =
        [Self::LeftOf, Self::RightOf, Self::Above, Self::Below, Self::InFront, Self::Behind, Self::Near];

    /// The words for it.
    pub(super) fn ways(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::LeftOf => &[&["to", "the", "left", "of"], &["left", "of"], &["on", "the", "left", "of"]],
            Self::RightOf => &[&["to", "the", "right", "of"], &["right", "of"], &["on", "the", "right", "of"]],
            Self::Above => &[&["above"], &["over"], &["higher", "than"]],
            Self::Below => &[&["below"], &["under"], &["beneath"], &["lower", "than"]],
            Self::InFront => &[&["in", "front", "of"], &["partly", "in", "front", "of"]],
            Self::Behind => &[&["behind"], &["partly", "behind"]],
            Self::Near => &[&["near"], &["beside"], &["next", "to"]],
        }
    }
}

/// A place in the picture that an object takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Placed {
    pub centre: [f32; 2],
    pub radius: f32,
}

/// All relations of group `a` to group `b` that hold, at least one.
pub(super) fn relations(scene: &Scene, a: usize, b: usize) -> Vec<Relation> {
    let places = |group: usize| -> Vec<Placed> {
        scene.members(group).map(|object| Placed { centre: object.centre, radius: object.radius }).collect()
    };
    // Later groups are drawn over earlier ones.
    relations_of(&places(a), &places(b), a > b)
}

/// All relations that hold of objects of one group to those of another, which they are drawn over if they are in front.
pub(super) fn relations_of(a: &[Placed], b: &[Placed], in_front: bool) -> Vec<Relation> {
    let bounds = |objects: &[Placed], axis: usize| {
        objects
            .iter()
            .map(|object| object.centre[axis])
            .fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    // Two objects that overlap are told apart by depth alone.
    if overlap(a, b) {
        return vec![if in_front { Relation::InFront } else { Relation::Behind }];
    }
    let ((ax0, ax1), (bx0, bx1)) = (bounds(a, 0), bounds(b, 0));
    let ((ay0, ay1), (by0, by1)) = (bounds(a, 1), bounds(b, 1));
    let gaps = [
        (Relation::LeftOf, bx0 - ax1),
        (Relation::RightOf, ax0 - bx1),
        (Relation::Above, by0 - ay1),
        (Relation::Below, ay0 - by1),
    ];
    let widest = gaps.iter().map(|(_, gap)| *gap).fold(f32::MIN, f32::max);
    // Nobody says "left of" of what is far below and a little to the left.
    let mut holds: Vec<Relation> =
        gaps.into_iter().filter(|&(_, gap)| gap > 0.08 && gap > 0.6 * widest).map(|(relation, _)| relation).collect();
    if holds.is_empty() {
        holds.push(Relation::Near);
    }
    holds
}

/// Whether two single objects overlap.
pub(super) fn overlap(a: &[Placed], b: &[Placed]) -> bool {
    let ([first], [second]) = (a, b) else { return false };
    let [dx, dy] = [first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]];
    dx.hypot(dy) < 0.88 * (first.radius + second.radius)
}
