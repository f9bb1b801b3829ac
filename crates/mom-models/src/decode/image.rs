//! Images of continuous patches, drawn by diffusion in the middle of a sequence.

use candle_core::{DType, Device};
use mom_core::autograd::without_tape;
use mom_core::{ModalityPlan, Plan};
use rand::Rng;

use super::Decoder;
use crate::blocks::States;
use crate::diffusion::{Sampler, normals};
use crate::error::{require, require_batch};
use crate::{Images, Patcher, Result, Skips};

/// Classifier-free guidance of [`Decoder::sample_image`].
#[derive(Debug)]
pub struct Guidance<'b, 'a> {
    /// Sequences without a caption, at the same point.
    pub free: &'b Decoder<'a>,
    /// Weight w; 1 is none.
    pub weight: f64,
}

impl<'a> Decoder<'a> {
    /// Generates one image in every sequence by diffusion, and appends it (Transfusion; the image's begin marker has been
    /// pushed).
    ///
    /// Ancestral sampling over `n_steps` of the 1000 timesteps, evenly spaced. With `guidance` the noise is
    /// `e_free + w (e - e_free)`, where e_free comes from the decoder `free`, whose sequences have no caption (classifier-free
    /// guidance, arXiv 2207.12598). Noise comes from a generator for each sequence, so that an image does not depend on those
    /// beside it. Returns patches `(batch, n_patches, patch_dim)` in [-1, 1].
    ///
    /// # Errors
    /// A model of another setting, no step, a guiding decoder or generators of another batch.
    pub fn sample_image<R: Rng>(
        &mut self,
        n_patches: usize,
        n_steps: u32,
        guidance: Option<Guidance<'_, 'a>>,
        rngs: &mut [R],
    ) -> Result<Vec<f32>> {
        let Some(patcher) = self.model.patcher() else {
            return require(false, "setting", "transfusion", self.model.config().setting).map(|()| Vec::new());
        };
        let sampler = Sampler::new(n_steps)?;
        require(n_patches > 0, "n_patches", "at least 1", n_patches)?;
        let batch = self.batch.to_string();
        require(rngs.len() == self.batch, "rngs", &format!("{batch}, one for each sequence"), rngs.len())?;
        if let Some(guidance) = &guidance {
            require(guidance.weight.is_finite(), "guidance", "finite", guidance.weight)?;
            require(guidance.free.batch == self.batch, "guidance.batch", &batch, guidance.free.batch)?;
        }
        let images = self.images(patcher, n_patches)?;
        let of_image = n_patches * self.model.config().patch_dim;
        let noise = || Ok(rngs.iter_mut().flat_map(|rng| normals(rng, of_image)).collect());
        let x = sampler.run(noise, |x, t| {
            let mut epsilon = self.clone().epsilon(patcher, x, t, &images)?.1;
            // With a weight of 1 what is free cancels out.
            if let Some(Guidance { free, weight }) = guidance.as_ref().filter(|guidance| guidance.weight != 1.0) {
                let without = (*free).clone().epsilon(patcher, x, t, &images)?.1;
                for (e, free) in epsilon.iter_mut().zip(without) {
                    *e = free + weight * (*e - free);
                }
            }
            Ok(epsilon)
        })?;
        let patches: Vec<f32> = x.into_iter().map(|x| x as f32).collect();
        self.push_image(&patches)?;
        Ok(patches)
    }

    /// Appends one image to every sequence (Transfusion; the image's begin marker has been pushed).
    ///
    /// `patches`: `(batch, n_patches, patch_dim)` in [-1, 1]. The model sees them with as little noise as there is.
    ///
    /// # Errors
    /// A model of another setting, values that are no whole patches.
    pub fn push_image(&mut self, patches: &[f32]) -> Result<()> {
        let Some(patcher) = self.model.patcher() else {
            return require(false, "setting", "transfusion", self.model.config().setting);
        };
        let per_patch = self.batch * self.model.config().patch_dim;
        let whole = !patches.is_empty() && patches.len().is_multiple_of(per_patch);
        require_batch(whole, "patches", None, format!("a multiple of {per_patch} values"), patches.len())?;
        let x: Vec<f64> = patches.iter().map(|&x| f64::from(x)).collect();
        self.settle()?;
        let images = self.images(patcher, patches.len() / per_patch)?;
        self.states = self.clone().epsilon(patcher, &x, 0, &images)?.0;
        Ok(())
    }

    /// One picture of so many patches in every sequence.
    fn images(&self, patcher: &Patcher, n_patches: usize) -> Result<(usize, Images)> {
        let images: Vec<u32> = (0..self.batch * n_patches).map(|i| (i / n_patches) as u32).collect();
        Ok((n_patches, patcher.images(&images, self.model.like().device())?))
    }

    /// States behind an image of noisy patches, and the noise that the model sees in it.
    fn epsilon(
        mut self,
        patcher: &Patcher,
        x: &[f64],
        t: u32,
        (n_patches, images): &(usize, Images),
    ) -> Result<(States, Vec<f64>)> {
        let n_patches = *n_patches;
        let (batch, patch_dim) = (self.batch, self.model.config().patch_dim);
        let values: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let like = self.model.like();
        let noisy = Patcher::tensor(&values, patch_dim, like)?;
        let features = Patcher::time_features(&vec![t; batch], like)?;
        let (embedded, skips) = without_tape(|| patcher.embed(&noisy, images, &features))?;
        let (embedded, skips) = (embedded.detach(), skips.map(Skips::detached));
        let plan = ModalityPlan::new(batch, n_patches, 2, &vec![1; batch * n_patches], None)?;
        let pictures: Vec<_> = (0..batch).map(|b| b * n_patches..(b + 1) * n_patches).collect();
        let plan = Plan::with_spans(plan, &pictures)?;
        let out = self.run(&embedded, &plan)?;
        let epsilon = without_tape(|| patcher.predict(&out, images, skips.as_ref()))?;
        let epsilon = epsilon.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?;
        Ok((self.states, epsilon))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Noise, alpha_bar};
    use crate::{
        Batch, ImagePatches, Model, ModelConfig, NO_TARGET, Normaliser, PatchOrder, Setting, UnetConfig, Variant,
    };
    use candle_core::{Device, Tensor};

    /// What a decoder sees in a noisy picture is what a forward pass of training sees in it, for any patcher.
    #[test]
    fn a_step_of_generation_is_the_forward_pass_of_training() {
        for unet in [None, Some(UnetConfig { channels: 3, order: PatchOrder::ChannelsLast, width: 8 })] {
            let config = ModelConfig::new(Setting::Transfusion, Variant::Mom, "nano".parse().unwrap(), 24);
            let config = ModelConfig { patch_dim: 12, unet, ..config };
            let (model, parameters) = Model::seeded(&config, 5, DType::F64, &Device::Cpu).unwrap();
            for (_, last) in
                parameters.iter().filter(|(name, _)| name.ends_with("_out.weight") || name.contains("conv2"))
            {
                let values: Vec<f64> = (0..last.elem_count()).map(|i| (i as f64 * 0.9).sin() * 0.3).collect();
                last.set(&Tensor::from_vec(values, last.shape(), &Device::Cpu).unwrap()).unwrap();
            }
            // Two tokens, a picture, a token, another picture.
            let values: Vec<f32> = (0..8 * 12).map(|i| (i as f32 * 0.7).sin()).collect();
            let batch = Batch {
                tokens: &[1, 7, 0, 0, 0, 0, 3, 0, 0, 0, 0],
                targets: &[NO_TARGET; 11],
                modality_ids: &[0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1],
                target_modality_ids: &[0; 11],
                document_starts: &[true, false, false, false, false, false, false, false, false, false, false],
                patches: ImagePatches {
                    values: &values,
                    positions: &[2, 3, 4, 5, 7, 8, 9, 10],
                    images: &[0, 0, 0, 0, 1, 1, 1, 1],
                },
                ..Batch::empty(1, 11)
            };
            // No noise at all, so that the loss is the mean square of what the model sees.
            let noise = Noise { timesteps: vec![0, 400], epsilon: vec![0.0; values.len()] };
            let losses = model.loss(&batch, Some(&noise), Normaliser::of(&batch)).unwrap();
            let want = losses.by_modality().unwrap()[1].sum;
            let mut decoder = Decoder::new(&model, 1).unwrap();
            let mut got = 0.0;
            for (tokens, t, values) in [(&[1, 7][..], 0, &values[..48]), (&[3], 400, &values[48..])] {
                decoder.push(tokens, &vec![0; tokens.len()]).unwrap();
                let factor = alpha_bar(t).sqrt() as f32;
                let noisy: Vec<f64> = values.iter().map(|&x| f64::from(x * factor)).collect();
                let patcher = model.patcher().unwrap();
                let images = decoder.images(patcher, 4).unwrap();
                let (states, epsilon) = decoder.clone().epsilon(patcher, &noisy, t, &images).unwrap();
                decoder.states = states;
                got += epsilon.iter().map(|e| e * e).sum::<f64>() / 12.0;
            }
            assert!(want > 1e-2 && (got - want).abs() < 1e-6 * want, "{got}, expected {want}");
        }
    }
}
