//! Small batches for every setting.
#![allow(dead_code, reason = "each test binary uses its own part")]

use mom_models::diffusion::{Noise, Timesteps};
use mom_models::{Batch, ImagePatches, ModelConfig, NO_TARGET, Setting, Variant};

pub const VOCAB: usize = 24;
pub const PATCH_DIM: usize = 3;

pub fn config(setting: Setting, variant: Variant) -> ModelConfig {
    let config = ModelConfig::new(setting, variant, "nano".parse().unwrap(), VOCAB);
    match setting {
        Setting::Transfusion => ModelConfig { patch_dim: PATCH_DIM, ..config },
        Setting::Chameleon | Setting::ThreeModality => config,
    }
}

/// Arrays of a batch that is owned.
#[derive(Debug, Clone)]
pub struct Owned {
    pub batch: usize,
    pub seqlen: usize,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    pub modality_ids: Vec<u8>,
    pub target_modality_ids: Vec<u8>,
    pub document_starts: Vec<bool>,
    pub values: Vec<f32>,
    pub positions: Vec<u32>,
    pub images: Vec<u32>,
}

impl Owned {
    /// Documents of text, an image of four positions, and (in the third setting) speech; packed, so that some are cut.
    pub fn new(setting: Setting, batch: usize, seqlen: usize) -> Self {
        let n = batch * seqlen;
        let pattern: &[u8] = match setting {
            Setting::Transfusion | Setting::Chameleon => &[0, 0, 0, 1, 1, 1, 1, 0, 0],
            Setting::ThreeModality => &[0, 0, 1, 1, 1, 1, 2, 2, 0, 2, 2],
        };
        let phase = |p: usize| (p % seqlen + p / seqlen * 3) % pattern.len();
        let modality_ids: Vec<u8> = (0..n).map(|p| pattern[phase(p)]).collect();
        let document_starts: Vec<bool> = (0..n).map(|p| p % seqlen == 0 || phase(p) == 0).collect();
        let tokens: Vec<u32> = (0..n).map(|p| u32::from(modality_ids[p]) * 8 + (p * 7 % 8) as u32).collect();
        let patched = setting == Setting::Transfusion;
        let (mut targets, mut target_modality_ids) = (vec![NO_TARGET; n], vec![0; n]);
        for p in 0..n {
            if p + 1 < n && !document_starts[p + 1] && !(patched && (modality_ids[p + 1] == 1 || modality_ids[p] == 1))
            {
                targets[p] = tokens[p + 1];
                target_modality_ids[p] = modality_ids[p + 1];
            }
        }
        let (mut values, mut positions, mut images) = (Vec::new(), Vec::new(), Vec::new());
        if patched {
            let mut image = 0;
            for p in 0..n {
                if modality_ids[p] == 1 {
                    if positions.last().is_some_and(|&last| last as usize + 1 != p || document_starts[p]) {
                        image += 1;
                    }
                    positions.push(p as u32);
                    images.push(image);
                    values.extend((0..PATCH_DIM).map(|i| ((p * 5 + i * 3) as f32).sin()));
                }
            }
        }
        Self {
            batch,
            seqlen,
            tokens,
            targets,
            modality_ids,
            target_modality_ids,
            document_starts,
            values,
            positions,
            images,
        }
    }

    pub fn view(&self) -> Batch<'_> {
        Batch {
            batch: self.batch,
            seqlen: self.seqlen,
            tokens: &self.tokens,
            targets: &self.targets,
            modality_ids: &self.modality_ids,
            target_modality_ids: &self.target_modality_ids,
            document_starts: &self.document_starts,
            patches: ImagePatches { values: &self.values, positions: &self.positions, images: &self.images },
        }
    }

    pub fn noise(&self) -> Option<Noise> {
        let n_images = self.images.last().map_or(0, |&last| last as usize + 1);
        (n_images > 0).then(|| Noise::draw(3, 0, n_images, self.values.len(), Timesteps::Independent))
    }

    /// The sequences `start..start + n` alone.
    pub fn sequences(&self, start: usize, n: usize) -> Self {
        let span = start * self.seqlen..(start + n) * self.seqlen;
        let of: Vec<usize> =
            (0..self.positions.len()).filter(|&i| span.contains(&(self.positions[i] as usize))).collect();
        let first_image = of.first().map_or(0, |&i| self.images[i]);
        Self {
            batch: n,
            seqlen: self.seqlen,
            tokens: self.tokens[span.clone()].to_vec(),
            targets: self.targets[span.clone()].to_vec(),
            modality_ids: self.modality_ids[span.clone()].to_vec(),
            target_modality_ids: self.target_modality_ids[span.clone()].to_vec(),
            document_starts: self.document_starts[span.clone()].to_vec(),
            values: of.iter().flat_map(|&i| self.values[i * PATCH_DIM..(i + 1) * PATCH_DIM].to_vec()).collect(),
            positions: of.iter().map(|&i| self.positions[i] - span.start as u32).collect(),
            images: of.iter().map(|&i| self.images[i] - first_image).collect(),
        }
    }
}
