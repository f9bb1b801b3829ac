//! Backward pass of the mixer: the forward pass's operations in reverse.

use super::args::{MixerWeights, ScanParts, dt_biases};
use super::borders::Borders;
use super::forward::MixerSaved;
use crate::error::{Result, expect_size};
use crate::ops::causal_conv1d::{self, ConvGrads};
use crate::ops::grouped_gemm::{self, GroupedGrads, GroupedWeights, Into};
use crate::ops::mixer::params::{Features, OP};
use crate::ops::plan::{Context, ModalityOffsets, ModalityPlan};
use crate::ops::selective_scan::{self, ScanGrads, ScanOutputGrads};
use crate::rows::{Rows, RowsMut};
use crate::simd::Element;

/// Gradients of one projection: one for each of its weights and biases.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProjectionGrads<T> {
    /// `(out_features, in_features)` each.
    pub weights: Vec<Vec<T>>,
    /// `(out_features)` each; empty without biases.
    pub biases: Vec<Vec<T>>,
}

/// Gradients of everything that a mixer reads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MixerGrads<T> {
    /// `(n_rows, d_model)`: of the input.
    pub x: Vec<T>,
    /// Of in_proj.
    pub in_proj: ProjectionGrads<T>,
    /// `(d_inner, d_conv)`.
    pub conv_weight: Vec<T>,
    /// `(d_inner)`; empty without a bias.
    pub conv_bias: Vec<T>,
    /// Of x_proj.
    pub x_proj: ProjectionGrads<T>,
    /// Of dt_proj.
    pub dt_proj: ProjectionGrads<T>,
    /// `(d_inner, d_state)`.
    pub a_log: Vec<T>,
    /// `(d_inner)`.
    pub d_skip: Vec<T>,
    /// Of out_proj.
    pub out_proj: ProjectionGrads<T>,
}

/// All gradients, given that of the output, `(n_rows, d_model)`.
///
/// `x` and `weights` are those of the forward pass that gave `saved`.
///
/// # Errors
/// Sizes that disagree.
pub fn backward<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    saved: &MixerSaved<T>,
    grad_out: Rows<'_, T>,
) -> Result<MixerGrads<T>> {
    run(plan, x, weights, saved, grad_out, None)
}

/// As [`backward`] for [`forward_chunk_saving`](super::forward_chunk_saving), over the same chunk and among the same ranks. Gradients of
/// weights are those of the chunk: their sum over the chunks is that of the sequence.
///
/// # Errors
/// Sizes that disagree, and those of the exchange.
pub fn backward_chunk<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    saved: &MixerSaved<T>,
    grad_out: Rows<'_, T>,
    context: &dyn Context,
) -> Result<MixerGrads<T>> {
    run(plan, x, weights, saved, grad_out, Some(context))
}

fn run<T: Element>(
    plan: &ModalityPlan,
    x: Rows<'_, T>,
    weights: &MixerWeights<'_, T>,
    saved: &MixerSaved<T>,
    grad_out: Rows<'_, T>,
    context: Option<&dyn Context>,
) -> Result<MixerGrads<T>> {
    let Features { d_model, d_inner, d_state, d_conv, dt_rank } = weights.validate()?;
    weights.validate_groups(plan.n_modalities())?;
    let borders = context.map(|context| Borders::new(context, plan, d_conv)).transpose()?;
    let n_rows = plan.n_rows();
    grad_out.expect(OP, "grad_out", n_rows, d_model)?;
    expect_size(OP, "saved.xz", "elements", n_rows * 2 * d_inner, saved.xz.len())?;
    let window_len = borders.map_or(0, |_| plan.batch() * (d_conv - 1) * d_inner);
    expect_size(OP, "saved.window", "elements", window_len, saved.window.len())?;
    let offsets = plan.modality_offsets();
    let matrix = |width: usize| vec![T::ZERO; n_rows * width];
    let xz = Rows::new("xz", &saved.xz, 2 * d_inner)?;
    let x_dbl = Rows::new("x_dbl", &saved.x_dbl, weights.x_proj.out_features())?;
    let dt_columns = x_dbl.columns(0, dt_rank)?;

    // 1. out_proj: the gradient of y. The steps are those of the operation's page.
    let mut grad_y = matrix(d_inner);
    let grad_y_out = RowsMut::new("grad_y", &mut grad_y, d_inner)?;
    grouped_gemm::backward_input(offsets, grad_out, &weights.out_proj, grad_y_out, Into::Overwrite)?;

    // 2. conv once more.
    let conv_inputs = weights.conv_inputs(plan, xz, borders.map(|_| &saved.window[..]))?;
    let mut u = matrix(d_inner);
    causal_conv1d::forward(&conv_inputs, RowsMut::new("u", &mut u, d_inner)?, None)?;
    let u = Rows::new("u", &u, d_inner)?;

    // 3. dt_proj once more.
    let dt_weights = weights.dt_proj.without_biases();
    let mut dt = matrix(d_inner);
    grouped_gemm::forward(offsets, dt_columns, &dt_weights, RowsMut::new("dt", &mut dt, d_inner)?)?;

    // 4. A.
    let a = weights.a();

    // 5. scan.
    let (dt_bias, dt_offsets) = dt_biases(plan, weights);
    let dt_rows = Rows::new("dt", &dt, d_inner)?;
    let parts = ScanParts { xz, u, x_dbl, dt: dt_rows, a: &a, dt_bias: &dt_bias, dt_offsets: &dt_offsets };
    let mut grad_xz = matrix(2 * d_inner);
    let (grad_conv_x, grad_z) = RowsMut::new("grad_xz", &mut grad_xz, 2 * d_inner)?.split_columns(d_inner)?;
    let mut grad_x_dbl = matrix(x_dbl.width());
    let (grad_dt_low, grad_bc) = RowsMut::new("grad_x_dbl", &mut grad_x_dbl, x_dbl.width())?.split_columns(dt_rank)?;
    let (grad_b, grad_c) = grad_bc.split_columns(d_state)?;
    let (mut grad_u, mut grad_dt, mut y) = (matrix(d_inner), matrix(d_inner), matrix(d_inner));
    let mut grad_dt_bias = vec![T::ZERO; dt_bias.len()];
    let mut grad_a = vec![T::ZERO; a.len()];
    let mut d_skip = vec![T::ZERO; d_inner];
    let inputs = parts.inputs(plan, weights, None)?;
    let grad_y = Rows::new("grad_y", &grad_y, d_inner)?;
    let grad_last_state = borders.map(|borders| borders.state_gradient(&inputs, grad_y)).transpose()?;
    selective_scan::backward(
        &inputs,
        &saved.states,
        &ScanOutputGrads { grad_out: grad_y, grad_last_state: grad_last_state.as_deref() },
        ScanGrads {
            grad_u: RowsMut::new("grad_u", &mut grad_u, d_inner)?,
            grad_dt: RowsMut::new("grad_dt", &mut grad_dt, d_inner)?,
            grad_dt_bias: weights.dt_proj.biases().map(|_| &mut grad_dt_bias[..]),
            grad_a: &mut grad_a,
            grad_b,
            grad_c,
            grad_d_skip: Some(&mut d_skip),
            grad_z: Some(grad_z),
            grad_initial_state: None,
            out: Some(RowsMut::new("y", &mut y, d_inner)?),
        },
    )?;

    // 6. A_log: A = -exp(A_log), so its derivative is A.
    let a_log = grad_a.iter().zip(&a).map(|(&grad, &a)| grad * a).collect();

    // 7. out_proj: its weights.
    let out_proj = projection_grads(offsets, Rows::new("y", &y, d_inner)?, grad_out, &weights.out_proj)?;

    // 8. dt_proj.
    let grad_dt = Rows::new("grad_dt", &grad_dt, d_inner)?;
    grouped_gemm::backward_input(offsets, grad_dt, &dt_weights, grad_dt_low, Into::Overwrite)?;
    let mut dt_proj = projection_grads(offsets, dt_columns, grad_dt, &dt_weights)?;
    dt_proj.biases = grad_dt_bias.chunks_exact(d_inner).map(<[T]>::to_vec).collect();

    // 9. x_proj: its input.
    let grad_x_dbl = Rows::new("grad_x_dbl", &grad_x_dbl, x_dbl.width())?;
    let grad_u_out = RowsMut::new("grad_u", &mut grad_u, d_inner)?;
    grouped_gemm::backward_input(offsets, grad_x_dbl, &weights.x_proj, grad_u_out, Into::Add)?;

    // 10. conv.
    let mut conv_weight = vec![T::ZERO; weights.conv_weight.len()];
    let mut conv_bias = vec![T::ZERO; weights.conv_bias.map_or(0, <[T]>::len)];
    let conv_grads = ConvGrads {
        grad_x: grad_conv_x,
        out: None,
        grad_weight: &mut conv_weight,
        grad_bias: weights.conv_bias.map(|_| &mut conv_bias[..]),
        grad_initial_state: None,
    };
    let grad_u = Rows::new("grad_u", &grad_u, d_inner)?;
    let grad_last = borders.map(|borders| borders.window_gradient(&conv_inputs, grad_u)).transpose()?;
    causal_conv1d::backward(&conv_inputs, grad_u, grad_last.as_deref(), conv_grads)?;

    // 11. x_proj: its weights.
    let x_proj = projection_grads(offsets, u, grad_x_dbl, &weights.x_proj)?;

    // 12. in_proj.
    let grad_xz = Rows::new("grad_xz", &grad_xz, 2 * d_inner)?;
    let mut grad_x = matrix(d_model);
    let grad_x_out = RowsMut::new("grad_x", &mut grad_x, d_model)?;
    grouped_gemm::backward_input(offsets, grad_xz, &weights.in_proj, grad_x_out, Into::Overwrite)?;
    let in_proj = projection_grads(offsets, x, grad_xz, &weights.in_proj)?;
    Ok(MixerGrads { x: grad_x, in_proj, conv_weight, conv_bias, x_proj, dt_proj, a_log, d_skip, out_proj })
}

fn projection_grads<T: Element>(
    offsets: &ModalityOffsets,
    x: Rows<'_, T>,
    grad_y: Rows<'_, T>,
    weights: &GroupedWeights<'_, T>,
) -> Result<ProjectionGrads<T>> {
    let (n_groups, n_out) = (weights.n_groups(), weights.out_features());
    let mut grads = ProjectionGrads {
        weights: vec![vec![T::ZERO; n_out * weights.in_features()]; n_groups],
        biases: vec![vec![T::ZERO; n_out]; weights.biases().map_or(0, <[&[T]]>::len)],
    };
    let grad_weights = grads.weights.iter_mut().map(Vec::as_mut_slice).collect();
    let grad_biases = weights.biases().map(|_| grads.biases.iter_mut().map(Vec::as_mut_slice).collect());
    grouped_gemm::backward_weights(offsets, x, grad_y, weights, GroupedGrads { grad_weights, grad_biases })?;
    Ok(grads)
}
