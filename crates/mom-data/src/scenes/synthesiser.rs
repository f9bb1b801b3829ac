//! A formant synthesiser after Klatt (1980), in small, for the voices of both worlds.
//!
//! The voice is the derivative of a glottal pulse, 2 t - 3 t^2 over the open part of each period; it runs through four resonators in
//! series. Breath runs through the same resonators, the noise of a constriction through one of its own. A resonator is
//! y_n = (1 - b - c) x_n + b y_(n-1) + c y_(n-2), c = -exp(-2 pi w T), b = 2 exp(-pi w T) cos(2 pi f T). Targets are
//! reached by twofold exponential smoothing every 5 ms.

use std::f32::consts::TAU;

use super::phonemes::Noise;

/// Frames per second at which targets move.
const FRAMES_PER_SEC: u32 = 200;
const BANDWIDTHS: [f32; 4] = [70.0, 95.0, 140.0, 240.0];
const FOURTH_FORMANT: f32 = 3500.0;

/// What a speaker aims at for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Aim {
    pub millis: f32,
    pub formants: [f32; 3],
    /// Level of the voice.
    pub voice: f32,
    /// Level of breath through the formants.
    pub breath: f32,
    /// Noise at a constriction.
    pub noise: Noise,
    /// Of the pitch, what moves from sound to sound.
    pub pitch: f32,
}

/// What the pitch of targets begins with, and how slowly it moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct PitchCourse {
    pub first: f32,
    pub millis: f32,
}

/// What the synthesiser does for one frame.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frame {
    formants: [f32; 3],
    noise_hertz: f32,
    noise_width: f32,
    voice: f32,
    breath: f32,
    noise: f32,
    pitch_hertz: f32,
}

/// A throat and what comes out of its glottis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Throat {
    /// Each formant relative to the table.
    pub tract: [f32; 3],
    /// Width of the formants relative to the usual one.
    pub width: f32,
    /// Share of noise in the voice.
    pub breathiness: f32,
    /// Open part of the glottal period.
    pub open: f32,
    /// Pole of the low-pass behind the source.
    pub tilt: f32,
}

impl Throat {
    /// Frames that move smoothly from one target to the next, of which there is one at least. `pitch_hertz` makes the pitch of what moves
    /// from sound to sound, the time in milliseconds, and how long all lasts.
    pub fn glide(
        &self,
        aims: &[Aim],
        course: PitchCourse,
        mut pitch_hertz: impl FnMut(f32, f32, f32) -> f32,
    ) -> Vec<Frame> {
        let frame_millis = 1000.0 / FRAMES_PER_SEC as f32;
        let total: f32 = aims.iter().map(|aim| aim.millis).sum();
        let n_frames = (total / frame_millis).ceil() as usize;
        let rate = |millis: f32| 1.0 - (-frame_millis / millis).exp();
        let (slow, fast, pitch_rate) = (rate(10.0), rate(4.0), rate(course.millis));
        let mut formants = [aims[0].formants; 2];
        let (mut voice, mut breath, mut noise, mut pitch) = (0.0, 0.0, 0.0, course.first);
        let (mut index, mut end) = (0, aims[0].millis);
        let mut frame = |now: f32| {
            while now > end && index + 1 < aims.len() {
                index += 1;
                end += aims[index].millis;
            }
            let aim = &aims[index];
            for i in 0..3 {
                formants[0][i] += slow * (aim.formants[i] - formants[0][i]);
                formants[1][i] += slow * (formants[0][i] - formants[1][i]);
            }
            voice += fast * (aim.voice - voice);
            breath += fast * (aim.breath - breath);
            noise += fast * (aim.noise.level - noise);
            pitch += pitch_rate * (aim.pitch - pitch);
            Frame {
                formants: std::array::from_fn(|i| formants[1][i] * self.tract[i]),
                noise_hertz: aim.noise.hertz * (0.5 + 0.5 * self.tract[2]),
                noise_width: aim.noise.width_hertz,
                voice,
                breath,
                noise,
                pitch_hertz: pitch_hertz(pitch, now, total),
            }
        };
        (0..n_frames).map(|index| frame((index as f32 + 0.5) * frame_millis)).collect()
    }

    /// The sound of frames, of no particular loudness.
    pub fn sound(&self, frames: &[Frame], sample_rate: u32, mut noise: White) -> Vec<f32> {
        let rate = sample_rate as f32;
        let at = |frame: usize| (frame as u64 * u64::from(sample_rate) / u64::from(FRAMES_PER_SEC)) as usize;
        let mut wave = Vec::with_capacity(at(frames.len()));
        let mut tract = [Resonator::default(); 4];
        let mut constriction = Resonator::default();
        tract[3].tune(FOURTH_FORMANT * self.tract[2], BANDWIDTHS[3] * self.width, rate);
        let (mut phase, mut tilted) = (0.0f32, 0.0f32);
        for (index, frame) in frames.iter().enumerate() {
            for i in 0..3 {
                tract[i].tune(frame.formants[i], BANDWIDTHS[i] * self.width, rate);
            }
            constriction.tune(frame.noise_hertz, frame.noise_width, rate);
            constriction.level_noise();
            let before = if index == 0 { frame } else { &frames[index - 1] };
            let n = at(index + 1) - wave.len();
            for i in 0..n {
                let share = i as f32 / n as f32;
                let level = |a: f32, b: f32| a + (b - a) * share;
                phase += frame.pitch_hertz / rate;
                phase -= phase.floor();
                let t = phase / self.open;
                let pulse = if t < 1.0 { t * (2.0 - 3.0 * t) } else { 0.0 };
                let hiss = noise.next();
                let source = pulse + self.breathiness * hiss * if t < 1.0 { 1.0 } else { 0.4 };
                tilted += (1.0 - self.tilt) * (source - tilted);
                let excitation =
                    tilted * level(before.voice, frame.voice) + 0.3 * hiss * level(before.breath, frame.breath);
                let voiced = tract.iter_mut().fold(excitation, |x, resonator| resonator.next(x));
                wave.push(voiced + constriction.next(hiss) * level(before.noise, frame.noise));
            }
        }
        wave
    }
}

/// A two-pole resonator.
#[derive(Debug, Clone, Copy, Default)]
struct Resonator {
    a: f32,
    b: f32,
    c: f32,
    y1: f32,
    y2: f32,
}

impl Resonator {
    fn tune(&mut self, hertz: f32, width_hertz: f32, sample_rate: f32) {
        let hertz = hertz.min(0.47 * sample_rate);
        let radius = (-std::f32::consts::PI * width_hertz / sample_rate).exp();
        self.c = -radius * radius;
        self.b = 2.0 * radius * (TAU * hertz / sample_rate).cos();
        self.a = 1.0 - self.b - self.c;
    }

    /// Scales the input so that white noise of power 1 comes out with power about 1.
    fn level_noise(&mut self) {
        // Power gain of 1 / (1 - b z^-1 - c z^-2) for white noise.
        let (b, c) = (self.b, self.c);
        let power = (1.0 - c) / ((1.0 + c) * ((1.0 - c) * (1.0 - c) - b * b));
        self.a = power.max(1e-6).sqrt().recip();
    }

    fn next(&mut self, x: f32) -> f32 {
        let y = self.a * x + self.b * self.y1 + self.c * self.y2;
        self.y2 = self.y1;
        self.y1 = y;
        y
    }
}

/// Uniform in [-1, 1): xorshift (Marsaglia 2003).
pub(super) struct White(u32);

impl White {
    /// `word`: what it begins with, whatever that is.
    pub fn new(word: u32) -> Self {
        // A state of 0 would stay there.
        Self(word | 1)
    }

    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as i32 as f32 * (1.0 / (1u32 << 31) as f32)
    }
}
