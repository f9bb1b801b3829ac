//! The arguments as views of device memory: what a GPU asks of them beside their shapes, and how kernels take them. The shapes
//! stand in [`params`].

use super::abi::{Partials, RawBackward, RawInputs};
use super::dims::saved_len;
use super::select::{Assume, CHANNELS, Chunks};
use crate::error::{Error, Result as Checked};
use crate::ops::plan::cuda::{DeviceLayout, DeviceOffsets};
use crate::ops::selective_scan::check::{Dims, validate_backward};
use crate::ops::selective_scan::params::{self, DeltaActivation, OP};
use crate::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Overlap, Result, optional_mut, optional_ref,
};

/// Bias of dt.
pub type DtBias<'a> = params::DtBias<DeviceRef<'a, f32>, DeviceOffsets<'a>>;

/// Inputs of the scan.
pub type ScanInputs<'a, T> =
    params::ScanInputs<DeviceRows<'a, T>, DeviceRef<'a, f32>, DeviceLayout<'a>, DeviceOffsets<'a>>;

/// Outputs of the forward pass.
pub type ScanOutputs<'a, T> = params::ScanOutputs<DeviceRowsMut<'a, T>, DeviceMut<'a, f32>>;

/// Gradients that come in.
pub type ScanOutputGrads<'a, T> = params::ScanOutputGrads<DeviceRows<'a, T>, DeviceRef<'a, f32>>;

/// Gradients that go out, all overwritten.
pub type ScanGrads<'a, T> = params::ScanGrads<DeviceRowsMut<'a, T>, DeviceMut<'a, f32>>;

/// Largest d_inner and seqlen that the kernels count with.
const MAX_D_INNER: usize = 1 << 24;
const MAX_SEQLEN: usize = i32::MAX as usize - 64;

impl<T: DeviceElement> ScanInputs<'_, T> {
    /// The sizes, where they agree and the kernels can count with them.
    pub(super) fn check(&self) -> Checked<Dims> {
        let dims = self.validate()?;
        for (arg, min, max, got) in [("d_inner", 1, MAX_D_INNER, dims.d_inner), ("seqlen", 0, MAX_SEQLEN, dims.seqlen)]
        {
            if !(min..=max).contains(&got) {
                return Err(Error::Limit { op: OP, arg, min, max, got });
            }
        }
        Ok(dims)
    }

    /// Whether the kernels for vectors of channels apply.
    pub(super) fn is_aligned(&self, dims: Dims) -> bool {
        dims.d_state == 16
            && dims.d_inner.is_multiple_of(CHANNELS)
            && [&self.u, &self.dt, &self.b, &self.c].iter().all(|rows| rows.is_aligned(CHANNELS))
            && self.z.as_ref().is_none_or(|z| z.is_aligned(CHANNELS))
            && self.dt_bias.as_ref().is_none_or(|dt_bias| dt_bias.bias.is_aligned(4))
    }

    /// What kernels may take for granted, where the outputs are `aligned` too.
    pub(super) fn assume(&self, dims: Dims, aligned: bool) -> Assume {
        let softplus = self.delta_activation == DeltaActivation::Softplus;
        let complete = self.z.is_some() && self.d_skip.is_some() && softplus;
        Assume::new(T::DTYPE, dims, aligned && self.is_aligned(dims), complete)
    }

    /// `chunks`: how sequences are cut.
    pub(super) fn raw(&self, gpu: &Gpu, dims: Dims, chunks: Chunks) -> Result<RawInputs> {
        let dt_bias = self.dt_bias.as_ref();
        Ok(RawInputs {
            row_of_position: self.layout.row_of_position(gpu)?,
            document_starts: self.layout.document_starts(gpu)?,
            bias_offsets: dt_bias.map_or(Ok(0), |dt_bias| dt_bias.offsets.address(gpu))?,
            batch: dims.batch as u32,
            seqlen: dims.seqlen as u32,
            d_inner: dims.d_inner as u32,
            d_state: dims.d_state as u32,
            n_biases: dims.n_biases as u32,
            softplus: u32::from(self.delta_activation == DeltaActivation::Softplus),
            u: self.u.address(gpu)?,
            dt: self.dt.address(gpu)?,
            z: self.z.as_ref().map_or(Ok(0), |z| z.address(gpu))?,
            b: self.b.address(gpu)?,
            c: self.c.address(gpu)?,
            a: self.a.address(gpu)?,
            d: optional_ref(gpu, &self.d_skip)?,
            dt_bias: dt_bias.map_or(Ok(0), |dt_bias| dt_bias.bias.address(gpu))?,
            u_stride: self.u.stride_bytes(),
            dt_stride: self.dt.stride_bytes(),
            z_stride: self.z.as_ref().map_or(0, |z| z.stride_bytes()),
            b_stride: self.b.stride_bytes(),
            c_stride: self.c.stride_bytes(),
            chunk: chunks.len as u32,
        })
    }
}

impl<T: DeviceElement> ScanOutputs<'_, T> {
    pub(super) fn check(&self, dims: Dims) -> Result<()> {
        self.validate(dims, saved_len(dims))?;
        self.saved_states.as_ref().map_or(Ok(()), |saved| saved.expect_vectors(OP, "saved_states"))
    }
}

impl<T: DeviceElement> ScanGrads<'_, T> {
    pub(super) fn check(
        &self,
        inputs: &ScanInputs<'_, T>,
        saved_states: &DeviceRef<'_, f32>,
        output_grads: &ScanOutputGrads<'_, T>,
        dims: Dims,
    ) -> Result<()> {
        validate_backward(inputs, saved_states, output_grads, self, dims, saved_len(dims))?;
        saved_states.expect_vectors(OP, "saved_states")?;
        self.check_places(inputs, output_grads)
    }

    /// A block reads an element of its rows and channels once, behind which it writes that of the same row and channel; B
    /// and C are read by every block.
    fn check_places(&self, inputs: &ScanInputs<'_, T>, output_grads: &ScanOutputGrads<'_, T>) -> Result<()> {
        let read = [
            ("u", Some(&inputs.u), Overlap::Same),
            ("dt", Some(&inputs.dt), Overlap::Same),
            ("z", inputs.z.as_ref(), Overlap::Same),
            ("grad_out", Some(&output_grads.grad_out), Overlap::Same),
            ("b", Some(&inputs.b), Overlap::None),
            ("c", Some(&inputs.c), Overlap::None),
        ];
        let written = [
            ("grad_u", Some(&self.grad_u)),
            ("grad_dt", Some(&self.grad_dt)),
            ("grad_z", self.grad_z.as_ref()),
            ("out", self.out.as_ref()),
        ];
        for (arg, to) in written {
            for (with, from, allowed) in read {
                let (Some(to), Some(from)) = (to, from) else { continue };
                let overlap = to.place().overlap(&from.place());
                if overlap != Overlap::None && overlap != allowed {
                    return Err(Error::Overlap { op: OP, arg, with }.into());
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_aligned(&self, output_grads: &ScanOutputGrads<'_, T>) -> bool {
        output_grads.grad_out.is_aligned(CHANNELS)
            && [Some(&self.grad_u), Some(&self.grad_dt), self.grad_z.as_ref(), self.out.as_ref()]
                .into_iter()
                .flatten()
                .all(|rows| rows.is_aligned(CHANNELS))
    }

    pub(super) fn raw(
        &self,
        gpu: &Gpu,
        inputs: RawInputs,
        saved_states: &DeviceRef<'_, f32>,
        output_grads: &ScanOutputGrads<'_, T>,
        partials: Partials,
        chunks: u64,
    ) -> Result<RawBackward> {
        let optional =
            |rows: &Option<DeviceRowsMut<'_, T>>| rows.as_ref().map_or(Ok(0), |rows| rows.address_in_place(gpu));
        let stride = |rows: &Option<DeviceRowsMut<'_, T>>| rows.as_ref().map_or(0, |rows| rows.stride_bytes());
        Ok(RawBackward {
            inputs,
            saved_states: saved_states.address(gpu)?,
            grad_last_state: optional_ref(gpu, &output_grads.grad_last_state)?,
            grad_out: output_grads.grad_out.address(gpu)?,
            grad_u: self.grad_u.address_in_place(gpu)?,
            grad_dt: self.grad_dt.address_in_place(gpu)?,
            grad_z: optional(&self.grad_z)?,
            out: optional(&self.out)?,
            grad_initial_state: optional_mut(gpu, &self.grad_initial_state)?,
            lent_bc: partials.lent_bc,
            partial_bc: partials.bc,
            partial_a: partials.a,
            partial_d: partials.d,
            partial_bias: partials.bias,
            grad_out_stride: output_grads.grad_out.stride_bytes(),
            grad_u_stride: self.grad_u.stride_bytes(),
            grad_dt_stride: self.grad_dt.stride_bytes(),
            grad_z_stride: stride(&self.grad_z),
            out_stride: stride(&self.out),
            n_rows: inputs.batch * inputs.seqlen,
            chunks,
            n_lent: partials.n_lent,
            unused: 0,
        })
    }
}
