//! The arguments as views of device memory: what a GPU asks of them beside their shapes, and how kernels take them. The shapes
//! stand in [`params`].

use cudarc::driver::CudaSlice;

use super::abi::RawInputs;
use crate::error::{Error, Result as Checked};
use crate::ops::attention::mask::AttentionMask;
use crate::ops::attention::params::{self, Dims, OP};
use crate::ops::plan::cuda::DeviceLayout;
use crate::runtime::{DeviceElement, DeviceRef, DeviceRows, DeviceRowsMut, Dtype, Gpu, Overlap, Result};
use crate::shape::Sequences;

/// Most features of a head.
pub const MAX_HEAD_DIM: usize = 64;

/// Elements of a vector that is moved at once.
const VECTOR: usize = 8;

/// Inputs of attention.
pub type AttentionInputs<'a, T> = params::AttentionInputs<DeviceRows<'a, T>, DeviceLayout<'a>, MaskView<'a>>;

/// What the backward pass writes, all overwritten.
pub type AttentionGrads<'a, T> = params::AttentionGrads<DeviceRowsMut<'a, T>>;

/// An [`AttentionMask`] in device memory.
#[derive(Debug)]
pub struct DeviceMask {
    batch: usize,
    seqlen: usize,
    /// Keys' first and end, queries' first and end, of every position, one behind the other.
    parts: CudaSlice<u32>,
}

/// A mask as kernels read it.
#[derive(Debug, Clone)]
pub struct MaskView<'a> {
    batch: usize,
    seqlen: usize,
    parts: DeviceRef<'a, u32>,
}

impl DeviceMask {
    /// Copies a mask to the device.
    ///
    /// # Errors
    /// Out of memory.
    pub fn upload(gpu: &Gpu, mask: &AttentionMask) -> Result<Self> {
        let parts = gpu.upload(&mask.parts().concat())?;
        Ok(Self { batch: mask.batch(), seqlen: mask.seqlen(), parts })
    }

    /// The mask as kernels of `gpu` read it.
    pub fn view<'a>(&'a self, gpu: &'a Gpu) -> MaskView<'a> {
        MaskView { batch: self.batch, seqlen: self.seqlen, parts: gpu.read(&self.parts) }
    }
}

impl Sequences for MaskView<'_> {
    fn batch(&self) -> usize {
        self.batch
    }

    fn seqlen(&self) -> usize {
        self.seqlen
    }
}

impl<T: DeviceElement> AttentionInputs<'_, T> {
    /// The sizes, where they agree and the kernels are written for them.
    pub(super) fn check(&self) -> Checked<Dims> {
        let dims = self.validate()?;
        if dims.head_dim > MAX_HEAD_DIM {
            return Err(Error::Limit { op: OP, arg: "head_dim", min: 1, max: MAX_HEAD_DIM, got: dims.head_dim });
        }
        if dims.batch.saturating_mul(dims.n_heads) > 65_535 {
            let got = dims.batch.saturating_mul(dims.n_heads);
            return Err(Error::Limit { op: OP, arg: "batch * n_heads", min: 0, max: 65_535, got });
        }
        for (arg, rows) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            expect_vectors(arg, dims, T::DTYPE, rows.is_aligned(VECTOR))?;
        }
        Ok(dims)
    }

    pub(super) fn raw(&self, gpu: &Gpu, dims: Dims) -> Result<RawInputs> {
        let n = (dims.batch * dims.seqlen * size_of::<u32>()) as u64;
        let mask = self.mask.parts.address(gpu)?;
        Ok(RawInputs {
            row_of_position: self.layout.row_of_position(gpu)?,
            key_first: mask,
            key_end: mask + n,
            query_first: mask + 2 * n,
            query_end: mask + 3 * n,
            q: self.q.address(gpu)?,
            k: self.k.address(gpu)?,
            v: self.v.address(gpu)?,
            batch: dims.batch as u32,
            seqlen: dims.seqlen as u32,
            n_heads: dims.n_heads as u32,
            head_dim: dims.head_dim as u32,
            q_stride: self.q.stride_bytes(),
            k_stride: self.k.stride_bytes(),
            v_stride: self.v.stride_bytes(),
            scale: dims.scale as f32,
        })
    }

    /// Fails where what is written overlaps what is read.
    pub(super) fn expect_apart(
        &self,
        written: &[(&'static str, &DeviceRowsMut<'_, T>)],
        read: &[(&'static str, &DeviceRows<'_, T>)],
    ) -> Checked<()> {
        let inputs = [("q", &self.q), ("k", &self.k), ("v", &self.v)];
        for (arg, to) in written {
            for (with, from) in inputs.iter().chain(read) {
                if to.place().overlap(&from.place()) != Overlap::None {
                    return Err(Error::Overlap { op: OP, arg, with });
                }
            }
        }
        Ok(())
    }
}

/// Kernels for 16 bits move whole vectors; those for f32 take anything.
pub(super) fn expect_vectors(arg: &'static str, dims: Dims, dtype: Dtype, is_aligned: bool) -> Checked<()> {
    if dtype == Dtype::F32 {
        return Ok(());
    }
    let odd = dims.head_dim % VECTOR;
    if odd != 0 {
        return Err(Error::Shape {
            op: OP,
            arg: "head_dim",
            unit: "features beyond whole vectors of 8",
            expected: 0,
            got: odd,
        });
    }
    if is_aligned {
        return Ok(());
    }
    Err(Error::Shape { op: OP, arg, unit: "rows or first columns off 16 bytes", expected: 0, got: 1 })
}
