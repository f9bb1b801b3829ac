//! One step of decoding: the state is updated in place.

use pulp::{Simd, WithSimd};

use super::args::ScanInputs;
use crate::error::{Error, Result, expect_presence, expect_size};
use crate::ops::selective_scan::params::DeltaActivation;
use crate::rows::RowsMut;
use crate::simd::{self, Element};

/// Advances every sequence by one position.
///
/// * `inputs`: seqlen 1, no initial state (it is `state`).
/// * `state`: `(batch, d_inner, d_state)`, in and out. At a document start it is taken as zero.
/// * `out`: `(batch, d_inner)` rows.
///
/// # Errors
/// As [`super::forward`], and a seqlen other than 1.
pub fn step<T: Element>(inputs: &ScanInputs<'_, T>, state: &mut [T], mut out: RowsMut<'_, T>) -> Result<()> {
    const OP: &str = "selective_scan step";
    let dims = inputs.validate()?;
    if dims.seqlen != 1 {
        return Err(Error::Limit { op: OP, arg: "seqlen", min: 1, max: 1, got: dims.seqlen });
    }
    expect_presence(OP, "initial_state", false, inputs.initial_state.is_some())?;
    expect_size(OP, "state", "elements", dims.state_len(), state.len())?;
    expect_size(OP, "out", "rows", dims.batch, out.n_rows())?;
    expect_size(OP, "out", "columns", dims.d_inner, out.width())?;
    simd::dispatch(Step { inputs, state, out: &mut out });
    Ok(())
}

struct Step<'a, 'b, T> {
    inputs: &'a ScanInputs<'a, T>,
    state: &'a mut [T],
    out: &'a mut RowsMut<'b, T>,
}

impl<T: Element> WithSimd for Step<'_, '_, T> {
    type Output = ();

    /// Vectors run over states here: they are contiguous, and there is no time to walk.
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let inputs = self.inputs;
        let (d_inner, d_state) = (inputs.u.width(), inputs.b.width());
        let lanes = T::lanes::<S>();
        let mut delta = vec![T::ZERO; d_inner];
        for (position, state) in self.state.chunks_exact_mut(d_inner * d_state).enumerate() {
            let row = inputs.layout.row(position);
            if inputs.layout.starts_document(position) {
                state.fill(T::ZERO);
            }
            delta.copy_from_slice(inputs.dt.row(row));
            if let Some(bias) = &inputs.dt_bias {
                let modality = bias.offsets.modality_of_row(row);
                for (delta, &bias) in delta.iter_mut().zip(&bias.bias[modality * d_inner..]) {
                    *delta += bias;
                }
            }
            if inputs.delta_activation == DeltaActivation::Softplus {
                for delta in delta.chunks_mut(lanes) {
                    let x = T::load(s, delta);
                    T::store(s, delta, simd::softplus::<T, S>(s, x).0);
                }
            }
            let (u, b, c) = (inputs.u.row(row), inputs.b.row(row), inputs.c.row(row));
            let out = self.out.row_mut(row);
            for d in 0..d_inner {
                let delta_d = T::splat(s, delta[d] * T::LOG2_E);
                let delta_u = T::splat(s, delta[d] * u[d]);
                let mut y = T::splat(s, T::ZERO);
                let h = &mut state[d * d_state..][..d_state];
                let a = &inputs.a[d * d_state..][..d_state];
                for (((h, a), b), c) in
                    h.chunks_mut(lanes).zip(a.chunks(lanes)).zip(b.chunks(lanes)).zip(c.chunks(lanes))
                {
                    let decay = T::exp2(s, T::vmul(s, delta_d, T::load(s, a)));
                    let next = T::mul_add(s, decay, T::load(s, h), T::vmul(s, delta_u, T::load(s, b)));
                    T::store(s, h, next);
                    y = T::mul_add(s, next, T::load(s, c), y);
                }
                let skip = inputs.d_skip.map_or(T::ZERO, |d_skip| d_skip[d] * u[d]);
                out[d] = T::vsum(s, y) + skip;
            }
            if let Some(z) = &inputs.z {
                for (out, z) in out.chunks_mut(lanes).zip(z.row(row).chunks(lanes)) {
                    let gate = simd::silu::<T, S>(s, T::load(s, z)).0;
                    let y = T::load(s, out);
                    T::store(s, out, T::vmul(s, y, gate));
                }
            }
        }
    }
}
