//! The arguments as views of device memory.

use crate::error::Result as Checked;
use crate::ops::cross_entropy::params::expect_rows;
use crate::runtime::{DeviceMut, DeviceRef, ids};

/// The target of a row that has none.
pub const NO_TARGET: u32 = ids::NONE;

/// Most groups that [`group_sums`](super::group_sums) takes.
pub const MAX_GROUPS: usize = 8;

/// What the rows are to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Targets<'a> {
    /// `(n_rows)`: a class below the vocabulary, or [`NO_TARGET`](super::NO_TARGET).
    pub targets: DeviceRef<'a, u32>,
    /// `(n_rows)`: the row's share in the gradient and in [`group_sums`](super::group_sums); 1 if absent.
    pub weights: Option<DeviceRef<'a, f32>>,
}

/// What comes out for each row.
#[derive(Debug)]
#[non_exhaustive]
pub struct Losses<'a> {
    /// `(n_rows)`, overwritten: `lse - logit[target]`, without weight and z-loss; zero without a target.
    pub loss: DeviceMut<'a, f32>,
    /// `(n_rows)`, overwritten: logarithm of the normaliser; zero without a target.
    pub lse: DeviceMut<'a, f32>,
    /// `(1)`: the number of targets that name no class is added; see [`check`](super::check).
    pub out_of_range: DeviceMut<'a, u32>,
}

/// Factors of the gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Scale {
    /// Factor on all rows: one over the number of targets, say. A captured graph keeps it; weights are read again.
    pub scale: f32,
    /// Weight of the z-loss.
    pub z: f32,
}

impl<'a> Targets<'a> {
    /// Rows of one share each.
    pub fn new(targets: DeviceRef<'a, u32>) -> Self {
        Self { targets, weights: None }
    }

    /// With shares of the rows.
    #[must_use]
    pub fn with_weights(self, weights: impl Into<Option<DeviceRef<'a, f32>>>) -> Self {
        Self { weights: weights.into(), ..self }
    }
}

impl<'a> Losses<'a> {
    /// Where losses, logarithms of normalisers and the number of targets that name no class go.
    pub fn new(loss: DeviceMut<'a, f32>, lse: DeviceMut<'a, f32>, out_of_range: DeviceMut<'a, u32>) -> Self {
        Self { loss, lse, out_of_range }
    }
}

impl Scale {
    /// A factor on all rows, without z-loss.
    pub const fn new(scale: f32) -> Self {
        Self { scale, z: 0.0 }
    }

    /// With a z-loss of this weight.
    #[must_use]
    pub const fn with_z(self, z: f32) -> Self {
        Self { z, ..self }
    }
}

/// Per-row results to be summed by group, over any number of chunks at once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupInputs<'a> {
    /// As [`forward`](super::forward) has taken them. Rows without a target, or with one that names no class, count nowhere.
    pub targets: Targets<'a>,
    /// Number of classes.
    pub vocabulary: usize,
    /// `(n_rows)`: from [`Losses`](super::Losses).
    pub loss: DeviceRef<'a, f32>,
    /// `(n_rows)`: from [`Losses`](super::Losses).
    pub lse: DeviceRef<'a, f32>,
    /// `(n_rows)`: the group of a row, its modality say; without it there is one group.
    pub groups: Option<DeviceRef<'a, u8>>,
}

impl<'a> GroupInputs<'a> {
    /// Rows of one group.
    pub fn new(targets: Targets<'a>, vocabulary: usize, loss: DeviceRef<'a, f32>, lse: DeviceRef<'a, f32>) -> Self {
        Self { targets, vocabulary, loss, lse, groups: None }
    }

    /// With the group of each row.
    #[must_use]
    pub fn with_groups(self, groups: impl Into<Option<DeviceRef<'a, u8>>>) -> Self {
        Self { groups: groups.into(), ..self }
    }
}

impl Targets<'_> {
    /// Checks the shares of the rows.
    pub(super) fn check_weights(&self, n_rows: usize) -> Checked<()> {
        self.weights.as_ref().map_or(Ok(()), |weights| expect_rows("weights", n_rows, weights))
    }
}
