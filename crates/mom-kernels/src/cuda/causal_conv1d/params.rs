//! Arguments of the convolution, their checks, and the structs that the kernels take.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::select::MAX_STRETCH;
use super::{Activation, MAX_D_CONV};
use crate::cuda::DeviceLayout;
use crate::cuda::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Overlap, Result, blocks, optional_ref,
};
use crate::error::{Error, expect_presence, expect_size};

pub(super) const OP: &str = "causal_conv1d";

/// As in kernels/causal_conv1d: lanes of a block, channels of a lane, stretches of time of a block.
pub(super) const LANES: u32 = 32;
pub(super) const CHANNELS: usize = 4;
pub(super) const STRETCHES: u32 = 4;
/// Positions of a stretch, but for the kernel whose launch says how many.
pub(super) const STRETCH: usize = 64;
/// Positions whose rows are looked up at once.
pub(super) const GROUP: usize = 4;

/// Positions of a stretch that its neighbours read too.
const EDGES: usize = 6;

/// Inputs of the convolution; `n_rows = batch * seqlen`.
#[derive(Debug, Clone)]
pub struct ConvInputs<'a, T> {
    /// How time runs through the rows.
    pub layout: DeviceLayout<'a>,
    /// `(n_rows, d_inner)`.
    pub x: DeviceRows<'a, T>,
    /// `(d_inner, d_conv)`, the last tap on the present; d_conv 1 to [`MAX_D_CONV`].
    pub weight: DeviceRef<'a, f32>,
    /// `(d_inner)`.
    pub bias: Option<DeviceRef<'a, f32>>,
    /// What follows.
    pub activation: Activation,
    /// `(batch, d_conv - 1, d_inner)`: the inputs before the first position, oldest first; zero if absent.
    pub initial_state: Option<DeviceRef<'a, f32>>,
}

/// What the backward pass writes, all overwritten.
#[derive(Debug)]
pub struct ConvGrads<'a, T> {
    /// `(n_rows, d_inner)`. It may lie on exactly the rows of x ([`DeviceRowsMut::in_place`]), with the same results to the
    /// bit.
    pub grad_x: DeviceRowsMut<'a, T>,
    /// `(n_rows, d_inner)`: the forward pass's output once more, which is computed on the way; for who did not keep it.
    pub out: Option<DeviceRowsMut<'a, T>>,
    /// `(d_inner, d_conv)`.
    pub grad_weight: DeviceMut<'a, f32>,
    /// `(d_inner)`; exactly where there is a bias.
    pub grad_bias: Option<DeviceMut<'a, f32>>,
    /// `(batch, d_conv - 1, d_inner)`, if asked for; there must be an initial state.
    pub grad_initial_state: Option<DeviceMut<'a, f32>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub batch: usize,
    pub seqlen: usize,
    pub d_inner: usize,
    pub d_conv: usize,
}

impl Dims {
    pub fn expect_state(&self, arg: &'static str, len: Option<usize>) -> Result<()> {
        if let Some(len) = len {
            expect_size(OP, arg, "elements", self.batch * (self.d_conv - 1) * self.d_inner, len)?;
        }
        Ok(())
    }

    fn stretches(&self, length: usize) -> usize {
        self.batch * self.seqlen.div_ceil(length)
    }

    /// Blocks along time, of stretches of this length.
    fn blocks_along(&self, length: usize) -> usize {
        self.stretches(length).div_ceil(STRETCHES as usize)
    }

    /// Blocks along time in the backward pass: each leaves one partial sum of the taps' gradients.
    pub fn time_blocks(&self) -> usize {
        self.blocks_along(STRETCH)
    }

    /// Partial sums of four taps and the bias.
    pub fn partial_len(&self) -> usize {
        self.time_blocks() * 5 * self.d_inner
    }

    /// Partial sums, then edges of stretches.
    pub fn workspace_len(&self) -> usize {
        self.partial_len() + self.stretches(STRETCH) * EDGES * self.d_inner
    }

    /// Blocks of a launch over stretches of this length.
    pub fn n_blocks(&self, length: usize) -> usize {
        self.d_inner.div_ceil(LANES as usize * CHANNELS) * self.blocks_along(length)
    }

    pub fn grid(&self, length: usize) -> Result<u32> {
        blocks(OP, "batch * seqlen * d_inner", self.n_blocks(length), 1)
    }
}

impl<T: DeviceElement> ConvInputs<'_, T> {
    pub(super) fn validate(&self) -> Result<Dims> {
        let d_inner = self.x.width();
        let d_conv = self.weight.len() / d_inner;
        if !(1..=MAX_D_CONV).contains(&d_conv) {
            return Err(Error::Limit { op: OP, arg: "d_conv", min: 1, max: MAX_D_CONV, got: d_conv }.into());
        }
        let seqlen = self.layout.seqlen;
        for (arg, max, got) in
            [("seqlen", i32::MAX as usize - MAX_STRETCH, seqlen), ("batch", usize::MAX, self.layout.batch)]
        {
            if !(1..=max).contains(&got) {
                return Err(Error::Limit { op: OP, arg, min: 1, max, got }.into());
            }
        }
        expect_size(OP, "weight", "elements", d_inner * d_conv, self.weight.len())?;
        self.x.expect(OP, "x", self.layout.n_rows(), d_inner)?;
        if let Some(bias) = &self.bias {
            expect_size(OP, "bias", "elements", d_inner, bias.len())?;
        }
        let dims = Dims { batch: self.layout.batch, seqlen, d_inner, d_conv };
        dims.expect_state("initial_state", self.initial_state.as_ref().map(DeviceRef::len))?;
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
    pub(super) fn validate(
        &self,
        inputs: &ConvInputs<'_, T>,
        grad_out: &DeviceRows<'_, T>,
        dims: Dims,
    ) -> Result<bool> {
        let n_rows = dims.batch * dims.seqlen;
        self.grad_x.expect(OP, "grad_x", n_rows, dims.d_inner)?;
        if let Some(out) = &self.out {
            out.expect(OP, "out", n_rows, dims.d_inner)?;
        }
        expect_size(OP, "grad_weight", "elements", dims.d_inner * dims.d_conv, self.grad_weight.len())?;
        expect_presence(OP, "grad_bias", inputs.bias.is_some(), self.grad_bias.is_some())?;
        if let Some(grad) = &self.grad_bias {
            expect_size(OP, "grad_bias", "elements", dims.d_inner, grad.len())?;
        }
        if self.grad_initial_state.is_some() {
            expect_presence(OP, "initial_state", true, inputs.initial_state.is_some())?;
        }
        dims.expect_state("grad_initial_state", self.grad_initial_state.as_ref().map(DeviceMut::len))?;
        let mut is_in_place = false;
        for (arg, to) in [("grad_x", Some(&self.grad_x)), ("out", self.out.as_ref())] {
            for (with, from) in [("x", &inputs.x), ("grad_out", grad_out)] {
                match to.map_or(Overlap::None, |to| to.place().overlap(&from.place())) {
                    Overlap::None => {}
                    Overlap::Same if (arg, with) == ("grad_x", "x") => is_in_place = true,
                    Overlap::Same | Overlap::Partial => return Err(Error::Overlap { op: OP, arg, with }.into()),
                }
            }
        }
        Ok(is_in_place)
    }
}

// What the kernels take: kernels/causal_conv1d/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawInputs {
    row_of_position: u64,
    document_starts: u64,
    x: u64,
    weight: u64,
    bias: u64,
    initial_state: u64,
    batch: u32,
    seqlen: u32,
    d_inner: u32,
    d_conv: u32,
    silu: u32,
    x_stride: u32,
}
const _: () = {
    assert!(
        size_of::<RawInputs>() == 72 && offset_of!(RawInputs, batch) == 48 && offset_of!(RawInputs, x_stride) == 68
    );
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawForward {
    pub inputs: RawInputs,
    pub out: u64,
    pub last_state: u64,
    pub out_stride: u32,
    pub stretch: u32,
}
const _: () = {
    assert!(size_of::<RawForward>() == 96 && offset_of!(RawForward, out) == 72);
    assert!(offset_of!(RawForward, stretch) == 92);
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawBackward {
    pub inputs: RawInputs,
    pub grad_out: u64,
    pub grad_last_state: u64,
    pub grad_x: u64,
    pub out: u64,
    pub grad_initial_state: u64,
    pub partial: u64,
    pub edges: u64,
    pub grad_weight: u64,
    pub grad_bias: u64,
    pub grad_out_stride: u32,
    pub grad_x_stride: u32,
    pub out_stride: u32,
    pub n_partials: u32,
}
const _: () = {
    assert!(size_of::<RawBackward>() == 160 && offset_of!(RawBackward, partial) == 112);
    assert!(offset_of!(RawBackward, grad_out_stride) == 144);
};

// SAFETY: plain structs of integers in C layout; the addresses in them are device addresses.
unsafe impl DeviceRepr for RawForward {}
// SAFETY: as above.
unsafe impl DeviceRepr for RawBackward {}
