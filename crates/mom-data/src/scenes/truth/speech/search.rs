//! The likeliest words behind a row of units: Viterbi search over words that follow one another.

use super::language::Language;
use super::sounds::Sounds;
use super::words::{BEGIN, END, N_WORDS, Word};

/// What is believed of a place between two units: how likely the best words up to there are, and which.
#[derive(Clone, Copy)]
struct Belief {
    score: f32,
    /// Where its last word stands among all that were thought of.
    last: usize,
}

const NOTHING: Belief = Belief { score: f32::NEG_INFINITY, last: usize::MAX };

/// A word that was thought of, and the one before it.
type Thought = (Word, usize);

/// The likeliest words of one speaker, silences among them, and the logarithm of their likelihood.
pub(super) fn search(sounds: &Sounds, language: &Language, units: &[u32], speaker: usize) -> (Vec<Word>, f32) {
    let mut thoughts: Vec<Thought> = Vec::new();
    // Of each word, what is believed where it ends.
    let mut ended = vec![NOTHING; N_WORDS];
    // Of each state of each word, before any unit of it, and behind the last unit.
    let mut inside: Vec<Vec<Belief>> = sounds.words.iter().map(|sound| vec![NOTHING; sound.n_states]).collect();
    let mut begins = begins_behind(&ended, language);
    begins[BEGIN] = Belief { score: 0.0, last: usize::MAX };
    end_silently(sounds, &begins, &mut ended, &mut thoughts);
    begins = better(begins, begins_behind(&ended, language));
    for &unit in units {
        for (word, sound) in sounds.words.iter().enumerate() {
            let heard = sound.unit(speaker, unit as usize, sounds.n_units);
            let (n, before) = (sound.n_states, &inside[word]);
            let mut now = Vec::with_capacity(n);
            for state in 0..n {
                let mut best = Belief { score: begins[word].score + sound.begin[state], ..begins[word] };
                for from in 0..=state {
                    let score = before[from].score + sound.step[from * n + state];
                    if score > best.score {
                        best = Belief { score, ..before[from] };
                    }
                }
                best.score += heard[state];
                now.push(best);
            }
            let ends = now.iter().zip(&sound.end).map(|(of, end)| Belief { score: of.score + end, ..*of });
            let best = ends.fold(NOTHING, |a, b| if b.score > a.score { b } else { a });
            ended[word] = NOTHING;
            if best.score > f32::NEG_INFINITY {
                thoughts.push((word, best.last));
                ended[word] = Belief { score: best.score, last: thoughts.len() - 1 };
            }
            inside[word] = now;
        }
        begins = begins_behind(&ended, language);
        end_silently(sounds, &begins, &mut ended, &mut thoughts);
        begins = better(begins, begins_behind(&ended, language));
    }
    let mut words = Vec::new();
    let mut at = ended[END].last;
    while let Some(&(word, before)) = thoughts.get(at) {
        words.push(word);
        at = before;
    }
    words.reverse();
    (words, ended[END].score)
}

/// What is believed where each word may begin.
fn begins_behind(ended: &[Belief], language: &Language) -> Vec<Belief> {
    let mut begins = vec![NOTHING; N_WORDS];
    for (word, of) in ended.iter().enumerate().filter(|(_, of)| of.score > f32::NEG_INFINITY) {
        for (begin, follows) in begins.iter_mut().zip(language.behind(word)) {
            let score = of.score + follows;
            if score > begin.score {
                *begin = Belief { score, ..*of };
            }
        }
    }
    begins
}

/// Words that are so short that no unit is heard of them end where they begin.
fn end_silently(sounds: &Sounds, begins: &[Belief], ended: &mut [Belief], thoughts: &mut Vec<Thought>) {
    for (word, sound) in sounds.words.iter().enumerate() {
        let score = begins[word].score + sound.silent;
        if score > ended[word].score {
            thoughts.push((word, begins[word].last));
            ended[word] = Belief { score, last: thoughts.len() - 1 };
        }
    }
}

fn better(a: Vec<Belief>, b: Vec<Belief>) -> Vec<Belief> {
    a.into_iter().zip(b).map(|(a, b)| if b.score > a.score { b } else { a }).collect()
}
