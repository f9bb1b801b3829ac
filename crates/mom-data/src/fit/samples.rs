//! What tokenizers are fitted to: as much of the training samples of all sources as their sizes need, and no more.
//!
//! Texts become counts of words, images a few patches each, recordings a few frames each, as soon as they are read, so that
//! memory does not grow with the data. Each source gives its share; units are read in a drawn order and only in part, so that
//! shards sorted by anything do no harm.

use std::ops::Range;
use std::sync::mpsc::Receiver;

use rayon::prelude::*;

use crate::media::part::{self, square, wave};
use crate::needs::{ImageNeed, Needs, SpeechNeed};
use crate::pixels;
use crate::readers::{Chunk, Outcome, Part, Reader, Sample, Skip, Tally, read_units};
use crate::rng::{Domain, Stream};
use crate::source::{OnDamaged, SourceConfig, SplitRule};
use crate::split::{hash_bound, hash_of};
use crate::tokenizers::{CodeKind, LogMel, TokenizerConfig, WordCounts};
use crate::{DataError, Modality, Progress, Result};

/// Patches that one image gives, at most.
const PATCHES_OF_IMAGE: usize = 32;
/// Frames that one recording gives, at most.
const FRAMES_OF_RECORDING: usize = 64;
/// Values of patches that are held, at most: 256 MiB.
const MAX_PATCH_VALUES: usize = 1 << 26;
/// Samples of a unit that are read at first, at least; the rest only where that is not enough.
const OF_UNIT: usize = 64;

/// What was gathered.
pub(super) struct FitSamples {
    pub words: WordCounts,
    pub patches: Vec<f32>,
    pub frames: Vec<f32>,
    /// Where `frames` holds every frame of a recording: those that are short enough.
    pub stretches: Vec<Range<usize>>,
    pub mel: LogMel,
    pub n_samples: u64,
    pub skipped: Tally,
}

/// How much is wanted.
#[derive(Debug, Clone, Copy)]
struct Budget {
    text_bytes: u64,
    patch_values: usize,
    frame_values: usize,
    samples: u64,
}

/// What one sample gives.
#[derive(Default)]
struct Gift {
    words: Vec<String>,
    text_bytes: usize,
    patches: Vec<f32>,
    frames: Vec<f32>,
    /// Frames that follow one another in a recording, counted from the first of `frames`.
    stretches: Vec<Range<usize>>,
}

impl Budget {
    fn of(config: &TokenizerConfig, needs: Needs) -> Self {
        let text = config.text.kind == CodeKind::Fitted && config.text.tokenizer.is_none();
        let image = needs.image == ImageNeed::Codes && config.image.kind == CodeKind::Fitted;
        let speech = needs.speech == SpeechNeed::Units && config.speech.kind == CodeKind::Fitted;
        // A merge is learned from pairs that occur often; the last of n merges is about n times rarer than the first.
        let vocab_size = config.text.vocab_size as u64;
        let text_bytes = (vocab_size * vocab_size / 8).clamp(1 << 17, 1 << 28);
        let dim = pixels::patch_dim(config.image.patch);
        let patches = (16 * config.image.codes).max(16_384).min(MAX_PATCH_VALUES / dim);
        let frames = (256 * config.speech.units).max(24_576);
        Self {
            text_bytes: if text { text_bytes } else { 0 },
            patch_values: if image { patches * dim } else { 0 },
            frame_values: if speech { frames * config.speech.n_mels } else { 0 },
            samples: config.fit_samples.map_or(u64::MAX, |n| n as u64),
        }
    }

    /// A share of it.
    fn share(&self, share: f64) -> Self {
        let of = |n: usize| (n as f64 * share).ceil() as usize;
        Self {
            text_bytes: of(self.text_bytes as usize) as u64,
            patch_values: of(self.patch_values),
            frame_values: of(self.frame_values),
            samples: if self.samples == u64::MAX { u64::MAX } else { of(self.samples as usize) as u64 },
        }
    }
}

impl FitSamples {
    /// Reads sources until there is enough.
    pub fn read(
        sources: &[SourceConfig],
        config: &TokenizerConfig,
        needs: Needs,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let mut samples = Self {
            words: WordCounts::default(),
            patches: Vec::new(),
            frames: Vec::new(),
            stretches: Vec::new(),
            mel: LogMel::new(&config.speech),
            n_samples: 0,
            skipped: Tally::default(),
        };
        let budget = Budget::of(config, needs);
        if samples.is_enough(&budget) {
            return Ok(samples);
        }
        let trained: Vec<&SourceConfig> =
            sources.iter().filter(|source| source.split != SplitRule::Validation).collect();
        let total: f64 = trained.iter().map(|source| source.weight).sum();
        let readers = trained.iter().map(|source| source.open()).collect::<Result<Vec<_>>>()?;
        // First each source for its share, from the beginnings of its units; then all for what is still missing, those that
        // have shown that they hold it.
        let (mut share, mut begun) = (0.0, Vec::new());
        for (source, reader) in trained.iter().zip(&readers) {
            let mut units: Vec<usize> = (0..reader.units().len()).collect();
            Stream::new(config.seed, Domain::FitSubset, 0, 0).shuffle(&mut units);
            let limit = (4096usize).div_ceil(units.len().max(1)).max(OF_UNIT);
            share += source.weight / total;
            let gather = Gather { source, config, needs, goal: budget.share(share), skip: 0, limit };
            let what = format!("reading {} to fit tokenizers", source.name());
            let tell = &mut |done| progress(Progress { what: &what, done, total: 0 });
            let before = samples.amounts();
            let n_ended = samples.gather(&gather, &**reader, &units, tell)?;
            let gave: Vec<bool> = samples.amounts().iter().zip(before).map(|(now, before)| *now > before).collect();
            begun.push((source, reader, units, limit, n_ended, gave));
        }
        for (source, reader, units, limit, n_ended, gave) in begun {
            let missing = samples.missing(&budget);
            if samples.is_enough(&budget) || !missing.iter().zip(&gave).any(|(missing, gave)| *missing && *gave) {
                continue;
            }
            let what = format!("reading more of {} to fit tokenizers", source.name());
            let tell = &mut |done| progress(Progress { what: &what, done, total: 0 });
            let (ended, others) = units.split_at(n_ended);
            for (units, skip) in [(others, 0), (ended, limit)] {
                let gather = Gather { source, config, needs, goal: budget, skip, limit: usize::MAX };
                samples.gather(&gather, &**reader, units, tell)?;
            }
        }
        if samples.n_samples == 0 && samples.skipped.n_skipped() > 0 {
            return Err(DataError::AllSkipped { report: Box::new(samples.skipped) });
        }
        Ok(samples)
    }

    /// Bytes of text, values of patches and of frames.
    fn amounts(&self) -> [u64; 3] {
        [self.words.bytes, self.patches.len() as u64, self.frames.len() as u64]
    }

    /// Which of these are fewer than wanted.
    fn missing(&self, budget: &Budget) -> [bool; 3] {
        let [text, patches, frames] = self.amounts();
        let [wanted_patches, wanted_frames] = [budget.patch_values as u64, budget.frame_values as u64];
        [text < budget.text_bytes, patches < wanted_patches, frames < wanted_frames]
    }

    fn is_enough(&self, budget: &Budget) -> bool {
        self.missing(budget) == [false; 3] || self.n_samples >= budget.samples
    }

    fn gather(
        &mut self,
        gather: &Gather<'_>,
        reader: &dyn Reader,
        units: &[usize],
        progress: &mut dyn FnMut(u64),
    ) -> Result<usize> {
        read_units(reader, units, gather.limit, |loads| self.take(gather, loads, progress))
    }

    /// Gives the number of units that were read to their limit.
    fn take(
        &mut self,
        gather: &Gather<'_>,
        loads: Receiver<Vec<Chunk>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<usize> {
        let (mut of_unit, mut n_ended) = (0, 0);
        for chunk in loads.into_iter().flatten() {
            let outcomes = match chunk {
                Chunk::Outcomes(outcomes) => outcomes,
                Chunk::End(_, ended) => {
                    (of_unit, n_ended) = (0, n_ended + 1);
                    match (ended, gather.source.damaged) {
                        // It is counted when it is tokenised.
                        (Err(DataError::Damaged { .. }), OnDamaged::Skip) | (Ok(()), _) => continue,
                        (Err(error), _) => return Err(error),
                    }
                }
            };
            // Small pieces, so that no more is decoded than is needed.
            for outcomes in outcomes.chunks(64) {
                if self.is_enough(&gather.goal) {
                    return Ok(n_ended);
                }
                let first = of_unit;
                of_unit += outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Ignored { .. })).count();
                if first < gather.skip {
                    continue;
                }
                let wants = self.missing(&gather.goal);
                let gifts: Vec<_> = outcomes.par_iter().map(|outcome| gather.gift(outcome, wants, &self.mel)).collect();
                for (outcome, gift) in outcomes.iter().zip(gifts) {
                    match (outcome, gift) {
                        (_, Some(Ok(gift))) => {
                            self.n_samples += 1;
                            self.words.add(gift.words, gift.text_bytes);
                            self.patches.extend(gift.patches);
                            let before = self.frames.len() / self.mel.n_mels();
                            self.stretches.extend(gift.stretches.iter().map(|s| before + s.start..before + s.end));
                            self.frames.extend(gift.frames);
                        }
                        (Outcome::Sample(sample), Some(Err(skip))) => {
                            self.skipped.skipped(&sample.place.file, &sample.key, &sample.items, &skip);
                        }
                        (Outcome::Skipped { key, place, items, skip }, _) => {
                            self.skipped.skipped(&place.file, key, items, skip);
                        }
                        _ => {}
                    }
                }
                progress(self.n_samples);
            }
        }
        Ok(n_ended)
    }
}

/// How samples of one source are taken.
struct Gather<'a> {
    source: &'a SourceConfig,
    config: &'a TokenizerConfig,
    needs: Needs,
    goal: Budget,
    /// Samples of each unit that were read before.
    skip: usize,
    limit: usize,
}

impl Gather<'_> {
    /// What a sample of the training split gives; `None` for others.
    fn gift(&self, outcome: &Outcome, [text, image, speech]: [bool; 3], mel: &LogMel) -> Option<Result<Gift, Skip>> {
        let Outcome::Sample(sample) = outcome else { return None };
        let held_out = self.source.split == SplitRule::HeldOut && hash_of(sample) < hash_bound(self.config.held_out);
        if held_out {
            return None;
        }
        let mut gift = Gift::default();
        for part in &sample.parts {
            let done = match part {
                Part::Text(words) if text && self.source.takes(Modality::Text) => {
                    let words = part::text(words);
                    gift.text_bytes += words.len();
                    gift.words.extend(WordCounts::words(words));
                    Ok(())
                }
                Part::Image(picture)
                    if image && self.source.takes(Modality::Image) && self.needs.image == ImageNeed::Codes =>
                {
                    square(picture, self.config.image.size).map(|image| self.patches(sample, &image, &mut gift.patches))
                }
                Part::Audio(sound) if speech && self.source.takes(Modality::Speech) => {
                    wave(sound, self.config.speech.sample_rate).map(|wave| {
                        let frames = mel.frames(&wave);
                        let n_mels = mel.n_mels();
                        let stride = (frames.len() / n_mels).div_ceil(FRAMES_OF_RECORDING).max(1);
                        let before = gift.frames.len() / n_mels;
                        gift.frames.extend(frames.chunks_exact(n_mels).step_by(stride).flatten());
                        gift.stretches.extend((stride == 1).then(|| before..gift.frames.len() / n_mels));
                    })
                }
                _ => Ok(()),
            };
            if let Err(skip) = done {
                return Some(Err(skip));
            }
        }
        Some(Ok(gift))
    }

    /// Some patches of an image, drawn by its sample.
    fn patches(&self, sample: &Sample, image: &pixels::RgbImage, out: &mut Vec<f32>) {
        let patch = self.config.image.patch;
        let mut all = Vec::new();
        // Size and patch were checked with the configuration.
        if pixels::to_patches(&image.pixels, self.config.image.size, patch, &mut all).is_err() {
            return;
        }
        let dim = pixels::patch_dim(patch);
        let n = all.len() / dim;
        let mut stream = Stream::new(self.config.seed, Domain::FitSubset, 1, hash_of(sample));
        for _ in 0..PATCHES_OF_IMAGE.min(n) {
            out.extend_from_slice(&all[stream.below(n) * dim..][..dim]);
        }
    }
}
