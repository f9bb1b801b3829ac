//! Images of continuous patches, drawn by diffusion in the middle of a sequence.

use candle_core::{DType, Device};
use mom_core::{ModalityPlan, Plan};
use rand::Rng;

use super::Decoder;
use crate::blocks::States;
use crate::diffusion::{Sampler, normals};
use crate::error::{require, require_batch};
use crate::layers::Ids;
use crate::{Patcher, Result};

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
        let of_image = n_patches * self.model.config().patch_dim;
        let noise = || Ok(rngs.iter_mut().flat_map(|rng| normals(rng, of_image)).collect());
        let x = sampler.run(noise, |x, t| {
            let mut epsilon = self.clone().epsilon(patcher, x, t, n_patches)?.1;
            // With a weight of 1 what is free cancels out.
            if let Some(Guidance { free, weight }) = guidance.as_ref().filter(|guidance| guidance.weight != 1.0) {
                let without = (*free).clone().epsilon(patcher, x, t, n_patches)?.1;
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
        self.states = self.clone().epsilon(patcher, &x, 0, patches.len() / per_patch)?.0;
        Ok(())
    }

    /// States behind an image of noisy patches, and the noise that the model sees in it.
    fn epsilon(mut self, patcher: &Patcher, x: &[f64], t: u32, n_patches: usize) -> Result<(States, Vec<f64>)> {
        let (batch, patch_dim) = (self.batch, self.model.config().patch_dim);
        let values: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let like = self.model.like();
        let noisy = Patcher::tensor(&values, patch_dim, like)?;
        let images: Vec<u32> = (0..batch * n_patches).map(|i| (i / n_patches) as u32).collect();
        let features = Patcher::time_features(&vec![t; batch], like)?;
        let embedded = patcher.embed(&noisy, &Ids::new(images, like.device())?, &features)?.detach();
        let plan = ModalityPlan::new(batch, n_patches, 2, &vec![1; batch * n_patches], None)?;
        let pictures: Vec<_> = (0..batch).map(|b| b * n_patches..(b + 1) * n_patches).collect();
        let plan = Plan::with_spans(plan, &pictures)?;
        let out = self.run(&embedded, &plan)?;
        let epsilon = patcher.predict(&out)?.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?;
        Ok((self.states, epsilon))
    }
}
