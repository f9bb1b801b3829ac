//! Describes a scene in one sentence of 8 to 22 words.
//!
//! A sentence form is drawn, its phrases are filled in with synonyms and details that are drawn too, and the sentence is
//! drawn anew while its length is out of bounds. Whatever is said is true of the scene; not all that is true is said.

use super::compose::{Group, Scene};
use super::kinds::Background;
use super::relations::relations;
use super::words::{self, Detail, Head, VERBS, Words, agree, noun_phrase};
use crate::rng::Stream;

/// Bounds of a caption's length, in words.
const MIN_WORDS: usize = 8;
const MAX_WORDS: usize = 22;

/// Words of a caption, punctuation included.
pub(super) fn describe(scene: &Scene, stream: &mut Stream) -> Words {
    let mut best = Words::new();
    let mut best_excess = usize::MAX;
    for _ in 0..40 {
        let words = Speaker { scene, stream }.sentence();
        let n = n_words(&words);
        let excess = MIN_WORDS.saturating_sub(n) + n.saturating_sub(MAX_WORDS);
        if excess == 0 {
            return words;
        }
        if excess < best_excess {
            (best, best_excess) = (words, excess);
        }
    }
    best
}

/// Joins words to a text: no space before punctuation.
pub(super) fn join(words: &[&str]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && !is_punctuation(word) {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

pub(super) fn is_punctuation(word: &str) -> bool {
    matches!(word, "," | ".")
}

fn n_words(words: &[&str]) -> usize {
    words.iter().filter(|word| !is_punctuation(word)).count()
}

/// The form of "be" before a phrase: "is a pair of stars", "are two stars".
fn be(phrase: &[&str]) -> &'static str {
    if matches!(phrase.first(), Some(&"a" | &"an")) { "is" } else { "are" }
}

struct Speaker<'a> {
    scene: &'a Scene,
    stream: &'a mut Stream,
}

impl Speaker<'_> {
    fn sentence(&mut self) -> Words {
        let n_groups = self.scene.groups.len();
        let mut words = match n_groups {
            1 => self.about_one(),
            2 => self.about_two(0, 1),
            // One group may go unmentioned.
            _ if self.stream.chance(0.35) => {
                let first = self.stream.below(n_groups);
                let second = (first + 1 + self.stream.below(n_groups - 1)) % n_groups;
                self.about_two(first, second)
            }
            _ => self.about_three(),
        };
        words.push(".");
        words
    }

    fn about_one(&mut self) -> Words {
        let group = self.group(0);
        match self.stream.below(7) {
            0 => {
                let phrase = self.full(0);
                [self.there_is(phrase), self.maybe_setting(0.9)].concat()
            }
            1 => [self.full(0), self.verb(group), self.place(0), self.maybe_setting(0.9)].concat(),
            2 => [self.look(), self.full(0), self.maybe_setting(0.9)].concat(),
            3 => {
                let phrase = self.full(0);
                [self.setting(), self.there_is(phrase)].concat()
            }
            4 => [self.setting(), vec![","], self.full(0), self.verb(group), self.place(0)].concat(),
            5 => {
                let phrase = self.full(0);
                [vec!["all", "that", "can", "be", "seen", be(&phrase)], phrase, self.setting()].concat()
            }
            _ => {
                let which = vec![",", "which", agree(group, ["is", "are"])];
                [self.look(), self.full(0), which, self.place(0), self.maybe_setting(0.6)].concat()
            }
        }
    }

    fn about_two(&mut self, a: usize, b: usize) -> Words {
        let (a, b) = if self.stream.chance(0.5) { (a, b) } else { (b, a) };
        let (first, second) = (self.group(a), self.group(b));
        match self.stream.below(9) {
            0 => [self.full(a), self.verb(first), self.relation(a, b), self.full(b), self.maybe_setting(0.3)].concat(),
            1 => {
                let phrase = self.full(a);
                [self.there_is(phrase), self.relation(a, b), self.full(b), self.maybe_setting(0.3)].concat()
            }
            2 => {
                let phrase = self.full(a);
                [self.relation(a, b), self.full(b), self.there_is(phrase)].concat()
            }
            3 => [self.relation(a, b), self.full(b), self.verb(first), self.full(a)].concat(),
            4 => {
                let which = [vec![",", "which", agree(first, ["is", "are"])], self.place(a), vec![","]].concat();
                [self.full(a), which, self.verb(first), self.relation(a, b), self.full(b)].concat()
            }
            5 => {
                let both = [self.look(), self.full(a), vec!["and"], self.full(b), vec![",", "and"]].concat();
                let (short_a, short_b) = (self.definite(a), self.definite(b));
                [both, short_a, self.verb(first), self.relation(a, b), short_b].concat()
            }
            6 => {
                let that = [vec!["that"], self.verb(first), self.relation(a, b)].concat();
                [self.look(), self.full(a), that, self.full(b), self.maybe_setting(0.3)].concat()
            }
            7 => {
                let lead = [vec!["while"], self.full(a), self.verb(first), self.place(a), vec![","]].concat();
                [lead, self.full(b), self.verb(second), self.place(b)].concat()
            }
            _ => {
                let lead = [self.full(a), self.verb(first), self.place(a), vec![",", "and"]].concat();
                let pronoun = vec![agree(first, ["it", "them"])];
                let phrase = self.full(b);
                [lead, self.relation(b, a), pronoun, vec![be(&phrase)], phrase].concat()
            }
        }
    }

    fn about_three(&mut self) -> Words {
        let mut order: Vec<usize> = (0..self.scene.groups.len()).collect();
        self.stream.shuffle(&mut order);
        let [a, b, c] = [order[0], order[1], order[2]];
        let first = self.group(a);
        match self.stream.below(4) {
            0 => {
                let list = [self.full(a), vec![","], self.full(b), vec!["and"], self.full(c)].concat();
                [self.look(), list, self.maybe_setting(0.4)].concat()
            }
            1 => {
                let lead = [self.full(a), self.verb(first), self.relation(a, b), self.full(b)].concat();
                let third = self.group(c);
                [lead, vec![",", "while"], self.full(c), self.verb(third), self.place(c)].concat()
            }
            2 => {
                let total: usize = self.scene.objects.len();
                let number = if total == 3 { "three" } else { "four" };
                let among = vec!["shapes", ",", "among", "them"];
                let lead = [self.look(), vec![number], among].concat();
                [lead, self.full(a), vec!["and"], self.full(b), self.maybe_setting(0.4)].concat()
            }
            _ => {
                let phrase = self.full(a);
                let lead = [self.there_is(phrase), self.relation(a, b), self.short(b)].concat();
                [lead, vec!["and"], self.relation(a, c), self.short(c)].concat()
            }
        }
    }

    fn group(&self, index: usize) -> Group {
        self.scene.groups[index]
    }

    fn full(&mut self, group: usize) -> Words {
        noun_phrase(self.stream, &self.scene.groups[group], Head::Indefinite, Detail::Full)
    }

    fn short(&mut self, group: usize) -> Words {
        noun_phrase(self.stream, &self.scene.groups[group], Head::Indefinite, Detail::Short)
    }

    fn definite(&mut self, group: usize) -> Words {
        noun_phrase(self.stream, &self.scene.groups[group], Head::Definite, Detail::Short)
    }

    /// "there is" or "there are", and the phrase; "there is a pair".
    fn there_is(&mut self, phrase: Words) -> Words {
        [vec!["there", be(&phrase)], phrase].concat()
    }

    fn verb(&mut self, group: Group) -> Words {
        vec![agree(group, self.stream.pick(&VERBS))]
    }

    fn look(&mut self) -> Words {
        self.stream.pick(&words::LOOKS).to_vec()
    }

    /// Where a group lies in the picture.
    fn place(&mut self, group: usize) -> Words {
        let members: Vec<[f32; 2]> = self.scene.members(group).map(|object| object.centre).collect();
        let all = |test: fn(&[f32; 2]) -> bool| members.iter().all(test);
        let mut ways: Vec<&[&str]> = Vec::new();
        if all(|c| c[1] < 0.40) {
            ways.extend(words::TOP);
        }
        if all(|c| c[1] > 0.60) {
            ways.extend(words::BOTTOM);
        }
        if all(|c| c[0] < 0.40) {
            ways.extend(words::LEFT);
        }
        if all(|c| c[0] > 0.60) {
            ways.extend(words::RIGHT);
        }
        if all(|c| (c[0] - 0.5).abs() < 0.17 && (c[1] - 0.5).abs() < 0.17) {
            ways.extend(words::MIDDLE);
        }
        if ways.is_empty() {
            ways.extend(words::ANYWHERE);
        }
        self.stream.pick(&ways).to_vec()
    }

    fn relation(&mut self, a: usize, b: usize) -> Words {
        let holds = relations(self.scene, a, b);
        let ways = self.stream.pick(&holds).ways();
        self.stream.pick(ways).to_vec()
    }

    fn maybe_setting(&mut self, p: f64) -> Words {
        if self.stream.chance(p) { self.setting() } else { Words::new() }
    }

    /// The background: "on a pale background", "on a green field under a blue sky".
    fn setting(&mut self) -> Words {
        let stream = &mut *self.stream;
        match self.scene.background {
            Background::Plain(shade) => {
                let shade = words::shade(shade);
                let ways: [&[&str]; 3] = [
                    &["on", "a", shade, "background"],
                    &["against", "a", shade, "wall"],
                    &["before", "a", "plain", shade, "wall"],
                ];
                stream.pick(&ways).to_vec()
            }
            Background::Noise(shade) => {
                let shade = words::shade(shade);
                let grain = stream.pick(&words::GRAINS);
                let ways: [&[&str]; 2] =
                    [&["on", "a", grain, shade, "background"], &["against", "a", grain, shade, "wall"]];
                stream.pick(&ways).to_vec()
            }
            Background::Gradient(top, bottom) => {
                let (top, bottom) = (words::shade(top), words::shade(bottom));
                let ways: [&[&str]; 2] = [
                    &["on", "a", "background", "fading", "from", top, "to", bottom],
                    &["against", "a", "wall", "turning", "from", top, "to", bottom],
                ];
                stream.pick(&ways).to_vec()
            }
            Background::Horizon(sky, ground, _) => {
                let (sky, ground) = (stream.pick(words::sky(sky)), stream.pick(words::ground(ground)));
                match stream.below(4) {
                    0 => [&["under"], sky].concat(),
                    1 => [&["over"], ground].concat(),
                    2 => [&["over"], ground, &["under"], sky].concat(),
                    _ => [&["under"], sky, &["and", "over"], ground].concat(),
                }
            }
        }
    }
}
