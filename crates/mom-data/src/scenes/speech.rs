//! A formant synthesiser after Klatt (1980), in small.
//!
//! The voice is the derivative of a glottal pulse, 2 t - 3 t^2 over the open part of each period, with a pitch that
//! declines over the utterance, rises on stressed vowels and trembles; it runs through four resonators in series. Breath
//! runs through the same resonators, the noise of a constriction through one of its own. A resonator is
//! y_n = (1 - b - c) x_n + b y_(n-1) + c y_(n-2), c = -exp(-2 pi w T), b = 2 exp(-pi w T) cos(2 pi f T). Targets are
//! reached by twofold exponential smoothing every 5 ms.

use std::f32::consts::TAU;

use super::gestures::{Gesture, articulate};
use crate::rng::Stream;

/// Frames per second at which targets move.
const FRAMES_PER_SEC: u32 = 200;
const BANDWIDTHS: [f32; 4] = [70.0, 95.0, 140.0, 240.0];
const FOURTH_FORMANT: f32 = 3500.0;

/// A speaker, as drawn for one utterance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voice {
    pitch_hertz: f32,
    /// Formants relative to the table.
    tract: f32,
    /// Share of noise in the voice.
    breathiness: f32,
    /// Open part of the glottal period.
    open: f32,
    /// Pole of the low-pass behind the source.
    tilt: f32,
    tempo: f32,
}

/// Pitch in Hz, tract scale, breathiness and tilt of each speaker.
const SPEAKERS: [[f32; 4]; 8] = [
    [92.0, 0.92, 0.02, 0.30],
    [104.0, 0.97, 0.05, 0.15],
    [118.0, 1.00, 0.03, 0.35],
    [133.0, 1.03, 0.08, 0.20],
    [178.0, 1.10, 0.06, 0.30],
    [197.0, 1.14, 0.03, 0.15],
    [216.0, 1.17, 0.10, 0.35],
    [240.0, 1.22, 0.05, 0.20],
];

impl Voice {
    fn draw(stream: &mut Stream) -> Self {
        let [pitch_hertz, tract, breathiness, tilt] = stream.pick(&SPEAKERS);
        Self {
            pitch_hertz: pitch_hertz * stream.range(0.95, 1.05),
            tract: tract * stream.range(0.98, 1.02),
            breathiness,
            open: stream.range(0.55, 0.7),
            tilt,
            tempo: stream.range(0.85, 1.15),
        }
    }
}

/// Speaks words: mono samples in (-1, 1).
pub(super) fn speak(words: &[&str], sample_rate: u32, stream: &mut Stream) -> Vec<f32> {
    let voice = Voice::draw(stream);
    let gestures = articulate(words, voice.tempo, stream);
    let frames = smooth(&gestures, &voice, stream);
    let mut wave = Synthesiser::new(voice, sample_rate, stream).run(&frames);
    finish(&mut wave, stream);
    wave
}

/// What the synthesiser does for one frame.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    formants: [f32; 3],
    noise_hertz: f32,
    noise_width: f32,
    voice: f32,
    breath: f32,
    noise: f32,
    pitch: f32,
}

fn smooth(gestures: &[Gesture], voice: &Voice, stream: &mut Stream) -> Vec<Frame> {
    let frame_millis = 1000.0 / FRAMES_PER_SEC as f32;
    let total: f32 = gestures.iter().map(|gesture| gesture.millis).sum();
    let n_frames = (total / frame_millis).ceil() as usize;
    let rate = |millis: f32| 1.0 - (-frame_millis / millis).exp();
    let (slow, fast, pitch_rate) = (rate(10.0), rate(4.0), rate(35.0));
    let mut formants = [gestures[0].formants; 2];
    let (mut voiced, mut breath, mut noise, mut accent, mut tremble) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let (mut index, mut end) = (0, gestures[0].millis);
    (0..n_frames)
        .map(|frame| {
            let now = (frame as f32 + 0.5) * frame_millis;
            while now > end && index + 1 < gestures.len() {
                index += 1;
                end += gestures[index].millis;
            }
            let target = &gestures[index];
            for i in 0..3 {
                formants[0][i] += slow * (target.formants[i] - formants[0][i]);
                formants[1][i] += slow * (formants[0][i] - formants[1][i]);
            }
            voiced += fast * (target.voice - voiced);
            breath += fast * (target.breath - breath);
            noise += fast * (target.noise.level - noise);
            accent += pitch_rate * (target.accent - accent);
            tremble = 0.9 * tremble + stream.range(-0.006, 0.006);
            let decline = 1.10 - 0.24 * now / total;
            Frame {
                formants: formants[1].map(|hertz| hertz * voice.tract),
                noise_hertz: target.noise.hertz * (0.5 + 0.5 * voice.tract),
                noise_width: target.noise.width_hertz,
                voice: voiced,
                breath,
                noise,
                pitch: voice.pitch_hertz * decline * (1.0 + accent + tremble),
            }
        })
        .collect()
}

/// A two-pole resonator.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Resonator {
    a: f32,
    b: f32,
    c: f32,
    y1: f32,
    y2: f32,
}

impl Resonator {
    pub fn tune(&mut self, hertz: f32, width_hertz: f32, sample_rate: f32) {
        let hertz = hertz.min(0.47 * sample_rate);
        let radius = (-std::f32::consts::PI * width_hertz / sample_rate).exp();
        self.c = -radius * radius;
        self.b = 2.0 * radius * (TAU * hertz / sample_rate).cos();
        self.a = 1.0 - self.b - self.c;
    }

    /// Scales the input so that white noise of power 1 comes out with power about 1.
    pub fn level_noise(&mut self) {
        // Power gain of 1 / (1 - b z^-1 - c z^-2) for white noise.
        let (b, c) = (self.b, self.c);
        let power = (1.0 - c) / ((1.0 + c) * ((1.0 - c) * (1.0 - c) - b * b));
        self.a = power.max(1e-6).sqrt().recip();
    }

    pub fn next(&mut self, x: f32) -> f32 {
        let y = self.a * x + self.b * self.y1 + self.c * self.y2;
        self.y2 = self.y1;
        self.y1 = y;
        y
    }
}

struct Synthesiser {
    voice: Voice,
    sample_rate: u32,
    tract: [Resonator; 4],
    constriction: Resonator,
    /// State of the noise generator, never 0.
    noise: u32,
}

impl Synthesiser {
    fn new(voice: Voice, sample_rate: u32, stream: &mut Stream) -> Self {
        let (tract, constriction) = ([Resonator::default(); 4], Resonator::default());
        Self { voice, sample_rate, tract, constriction, noise: stream.word() | 1 }
    }

    fn run(mut self, frames: &[Frame]) -> Vec<f32> {
        let rate = self.sample_rate as f32;
        let n_samples = (frames.len() as u64 * u64::from(self.sample_rate) / u64::from(FRAMES_PER_SEC)) as usize;
        let mut wave = Vec::with_capacity(n_samples);
        let (mut phase, mut tilted) = (0.0f32, 0.0f32);
        for (index, frame) in frames.iter().enumerate() {
            let end = ((index + 1) as u64 * u64::from(self.sample_rate) / u64::from(FRAMES_PER_SEC)) as usize;
            self.tune(frame, rate);
            let before = if index == 0 { frame } else { &frames[index - 1] };
            let n = end - wave.len();
            for i in 0..n {
                let share = i as f32 / n as f32;
                let level = |a: f32, b: f32| a + (b - a) * share;
                phase += frame.pitch / rate;
                phase -= phase.floor();
                let t = phase / self.voice.open;
                let pulse = if t < 1.0 { t * (2.0 - 3.0 * t) } else { 0.0 };
                let hiss = self.white();
                let source = pulse + self.voice.breathiness * hiss * if t < 1.0 { 1.0 } else { 0.4 };
                tilted += (1.0 - self.voice.tilt) * (source - tilted);
                let excitation =
                    tilted * level(before.voice, frame.voice) + 0.3 * hiss * level(before.breath, frame.breath);
                let voiced = self.tract.iter_mut().fold(excitation, |x, resonator| resonator.next(x));
                wave.push(voiced + self.constriction.next(hiss) * level(before.noise, frame.noise));
            }
        }
        wave
    }

    fn tune(&mut self, frame: &Frame, rate: f32) {
        for i in 0..3 {
            self.tract[i].tune(frame.formants[i], BANDWIDTHS[i], rate);
        }
        self.tract[3].tune(FOURTH_FORMANT * self.voice.tract, BANDWIDTHS[3], rate);
        self.constriction.tune(frame.noise_hertz, frame.noise_width, rate);
        self.constriction.level_noise();
    }

    /// Uniform in [-1, 1): xorshift (Marsaglia 2003).
    fn white(&mut self) -> f32 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 17;
        self.noise ^= self.noise << 5;
        self.noise as i32 as f32 * (1.0 / (1u32 << 31) as f32)
    }
}

/// Takes out the mean, sets the peak to between 0.5 and 0.9, and adds the hiss of a room.
fn finish(wave: &mut [f32], stream: &mut Stream) {
    let mean = wave.iter().sum::<f32>() / wave.len().max(1) as f32;
    let peak = wave.iter().fold(1e-6f32, |peak, value| peak.max((value - mean).abs()));
    let scale = stream.range(0.5, 0.9) / peak;
    let hiss = stream.range(0.0005, 0.003);
    let mut bytes = vec![0; wave.len()];
    stream.fill(&mut bytes);
    for (value, byte) in wave.iter_mut().zip(bytes) {
        *value = (*value - mean) * scale + hiss * (f32::from(byte) / 127.5 - 1.0);
    }
}
