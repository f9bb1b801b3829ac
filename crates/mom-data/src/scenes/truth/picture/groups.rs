//! Objects of one shape and colour are a group; what stands before what.

use super::super::super::kinds::Colour;
use super::super::super::relations::{Placed, relations_of};
use super::super::facts::{BackgroundFacts, Facts, GroupFacts, RelationFact};
use super::canvas::{Canvas, Rgb, squared_distance};
use super::colours;
use super::objects::Seen;
use super::templates::outlines;

/// How much of its outline's area an object may lose by another shape than its best, to be of the group of another.
const LOSS: f32 = 0.05;
/// How much larger the largest object of a group may be than the smallest.
const RATIO: f32 = 1.5;

struct Object {
    seen: Seen,
    colours: Vec<Colour>,
    rgb: Rgb,
}

#[derive(Default)]
struct Group {
    members: Vec<usize>,
    /// Sum over the members, of each shape.
    by_shape: Vec<f32>,
    colours: Vec<Colour>,
}

/// What objects before a background amount to.
pub(super) fn facts(canvas: &Canvas, seen: Vec<Seen>, background: BackgroundFacts) -> Facts {
    let objects: Vec<Object> = (0..seen.len()).map(|index| object(canvas, &seen, index)).collect();
    let mut groups: Vec<Group> = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        match groups.iter_mut().find(|group| is_of(group, object, &objects)) {
            Some(group) => group.add(index, object),
            None => {
                let mut group = Group { by_shape: vec![0.0; outlines().len()], ..Group::default() };
                group.add(index, object);
                groups.push(group);
            }
        }
    }
    let mut relations = Vec::new();
    for (subject, a) in groups.iter().enumerate() {
        for (object, b) in groups.iter().enumerate().filter(|(object, _)| *object != subject) {
            let [first, second] = [a, b].map(|group| group.members.iter().map(|&i| &objects[i]).collect::<Vec<_>>());
            let places = |objects: &[&Object]| -> Vec<Placed> {
                let placed = |object: &&Object| Placed {
                    centre: object.seen.pose().centre(),
                    radius: object.seen.pose().radius(),
                };
                objects.iter().map(placed).collect()
            };
            let front = is_in_front(canvas, first[0], second[0]);
            let holds = relations_of(&places(&first), &places(&second), front);
            relations.extend(holds.into_iter().map(|relation| RelationFact { subject, relation, object }));
        }
    }
    let group = |group: &Group| GroupFacts {
        count: Some(group.members.len()),
        colours: group.colours.clone(),
        shape: Some(outlines()[group.shape()].shape),
    };
    let groups = groups.iter().map(group).collect();
    Facts { groups, relations, background: Some(background), is_complete: true }
}

impl Group {
    fn add(&mut self, index: usize, object: &Object) {
        let common: Vec<Colour> =
            object.colours.iter().copied().filter(|colour| self.colours.contains(colour)).collect();
        self.colours = if self.members.is_empty() { object.colours.clone() } else { common };
        self.members.push(index);
        let area = object.seen.pose().template().area;
        for (sum, (_, of_shape)) in self.by_shape.iter_mut().zip(&object.seen.by_shape) {
            *sum += of_shape / area;
        }
    }

    fn shape(&self) -> usize {
        (0..self.by_shape.len()).max_by(|&a, &b| self.by_shape[a].total_cmp(&self.by_shape[b])).unwrap_or(0)
    }
}

/// Whether an object may be one of a group: a colour that all of them have, about as large, and a shape that all of them may have.
fn is_of(group: &Group, object: &Object, objects: &[Object]) -> bool {
    let radius = object.seen.pose().radius();
    let as_large = |&member: &usize| {
        let other = objects[member].seen.pose().radius();
        radius.max(other) < RATIO * radius.min(other)
    };
    let area = object.seen.pose().template().area;
    let of_object = |shape: usize| object.seen.by_shape[shape].1 / area;
    let best = |of: &dyn Fn(usize) -> f32| (0..group.by_shape.len()).map(of).fold(f32::MIN, f32::max);
    let apart = best(&|shape| group.by_shape[shape]) + best(&of_object);
    let together = best(&|shape| group.by_shape[shape] + of_object(shape));
    object.colours.iter().any(|colour| group.colours.contains(colour))
        && group.members.iter().all(as_large)
        && apart - together < LOSS * (group.members.len() + 1) as f32
}

fn object(canvas: &Canvas, seen: &[Seen], index: usize) -> Object {
    let is_hidden = |at: usize| {
        let others = seen.iter().enumerate().filter(|(other, _)| *other != index);
        others.flat_map(|(_, other)| other.pose().pixels()).any(|(of, cover)| of == at && cover > 0.1)
    };
    let inside = |least: f32, hidden: bool| -> Vec<Rgb> {
        let pixels = seen[index].pose().pixels().filter(|(_, cover)| *cover >= least);
        pixels.filter(|(at, _)| hidden || !is_hidden(*at)).map(|(at, _)| canvas.pixels[at]).collect()
    };
    // Where all of it is a rim, or hidden, what there is has to do.
    let choices = [inside(0.98, false), inside(0.6, false), inside(0.3, true)];
    let pixels = choices.into_iter().find(|pixels| pixels.len() >= 6).unwrap_or_else(|| inside(0.0, true));
    let (colours, rgb) = colours::of_pixels(&pixels);
    Object { seen: seen[index].clone(), colours, rgb }
}

/// Whether what both outlines cover looks like the first object.
fn is_in_front(canvas: &Canvas, first: &Object, second: &Object) -> bool {
    let of_second: Vec<usize> =
        second.seen.pose().pixels().filter(|(_, cover)| *cover > 0.8).map(|(at, _)| at).collect();
    let both = first.seen.pose().pixels().filter(|(at, cover)| *cover > 0.8 && of_second.contains(at));
    let nearest = |object: &Object, pixel: Rgb| {
        let named = object.colours.iter().map(|colour| squared_distance(pixel, colour.rgb()));
        named.chain([squared_distance(pixel, object.rgb)]).fold(f32::MAX, f32::min)
    };
    let lead: f32 = both.map(|(at, _)| nearest(second, canvas.pixels[at]) - nearest(first, canvas.pixels[at])).sum();
    lead > 0.0
}
