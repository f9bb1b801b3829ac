//! Image codes: a codebook of RGB patches, fitted by k-means on the pixels of the training split.
//!
//! An image of size x size pixels becomes (size / patch)^2 codes, row-major; each is the index of the nearest codebook
//! patch in squared distance over pixels in [-1, 1].

use std::path::Path;

use super::{ImageConfig, kmeans, tensors};
use crate::pixels::{self, RgbImage};
use crate::{DataError, Result};

/// A codebook of patches.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageCodebook {
    size: usize,
    patch: usize,
    centroids: kmeans::Centroids,
}

impl ImageCodebook {
    /// Fits to patches (n_patches, patch_dim), at least one; also how many codes no patch is nearest to.
    pub(crate) fn fit(
        patches: &[f32],
        config: &ImageConfig,
        seed: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> (Self, usize) {
        let fitted = kmeans::fit(patches, pixels::patch_dim(config.patch), config.codes, seed, progress);
        (Self { size: config.size, patch: config.patch, centroids: fitted.centroids }, fitted.n_empty)
    }

    /// Number of codes.
    pub fn n_codes(&self) -> usize {
        self.centroids.len()
    }

    /// Codes of an image (n_patches), each below [`Self::n_codes`].
    ///
    /// # Errors
    /// [`DataError::Length`] if the image has not the configured size.
    pub fn encode(&self, image: &RgbImage) -> Result<Vec<u32>> {
        let mut patches = Vec::new();
        pixels::to_patches(&image.pixels, self.size, self.patch, &mut patches)?;
        Ok(self.centroids.assign(&patches))
    }

    /// The image of codes (n_patches).
    ///
    /// # Errors
    /// [`DataError::Length`] for a wrong number of codes; [`DataError::Token`] for a code outside the codebook.
    pub fn decode(&self, codes: &[u32]) -> Result<RgbImage> {
        pixels::check_length("image codes", pixels::n_patches(self.size, self.patch)?, codes.len())?;
        let mut patches = Vec::with_capacity(codes.len() * self.centroids.dim());
        for &code in codes {
            let size = self.n_codes() as u32;
            let outside = DataError::Token { token: code, range: "image code", start: 0, end: size, size };
            patches.extend_from_slice(self.centroids.row(code).ok_or(outside)?);
        }
        pixels::from_patches(&patches, self.size, self.patch)
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let shape = [self.centroids.len(), self.centroids.dim()];
        tensors::save(path, &[("patches", &shape, self.centroids.rows())])
    }

    /// What a fingerprint is made of.
    pub(super) fn bytes(&self) -> Vec<u8> {
        bytemuck::cast_slice(self.centroids.rows()).to_vec()
    }

    pub(super) fn load(path: &Path, config: &ImageConfig) -> Result<Self> {
        let dim = pixels::patch_dim(config.patch);
        let rows = tensors::load(path)?.take("patches", &[config.codes, dim])?;
        Ok(Self { size: config.size, patch: config.patch, centroids: kmeans::Centroids::new(rows, dim) })
    }
}
