//! The pictures of a batch, in groups of one size.

use std::sync::Arc;

use candle_core::Device;

use super::taps::Taps;
use crate::Result;
use crate::error::require_batch;

/// The pictures of a batch in their order, as a U-Net reads them: neighbours of one size together.
#[derive(Debug, Clone)]
pub struct Pictures(Vec<Group>);

/// Neighbouring pictures of one size.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub first_picture: usize,
    pub n_pictures: usize,
    first_patch: usize,
    /// Patches in a row, and rows.
    pub side: usize,
    /// Convolutions at one size: of level 0, and of the grid of the patches.
    pub same: [Arc<Taps>; 2],
    pub halving: Arc<Taps>,
    pub doubling: Arc<Taps>,
}

impl Group {
    pub const fn first_patch(&self) -> usize {
        self.first_patch
    }

    pub const fn n_patches(&self) -> usize {
        self.n_pictures * self.side * self.side
    }
}

/// Side of a square of so many patches.
///
/// # Errors
/// A number that is no square: the patches of a picture do not tell how wide it is.
pub(crate) fn side(n_patches: usize, image: usize) -> Result<usize> {
    let side = n_patches.isqrt();
    let expected = "a square number of patches, for the unet patcher";
    require_batch(n_patches > 0 && side * side == n_patches, "patches.images", Some(image), expected, n_patches)?;
    Ok(side)
}

impl Pictures {
    /// `images`: the picture of each patch, ascending without gaps; `device`: where the model is.
    ///
    /// # Errors
    /// A picture that is no square; out of memory.
    pub fn new(images: &[u32], device: &Device) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        let mut first_patch = 0;
        for (picture, patches) in images.chunk_by(|a, b| a == b).enumerate() {
            let side = side(patches.len(), picture)?;
            match groups.last_mut() {
                Some(last) if last.side == side => last.n_pictures += 1,
                _ => {
                    let known = groups.iter().find(|group| group.side == side);
                    let tables = match known {
                        Some(Group { same, halving, doubling, .. }) => {
                            (same.clone(), halving.clone(), doubling.clone())
                        }
                        None => (
                            [Arc::new(Taps::same(2 * side, device)?), Arc::new(Taps::same(side, device)?)],
                            Arc::new(Taps::halving(side, device)?),
                            Arc::new(Taps::doubling(side, device)?),
                        ),
                    };
                    let (same, halving, doubling) = tables;
                    let (first_picture, n_pictures) = (picture, 1);
                    groups.push(Group { first_picture, n_pictures, first_patch, side, same, halving, doubling });
                }
            }
            first_patch += patches.len();
        }
        Ok(Self(groups))
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.0
    }

    /// Patches of all pictures.
    pub fn n_patches(&self) -> usize {
        self.0.iter().map(Group::n_patches).sum()
    }
}
