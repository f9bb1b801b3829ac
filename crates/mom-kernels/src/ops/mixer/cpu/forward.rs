//! Forward passes of the mixer: a whole sequence, with or without what the backward pass needs, and one step.

use super::args::{MixerState, MixerWeights, ScanParts, dt_biases};
use super::borders::Borders;
use crate::error::Result;
use crate::ops::mixer::params::Features;
use crate::ops::plan::{Context, ModalityPlan};
use crate::ops::selective_scan::{ScanOutputs, saved_states_len};
use crate::ops::{causal_conv1d, grouped_gemm, selective_scan};
use crate::rows::{Rows, RowsMut};
use crate::simd::Element;

/// What [`super::backward`] needs of the forward pass.
#[derive(Debug, Clone)]
pub struct MixerSaved<T> {
    /// `(n_rows, 2 d_inner)`: in_proj's output.
    pub(super) xz: Vec<T>,
    /// `(n_rows, dt_rank + 2 d_state)`: x_proj's output.
    pub(super) x_dbl: Vec<T>,
    /// States of the scan, see [`saved_states_len`].
    pub(super) states: Vec<T>,
    /// `(batch, d_conv - 1, d_inner)`: the inputs of the conv before a chunk; empty where sequences are whole.
    pub(super) window: Vec<T>,
}

/// Output `(n_rows, d_model)` of the mixer for `x` of the same shape, rows in modality order.
///
/// `state` is read before the first position and left as it is after the last one.
///
/// # Errors
/// Sizes that disagree. The state is then as it was.
pub fn forward<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    state: Option<&mut MixerState<T>>,
) -> Result<Vec<T>> {
    Ok(run(plan, x, weights, Before::of(state), Walk::Sequence)?.0)
}

/// As [`forward`] over a chunk of each sequence, whose other chunks the ranks of `context` have.
///
/// # Errors
/// Sizes that disagree, a chunk that is shorter than the conv's window, and those of the exchange.
pub fn forward_chunk<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    context: &dyn Context,
) -> Result<Vec<T>> {
    Ok(run(plan, x, weights, Before::Chunks(context), Walk::Sequence)?.0)
}

/// As [`forward`] from a zero state, with what [`super::backward`] needs.
///
/// # Errors
/// Sizes that disagree.
pub fn forward_saving<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
) -> Result<(Vec<T>, MixerSaved<T>)> {
    run(plan, x, weights, Before::Nothing, Walk::Saving)
}

/// As [`forward_chunk`], with what [`super::backward_chunk`] needs.
///
/// # Errors
/// As there.
pub fn forward_chunk_saving<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    context: &dyn Context,
) -> Result<(Vec<T>, MixerSaved<T>)> {
    run(plan, x, weights, Before::Chunks(context), Walk::Saving)
}

/// As [`forward`] for one position of every sequence: decoding.
///
/// # Errors
/// Sizes that disagree, a plan whose seqlen is not 1.
pub fn step<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    state: &mut MixerState<T>,
) -> Result<Vec<T>> {
    Ok(run(plan, x, weights, Before::State(state), Walk::Step)?.0)
}

/// What stands before the first position.
enum Before<'a, T> {
    Nothing,
    /// The state, which becomes that behind the last position.
    State(&'a mut MixerState<T>),
    /// Chunks of other ranks.
    Chunks(&'a dyn Context),
}

impl<'a, T> Before<'a, T> {
    fn of(state: Option<&'a mut MixerState<T>>) -> Self {
        state.map_or(Self::Nothing, Self::State)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    Sequence,
    Saving,
    Step,
}

fn run<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    before: Before<'_, T>,
    walk: Walk,
) -> Result<(Vec<T>, MixerSaved<T>)> {
    let Features { d_model, d_inner, d_state, d_conv, dt_rank } = weights.validate()?;
    weights.validate_groups(plan.n_modalities())?;
    let (state, borders) = match before {
        Before::Nothing => (None, None),
        Before::State(state) => (Some(state), None),
        Before::Chunks(context) => (None, Some(Borders::new(context, plan, d_conv)?)),
    };
    let n_rows = plan.n_rows();
    let offsets = plan.modality_offsets();
    let matrix = |width: usize| vec![T::ZERO; n_rows * width];

    // 1. in_proj. The steps are those of the operation's page.
    let mut xz = matrix(2 * d_inner);
    grouped_gemm::forward(offsets, x, &weights.in_proj, RowsMut::new("xz", &mut xz, 2 * d_inner)?)?;
    let xz_rows = Rows::new("xz", &xz, 2 * d_inner)?;

    // A new state is written beside the old one, so that an error leaves the caller's as it was.
    let mut next = state.as_deref().cloned();
    let initial = state.as_deref();

    // 2. conv.
    let mut u = matrix(d_inner);
    let u_out = RowsMut::new("u", &mut u, d_inner)?;
    let window = borders.map(|borders| borders.window(xz_rows.columns(0, d_inner)?)).transpose()?;
    let before = window.as_deref().or(initial.map(|state| &state.conv[..]));
    let conv_inputs = weights.conv_inputs(plan, xz_rows, before)?;
    causal_conv1d::forward(&conv_inputs, u_out, next.as_mut().map(|state| &mut state.conv[..]))?;
    let u_rows = Rows::new("u", &u, d_inner)?;

    // 3. x_proj.
    let x_dbl_width = weights.x_proj.out_features();
    let mut x_dbl = matrix(x_dbl_width);
    grouped_gemm::forward(offsets, u_rows, &weights.x_proj, RowsMut::new("x_dbl", &mut x_dbl, x_dbl_width)?)?;
    let x_dbl_rows = Rows::new("x_dbl", &x_dbl, x_dbl_width)?;

    // 4. dt_proj.
    let mut dt = matrix(d_inner);
    grouped_gemm::forward(
        offsets,
        x_dbl_rows.columns(0, dt_rank)?,
        &weights.dt_proj.without_biases(),
        RowsMut::new("dt", &mut dt, d_inner)?,
    )?;

    // 5. A.
    let a = weights.a();

    // 6. scan.
    let (dt_bias, dt_offsets) = dt_biases(plan, weights);
    let parts = ScanParts {
        xz: xz_rows,
        u: u_rows,
        x_dbl: x_dbl_rows,
        dt: Rows::new("dt", &dt, d_inner)?,
        a: &a,
        dt_bias: &dt_bias,
        dt_offsets: &dt_offsets,
    };
    let mut y = matrix(d_inner);
    let y_out = RowsMut::new("y", &mut y, d_inner)?;
    let mut states = Vec::new();
    if walk == Walk::Step
        && let Some(next) = &mut next
    {
        selective_scan::step(&parts.inputs(plan, weights, None)?, &mut next.scan, y_out)?;
    } else {
        if walk == Walk::Saving {
            states = vec![T::ZERO; saved_states_len(plan.batch(), plan.seqlen(), d_inner, d_state)];
        }
        let outputs = ScanOutputs::new(y_out)
            .with_last_state(next.as_mut().map(|state| &mut state.scan[..]))
            .with_saved_states((walk == Walk::Saving).then_some(&mut states[..]));
        let inputs = parts.inputs(plan, weights, None)?;
        let carried = borders.map(|borders| borders.state(&inputs)).transpose()?;
        let from = carried.as_deref().or(initial.map(|state| &state.scan[..]));
        selective_scan::forward(&inputs.with_initial_state(from), outputs)?;
    }

    // 7. out_proj.
    let mut out = matrix(d_model);
    let y_rows = Rows::new("y", &y, d_inner)?;
    grouped_gemm::forward(offsets, y_rows, &weights.out_proj, RowsMut::new("out", &mut out, d_model)?)?;
    if let (Some(state), Some(next)) = (state, next) {
        *state = next;
    }
    Ok((out, MixerSaved { xz, x_dbl, states, window: window.unwrap_or_default() }))
}
