//! Tells a picture of the large world in one to seven sentences.
//!
//! It begins with who speaks and where it is, or at once; then things are introduced one after the other, mostly by where they
//! are as seen from one that was told before; then there are remarks on what was told. A thing that was the subject of the last
//! sentence may be "it" or "they". Whatever is said is true of the picture; not all that is true is said.

use super::compose::{MEDIUM, Picture, Thing};
use super::english::{COLOURS, WEATHERS, english};
use super::meaning::Outline;
use super::relations::{is_between, relations};
use super::word::{Role, Word};
use super::words::words;
use crate::rng::Stream;

/// Nothing is begun behind so many words.
const ENOUGH: usize = 34;

/// The words of a caption, with its commas and full stops.
pub(super) fn tell(picture: &Picture, stream: &mut Stream) -> Vec<Word> {
    let mut teller =
        Teller { picture, stream, words: Vec::new(), told: Vec::new(), subject: None, named: false, said: Vec::new() };
    teller.opening();
    let mut order: Vec<usize> = (0..picture.things.len()).collect();
    teller.stream.shuffle(&mut order);
    for thing in order {
        if teller.told.is_empty() || teller.words.len() < ENOUGH && teller.stream.chance(0.9) {
            teller.introduce(thing);
        }
    }
    while teller.words.len() < ENOUGH && teller.stream.chance(0.55) {
        teller.remark();
    }
    teller.words
}

/// Joins words to a text: no space before punctuation.
pub(super) fn join(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && !matches!(word.role, Role::Comma | Role::Stop) {
            text.push(' ');
        }
        text.push_str(word.text);
    }
    text
}

struct Teller<'a> {
    picture: &'a Picture,
    stream: &'a mut Stream,
    words: Vec<Word>,
    /// Things that were introduced, in their order.
    told: Vec<usize>,
    /// What a pronoun would mean.
    subject: Option<usize>,
    /// Whether it was said who speaks.
    named: bool,
    /// What was said of which thing, so that nothing is said twice.
    said: Vec<(usize, Said)>,
}

/// What can be said of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Owner,
    Core,
    Between,
    Relation(usize),
    Pose,
    Place,
}

impl Teller<'_> {
    fn say(&mut self, text: &'static str) {
        self.words.extend(text.split_whitespace().map(english));
    }

    /// One of some ways to say something.
    fn pick(&mut self, ways: &[&'static str]) {
        let way = self.stream.pick(ways);
        self.say(way);
    }

    fn thing(&self, thing: usize) -> &Thing {
        &self.picture.things[thing]
    }

    fn many(&self, thing: usize) -> bool {
        self.thing(thing).bodies.len() > 1
    }

    /// The word that agrees with a thing's number.
    fn agree(&mut self, thing: usize, [one, many]: [&'static str; 2]) {
        self.say(if self.many(thing) { many } else { one });
    }

    fn opening(&mut self) {
        if self.stream.chance(0.5) {
            self.named = true;
            self.words.push(words().names[self.picture.speaker]);
            self.say("says ,");
        }
        let place = words().places[self.picture.place];
        let weather = self.picture.weather.filter(|_| self.stream.chance(0.8));
        match self.stream.below(7) {
            0 | 1 => self.pick(&["this is", "here is"]),
            2 => self.pick(&["welcome to", "we see the land of", "look at"]),
            3 => self.say("today we see"),
            4 => self.say("in"),
            // Nothing is said of it.
            _ => return,
        }
        let goes_on = self.words.last().is_some_and(|word| word.text == "in");
        self.words.push(place);
        if let Some(weather) = weather {
            self.say("in");
            self.words.push(WEATHERS[weather].name());
        }
        self.say(if goes_on { "," } else { "." });
    }

    /// "two huge zanked crimson glorbs of mine".
    fn indefinite(&mut self, index: usize) {
        let thing = self.thing(index).clone();
        let mut phrase: Vec<Word> = Vec::new();
        if thing.size != MEDIUM && self.stream.chance(0.75) {
            let ways: &[&str] = match thing.size {
                0 => &["tiny"],
                1 => &["small", "little"],
                3 => &["large", "big"],
                _ => &["huge", "enormous"],
            };
            phrase.push(english(self.stream.pick(ways)));
        }
        if let Some(pattern) = thing.pattern.filter(|_| self.stream.chance(0.8)) {
            phrase.push(words().patterns[pattern]);
        }
        if self.stream.chance(0.9) {
            phrase.push(COLOURS[thing.colour].name());
        }
        phrase.push(words().nouns[thing.noun][usize::from(thing.bodies.len() > 1)]);
        let head = match thing.bodies.len() {
            1 if phrase[0].text.starts_with(['a', 'e', 'i', 'o', 'u']) => "an",
            1 => "a",
            2 => "two",
            3 => "three",
            4 => "four",
            _ => "five",
        };
        self.say(head);
        self.words.extend(phrase);
        match thing.owner {
            Some(owner) if owner == self.picture.speaker && self.named => self.say("of mine"),
            Some(owner) if self.stream.chance(0.5) => {
                self.say("of");
                self.words.push(words().names[owner]);
            }
            _ => return,
        }
        self.said.push((index, Said::Owner));
    }

    /// "the glorb", "the crimson glorb"; or a pronoun, of which the forms are given, if it would be understood.
    fn definite(&mut self, thing: usize, pronoun: [&'static str; 2]) {
        if self.subject == Some(thing) && self.stream.chance(0.6) {
            return self.agree(thing, pronoun);
        }
        self.say("the");
        if self.stream.chance(0.25) {
            self.words.push(COLOURS[self.thing(thing).colour].name());
        }
        let many = usize::from(self.many(thing));
        self.words.push(words().nouns[self.thing(thing).noun][many]);
    }

    /// "dances", "dances gladly".
    fn verb(&mut self, thing: usize) {
        self.said.push((thing, Said::Pose));
        let many = usize::from(self.many(thing));
        let Thing { verb, manner, .. } = *self.thing(thing);
        self.words.push(words().verbs[verb][many]);
        if let Some(manner) = manner.filter(|_| self.stream.chance(0.8)) {
            self.words.push(words().manners[manner]);
        }
    }

    fn introduce(&mut self, thing: usize) {
        let seen_from = (!self.told.is_empty() && self.stream.chance(0.75)).then(|| self.stream.pick(&self.told));
        match (seen_from, self.stream.below(3)) {
            (Some(other), 0) => {
                self.relation(thing, other, true);
                self.agree(thing, ["there is", "there are"]);
                self.indefinite(thing);
            }
            (Some(other), _) => {
                self.indefinite(thing);
                self.verb(thing);
                self.relation(thing, other, true);
            }
            (None, 0) => {
                self.agree(thing, ["there is", "there are"]);
                self.indefinite(thing);
                self.place(thing);
            }
            (None, 1) => {
                self.indefinite(thing);
                self.verb(thing);
                self.place(thing);
            }
            (None, _) => {
                self.pick(&["we see", "one can see", "the picture shows", "here we have", "look at"]);
                self.indefinite(thing);
                if self.stream.chance(0.6) {
                    self.say("that");
                    self.verb(thing);
                }
            }
        }
        self.say(".");
        self.told.push(thing);
        self.subject = Some(thing);
    }

    /// A relation of a thing to one that was told, and that one.
    fn relation(&mut self, thing: usize, other: usize, place: bool) {
        let mut holds = relations(self.picture, thing, other);
        // Where a thing is was mostly said before.
        let compare = holds.iter().any(|relation| !relation.is_place()) && self.stream.chance(0.8);
        holds.retain(|relation| relation.is_place() == (place || !compare));
        let relation = self.stream.pick(&holds);
        self.pick(relation.ways());
        self.definite(other, ["it", "them"]);
    }

    /// Where a thing is in the picture.
    fn place(&mut self, thing: usize) {
        let ((left, right), (top, bottom)) = (self.thing(thing).span(0), self.thing(thing).span(1));
        let mut ways: Vec<&'static str> = Vec::new();
        if bottom < 0.40 {
            ways.extend(["at the top", "near the top"]);
        }
        if top > 0.60 {
            ways.extend(["at the bottom", "near the bottom"]);
        }
        if right < 0.40 {
            ways.extend(["on the left", "on the left side"]);
        }
        if left > 0.60 {
            ways.extend(["on the right", "on the right side"]);
        }
        if left > 0.33 && right < 0.67 && top > 0.33 && bottom < 0.67 {
            ways.extend(["in the middle", "at the centre"]);
        }
        if ways.is_empty() {
            ways.extend(["in the picture", "in view"]);
        }
        self.pick(&ways);
        self.said.push((thing, Said::Place));
    }

    /// Something more about a thing that was told.
    fn remark(&mut self) {
        let thing = self.stream.pick(&self.told);
        let others: Vec<usize> = self.told.iter().copied().filter(|&other| other != thing).collect();
        let Thing { owner, accent, noun, .. } = *self.thing(thing);
        let said = match (self.stream.below(7), others.as_slice()) {
            (0, _) if owner.is_some() => Said::Owner,
            (1, _) if Outline::of(noun).core > 0.0 => Said::Core,
            (2, &[a, b, ..]) if is_between(self.picture, thing, a, b) => Said::Between,
            (2..=4, &[_, ..]) => Said::Relation(self.stream.pick(&others)),
            (5, _) => Said::Pose,
            _ => Said::Place,
        };
        if self.said.contains(&(thing, said)) {
            return;
        }
        self.definite(thing, ["it", "they"]);
        match (said, owner, others.as_slice()) {
            (Said::Owner, Some(owner), _) if owner == self.picture.speaker && self.named => {
                self.agree(thing, ["is mine", "are mine"]);
            }
            (Said::Owner, Some(owner), _) => {
                let ways = [["belongs to", "belong to"], ["wears the colour of", "wear the colour of"]];
                let way = self.stream.pick(&ways);
                self.agree(thing, way);
                self.words.push(words().names[owner]);
            }
            (Said::Core, ..) => {
                let vowel = COLOURS[accent].word.starts_with(['a', 'e', 'i', 'o', 'u']);
                self.agree(thing, [if vowel { "has an" } else { "has a" }, "have"]);
                self.words.push(COLOURS[accent].name());
                self.agree(thing, ["core", "cores"]);
            }
            (Said::Between, _, &[a, b, ..]) => {
                self.agree(thing, ["is between", "are between"]);
                self.subject = None;
                self.definite(a, ["it", "them"]);
                self.say("and");
                self.definite(b, ["it", "them"]);
            }
            (Said::Relation(other), ..) => {
                self.agree(thing, ["is", "are"]);
                // A pronoun would mean the thing itself now.
                self.subject = None;
                self.relation(thing, other, false);
            }
            (Said::Pose, ..) => self.verb(thing),
            _ => {
                self.agree(thing, ["is", "are"]);
                self.place(thing);
            }
        }
        self.said.push((thing, said));
        self.say(".");
        self.subject = Some(thing);
    }
}
