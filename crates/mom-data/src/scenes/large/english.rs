//! English words of the large world beside those of the small one, with their pronunciations; colours and weathers with what
//! they look like.

use super::word::{Role, Word};
use crate::scenes::lexicon::pronounce;

type Rgb = [f32; 3];

/// Words and their phonemes, sorted by word.
const WORDS: &[(&str, &str)] = &[
    ("as", "AE Z"),
    ("belong", "B IH L AO1 NG"),
    ("belongs", "B IH L AO1 NG Z"),
    ("between", "B IH T W IY1 N"),
    ("brighter", "B R AY1 T ER"),
    ("close", "K L OW1 S"),
    ("colour", "K AH1 L ER"),
    ("core", "K AO1 R"),
    ("cores", "K AO1 R Z"),
    ("darker", "D AA1 R K ER"),
    ("enormous", "IH N AO1 R M AX S"),
    ("far", "F AA1 R"),
    ("five", "F AY1 V"),
    ("has", "HH AE Z"),
    ("its", "IH T S"),
    ("land", "L AE1 N D"),
    ("larger", "L AA1 R JH ER"),
    ("mine", "M AY1 N"),
    ("same", "S EY1 M"),
    ("says", "S EH1 Z"),
    ("smaller", "S M AO1 L ER"),
    ("they", "DH EY"),
    ("today", "T AX D EY1"),
    ("wear", "W EH1 R"),
    ("wears", "W EH1 R Z"),
    ("welcome", "W EH1 L K AX M"),
];

/// A colour: its name, how that is said, and RGB in [0, 1].
pub(super) struct Colour {
    pub word: &'static str,
    phonemes: &'static str,
    pub rgb: Rgb,
}

const fn colour(word: &'static str, phonemes: &'static str, rgb: Rgb) -> Colour {
    Colour { word, phonemes, rgb }
}

/// Colours, the most frequent first.
pub(super) const COLOURS: [Colour; 54] = [
    colour("red", "R EH1 D", [0.85, 0.13, 0.13]),
    colour("blue", "B L UW1", [0.15, 0.33, 0.83]),
    colour("green", "G R IY1 N", [0.16, 0.62, 0.24]),
    colour("yellow", "Y EH1 L OW", [0.96, 0.85, 0.18]),
    colour("white", "W AY1 T", [0.96, 0.96, 0.95]),
    colour("black", "B L AE1 K", [0.08, 0.08, 0.09]),
    colour("orange", "AO1 R IH N JH", [0.96, 0.53, 0.10]),
    colour("purple", "P ER1 P AX L", [0.51, 0.22, 0.70]),
    colour("pink", "P IH1 NG K", [0.96, 0.56, 0.74]),
    colour("brown", "B R AW1 N", [0.48, 0.30, 0.16]),
    colour("grey", "G R EY1", [0.53, 0.54, 0.56]),
    colour("teal", "T IY1 L", [0.10, 0.56, 0.56]),
    colour("crimson", "K R IH1 M Z AX N", [0.72, 0.06, 0.22]),
    colour("golden", "G OW1 L D AX N", [0.93, 0.72, 0.12]),
    colour("violet", "V AY1 AX L IH T", [0.56, 0.28, 0.90]),
    colour("turquoise", "T ER1 K W OY Z", [0.22, 0.84, 0.78]),
    colour("scarlet", "S K AA1 R L IH T", [0.98, 0.20, 0.08]),
    colour("maroon", "M AX R UW1 N", [0.42, 0.05, 0.12]),
    colour("rust", "R AH1 S T", [0.68, 0.28, 0.10]),
    colour("coral", "K AO1 R AX L", [0.98, 0.48, 0.40]),
    colour("salmon", "S AE1 M AX N", [0.96, 0.64, 0.56]),
    colour("peach", "P IY1 CH", [0.99, 0.80, 0.66]),
    colour("apricot", "AE1 P R IH K AA T", [0.97, 0.69, 0.42]),
    colour("amber", "AE1 M B ER", [0.99, 0.64, 0.02]),
    colour("ochre", "OW1 K ER", [0.76, 0.55, 0.18]),
    colour("mustard", "M AH1 S T ER D", [0.80, 0.70, 0.10]),
    colour("lemon", "L EH1 M AX N", [0.99, 0.97, 0.44]),
    colour("cream", "K R IY1 M", [0.99, 0.95, 0.78]),
    colour("ivory", "AY1 V ER IY", [0.93, 0.91, 0.84]),
    colour("olive", "AA1 L IH V", [0.44, 0.46, 0.12]),
    colour("lime", "L AY1 M", [0.64, 0.92, 0.14]),
    colour("moss", "M AO1 S", [0.36, 0.50, 0.26]),
    colour("emerald", "EH1 M R AX L D", [0.04, 0.72, 0.42]),
    colour("jade", "JH EY1 D", [0.28, 0.68, 0.52]),
    colour("mint", "M IH1 N T", [0.66, 0.95, 0.78]),
    colour("cyan", "S AY1 AE N", [0.12, 0.88, 0.96]),
    colour("azure", "AE1 Z ER", [0.24, 0.60, 0.98]),
    colour("navy", "N EY1 V IY", [0.06, 0.11, 0.38]),
    colour("indigo", "IH1 N D IH G OW", [0.27, 0.12, 0.58]),
    colour("cobalt", "K OW1 B AO L T", [0.06, 0.22, 0.62]),
    colour("lilac", "L AY1 L AE K", [0.80, 0.66, 0.88]),
    colour("lavender", "L AE1 V AX N D ER", [0.66, 0.62, 0.92]),
    colour("plum", "P L AH1 M", [0.44, 0.14, 0.40]),
    colour("magenta", "M AX JH EH1 N T AX", [0.90, 0.08, 0.66]),
    colour("fuchsia", "F Y UW1 SH AX", [0.98, 0.28, 0.88]),
    colour("rose", "R OW1 Z", [0.90, 0.36, 0.48]),
    colour("tan", "T AE1 N", [0.80, 0.68, 0.52]),
    colour("chestnut", "CH EH1 S N AX T", [0.56, 0.24, 0.18]),
    colour("chocolate", "CH AO1 K L IH T", [0.32, 0.18, 0.10]),
    colour("slate", "S L EY1 T", [0.36, 0.42, 0.48]),
    colour("silver", "S IH1 L V ER", [0.76, 0.78, 0.80]),
    colour("charcoal", "CH AA1 R K OW L", [0.24, 0.24, 0.26]),
    colour("copper", "K AA1 P ER", [0.78, 0.44, 0.26]),
    colour("bronze", "B R AA1 N Z", [0.62, 0.46, 0.22]),
];

/// A weather: its name, and what it does to a picture.
pub(super) struct Weather {
    pub word: &'static str,
    phonemes: &'static str,
    /// What lies over everything.
    pub veil: Rgb,
    /// Share of the veil.
    pub thickness: f32,
    /// Streaks for each picture, and their length as a fraction of the side.
    pub streaks: usize,
    pub length: f32,
}

const fn weather(
    word: &'static str,
    phonemes: &'static str,
    veil: Rgb,
    thickness: f32,
    streaks: usize,
    length: f32,
) -> Weather {
    Weather { word, phonemes, veil, thickness, streaks, length }
}

/// Weathers, the most frequent first.
pub(super) const WEATHERS: [Weather; 16] = [
    weather("sunshine", "S AH1 N SH AY N", [1.0, 0.95, 0.70], 0.12, 0, 0.0),
    weather("rain", "R EY1 N", [0.50, 0.55, 0.65], 0.18, 26, 0.10),
    weather("snow", "S N OW1", [0.95, 0.96, 1.0], 0.10, 40, 0.0),
    weather("fog", "F AO1 G", [0.82, 0.83, 0.84], 0.36, 0, 0.0),
    weather("dusk", "D AH1 S K", [0.40, 0.22, 0.45], 0.28, 0, 0.0),
    weather("moonlight", "M UW1 N L AY T", [0.08, 0.12, 0.35], 0.34, 0, 0.0),
    weather("mist", "M IH1 S T", [0.80, 0.86, 0.88], 0.22, 0, 0.0),
    weather("dawn", "D AO1 N", [0.98, 0.62, 0.50], 0.24, 0, 0.0),
    weather("storm", "S T AO1 R M", [0.18, 0.20, 0.26], 0.32, 40, 0.16),
    weather("haze", "HH EY1 Z", [0.90, 0.82, 0.66], 0.26, 0, 0.0),
    weather("drizzle", "D R IH1 Z AX L", [0.62, 0.68, 0.74], 0.16, 14, 0.06),
    weather("dust", "D AH1 S T", [0.76, 0.58, 0.36], 0.30, 22, 0.02),
    weather("twilight", "T W AY1 L AY T", [0.20, 0.24, 0.48], 0.24, 0, 0.0),
    weather("smoke", "S M OW1 K", [0.34, 0.33, 0.33], 0.36, 0, 0.0),
    weather("hail", "HH EY1 L", [0.74, 0.80, 0.86], 0.14, 24, 0.04),
    weather("frost", "F R AO1 S T", [0.86, 0.94, 1.0], 0.24, 12, 0.0),
];

impl Colour {
    /// Its name as a word of a caption.
    pub fn name(&self) -> Word {
        Word { text: self.word, phonemes: self.phonemes, role: Role::Content }
    }
}

impl Weather {
    /// Its name as a word of a caption.
    pub fn name(&self) -> Word {
        Word { text: self.word, phonemes: self.phonemes, role: Role::Content }
    }
}

/// A word by its spelling. One without a stressed vowel is a function word. A word that is in neither lexicon has no phonemes
/// (the tests of captions know of none).
pub(super) fn english(text: &'static str) -> Word {
    let own = WORDS.binary_search_by_key(&text, |(known, _)| known).ok().map(|index| WORDS[index].1);
    let phonemes = own.unwrap_or_else(|| pronounce(text));
    let role = match text {
        "," => Role::Comma,
        "." => Role::Stop,
        _ if phonemes.contains('1') => Role::Content,
        _ => Role::Function,
    };
    Word { text, phonemes, role }
}

/// Whether a spelling is taken by an English word.
pub(super) fn is_english(text: &str) -> bool {
    WORDS.binary_search_by_key(&text, |(known, _)| known).is_ok()
        || !pronounce(text).is_empty()
        || COLOURS.iter().any(|colour| colour.word == text)
        || WEATHERS.iter().any(|weather| weather.word == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::phonemes::Phoneme;

    #[test]
    fn words_are_sorted_and_spelled_in_known_phonemes() {
        assert!(WORDS.is_sorted_by(|a, b| a.0 < b.0));
        let colours = COLOURS.iter().map(|colour| colour.phonemes);
        let weathers = WEATHERS.iter().map(|weather| weather.phonemes);
        for phonemes in WORDS.iter().map(|(_, phonemes)| *phonemes).chain(colours).chain(weathers) {
            for name in phonemes.split(' ') {
                assert!(Phoneme::named(name.trim_end_matches('1')).is_some(), "{phonemes}");
            }
        }
    }

    #[test]
    fn no_two_colours_look_alike() {
        for (index, a) in COLOURS.iter().enumerate() {
            for b in &COLOURS[..index] {
                let apart: f32 = a.rgb.iter().zip(b.rgb).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
                assert!(apart > 0.08, "{} and {}", a.word, b.word);
            }
        }
    }
}
