//! The arguments as views of device memory: what a GPU asks of them beside their shapes, and how kernels take them. The shapes
//! stand in [`params`].

use super::abi::RawInputs;
use crate::error::{Error, Result as Checked};
use crate::ops::causal_conv1d::params::{self, Activation, Dims, OP};
use crate::ops::plan::cuda::DeviceLayout;
use crate::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Overlap, Result, blocks, optional_ref,
};

/// Inputs of the convolution.
pub type ConvInputs<'a, T> = params::ConvInputs<DeviceRows<'a, T>, DeviceRef<'a, f32>, DeviceLayout<'a>>;

/// What the backward pass writes, all overwritten.
pub type ConvGrads<'a, T> = params::ConvGrads<DeviceRowsMut<'a, T>, DeviceMut<'a, f32>>;

/// As in kernels/causal_conv1d: lanes of a block, channels of a lane, stretches of time of a block.
pub(super) const LANES: u32 = 32;
pub(super) const CHANNELS: usize = 4;
pub(super) const STRETCHES: u32 = 4;
/// Positions of a stretch, but for the kernel whose launch says how many.
pub(super) const STRETCH: usize = 64;
/// Most positions of a stretch.
pub(super) const MAX_STRETCH: usize = 512;
/// Positions whose rows are looked up at once.
pub(super) const GROUP: usize = 4;

/// Positions of a stretch that its neighbours read too.
const EDGES: usize = 6;

impl Dims {
    fn stretches(&self, length: usize) -> usize {
        self.batch * self.seqlen.div_ceil(length)
    }

    /// Blocks along time, of stretches of this length.
    fn blocks_along(&self, length: usize) -> usize {
        self.stretches(length).div_ceil(STRETCHES as usize)
    }

    /// Blocks along time in the backward pass: each leaves one partial sum of the taps' gradients.
    pub(super) fn time_blocks(&self) -> usize {
        self.blocks_along(STRETCH)
    }

    /// Partial sums of four taps and the bias.
    pub(super) fn partial_len(&self) -> usize {
        self.time_blocks() * 5 * self.d_inner
    }

    /// Partial sums, then edges of stretches.
    pub(super) fn workspace_len(&self) -> usize {
        self.partial_len() + self.stretches(STRETCH) * EDGES * self.d_inner
    }

    /// Blocks of a launch over stretches of this length.
    pub(super) fn n_blocks(&self, length: usize) -> usize {
        self.d_inner.div_ceil(LANES as usize * CHANNELS) * self.blocks_along(length)
    }

    pub(super) fn grid(&self, length: usize) -> Result<u32> {
        blocks(OP, "batch * seqlen * d_inner", self.n_blocks(length), 1)
    }
}

impl<T: DeviceElement> ConvInputs<'_, T> {
    /// The sizes, where they agree and the kernels can count with them: there is a position, and 32 bits hold a sequence.
    pub(super) fn check(&self) -> Checked<Dims> {
        let dims = self.validate()?;
        for (arg, max, got) in
            [("seqlen", i32::MAX as usize - MAX_STRETCH, dims.seqlen), ("batch", usize::MAX, dims.batch)]
        {
            if !(1..=max).contains(&got) {
                return Err(Error::Limit { op: OP, arg, min: 1, max, got });
            }
        }
        Ok(dims)
    }

    pub(super) fn raw(&self, gpu: &Gpu, dims: Dims) -> Result<RawInputs> {
        Ok(RawInputs {
            row_of_position: self.layout.row_of_position(gpu)?,
            document_starts: self.layout.document_starts(gpu)?,
            x: self.x.address(gpu)?,
            weight: self.weight.address(gpu)?,
            bias: optional_ref(gpu, &self.bias)?,
            initial_state: optional_ref(gpu, &self.initial_state)?,
            batch: dims.batch as u32,
            seqlen: dims.seqlen as u32,
            d_inner: dims.d_inner as u32,
            d_conv: dims.d_conv as u32,
            silu: u32::from(self.activation == Activation::Silu),
            x_stride: self.x.stride_bytes(),
        })
    }
}

impl<T: DeviceElement> ConvGrads<'_, T> {
    /// Whether grad_x lies over x.
    pub(super) fn check(&self, inputs: &ConvInputs<'_, T>, grad_out: &DeviceRows<'_, T>, dims: Dims) -> Checked<bool> {
        self.validate(inputs, dims)?;
        let mut is_in_place = false;
        for (arg, to) in [("grad_x", Some(&self.grad_x)), ("out", self.out.as_ref())] {
            for (with, from) in [("x", &inputs.x), ("grad_out", grad_out)] {
                match to.map_or(Overlap::None, |to| to.place().overlap(&from.place())) {
                    Overlap::None => {}
                    Overlap::Same if (arg, with) == ("grad_x", "x") => is_in_place = true,
                    Overlap::Same | Overlap::Partial => return Err(Error::Overlap { op: OP, arg, with }),
                }
            }
        }
        Ok(is_in_place)
    }
}
