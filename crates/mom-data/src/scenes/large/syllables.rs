//! Words that a speaker of English could say and has never heard: syllables of an onset, a vowel and a coda, spelled and
//! pronounced by the same rules, so that spelling tells sound (nearly: an unstressed vowel may be reduced).

use crate::rng::Stream;

/// Spelling and phonemes.
type Sound = (&'static str, &'static str);

const ONSETS: [Sound; 46] = [
    ("b", "B"),
    ("d", "D"),
    ("f", "F"),
    ("g", "G"),
    ("h", "HH"),
    ("j", "JH"),
    ("k", "K"),
    ("l", "L"),
    ("m", "M"),
    ("n", "N"),
    ("p", "P"),
    ("r", "R"),
    ("s", "S"),
    ("t", "T"),
    ("v", "V"),
    ("w", "W"),
    ("y", "Y"),
    ("z", "Z"),
    ("ch", "CH"),
    ("sh", "SH"),
    ("th", "TH"),
    ("bl", "B L"),
    ("br", "B R"),
    ("dr", "D R"),
    ("fl", "F L"),
    ("fr", "F R"),
    ("gl", "G L"),
    ("gr", "G R"),
    ("kl", "K L"),
    ("kr", "K R"),
    ("pl", "P L"),
    ("pr", "P R"),
    ("qu", "K W"),
    ("sk", "S K"),
    ("sl", "S L"),
    ("sm", "S M"),
    ("sn", "S N"),
    ("sp", "S P"),
    ("st", "S T"),
    ("str", "S T R"),
    ("sw", "S W"),
    ("tr", "T R"),
    ("tw", "T W"),
    ("thr", "TH R"),
    ("skr", "S K R"),
    ("spl", "S P L"),
];
/// Onsets of one consonant come first.
const SIMPLE_ONSETS: usize = 21;

const VOWELS: [Sound; 15] = [
    ("a", "AE"),
    ("e", "EH"),
    ("i", "IH"),
    ("o", "AA"),
    ("u", "AH"),
    ("ee", "IY"),
    ("oo", "UW"),
    ("ai", "EY"),
    ("oa", "OW"),
    ("ou", "AW"),
    ("oi", "OY"),
    ("ie", "AY"),
    ("ar", "AA R"),
    ("er", "ER"),
    ("or", "AO R"),
];
/// Vowels of one letter come first.
const SHORT_VOWELS: usize = 5;

const CODAS: [Sound; 20] = [
    ("b", "B"),
    ("d", "D"),
    ("f", "F"),
    ("g", "G"),
    ("k", "K"),
    ("l", "L"),
    ("m", "M"),
    ("n", "N"),
    ("p", "P"),
    ("s", "S"),
    ("t", "T"),
    ("v", "V"),
    ("sh", "SH"),
    ("th", "TH"),
    ("ng", "NG"),
    ("nd", "N D"),
    ("st", "S T"),
    ("nt", "N T"),
    ("lm", "L M"),
    ("sk", "S K"),
];

/// A coined word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coined {
    pub spelling: String,
    pub phonemes: String,
}

/// Coins a word of some syllables, the first or the second stressed, with an ending of its kind.
pub(super) fn coin(stream: &mut Stream, n_syllables: usize, endings: &[Sound]) -> Coined {
    let stressed = if n_syllables > 2 && stream.chance(0.5) { 1 } else { 0 };
    let (mut spelling, mut phonemes) = (String::new(), Vec::new());
    for syllable in 0..n_syllables {
        let last = syllable + 1 == n_syllables;
        if syllable > 0 || stream.chance(0.93) {
            let n_onsets = if syllable == 0 { ONSETS.len() } else { SIMPLE_ONSETS };
            let (letters, sounds) = ONSETS[stream.below(n_onsets)];
            spelling.push_str(letters);
            phonemes.extend(sounds.split(' ').map(str::to_owned));
        }
        let n_vowels = if syllable == stressed { VOWELS.len() } else { SHORT_VOWELS };
        let (letters, sounds) = VOWELS[stream.below(n_vowels)];
        spelling.push_str(letters);
        if syllable == stressed {
            // The mark belongs to the vowel, which comes first.
            phonemes.extend(
                sounds.split(' ').enumerate().map(|(at, s)| if at == 0 { format!("{s}1") } else { s.to_owned() }),
            );
        } else {
            phonemes.push(if stream.chance(0.5) { "AX".to_owned() } else { sounds.to_owned() });
        }
        let closed = if last && endings.is_empty() { 0.85 } else { 0.25 };
        if stream.chance(closed) {
            let (letters, sounds) = stream.pick(&CODAS);
            spelling.push_str(letters);
            phonemes.extend(sounds.split(' ').map(str::to_owned));
        }
    }
    if !endings.is_empty() {
        let (letters, sounds) = stream.pick(endings);
        // Before a vowel a consonant.
        if letters.starts_with(['a', 'e', 'i', 'o', 'u']) && spelling.ends_with(['a', 'e', 'i', 'o', 'u']) {
            let (letters, sounds) = CODAS[stream.below(12)];
            spelling.push_str(letters);
            phonemes.push(sounds.to_owned());
        }
        spelling.push_str(letters);
        phonemes.extend(sounds.split(' ').map(str::to_owned));
    }
    Coined { spelling, phonemes: phonemes.join(" ") }
}

/// The plural of a noun, or the third person of a verb.
pub(super) fn with_s(word: &Coined) -> Coined {
    let last = word.phonemes.rsplit(' ').next().unwrap_or_default();
    let (letters, sounds) = match last {
        "S" | "Z" | "SH" | "CH" | "JH" => ("es", "IH Z"),
        "P" | "T" | "K" | "F" | "TH" => ("s", "S"),
        _ => ("s", "Z"),
    };
    Coined { spelling: format!("{}{letters}", word.spelling), phonemes: format!("{} {sounds}", word.phonemes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Domain;
    use crate::scenes::phonemes::Phoneme;

    #[test]
    fn coined_words_can_be_said_and_have_one_stress() {
        let mut stream = Stream::new(1, Domain::Scene, 0, 0);
        for index in 0..2000 {
            let word = coin(&mut stream, 1 + index % 3, &[("ia", "IY AX"), ("ford", "F ER D")][..index % 3]);
            for word in [with_s(&word), word] {
                assert_eq!(word.phonemes.matches('1').count(), 1, "{word:?}");
                for name in word.phonemes.split(' ') {
                    assert!(Phoneme::named(name.trim_end_matches('1')).is_some(), "{word:?}");
                }
                assert!(word.spelling.bytes().all(|byte| byte.is_ascii_lowercase()), "{word:?}");
            }
        }
    }
}
