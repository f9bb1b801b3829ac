//! Speaks a caption of the large world: the synthesiser of [`crate::scenes::speech`] with a person's voice, a melody, and a
//! room. A room is three feedback echoes (combs, after Schroeder 1962), coloured noise, perhaps a hum, and a dull recorder.

use std::f32::consts::TAU;

use super::prosody::{Target, articulate};
use super::speaker::{Room, Speaker};
use super::word::Word;
use crate::rng::Stream;
use crate::scenes::speech::Resonator;

/// Frames per second at which targets move.
const FRAMES_PER_SEC: u32 = 200;
const BANDWIDTHS: [f32; 4] = [70.0, 95.0, 140.0, 240.0];
const FOURTH_FORMANT: f32 = 3500.0;

/// Speaks words: mono samples in (-1, 1).
pub(super) fn speak(words: &[Word], name: usize, sample_rate: u32, stream: &mut Stream) -> Vec<f32> {
    let speaker = Speaker::of(name, stream);
    let room = Room::draw(stream);
    let targets = articulate(words, &speaker, stream);
    let frames = smooth(&targets, &speaker, stream);
    let noise = White(stream.word() | 1);
    let mut wave = Voice { speaker, sample_rate, noise }.run(&frames);
    record(&mut wave, &room, sample_rate, stream);
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
    pitch_hertz: f32,
}

/// Targets are reached by twofold exponential smoothing.
fn smooth(targets: &[Target], speaker: &Speaker, stream: &mut Stream) -> Vec<Frame> {
    let frame_millis = 1000.0 / FRAMES_PER_SEC as f32;
    let total: f32 = targets.iter().map(|target| target.millis).sum();
    let n_frames = (total / frame_millis).ceil() as usize;
    let rate = |millis: f32| 1.0 - (-frame_millis / millis).exp();
    let (slow, fast, pitch_rate) = (rate(10.0), rate(4.0), rate(30.0));
    let mut formants = [targets[0].formants; 2];
    let (mut voice, mut breath, mut noise, mut pitch, mut drift) = (0.0, 0.0, 0.0, 1.0, 0.0);
    let (mut index, mut end) = (0, targets[0].millis);
    let phase = stream.range(0.0, TAU);
    (0..n_frames)
        .map(|frame| {
            let now = (frame as f32 + 0.5) * frame_millis;
            while now > end && index + 1 < targets.len() {
                index += 1;
                end += targets[index].millis;
            }
            let target = &targets[index];
            for i in 0..3 {
                formants[0][i] += slow * (target.formants[i] - formants[0][i]);
                formants[1][i] += slow * (formants[0][i] - formants[1][i]);
            }
            voice += fast * (target.voice - voice);
            breath += fast * (target.breath - breath);
            noise += fast * (target.noise.level - noise);
            pitch += pitch_rate * (target.pitch - pitch);
            drift = 0.9 * drift + stream.range(-0.006, 0.006);
            let [depth, hertz] = speaker.tremor;
            let tremor = depth * (TAU * hertz * now / 1000.0 + phase).sin();
            Frame {
                formants: std::array::from_fn(|i| formants[1][i] * speaker.tract[i]),
                noise_hertz: target.noise.hertz * (0.5 + 0.5 * speaker.tract[2]),
                noise_width: target.noise.width_hertz,
                voice,
                breath,
                noise,
                pitch_hertz: speaker.pitch_hertz * pitch * (1.0 + tremor + drift),
            }
        })
        .collect()
}

/// Uniform in [-1, 1): xorshift (Marsaglia 2003). The state is never 0.
struct White(u32);

impl White {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as i32 as f32 * (1.0 / (1u32 << 31) as f32)
    }
}

struct Voice {
    speaker: Speaker,
    sample_rate: u32,
    noise: White,
}

impl Voice {
    fn run(mut self, frames: &[Frame]) -> Vec<f32> {
        let rate = self.sample_rate as f32;
        let at = |frame: usize| (frame as u64 * u64::from(self.sample_rate) / u64::from(FRAMES_PER_SEC)) as usize;
        let mut wave = Vec::with_capacity(at(frames.len()));
        let mut tract = [Resonator::default(); 4];
        let mut constriction = Resonator::default();
        tract[3].tune(FOURTH_FORMANT * self.speaker.tract[2], BANDWIDTHS[3] * self.speaker.width, rate);
        let (mut phase, mut tilted) = (0.0f32, 0.0f32);
        for (index, frame) in frames.iter().enumerate() {
            for i in 0..3 {
                tract[i].tune(frame.formants[i], BANDWIDTHS[i] * self.speaker.width, rate);
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
                let t = phase / self.speaker.open;
                let pulse = if t < 1.0 { t * (2.0 - 3.0 * t) } else { 0.0 };
                let hiss = self.noise.next();
                let source = pulse + self.speaker.breathiness * hiss * if t < 1.0 { 1.0 } else { 0.4 };
                tilted += (1.0 - self.speaker.tilt) * (source - tilted);
                let excitation =
                    tilted * level(before.voice, frame.voice) + 0.3 * hiss * level(before.breath, frame.breath);
                let voiced = tract.iter_mut().fold(excitation, |x, resonator| resonator.next(x));
                wave.push(voiced + constriction.next(hiss) * level(before.noise, frame.noise));
            }
        }
        wave
    }
}

/// What the room makes of a voice: echoes, noise, and a peak between 0.5 and 0.9.
fn record(wave: &mut [f32], room: &Room, sample_rate: u32, stream: &mut Stream) {
    let rate = sample_rate as f32;
    if room.wet > 0.0 {
        let mut echoes = room.delays.map(|millis| (vec![0.0f32; ((millis * rate / 1000.0) as usize).max(1)], 0usize));
        for value in wave.iter_mut() {
            let mut back = 0.0;
            for (line, at) in &mut echoes {
                let heard = line[*at];
                line[*at] = *value + room.feedback * heard;
                *at = if *at + 1 == line.len() { 0 } else { *at + 1 };
                back += heard;
            }
            *value = *value * (1.0 - room.wet) + back * room.wet / 3.0;
        }
    }
    let mut dulled = 0.0;
    for value in wave.iter_mut() {
        dulled += (1.0 - room.dull) * (*value - dulled);
        *value = dulled;
    }
    let mean = wave.iter().sum::<f32>() / wave.len().max(1) as f32;
    let peak = wave.iter().fold(1e-6f32, |peak, value| peak.max((value - mean).abs()));
    let gain = stream.range(0.5, 0.85) / peak;
    // Noise of one loudness, whatever its colour.
    let level = room.noise * ((1.0 + room.colour) / (1.0 - room.colour)).sqrt();
    let mut noise = White(stream.word() | 1);
    let (mut coloured, mut turn) = (0.0f32, stream.range(0.0, 1.0));
    for value in wave.iter_mut() {
        coloured += (1.0 - room.colour) * (noise.next() - coloured);
        turn += room.hum[0] / rate;
        turn -= turn.floor();
        let hum = room.hum[1] * (TAU * turn).sin();
        *value = ((*value - mean) * gain + level * coloured + hum).clamp(-0.99, 0.99);
    }
}
