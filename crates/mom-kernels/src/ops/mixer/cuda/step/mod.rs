//! One token for a few sequences: the residual block `x + mixer(norm(x))` at seqlen 1, states and x in place.
//!
//! Decoding reads every weight for a token or a few; what counts is that memory is never idle. Three launches a block
//! (norm, in_proj, conv and shares of x_proj; the rest of x_proj, dt_proj, scan and gate; out_proj and residual), which on
//! compute capability 9.0 begin while the one in front still runs. All rows have one modality, which the host knows. Nothing
//! is allocated and states stay where they are, so that a whole token can be captured as a graph.
//!
//! Roundings are those of [`forward`](super::forward) over a whole sequence, but for dt, which stays f32.

mod abi;
mod args;
mod sizes;

pub use args::{StepHead, StepStates};
pub use sizes::MAX_STEP_ROWS;

use abi::{RawIn, RawProduct, RawScan};
use cudarc::driver::DeviceRepr;
use sizes::{OP, SCAN_CHANNELS, StepSizes, expect_aligned, expect_product, product_blocks, rows_name};

use crate::error::{expect_limit, expect_size};
use crate::ops::grouped_gemm::cuda::GroupedWeights;
use crate::ops::mixer::cuda::args::Block;
use crate::ops::mixer::cuda::workspace::Parts;
use crate::runtime::{
    Card, CudaError, DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Dtype, Gpu, Grid, Result, blocks,
    optional_ref,
};

/// Threads of a block: of a product, and of the scan, eight for each of its channels. kernels/mixer_step.
const THREADS: u32 = 256;
const SCAN_THREADS: u32 = 8 * SCAN_CHANNELS as u32;

/// Bytes of the workspace of [`Steps::block`].
///
/// # Errors
/// What the kernels are not written for, and the operations over sequences are: more than [`MAX_STEP_ROWS`] rows, d_model
/// above 2048 or d_inner above 4096, either no multiple of 8, weights off 16 bytes,
/// dt_rank + 2 d_state above 768, an x_proj with biases, a card with less shared memory than they need
/// ([`CudaError::Card`]). And weights that do not fit together.
pub fn step_workspace_bytes<T: DeviceElement>(gpu: &Gpu, block: &Block<'_, T>, n_rows: usize) -> Result<usize> {
    let bytes = StepSizes::of(gpu, block, n_rows)?.workspace_bytes::<T>();
    for kernel in ["in", "out", "head"] {
        let (kernel, _) = kernel_of(gpu.card(), T::DTYPE, &format!("{kernel}_{}", rows_name(n_rows)));
        if !gpu.card().has(&kernel) {
            return Err(CudaError::Card { op: OP, kernel });
        }
    }
    Ok(bytes)
}

/// A kernel of a step, and whether it overlaps with the one in front: where the card has that.
fn kernel_of(card: &Card, dtype: Dtype, kernel: &str) -> (String, bool) {
    let early = format!("sm90_mixer_step_{kernel}_{}", dtype.name());
    if card.has(&early) { (early, true) } else { (format!("mixer_step_{kernel}_{}", dtype.name()), false) }
}

/// The steps of blocks one behind the other, and of the head: a token.
///
/// Between two of its launches nothing else that writes their weights may go on the stream: the second would not see it.
#[derive(Debug)]
pub struct Steps<'a> {
    launches: Launches<'a>,
    modality: usize,
    workspace: DeviceMut<'a, u8>,
}

impl<'a> Steps<'a> {
    /// Steps of rows that all have this modality.
    ///
    /// `workspace`: [`step_workspace_bytes`] of any of the blocks, or more; its contents mean nothing before and after.
    pub fn new(gpu: &'a Gpu, modality: usize, workspace: DeviceMut<'a, u8>) -> Self {
        Self { launches: Launches { gpu, follows: false }, modality, workspace }
    }

    /// `x += mixer(norm(x))`; `x`: `(n_rows, d_model)`, dense rows, and `states` one position on.
    ///
    /// # Errors
    /// As [`step_workspace_bytes`]; sizes that disagree, a modality that a projection does not have, rows off 16 bytes.
    /// Nothing is written then. A refused launch.
    pub fn block<T: DeviceElement>(
        &mut self,
        block: &Block<'_, T>,
        x: &mut DeviceRowsMut<'_, T>,
        states: StepStates<'_>,
    ) -> Result<()> {
        let gpu = self.launches.gpu;
        let n_rows = x.n_rows();
        let sizes = StepSizes::of(gpu, block, n_rows)?;
        x.expect(OP, "x", n_rows, sizes.d_model)?;
        expect_rows("x", x.stride(), x.width(), x.is_aligned(8))?;
        expect_size(OP, "states.conv", "elements", sizes.window_len(), states.conv.len())?;
        expect_size(OP, "states.scan", "elements", sizes.state_len(), states.scan.len())?;
        let mixer = &block.mixer;
        let [in_proj, x_proj, dt_proj, out_proj] = [
            ("in_proj", &mixer.in_proj),
            ("x_proj", &mixer.x_proj),
            ("dt_proj", &mixer.dt_proj),
            ("out_proj", &mixer.out_proj),
        ]
        .map(|(arg, weights)| Chosen::of(gpu, arg, weights, self.modality));
        let (in_proj, x_proj, dt_proj, out_proj) = (in_proj?, x_proj?, dt_proj?, out_proj?);
        let workspace = self.workspace.reborrow().first("workspace", sizes.workspace_bytes::<T>())?;
        let (u, parts) = Parts(workspace).take::<T>(sizes.inner_len())?;
        let (z, parts) = parts.take::<T>(sizes.inner_len())?;
        let (y, parts) = parts.take::<T>(sizes.inner_len())?;
        let (partial, _) = parts.take::<f32>(sizes.partial_len())?;
        let (u, z, y, partial) = (u.address(gpu)?, z.address(gpu)?, y.address(gpu)?, partial.address(gpu)?);
        let (width, padded) = (sizes.width() as u32, sizes.padded() as u32);
        let (rows, d_inner) = (n_rows as u32, sizes.d_inner as u32);
        let channels = sizes.scan_channels(gpu);

        let params = RawIn {
            x: x.address(gpu)?,
            norm: block.norm.address(gpu)?,
            in_proj: in_proj.weight,
            in_bias: in_proj.bias,
            conv_weight: mixer.conv_weight.address(gpu)?,
            conv_bias: optional_ref(gpu, &mixer.conv_bias)?,
            window: states.conv.address(gpu)?,
            x_proj: x_proj.weight,
            u,
            z,
            partial,
            rows,
            d_model: sizes.d_model as u32,
            d_inner,
            d_conv: sizes.d_conv as u32,
            width,
            padded,
            eps: block.norm_eps,
            unused: 0,
        };
        let grid = Grid::line(blocks(OP, "d_inner", sizes.n_blocks, 1)?, THREADS);
        // SAFETY: `StepSizes::of` and the checks above have bound every size to its memory and to the kernel's limits, rows
        // and weights are on 16 bytes; a block owns its channels of the window, of u and z, and its partial sums.
        unsafe { self.launches.launch::<T, _>(&format!("in_{}", rows_name(n_rows)), grid, &params) }?;

        let params = RawScan {
            partial,
            u,
            z,
            dt_proj: dt_proj.weight,
            dt_bias: dt_proj.bias,
            a_log: mixer.a_log.address(gpu)?,
            d_skip: mixer.d_skip.address(gpu)?,
            state: states.scan.address(gpu)?,
            y,
            n_partials: sizes.n_blocks as u32,
            padded,
            d_inner,
            d_state: sizes.d_state as u32,
            dt_rank: sizes.dt_rank as u32,
            channels: channels as u32,
            dt_vector: u32::from(mixer.dt_proj.is_vector()),
            unused: 0,
        };
        let across = blocks(OP, "d_inner", sizes.scan_blocks(channels), 1)?;
        let grid = Grid { blocks: (across, rows, 1), threads: (SCAN_THREADS, 1, 1) };
        let states_of_thread = if sizes.d_state <= 16 { 16 } else { 64 };
        // SAFETY: as above; a block owns its channels of a row, of the state and of y.
        unsafe { self.launches.launch::<T, _>(&format!("scan_{states_of_thread}"), grid, &params) }?;

        let params = RawProduct {
            x: y,
            norm: 0,
            weight: out_proj.weight,
            bias: out_proj.bias,
            out: x.address(gpu)?,
            rows,
            n: sizes.d_model as u32,
            k: d_inner,
            eps: 0.0,
        };
        let grid = Grid::line(product_blocks(gpu, sizes.d_model), THREADS);
        // SAFETY: as above; a thread reads and writes the elements of x that it owns.
        unsafe { self.launches.launch::<T, _>(&format!("out_{}", rows_name(n_rows)), grid, &params) }
    }

    /// `logits = norm(x) W^T`; `x`: `(n_rows, d_model)`, dense rows, `logits`: `(n_rows, vocab_size)`, overwritten.
    ///
    /// # Errors
    /// More than [`MAX_STEP_ROWS`] rows, d_model above 2048 or no multiple of 8, sizes that disagree,
    /// memory off 16 bytes. Nothing is written then. A refused launch.
    pub fn head<T: DeviceElement>(
        &mut self,
        head: &StepHead<'_, T>,
        x: &DeviceRows<'_, T>,
        logits: &mut DeviceRowsMut<'_, f32>,
    ) -> Result<()> {
        let gpu = self.launches.gpu;
        let (n_rows, d_model, n) = (x.n_rows(), x.width(), logits.width());
        expect_product(n_rows, "d_model", d_model, true)?;
        expect_limit(OP, "vocab_size", 1 << 24, n)?;
        expect_size(OP, "norm", "elements", d_model, head.norm.len())?;
        expect_size(OP, "weight", "elements", n * d_model, head.weight.len())?;
        logits.expect(OP, "logits", n_rows, n)?;
        expect_rows("x", x.stride(), d_model, x.is_aligned(8))?;
        expect_rows("logits", logits.stride(), n, true)?;
        expect_aligned("norm", head.norm.is_aligned(4))?;
        expect_aligned("weight", head.weight.is_aligned(8))?;
        let params = RawProduct {
            x: x.address(gpu)?,
            norm: head.norm.address(gpu)?,
            weight: head.weight.address(gpu)?,
            bias: 0,
            out: logits.address(gpu)?,
            rows: n_rows as u32,
            n: n as u32,
            k: d_model as u32,
            eps: head.norm_eps,
        };
        let grid = Grid::line(product_blocks(gpu, n), THREADS);
        // SAFETY: the checks have bound every size to its memory and to the kernel's limits; a block owns its columns.
        unsafe { self.launches.launch::<T, _>(&format!("head_{}", rows_name(n_rows)), grid, &params) }
    }
}

/// One launch behind the other.
#[derive(Debug)]
struct Launches<'a> {
    gpu: &'a Gpu,
    /// Whether the launch before was one of these.
    follows: bool,
}

impl Launches<'_> {
    /// # Safety
    /// As [`Gpu::launch`]. The kernels wait for the one in front before they write, or read what is no weight.
    unsafe fn launch<T: DeviceElement, P: DeviceRepr>(&mut self, kernel: &str, grid: Grid, params: &P) -> Result<()> {
        let follows = std::mem::replace(&mut self.follows, true);
        let (kernel, overlaps) = kernel_of(self.gpu.card(), T::DTYPE, kernel);
        if follows && overlaps {
            // SAFETY: by this function's own contract.
            unsafe { self.gpu.launch_early(&kernel, grid, params) }
        } else {
            // SAFETY: as above.
            unsafe { self.gpu.launch(&kernel, grid, params) }
        }
    }
}

/// Addresses of a modality's weight and bias.
struct Chosen {
    weight: u64,
    bias: u64,
}

impl Chosen {
    fn of<T: DeviceElement>(
        gpu: &Gpu,
        arg: &'static str,
        weights: &GroupedWeights<'_, T>,
        modality: usize,
    ) -> Result<Self> {
        let n_groups = weights.n_groups();
        let group = if n_groups == 1 { 0 } else { modality };
        expect_limit(OP, arg, n_groups, group + 1)?;
        let (weight, bias) = weights.group(gpu, group)?;
        Ok(Self { weight, bias })
    }
}

/// Checks that rows are dense and on 16 bytes.
fn expect_rows(arg: &'static str, stride: usize, width: usize, aligned: bool) -> Result<()> {
    expect_size(OP, arg, "elements from row to row", width, stride)?;
    expect_aligned(arg, aligned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_exists_and_a_card_with_little_memory_goes_without_some() {
        for capability in Card::capabilities() {
            let card = Card::known(capability, 100).unwrap();
            for (dtype, kernel) in [Dtype::Bf16, Dtype::F16, Dtype::F32].into_iter().flat_map(|t| {
                ["in_1", "in_8", "out_1", "out_8", "head_1", "head_8", "scan_16", "scan_64"].map(|k| (t, k))
            }) {
                let (name, overlaps) = kernel_of(&card, dtype, kernel);
                assert_eq!(overlaps, capability == (9, 0) && dtype.is_half(), "{name}");
                // Eight rows of f32 take more than 99 KiB, and what out_proj reads of them more than 163.
                let large = dtype == Dtype::F32 && kernel.ends_with("_8") || kernel == "out_8" || kernel == "head_8";
                assert!(card.has(&name) || (large && card.max_shared_bytes < 200 << 10), "{capability:?}: {name}");
            }
        }
    }
}
