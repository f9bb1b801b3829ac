//! Gradients of the input and of the weights.

use super::forward::{Addend, Direction, m_grouped};
use super::params::{
    GroupedGrads, GroupedWeights, MAX_GROUPS, OP, RawKGrouped, RawKGroupedSum, TILE_ROWS, VECTOR, addresses, groups,
    module, tile_columns,
};
use super::{Into, library, sm90};
use crate::cuda::column_sums::{column_sums, workspace_len as column_sums_workspace_len};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::launch::{Grid, blocks};
use crate::cuda::memory::{DeviceElement, DeviceMut, DeviceRows, DeviceRowsMut, Dtype};
use crate::cuda::{DeviceOffsets, Gpu};
use crate::error::{expect_presence, expect_size};

/// `dx = dy W_m`, overwritten or added to what is there.
///
/// # Errors
/// Sizes that disagree, 2^31 rows or more, a refused launch.
pub fn backward_input<T: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    grad_y: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    grad_x: DeviceRowsMut<'_, T>,
    into: Into,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    grad_y.expect(OP, "grad_y", groups.n_rows(), weights.out_features())?;
    grad_x.expect(OP, "grad_x", groups.n_rows(), weights.in_features())?;
    let addend = match into {
        Into::Overwrite => Addend::None,
        Into::Add => Addend::Output,
    };
    m_grouped(gpu, Direction::Input, &groups, grad_y, weights, grad_x, addend)
}

/// f32 elements of the workspace of [`backward_weights`].
pub fn backward_weights_workspace_len<T: DeviceElement>(n_rows: usize, weights: &GroupedWeights<'_, T>) -> usize {
    let biases = if weights.has_biases() {
        column_sums_workspace_len(n_rows, weights.n_groups(), weights.out_features())
    } else {
        0
    };
    partial_len(n_rows, weights) + biases
}

/// What the library, where it cuts a sum as the kernel does, wants beside the partial sums.
const COUNTERS: usize = 64;

/// f32 elements of partial sums, whoever makes them.
fn partial_len<T: DeviceElement>(n_rows: usize, weights: &GroupedWeights<'_, T>) -> usize {
    let (n_in, n_out) = (weights.in_features(), weights.out_features());
    let any_card = split(T::DTYPE, n_rows, n_in, n_out).partial_len(weights.n_groups());
    let sm90 = match T::DTYPE {
        Dtype::Bf16 | Dtype::F16 => {
            sm90::split(n_rows, weights.n_groups(), n_in, n_out).partial_len(weights.n_groups())
        }
        Dtype::F32 => 0,
    };
    match any_card.max(sm90) {
        0 => 0,
        len => len + COUNTERS,
    }
}

/// `dW_m = dy^T x` and `db_m = sum dy` over the rows of m; of the activations' type or f32.
///
/// * `workspace`: [`backward_weights_workspace_len`] elements, whose contents mean nothing before and after.
///
/// # Errors
/// Sizes that disagree, gradients of another 16-bit type than the activations', bias gradients asked for where there are no
/// biases or the other way round, 2^31 rows or more, a refused launch.
pub fn backward_weights<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    offsets: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    weights: &GroupedWeights<'_, T>,
    grads: GroupedGrads<'_, G>,
    workspace: DeviceMut<'_, f32>,
) -> Result<()> {
    let groups = groups(offsets, weights)?;
    let (n_rows, n_groups) = (groups.n_rows(), weights.n_groups());
    let (n_in, n_out) = (weights.in_features(), weights.out_features());
    x.expect(OP, "x", n_rows, n_in)?;
    grad_y.expect(OP, "grad_y", n_rows, n_out)?;
    if G::DTYPE != T::DTYPE && G::DTYPE != Dtype::F32 {
        return Err(CudaError::Dtype { op: OP, arg: "grad_weights", expected: T::DTYPE.name(), got: G::DTYPE.name() });
    }
    expect_size(OP, "grad_weights", "groups", n_groups, grads.grad_weights.len())?;
    expect_presence(OP, "grad_biases", weights.has_biases(), grads.grad_biases.is_some())?;
    for grad in &grads.grad_weights {
        expect_size(OP, "grad_weight", "elements", n_in * n_out, grad.len())?;
    }
    if let Some(grad) = &grads.grad_biases {
        expect_size(OP, "grad_biases", "elements", n_groups * n_out, grad.len())?;
    }
    let expected = backward_weights_workspace_len(n_rows, weights);
    expect_size(OP, "workspace", "elements", expected, workspace.len())?;

    let (partial, rest) = workspace.split_at("workspace", partial_len(n_rows, weights))?;
    // Sums are cut so that they fill the card.
    let faster = n_groups > 1 && sm90::takes_sum(gpu, x, grad_y, &partial)?;
    match library::library(gpu, &groups, weights).filter(|_| !faster) {
        Some(library) => library::k_grouped(gpu, library, x, grad_y, grads.grad_weights, &partial)?,
        None => k_grouped(gpu, &groups, x, grad_y, grads.grad_weights, partial)?,
    }
    match grads.grad_biases {
        Some(sums) => column_sums(gpu, &groups, grad_y, sums, rest),
        None => Ok(()),
    }
}

/// The launches of the own kernels; the caller has checked the shapes.
fn k_grouped<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    x: &DeviceRows<'_, T>,
    grad_y: &DeviceRows<'_, T>,
    grad_weights: Vec<DeviceMut<'_, G>>,
    partial: DeviceMut<'_, f32>,
) -> Result<()> {
    let (n_rows, n_in, n_out) = (groups.n_rows(), x.width(), grad_y.width());
    if let Some(launched) = sm90::k_grouped(gpu, groups, x, grad_y, &grad_weights, &partial)? {
        return Ok(launched);
    }
    let sum = Sum::new(x, grad_y, n_out > n_in, &grad_weights, &partial);
    let split = split(T::DTYPE, n_rows, n_in, n_out);
    any_card(gpu, groups, split, &sum)?;
    if split.n == 1 {
        return Ok(());
    }
    let size = n_in * n_out;
    let aligned = |address: u64, bytes: usize| address.is_multiple_of(bytes as u64);
    let vector = size % 4 == 0
        && aligned(partial.address(gpu), 16)
        && grad_weights.iter().all(|grad| aligned(grad.address(gpu), 4 * size_of::<G>()));
    let params = RawKGroupedSum {
        partial: partial.address(gpu),
        offsets: groups.address(gpu),
        size: size as u64,
        n_rows: n_rows as u32,
        n_groups: grad_weights.len() as u32,
        rows_per_split: split.rows as u32,
        unused: 0,
        grads: sum.grads(gpu),
    };
    let (suffix, per_block) = if vector { ("vector_", 1024) } else { ("", 256) };
    let grid = Grid {
        blocks: (blocks(OP, "in_features * out_features", size, per_block)?, grad_weights.len() as u32, 1),
        threads: (256, 1, 1),
    };
    let kernel = format!("k_grouped_sum_{suffix}{}", G::DTYPE.name());
    // SAFETY: reads the pairs of split and modality that have rows, which the first kernel wrote, and writes elements
    // below `size` of each gradient, borrowed exclusively.
    unsafe { gpu.launch(module(G::DTYPE), &kernel, grid, &params) }
}

/// What is summed: `a^T b` over the rows of each modality, for x and the gradient of y in either order.
#[derive(Debug)]
pub(super) struct Sum<'s, 'a, T, G> {
    pub a: &'s DeviceRows<'a, T>,
    pub b: &'s DeviceRows<'a, T>,
    /// Steps in a gradient for one column of `a` and of `b`.
    pub to_a: usize,
    pub to_b: usize,
    pub grads: &'s [DeviceMut<'a, G>],
    pub partial: &'s DeviceMut<'a, f32>,
}

impl<'s, 'a, T: DeviceElement, G: DeviceElement> Sum<'s, 'a, T, G> {
    pub(super) fn new(
        x: &'s DeviceRows<'a, T>,
        grad_y: &'s DeviceRows<'a, T>,
        a_is_grad: bool,
        grads: &'s [DeviceMut<'a, G>],
        partial: &'s DeviceMut<'a, f32>,
    ) -> Self {
        let n_in = x.width();
        let (a, b, to_a, to_b) = if a_is_grad { (grad_y, x, n_in, 1) } else { (x, grad_y, 1, n_in) };
        Self { a, b, to_a, to_b, grads, partial }
    }

    pub(super) fn grads(&self, gpu: &Gpu) -> [u64; MAX_GROUPS] {
        addresses(self.grads.iter().map(|grad| grad.address(gpu)))
    }

    /// Whether the gradients are f32, as kernels are told; else they are of the activations' type.
    pub(super) fn f32(&self) -> u32 {
        u32::from(G::DTYPE == Dtype::F32)
    }
}

/// The first of the two launches, on any card.
fn any_card<T: DeviceElement, G: DeviceElement>(
    gpu: &Gpu,
    groups: &DeviceOffsets<'_>,
    split: Split,
    sum: &Sum<'_, '_, T, G>,
) -> Result<()> {
    let (a, b) = (sum.a, sum.b);
    let params = RawKGrouped {
        a: a.address(gpu),
        b: b.address(gpu),
        offsets: groups.address(gpu),
        partial: sum.partial.address(gpu),
        a_stride: a.stride() as i64,
        b_stride: b.stride() as i64,
        to_a: sum.to_a as i64,
        to_b: sum.to_b as i64,
        n_rows: groups.n_rows() as u32,
        a_width: a.width() as u32,
        b_width: b.width() as u32,
        n_groups: groups.n_modalities() as u32,
        rows_per_split: split.rows as u32,
        b_tiles: split.b_tiles as u32,
        a_vector: u32::from(a.is_aligned(VECTOR)),
        b_vector: u32::from(b.is_aligned(VECTOR)),
        f32: sum.f32(),
        unused: 0,
        grads: sum.grads(gpu),
    };
    let n_tiles = blocks(OP, "tiles", split.a_tiles * split.b_tiles, 1)?;
    let grid = Grid { blocks: (n_tiles, split.n as u32, 1), threads: (256, 1, 1) };
    let kernel = format!("k_grouped_n{}_{}", tile_columns(T::DTYPE, b.width()), T::DTYPE.name());
    // SAFETY: a and b are x and grad_y, whose shapes were checked; a block reads rows of its split, below n_rows, and
    // writes inside of a gradient, or of the partial sums at split + modality, below n + n_groups - 1.
    unsafe { gpu.launch(module(T::DTYPE), &kernel, grid, &params) }
}

/// How the sum over the rows is cut: by the sizes, and inside of them by the offsets, so that its order depends on nothing
/// else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub a_tiles: usize,
    pub b_tiles: usize,
    /// Rows of a split.
    pub rows: usize,
    /// Number of splits, at least 1.
    pub n: usize,
    /// f32 elements of a partial sum.
    pub partial: usize,
}

/// Rows that a step of a tile takes, kernels/grouped_gemm/tile.cuh.
const STEP_ROWS: usize = 64;

impl Split {
    /// About `n` equal splits.
    pub(super) fn new(n_rows: usize, [a_tiles, b_tiles]: [usize; 2], n: usize, partial: usize) -> Self {
        let rows = n_rows.div_ceil(n).next_multiple_of(STEP_ROWS).max(STEP_ROWS);
        Self { a_tiles, b_tiles, rows, n: n_rows.div_ceil(rows).max(1), partial }
    }

    /// A single split has all rows of every modality, and no partial sums.
    fn partial_len(&self, n_groups: usize) -> usize {
        if self.n == 1 { 0 } else { (self.n + n_groups - 1) * self.partial }
    }
}

/// The cut of the kernel for any card.
fn split(dtype: Dtype, n_rows: usize, n_in: usize, n_out: usize) -> Split {
    let (a_width, b_width) = (n_in.max(n_out), n_in.min(n_out));
    let columns = tile_columns(dtype, b_width);
    let (a_tiles, b_tiles) = (a_width.div_ceil(TILE_ROWS), b_width.div_ceil(columns));
    let n_tiles = a_tiles * b_tiles;
    // A card of 132 multiprocessors holds two blocks on each, of the widest tile one; the smallest has little to do
    // beside its partial sums. As many blocks as fit at once, or, where that leaves the last of few rounds half empty,
    // three rounds.
    let at_once = if matches!(columns, 64 | 160) { 132 } else { 256 };
    let n = if n_tiles <= at_once / 2 { at_once / n_tiles } else { (3 * at_once / n_tiles).max(1) };
    Split::new(n_rows, [a_tiles, b_tiles], n, n_in * n_out)
}
