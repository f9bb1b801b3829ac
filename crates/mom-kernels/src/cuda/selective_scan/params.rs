//! Arguments of the scan, the checks they pass, and how they are handed to the kernels.

use super::abi::{Partials, RawBackward, RawInputs};
use super::dims::Dims;
use super::select::{Assume, CHANNELS, Chunks};
use super::{DeltaActivation, MAX_D_STATE};
use crate::cuda::runtime::{
    DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Overlap, Result, optional_mut, optional_ref,
};
use crate::cuda::{DeviceLayout, DeviceOffsets};
use crate::error::{Error, expect_presence, expect_size};

pub(super) const OP: &str = "selective_scan";

/// Bias of dt, one row of channels for each modality (or a single one for all).
#[derive(Debug, Clone)]
pub struct DtBias<'a> {
    /// `(n_modalities, d_inner)`.
    pub bias: DeviceRef<'a, f32>,
    /// Rows of each modality.
    pub offsets: DeviceOffsets<'a>,
}

/// Inputs of the scan; `n_rows = batch * seqlen`.
#[derive(Debug, Clone)]
pub struct ScanInputs<'a, T> {
    /// How time runs through the rows.
    pub layout: DeviceLayout<'a>,
    /// `(n_rows, d_inner)`: output of the conv.
    pub u: DeviceRows<'a, T>,
    /// `(n_rows, d_inner)`: step size before bias and activation.
    pub dt: DeviceRows<'a, T>,
    /// Added to dt.
    pub dt_bias: Option<DtBias<'a>>,
    /// What makes delta of dt.
    pub delta_activation: DeltaActivation,
    /// `(d_inner, d_state)`, usually negative.
    pub a: DeviceRef<'a, f32>,
    /// `(n_rows, d_state)`.
    pub b: DeviceRows<'a, T>,
    /// `(n_rows, d_state)`.
    pub c: DeviceRows<'a, T>,
    /// `(d_inner)`: the skip D.
    pub d_skip: Option<DeviceRef<'a, f32>>,
    /// `(n_rows, d_inner)`: the gate before its SiLU.
    pub z: Option<DeviceRows<'a, T>>,
    /// `(batch, d_inner, d_state)`: state before the first position; zero if absent. A document start there wins.
    pub initial_state: Option<DeviceRef<'a, f32>>,
}

/// Outputs of the forward pass.
#[derive(Debug)]
pub struct ScanOutputs<'a, T> {
    /// `(n_rows, d_inner)`.
    pub out: DeviceRowsMut<'a, T>,
    /// `(batch, d_inner, d_state)`: state after the last position.
    pub last_state: Option<DeviceMut<'a, f32>>,
    /// [`super::saved_states_len`] elements on 16 bytes, for [`super::backward`].
    pub saved_states: Option<DeviceMut<'a, f32>>,
}

/// Gradients that come in.
#[derive(Debug, Clone)]
pub struct ScanOutputGrads<'a, T> {
    /// `(n_rows, d_inner)`.
    pub grad_out: DeviceRows<'a, T>,
    /// `(batch, d_inner, d_state)`; zero if absent.
    pub grad_last_state: Option<DeviceRef<'a, f32>>,
}

/// Gradients that go out, all overwritten.
///
/// `grad_u`, `grad_dt`, `grad_z` and `out` may each lie in the memory of any of `u`, `dt`, `z` and `grad_out`
/// ([`DeviceRowsMut::in_place`]): on exactly its rows, not partly. The results are the same to the bit.
#[derive(Debug)]
pub struct ScanGrads<'a, T> {
    /// `(n_rows, d_inner)`.
    pub grad_u: DeviceRowsMut<'a, T>,
    /// `(n_rows, d_inner)`: gradient of dt, before bias and activation.
    pub grad_dt: DeviceRowsMut<'a, T>,
    /// As the bias; exactly where there is one. The sum of `grad_dt` as it was stored.
    pub grad_dt_bias: Option<DeviceMut<'a, f32>>,
    /// `(d_inner, d_state)`.
    pub grad_a: DeviceMut<'a, f32>,
    /// `(n_rows, d_state)`.
    pub grad_b: DeviceRowsMut<'a, T>,
    /// `(n_rows, d_state)`.
    pub grad_c: DeviceRowsMut<'a, T>,
    /// `(d_inner)`; exactly where there is a skip.
    pub grad_d_skip: Option<DeviceMut<'a, f32>>,
    /// `(n_rows, d_inner)`; exactly where there is a gate.
    pub grad_z: Option<DeviceRowsMut<'a, T>>,
    /// `(batch, d_inner, d_state)`, if asked for; there must be an initial state.
    pub grad_initial_state: Option<DeviceMut<'a, f32>>,
    /// `(n_rows, d_inner)`, if asked for: the forward output once more, which costs the backward pass a store.
    pub out: Option<DeviceRowsMut<'a, T>>,
}

impl<T: DeviceElement> ScanInputs<'_, T> {
    pub(super) fn validate(&self) -> Result<Dims> {
        let (n_rows, d_inner, d_state) = (self.layout.n_rows(), self.u.width(), self.b.width());
        let limit = |arg, min, max, got: usize| match (min..=max).contains(&got) {
            true => Ok(()),
            false => Err(Error::Limit { op: OP, arg, min, max, got }),
        };
        limit("d_state", 1, MAX_D_STATE, d_state)?;
        limit("d_inner", 1, 1 << 24, d_inner)?;
        limit("seqlen", 0, i32::MAX as usize - 64, self.layout.seqlen)?;
        self.u.expect(OP, "u", n_rows, d_inner)?;
        self.dt.expect(OP, "dt", n_rows, d_inner)?;
        self.b.expect(OP, "b", n_rows, d_state)?;
        self.c.expect(OP, "c", n_rows, d_state)?;
        expect_size(OP, "a", "elements", d_inner * d_state, self.a.len())?;
        if let Some(d_skip) = &self.d_skip {
            expect_size(OP, "d_skip", "elements", d_inner, d_skip.len())?;
        }
        if let Some(z) = &self.z {
            z.expect(OP, "z", n_rows, d_inner)?;
        }
        let mut n_biases = 0;
        if let Some(dt_bias) = &self.dt_bias {
            n_biases = dt_bias.offsets.n_modalities();
            expect_size(OP, "dt_bias.offsets", "rows", n_rows, dt_bias.offsets.n_rows())?;
            expect_size(OP, "dt_bias.bias", "elements", n_biases * d_inner, dt_bias.bias.len())?;
        }
        let dims = Dims { batch: self.layout.batch, seqlen: self.layout.seqlen, d_inner, d_state, n_biases };
        expect_state("initial_state", self.initial_state.as_ref().map(DeviceRef::len), dims)?;
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
    pub(super) fn validate(&self, dims: Dims) -> Result<()> {
        self.out.expect(OP, "out", dims.n_rows(), dims.d_inner)?;
        expect_state("last_state", self.last_state.as_ref().map(DeviceMut::len), dims)?;
        if let Some(saved) = &self.saved_states {
            expect_size(OP, "saved_states", "elements", dims.saved_len(), saved.len())?;
            saved.expect_vectors(OP, "saved_states")?;
        }
        Ok(())
    }
}

impl<T: DeviceElement> ScanGrads<'_, T> {
    pub(super) fn validate(
        &self,
        inputs: &ScanInputs<'_, T>,
        saved_states: &DeviceRef<'_, f32>,
        output_grads: &ScanOutputGrads<'_, T>,
        dims: Dims,
    ) -> Result<()> {
        let Dims { d_inner, d_state, n_biases, .. } = dims;
        expect_size(OP, "saved_states", "elements", dims.saved_len(), saved_states.len())?;
        saved_states.expect_vectors(OP, "saved_states")?;
        output_grads.grad_out.expect(OP, "grad_out", dims.n_rows(), d_inner)?;
        expect_state("grad_last_state", output_grads.grad_last_state.as_ref().map(DeviceRef::len), dims)?;
        for (arg, rows, width) in [
            ("grad_u", Some(&self.grad_u), d_inner),
            ("grad_dt", Some(&self.grad_dt), d_inner),
            ("grad_b", Some(&self.grad_b), d_state),
            ("grad_c", Some(&self.grad_c), d_state),
            ("grad_z", self.grad_z.as_ref(), d_inner),
            ("out", self.out.as_ref(), d_inner),
        ] {
            if let Some(rows) = rows {
                rows.expect(OP, arg, dims.n_rows(), width)?;
            }
        }
        expect_size(OP, "grad_a", "elements", d_inner * d_state, self.grad_a.len())?;
        expect_presence(OP, "grad_dt_bias", inputs.dt_bias.is_some(), self.grad_dt_bias.is_some())?;
        expect_presence(OP, "grad_d_skip", inputs.d_skip.is_some(), self.grad_d_skip.is_some())?;
        expect_presence(OP, "grad_z", inputs.z.is_some(), self.grad_z.is_some())?;
        if let Some(grad) = &self.grad_dt_bias {
            expect_size(OP, "grad_dt_bias", "elements", n_biases * d_inner, grad.len())?;
        }
        if let Some(grad) = &self.grad_d_skip {
            expect_size(OP, "grad_d_skip", "elements", d_inner, grad.len())?;
        }
        if self.grad_initial_state.is_some() {
            expect_presence(OP, "initial_state", true, inputs.initial_state.is_some())?;
        }
        expect_state("grad_initial_state", self.grad_initial_state.as_ref().map(DeviceMut::len), dims)?;
        self.validate_places(inputs, output_grads)
    }

    /// A block reads an element of its rows and channels once, behind which it writes that of the same row and channel; B
    /// and C are read by every block.
    fn validate_places(&self, inputs: &ScanInputs<'_, T>, output_grads: &ScanOutputGrads<'_, T>) -> Result<()> {
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

fn expect_state(arg: &'static str, len: Option<usize>, dims: Dims) -> Result<()> {
    if let Some(len) = len {
        expect_size(OP, arg, "elements", dims.batch * dims.d_inner * dims.d_state, len)?;
    }
    Ok(())
}
