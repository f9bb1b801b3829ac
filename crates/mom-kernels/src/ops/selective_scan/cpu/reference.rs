//! The scan in plain loops over `f64`, as the equations stand: what the tests hold the fast one against.

use super::args::ScanInputs;
use crate::ops::selective_scan::params::DeltaActivation;

/// Output `(n_rows, d_inner)` and last state `(batch, d_inner, d_state)`; the inputs must be consistent.
pub fn forward(inputs: &ScanInputs<'_, f64>) -> (Vec<f64>, Vec<f64>) {
    let (d_inner, d_state) = (inputs.u.width(), inputs.b.width());
    let layout = inputs.layout;
    let mut out = vec![0.0; layout.n_rows() * d_inner];
    let mut state = match inputs.initial_state {
        Some(state) => state.to_vec(),
        None => vec![0.0; layout.batch() * d_inner * d_state],
    };
    for (sequence, state) in state.chunks_exact_mut(d_inner * d_state).enumerate() {
        for t in 0..layout.seqlen() {
            let position = sequence * layout.seqlen() + t;
            let row = layout.row(position);
            if layout.starts_document(position) {
                state.fill(0.0);
            }
            for d in 0..d_inner {
                let mut delta = inputs.dt.row(row)[d];
                if let Some(bias) = &inputs.dt_bias {
                    delta += bias.bias[bias.offsets.modality_of_row(row) * d_inner + d];
                }
                if inputs.delta_activation == DeltaActivation::Softplus {
                    delta = delta.max(0.0) + (-delta.abs()).exp().ln_1p();
                }
                let u = inputs.u.row(row)[d];
                let mut y = inputs.d_skip.map_or(0.0, |d_skip| d_skip[d] * u);
                for n in 0..d_state {
                    let h = &mut state[d * d_state + n];
                    *h = (delta * inputs.a[d * d_state + n]).exp() * *h + delta * inputs.b.row(row)[n] * u;
                    y += inputs.c.row(row)[n] * *h;
                }
                if let Some(z) = &inputs.z {
                    let z = z.row(row)[d];
                    y *= z / (1.0 + (-z).exp());
                }
                out[row * d_inner + d] = y;
            }
        }
    }
    (out, state)
}
