//! One step of decoding: the window is updated in place.

use super::args::ConvInputs;
use crate::error::{Error, Result, expect_presence};
use crate::ops::causal_conv1d::params::OP;
use crate::rows::RowsMut;
use crate::simd::Element;

/// Advances every sequence by one position.
///
/// * `inputs`: seqlen 1, no initial state (it is `state`).
/// * `state`: `(batch, d_conv - 1, d_inner)`, oldest first, in and out. At a document start it is taken as zero.
/// * `out`: `(batch, d_inner)` rows.
///
/// # Errors
/// As [`super::forward`], and a seqlen other than 1.
pub fn step<T: Element>(inputs: &ConvInputs<'_, T>, state: &mut [T], out: RowsMut<'_, T>) -> Result<()> {
    let dims = inputs.validate()?;
    if dims.seqlen != 1 {
        return Err(Error::Limit { op: OP, arg: "seqlen", min: 1, max: 1, got: dims.seqlen });
    }
    expect_presence(OP, "initial_state", false, inputs.initial_state.is_some())?;
    dims.expect_state("state", Some(&&*state))?;
    let before = state.to_vec();
    super::forward::forward(&inputs.with_initial_state(&before[..]), out, Some(state))
}
