//! Reads captions back to facts: the inverse of the sentences that describe scenes.
//!
//! A caption is a row of phrases: noun phrases, relations, places, backgrounds, and words that hold them together. At every
//! word the longest phrase that fits is taken; a word that begins none is passed over and counted, so that what a model
//! says in broken sentences still counts for what can be made out of it.

use super::super::kinds::{Colour, Ground, Shade, Shape, Size, Sky, Texture};
use super::super::relations::Relation;
use super::super::words::{self, GRAINS, LOOKS, PLACES, VERBS};
use super::facts::{BackgroundFacts, Facts, GroupFacts, RelationFact};

/// Phrases that say nothing of what is read, beside those that look and those of a place. None is the beginning of another phrase
/// that does, or is shorter than it.
const FILLERS: &[&[&str]] = &[
    &["there"],
    &["all", "that", "can", "be", "seen"],
    &["which"],
    &["that"],
    &["while"],
    &["and"],
    &["among", "them"],
    &["three", "shapes"],
    &["four", "shapes"],
];

/// What a text says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaptionReading {
    /// What was made out; never complete.
    pub facts: Facts,
    /// Words.
    pub n_words: usize,
    /// Words that begin no phrase of a caption.
    pub n_unread: usize,
}

impl CaptionReading {
    /// Whether something was made out and no word was left over.
    pub fn is_whole(&self) -> bool {
        self.n_unread == 0 && !self.facts.groups.is_empty()
    }
}

/// Reads a text as a caption of a scene; upper and lower case are the same.
pub fn read_caption(text: &str) -> CaptionReading {
    let spaced = text.to_lowercase().replace([',', '.'], " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (mut at, mut n_unread, mut phrases) = (0, 0, Vec::new());
    while let Some(rest) = words.get(at..).filter(|rest| !rest.is_empty()) {
        match longest(rest) {
            Some((n, phrase)) => {
                at += n;
                phrases.push(phrase);
            }
            None => {
                at += 1;
                n_unread += 1;
            }
        }
    }
    CaptionReading { facts: facts(&phrases), n_words: words.len(), n_unread }
}

/// A phrase of a caption.
#[derive(Debug, Clone, PartialEq)]
enum Phrase {
    Filler,
    Group { facts: GroupFacts, is_definite: bool },
    Pronoun,
    Relation(Relation),
    Background(BackgroundFacts),
}

/// The longest phrase that words begin with, and how many words it has.
fn longest(words: &[&str]) -> Option<(usize, Phrase)> {
    let fixed = |phrase: &[&str]| words.starts_with(phrase).then_some(phrase.len());
    let mut found: Vec<(usize, Phrase)> = Vec::new();
    let fillers = FILLERS.iter().chain(&LOOKS).chain(PLACES.as_flattened());
    found.extend(fillers.filter_map(|phrase| Some((fixed(phrase)?, Phrase::Filler))));
    found.extend(VERBS.iter().flatten().filter_map(|verb| Some((fixed(&[verb])?, Phrase::Filler))));
    found.extend(["it", "them"].iter().filter_map(|word| Some((fixed(&[word])?, Phrase::Pronoun))));
    for relation in Relation::ALL {
        found.extend(relation.ways().iter().filter_map(|way| Some((fixed(way)?, Phrase::Relation(relation)))));
    }
    found.extend(background(words));
    found.extend(group(words));
    // The first of several as long as each other; none are.
    found.into_iter().rev().max_by_key(|(n, _)| *n)
}

fn shade(word: &str) -> Option<Shade> {
    Shade::ALL.into_iter().find(|&shade| words::shade(shade) == word)
}

fn background(words: &[&str]) -> Option<(usize, Phrase)> {
    let wall = |n, top, bottom| Some((n, Phrase::Background(BackgroundFacts::Wall { top, bottom })));
    match *words {
        ["on", "a", "background", "fading", "from", top, "to", bottom, ..]
        | ["against", "a", "wall", "turning", "from", top, "to", bottom, ..] => wall(8, shade(top)?, shade(bottom)?),
        ["before", "a", "plain", of, "wall", ..] => wall(5, shade(of)?, shade(of)?),
        ["on", "a", grain, of, "background", ..] | ["against", "a", grain, of, "wall", ..]
            if GRAINS.contains(&grain) =>
        {
            wall(5, shade(of)?, shade(of)?)
        }
        ["on", "a", of, "background", ..] | ["against", "a", of, "wall", ..] => wall(4, shade(of)?, shade(of)?),
        ["under", ref rest @ ..] => {
            let sky = |sky: Sky| {
                let n = words::sky(sky).iter().find(|way| rest.starts_with(way))?.len();
                Some((n + 1, Phrase::Background(BackgroundFacts::Land { sky: Some(sky), ground: None })))
            };
            Sky::ALL.into_iter().find_map(sky)
        }
        ["over", ref rest @ ..] => {
            let ground = |ground: Ground| {
                let n = words::ground(ground).iter().find(|way| rest.starts_with(way))?.len();
                Some((n + 1, Phrase::Background(BackgroundFacts::Land { sky: None, ground: Some(ground) })))
            };
            Ground::ALL.into_iter().find_map(ground)
        }
        _ => None,
    }
}

/// A noun phrase: head, sizes, surfaces and colours, noun, perhaps "with white dots".
fn group(words: &[&str]) -> Option<(usize, Phrase)> {
    let (mut at, count, is_definite) = match *words {
        ["a", "pair", "of", ..] => (3, Some(2), false),
        ["a" | "an", ..] => (1, Some(1), false),
        ["two", ..] => (1, Some(2), false),
        ["three", ..] => (1, Some(3), false),
        ["four", ..] => (1, Some(4), false),
        ["the", ..] => (1, None, true),
        _ => return None,
    };
    let mut colours = Vec::new();
    let shape = loop {
        let word = *words.get(at)?;
        at += 1;
        if let Some(shape) = noun(word) {
            break shape;
        }
        match colour(word) {
            Some(colour) => colours = vec![colour],
            None if is_adjective(word) => {}
            None => return None,
        }
    };
    at += with_pattern(&words[at..]);
    Some((at, Phrase::Group { facts: GroupFacts { count, colours, shape: Some(shape) }, is_definite }))
}

fn noun(word: &str) -> Option<Shape> {
    Shape::ALL.into_iter().find(|&shape| words::nouns(shape).iter().flatten().any(|noun| *noun == word))
}

fn colour(word: &str) -> Option<Colour> {
    Colour::ALL.into_iter().find(|&colour| words::colour(colour).contains(&word))
}

fn is_adjective(word: &str) -> bool {
    let textures = [
        Texture::Plain,
        Texture::VerticalStripes,
        Texture::HorizontalStripes,
        Texture::Dots,
        Texture::Checks,
        Texture::Gradient,
    ];
    [Size::Small, Size::Medium, Size::Large].into_iter().any(|size| words::size(size).contains(&word))
        || textures.into_iter().any(|texture| words::texture(texture).contains(&word))
}

/// Words of "with white dots", if that is there: the second colour is no attribute.
fn with_pattern(words: &[&str]) -> usize {
    let is_pattern = |word: &str| matches!(word, "dots" | "checks" | "stripes");
    match *words {
        ["with", pattern, ..] if is_pattern(pattern) => 2,
        ["with", of, pattern, ..]
            if is_pattern(pattern) && (colour(of).is_some() || matches!(of, "vertical" | "horizontal")) =>
        {
            3
        }
        _ => 0,
    }
}

/// What phrases say together. The subject of a relation is the first group, or the one that "the" points to; where a sentence
/// begins with the relation, or has "it" or "them" behind it, it is the group that comes last.
fn facts(phrases: &[Phrase]) -> Facts {
    let mut facts = Facts::default();
    // Mentions of groups in their order, relations between them.
    let mut mentioned: Vec<usize> = Vec::new();
    let mut pointed_to = None;
    let mut open: Option<Open> = None;
    for phrase in phrases {
        match phrase {
            Phrase::Filler => {}
            Phrase::Background(of) => facts.background = Some(together(facts.background, *of)),
            Phrase::Relation(relation) => {
                open = Some(match mentioned.is_empty() {
                    true => Open { relation: *relation, subject: None, object: None },
                    false => {
                        Open { relation: *relation, subject: pointed_to.or(mentioned.first().copied()), object: None }
                    }
                });
            }
            Phrase::Pronoun => {
                if let Some(open) = &mut open {
                    (open.subject, open.object) = (None, mentioned.first().copied());
                }
            }
            Phrase::Group { facts: of, is_definite } => {
                let group = match is_definite {
                    true => {
                        let subject = open.as_ref().and_then(|open| open.subject);
                        let group = earlier(&mut facts.groups, of, subject);
                        pointed_to = Some(group);
                        group
                    }
                    false => {
                        facts.groups.push(of.clone());
                        facts.groups.len() - 1
                    }
                };
                mentioned.push(group);
                let Some(mut now) = open.take() else { continue };
                match (now.subject, now.object) {
                    (Some(_), _) | (None, None) => now.object = Some(group),
                    (None, Some(_)) => now.subject = Some(group),
                }
                match (now.subject, now.object) {
                    (Some(subject), Some(object)) if subject != object => {
                        facts.relations.push(RelationFact { subject, relation: now.relation, object });
                    }
                    // Its subject comes behind its verb.
                    (None, Some(_)) => open = Some(now),
                    _ => {}
                }
            }
        }
    }
    facts
}

/// A relation that waits for its groups.
struct Open {
    relation: Relation,
    subject: Option<usize>,
    object: Option<usize>,
}

/// The group that "the red star" points to, of which it may tell the colour; a new one if there is none. A group does not stand
/// in relation to itself: `not` is another.
fn earlier(groups: &mut Vec<GroupFacts>, of: &GroupFacts, not: Option<usize>) -> usize {
    let can_be = |(at, group): &(usize, &GroupFacts)| Some(*at) != not && group.shape == of.shape;
    let same = groups.iter().enumerate().filter(can_be).find(|(_, group)| group.colours == of.colours);
    let untold = || groups.iter().enumerate().filter(can_be).find(|(_, group)| group.colours.is_empty());
    match same.or_else(untold).map(|(at, _)| at) {
        Some(at) => {
            groups[at].colours.clone_from(&of.colours);
            at
        }
        None => {
            groups.push(of.clone());
            groups.len() - 1
        }
    }
}

/// Sky and ground are told one after the other.
fn together(before: Option<BackgroundFacts>, now: BackgroundFacts) -> BackgroundFacts {
    match (before, now) {
        (Some(BackgroundFacts::Land { sky, ground }), BackgroundFacts::Land { sky: more_sky, ground: more_ground }) => {
            BackgroundFacts::Land { sky: sky.or(more_sky), ground: ground.or(more_ground) }
        }
        (before, now) => before.unwrap_or(now),
    }
}
