//! Facts about a scene.

use super::super::compose::{Group, Scene};
use super::super::kinds::{Background, Colour, Ground, Shade, Shape, Sky};
use super::super::relations::{Relation, relations};

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// How many objects a group has.
    Count,
    /// The main colour of its objects.
    Colour,
    /// Their shape.
    Shape,
    /// Where a group is, seen from another.
    Relation,
    /// Shade or shades of a wall; sky and ground of a landscape.
    Background,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Count, Self::Colour, Self::Shape, Self::Relation, Self::Background];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Relation => "relation",
            Self::Background => "background",
        }
    }
}

/// What is told of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupFacts {
    /// How many objects it has.
    pub count: Option<usize>,
    /// Their main colour; of striped and checkered objects that are *seen* one of two, since nothing shows which of the two
    /// is the main one. Empty where it is not told.
    pub colours: Vec<Colour>,
    /// Their shape.
    pub shape: Option<Shape>,
}

/// That a group is somewhere, seen from another; both are indices of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFact {
    /// The group that is there.
    pub subject: usize,
    /// Where.
    pub relation: Relation,
    /// The group that it is seen from.
    pub object: usize,
}

/// What is told of the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackgroundFacts {
    /// A wall; one of a single shade has it twice.
    Wall {
        /// Shade at the top.
        top: Shade,
        /// Shade at the bottom.
        bottom: Shade,
    },
    /// A landscape, of which sky or ground may be untold.
    Land {
        /// Its sky.
        sky: Option<Sky>,
        /// Its ground.
        ground: Option<Ground>,
    },
}

/// Facts about a scene.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Its groups.
    pub groups: Vec<GroupFacts>,
    /// Where they are, seen from one another.
    pub relations: Vec<RelationFact>,
    /// What is behind them.
    pub background: Option<BackgroundFacts>,
    /// Whether that is all there is, so that what is not among it is not so; else it may be.
    pub is_complete: bool,
}

impl Facts {
    /// Everything that a scene holds.
    pub fn of_scene(scene: &Scene) -> Self {
        let n_groups = scene.groups.len();
        let pairs = (0..n_groups).flat_map(|a| (0..n_groups).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let relations = pairs.flat_map(|(subject, object)| {
            let holds = relations(scene, subject, object);
            holds.into_iter().map(move |relation| RelationFact { subject, relation, object })
        });
        Self {
            groups: scene.groups.iter().map(GroupFacts::from).collect(),
            relations: relations.collect(),
            background: Some(BackgroundFacts::from(&scene.background)),
            is_complete: true,
        }
    }
}

impl From<&Group> for GroupFacts {
    fn from(group: &Group) -> Self {
        Self { count: Some(group.count), colours: vec![group.colour], shape: Some(group.shape) }
    }
}

impl From<&Background> for BackgroundFacts {
    fn from(background: &Background) -> Self {
        match *background {
            Background::Plain(shade) | Background::Noise(shade) => Self::Wall { top: shade, bottom: shade },
            Background::Gradient(top, bottom) => Self::Wall { top, bottom },
            Background::Horizon(sky, ground, _) => Self::Land { sky: Some(sky), ground: Some(ground) },
        }
    }
}
