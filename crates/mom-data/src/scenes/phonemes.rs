//! Acoustic targets of phonemes: formants of vowels after Peterson and Barney (1952) and of consonants after the tables of
//! Klatt (1980), rounded, for an adult male vocal tract.

/// How a phoneme is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Manner {
    /// Voiced, steady or gliding from the first formants to the second.
    Vowel([f32; 3], [f32; 3]),
    /// Nasals, liquids and glides: voiced, weaker than a vowel.
    Sonorant([f32; 3]),
    /// Noise around a frequency, of some width and level; perhaps voiced.
    Fricative { formants: [f32; 3], noise: Noise, voice: f32 },
    /// Closure, then a burst; an unvoiced stop is followed by breath.
    Stop { formants: [f32; 3], burst: Noise, voice: f32 },
    /// Closure, then noise that lasts.
    Affricate { formants: [f32; 3], noise: Noise, voice: f32 },
    /// Breath through the formants of its neighbours.
    Breath,
}

/// Noise made at a constriction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Noise {
    pub hertz: f32,
    pub width_hertz: f32,
    pub level: f32,
}

impl Noise {
    /// None: what the place and width of its silence are tells nothing.
    pub const NONE: Self = noise(2500.0, 1000.0, 0.0);
}

/// Formants of a mouth that says nothing.
pub(super) const NEUTRAL: [f32; 3] = [500.0, 1500.0, 2500.0];

/// A phoneme.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Phoneme {
    name: &'static str,
    pub manner: Manner,
    /// Usual length without stress.
    pub millis: f32,
}

impl Phoneme {
    /// Looks a phoneme up by its ARPAbet name, without stress.
    pub fn named(name: &str) -> Option<Self> {
        PHONEMES.iter().copied().find(|phoneme| phoneme.name == name)
    }
}

const fn vowel(name: &'static str, formants: [f32; 3], millis: f32) -> Phoneme {
    Phoneme { name, manner: Manner::Vowel(formants, formants), millis }
}

const fn glide(name: &'static str, from: [f32; 3], to: [f32; 3], millis: f32) -> Phoneme {
    Phoneme { name, manner: Manner::Vowel(from, to), millis }
}

const fn sonorant(name: &'static str, formants: [f32; 3], millis: f32) -> Phoneme {
    Phoneme { name, manner: Manner::Sonorant(formants), millis }
}

const fn noise(hertz: f32, width_hertz: f32, level: f32) -> Noise {
    Noise { hertz, width_hertz, level }
}

const fn fricative(name: &'static str, formants: [f32; 3], noise: Noise, voice: f32, millis: f32) -> Phoneme {
    Phoneme { name, manner: Manner::Fricative { formants, noise, voice }, millis }
}

const fn stop(name: &'static str, formants: [f32; 3], burst: Noise, voice: f32) -> Phoneme {
    Phoneme { name, manner: Manner::Stop { formants, burst, voice }, millis: 55.0 }
}

const fn affricate(name: &'static str, noise: Noise, voice: f32) -> Phoneme {
    Phoneme { name, manner: Manner::Affricate { formants: [350.0, 1800.0, 2600.0], noise, voice }, millis: 80.0 }
}

const LIP: [f32; 3] = [250.0, 900.0, 2200.0];
const TEETH: [f32; 3] = [300.0, 1350.0, 2500.0];
const RIDGE: [f32; 3] = [280.0, 1750.0, 2650.0];
const PALATE: [f32; 3] = [300.0, 1900.0, 2500.0];
const VELUM: [f32; 3] = [260.0, 2000.0, 2250.0];

const PHONEMES: &[Phoneme] = &[
    vowel("AA", [750.0, 1120.0, 2450.0], 75.0),
    vowel("AE", [680.0, 1750.0, 2450.0], 75.0),
    vowel("AH", [630.0, 1200.0, 2400.0], 62.0),
    vowel("AO", [570.0, 860.0, 2420.0], 75.0),
    vowel("AX", [500.0, 1450.0, 2450.0], 40.0),
    vowel("EH", [550.0, 1850.0, 2500.0], 65.0),
    vowel("ER", [480.0, 1340.0, 1690.0], 62.0),
    vowel("IH", [400.0, 2000.0, 2570.0], 52.0),
    vowel("IY", [270.0, 2300.0, 3000.0], 65.0),
    vowel("UH", [440.0, 1020.0, 2250.0], 58.0),
    vowel("UW", [300.0, 880.0, 2240.0], 70.0),
    glide("AW", [720.0, 1250.0, 2500.0], [430.0, 950.0, 2300.0], 100.0),
    glide("AY", [710.0, 1180.0, 2450.0], [370.0, 2050.0, 2600.0], 100.0),
    glide("EY", [500.0, 1900.0, 2500.0], [330.0, 2200.0, 2700.0], 90.0),
    glide("OW", [540.0, 1050.0, 2350.0], [380.0, 820.0, 2300.0], 85.0),
    glide("OY", [540.0, 850.0, 2400.0], [370.0, 1950.0, 2550.0], 105.0),
    sonorant("M", [260.0, 1050.0, 2200.0], 50.0),
    sonorant("N", [270.0, 1500.0, 2500.0], 45.0),
    sonorant("NG", [270.0, 1950.0, 2350.0], 50.0),
    sonorant("L", [340.0, 1050.0, 2750.0], 45.0),
    sonorant("R", [340.0, 1180.0, 1550.0], 45.0),
    sonorant("W", [300.0, 680.0, 2200.0], 45.0),
    sonorant("Y", [270.0, 2200.0, 2950.0], 40.0),
    fricative("F", LIP, noise(2200.0, 2600.0, 0.10), 0.0, 60.0),
    fricative("V", LIP, noise(2200.0, 2600.0, 0.05), 0.45, 42.0),
    fricative("TH", TEETH, noise(3000.0, 1800.0, 0.08), 0.0, 60.0),
    fricative("DH", TEETH, noise(3000.0, 1800.0, 0.03), 0.5, 35.0),
    fricative("S", RIDGE, noise(3650.0, 500.0, 0.36), 0.0, 68.0),
    fricative("Z", RIDGE, noise(3650.0, 500.0, 0.17), 0.35, 52.0),
    fricative("SH", PALATE, noise(2550.0, 450.0, 0.40), 0.0, 70.0),
    stop("P", LIP, noise(900.0, 900.0, 0.22), 0.0),
    stop("B", LIP, noise(800.0, 700.0, 0.14), 0.14),
    stop("T", RIDGE, noise(3300.0, 900.0, 0.34), 0.0),
    stop("D", RIDGE, noise(3000.0, 900.0, 0.20), 0.14),
    stop("K", VELUM, noise(1900.0, 450.0, 0.34), 0.0),
    stop("G", VELUM, noise(1800.0, 450.0, 0.20), 0.14),
    affricate("CH", noise(2600.0, 500.0, 0.38), 0.0),
    affricate("JH", noise(2600.0, 500.0, 0.20), 0.3),
    Phoneme { name: "HH", manner: Manner::Breath, millis: 42.0 },
];
