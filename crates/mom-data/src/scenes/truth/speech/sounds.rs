//! How words sound, in units of a codebook: a hidden Markov model for each word, from left to right.
//!
//! A word has half as many states again as units are heard of it on average, since it falls between frames in one way or another. It begins in any state, goes from each to itself or any later one, and
//! ends from any; all that as often as in the lessons, whose units are laid along the states by turns of alignment and counting
//! (Viterbi training). What a state sounds like depends on the speaker, as far as was heard of that one:
//!
//! ```text
//! P(unit | state)          = (n(state, unit) + m P(unit)) / (n(state) + m)
//! P(unit | state, speaker) = (n(state, speaker, unit) + k P(unit | state)) / (n(state, speaker) + k)
//! ```

use super::super::super::speech::N_SPEAKERS;
use super::lessons::Example;
use super::words::N_WORDS;

/// States of the longest word.
const MAX_STATES: usize = 16;
/// States for each unit that is heard of a word.
const STATES_PER_UNIT: f32 = 1.5;
/// Turns of alignment.
const TURNS: usize = 4;
/// Weight of what is heard anywhere, in units that were heard in a state.
const ANYWHERE: f32 = 4.0;
/// Weight of what any speaker sounds like, in units that were heard of one.
const ANYBODY: f32 = 12.0;

/// A model of each word.
pub(super) struct Sounds {
    /// By word.
    pub words: Vec<Sound>,
    pub n_units: usize,
}

/// How one word sounds. All numbers are logarithms of probabilities.
pub(super) struct Sound {
    pub n_states: usize,
    /// Of no unit at all.
    pub silent: f32,
    /// Of a first state (n_states).
    pub begin: Vec<f32>,
    /// From state to state (n_states, n_states); only what is not before counts.
    pub step: Vec<f32>,
    /// Of no state behind (n_states).
    pub end: Vec<f32>,
    /// Of a unit (N_SPEAKERS, n_units, n_states).
    unit: Vec<f32>,
}

impl Sound {
    /// Of a unit that a speaker says, in each state.
    pub fn unit(&self, speaker: usize, unit: usize, n_units: usize) -> &[f32] {
        let at = (speaker * n_units + unit) * self.n_states;
        &self.unit[at..at + self.n_states]
    }
}

impl Sounds {
    pub fn of_examples(examples: &[Example], n_units: usize) -> Self {
        let mut by_word: Vec<Vec<&Example>> = vec![Vec::new(); N_WORDS];
        examples.iter().for_each(|example| by_word[example.word].push(example));
        let mut anywhere = vec![0.5f32; n_units];
        examples.iter().flat_map(|example| &example.units).for_each(|&unit| anywhere[unit as usize] += 1.0);
        let all: f32 = anywhere.iter().sum();
        anywhere.iter_mut().for_each(|n| *n /= all);
        let words = by_word.iter().map(|examples| Sound::of_word(examples, &anywhere)).collect();
        Self { words, n_units }
    }
}

impl Sound {
    fn of_word(examples: &[&Example], anywhere: &[f32]) -> Self {
        let heard: Vec<&Example> = examples.iter().copied().filter(|example| !example.units.is_empty()).collect();
        let n_heard: usize = heard.iter().map(|example| example.units.len()).sum();
        let n_states = STATES_PER_UNIT * n_heard as f32 / heard.len().max(1) as f32;
        let n_states = n_states.round().clamp(1.0, MAX_STATES as f32) as usize;
        // First as if every word were said evenly.
        let evenly = |example: &&Example| {
            let n = example.units.len();
            (0..n).map(|at| (at * n_states + n_states / 2) / n).map(|state| state.min(n_states - 1)).collect()
        };
        let mut places: Vec<Vec<usize>> = heard.iter().map(evenly).collect();
        let mut sound = Self::of_places(n_states, examples.len(), &heard, &places, anywhere);
        for _ in 0..TURNS {
            places = heard.iter().map(|example| sound.align(example, anywhere.len())).collect();
            sound = Self::of_places(n_states, examples.len(), &heard, &places, anywhere);
        }
        sound
    }

    /// Counts, where it is known in which state each unit was heard.
    fn of_places(
        n_states: usize,
        n_examples: usize,
        heard: &[&Example],
        places: &[Vec<usize>],
        anywhere: &[f32],
    ) -> Self {
        let n_units = anywhere.len();
        let mut begin = vec![0.1f32; n_states];
        // The last column is the end.
        let mut step = vec![0.1f32; n_states * (n_states + 1)];
        let mut of_all = vec![0.0f32; n_units * n_states];
        let mut of_speaker = vec![0.0f32; N_SPEAKERS * n_units * n_states];
        for (example, places) in heard.iter().zip(places) {
            begin[places[0]] += 1.0;
            for (at, (&unit, &state)) in example.units.iter().zip(places).enumerate() {
                let next = places.get(at + 1).copied().unwrap_or(n_states);
                step[state * (n_states + 1) + next] += 1.0;
                of_all[unit as usize * n_states + state] += 1.0;
                of_speaker[(example.speaker * n_units + unit as usize) * n_states + state] += 1.0;
            }
        }
        let sums = |counts: &[f32]| -> Vec<f32> {
            (0..n_states).map(|state| counts.iter().skip(state).step_by(n_states).sum()).collect()
        };
        let n_all = sums(&of_all);
        for (unit, row) in of_all.chunks_exact_mut(n_states).enumerate() {
            let p = |(n, sum): (&mut f32, &f32)| *n = (*n + ANYWHERE * anywhere[unit]) / (sum + ANYWHERE);
            row.iter_mut().zip(&n_all).for_each(p);
        }
        for of_one in of_speaker.chunks_exact_mut(n_units * n_states) {
            let n_one = sums(of_one);
            for (at, n) in of_one.iter_mut().enumerate() {
                *n = ((*n + ANYBODY * of_all[at]) / (n_one[at % n_states] + ANYBODY)).ln();
            }
        }
        let log_shares = |counts: &[f32]| -> Vec<f32> {
            let sum: f32 = counts.iter().sum();
            counts.iter().map(|n| (n / sum).ln()).collect()
        };
        // What lies before a state cannot be behind it.
        let rows: Vec<Vec<f32>> = (0..n_states)
            .map(|state| {
                let mut row = step[state * (n_states + 1)..(state + 1) * (n_states + 1)].to_vec();
                row[..state].fill(0.0);
                log_shares(&row)
            })
            .collect();
        let n_silent = n_examples - heard.len();
        let p_silent = (n_silent as f32 + 0.01) / (n_examples as f32 + 1.0);
        Self {
            n_states,
            silent: p_silent.ln(),
            begin: log_shares(&begin).iter().map(|p| p + (1.0 - p_silent).ln()).collect(),
            step: rows.iter().flat_map(|row| row[..n_states].to_vec()).collect(),
            end: rows.iter().map(|row| row[n_states]).collect(),
            unit: of_speaker,
        }
    }

    /// The likeliest states of an example's units, of which there is one at least.
    fn align(&self, example: &Example, n_units: usize) -> Vec<usize> {
        let n = self.n_states;
        let of_unit = |at: usize| self.unit(example.speaker, example.units[at] as usize, n_units);
        let mut score: Vec<f32> = self.begin.iter().zip(of_unit(0)).map(|(begin, unit)| begin + unit).collect();
        let mut from: Vec<Vec<usize>> = Vec::new();
        for at in 1..example.units.len() {
            let best = |state: usize| {
                let ways = (0..=state).map(|before| (before, score[before] + self.step[before * n + state]));
                ways.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((0, f32::NEG_INFINITY))
            };
            let ways: Vec<(usize, f32)> = (0..n).map(best).collect();
            score = ways.iter().zip(of_unit(at)).map(|((_, score), unit)| score + unit).collect();
            from.push(ways.into_iter().map(|(before, _)| before).collect());
        }
        let ends = score.iter().zip(&self.end).map(|(score, end)| score + end).enumerate();
        let mut state = ends.max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(state, _)| state);
        let mut states = vec![state];
        for from in from.iter().rev() {
            state = from[state];
            states.push(state);
        }
        states.reverse();
        states
    }
}
