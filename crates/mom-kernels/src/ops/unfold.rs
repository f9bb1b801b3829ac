//! The windows that a convolution reads, as rows: with them it is a product (im2col; PyTorch's `unfold`).
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! windows[(n, y, x)][(i, j, c)] = x[n][y stride + i dilation - top][x stride + j dilation - left][c], zero outside
//! ```
//!
//! ```
//! use mom_kernels::cuda::{Gpu, unfold::{Convolution, unfold}};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! // Three values of one channel, and windows of three around each.
//! let x = gpu.upload(&[1.0f32, 2.0, 3.0])?;
//! let of = Convolution::new([1, 1, 3], 1, [1, 3]).with_zeros([0, 0], [1, 1]);
//! let mut windows = gpu.zeros::<f32>(of.n_windows() * 3)?;
//! unfold(&gpu, &gpu.rows(&x, 1)?, &of, 0, gpu.rows_mut(&mut windows, 3)?)?;
//! assert_eq!(gpu.download(&windows)?, [0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 2.0, 3.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::error::{Error, expect_size};
use crate::runtime::{DeviceElement, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

const OP: &str = "unfold";

/// As in kernels/unfold: rows of a block at a time.
const WARPS: usize = 8;

/// Pixels of an input, and windows: with [`Convolution::channels`] their elements still have a number.
const MAX_PIXELS: usize = 1 << 32;

/// Blocks of a launch; each takes rows in turn.
const MAX_BLOCKS: u32 = 132 * 32;

/// A convolution over pictures whose channels lie side by side, or over sound as pictures of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Convolution {
    /// Pictures, rows and columns of each.
    pub input: [usize; 3],
    /// Channels of a pixel.
    pub channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from a window to the next, in both directions.
    pub stride: usize,
    /// Pixels from a tap to the next, in both directions.
    pub dilation: usize,
    /// Zeros above the first row and below the last one.
    pub vertical: [usize; 2],
    /// Zeros left of the first column and right of the last one.
    pub horizontal: [usize; 2],
}

impl Convolution {
    /// Of stride 1, without zeros around the input `(batch, height, width, channels)`.
    pub fn new(input: [usize; 3], channels: usize, kernel: [usize; 2]) -> Self {
        Self { input, channels, kernel, stride: 1, dilation: 1, vertical: [0; 2], horizontal: [0; 2] }
    }

    /// With zeros around: above and below, left and right.
    pub fn with_zeros(self, vertical: [usize; 2], horizontal: [usize; 2]) -> Self {
        Self { vertical, horizontal, ..self }
    }

    /// With a stride, in both directions.
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With a dilation, in both directions.
    pub fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// Pictures, rows and columns of the output; none where a window is larger than the input with its zeros.
    pub fn output(&self) -> [usize; 3] {
        let side = |n: usize, [before, behind]: [usize; 2], kernel: usize| {
            let reach = kernel.saturating_sub(1).saturating_mul(self.dilation).saturating_add(1);
            let room = n.saturating_add(before).saturating_add(behind);
            if room < reach || self.stride == 0 { 0 } else { (room - reach) / self.stride + 1 }
        };
        let [batch, height, width] = self.input;
        [batch, side(height, self.vertical, self.kernel[0]), side(width, self.horizontal, self.kernel[1])]
    }

    /// Windows: pixels of the output.
    pub fn n_windows(&self) -> usize {
        self.output().into_iter().fold(1, usize::saturating_mul)
    }

    /// Elements of a window.
    pub fn window(&self) -> usize {
        self.kernel[0].saturating_mul(self.kernel[1]).saturating_mul(self.channels)
    }

    fn validate(&self) -> Result<()> {
        const MAX: usize = i32::MAX as usize;
        let limit = |arg, min, max, got| {
            if (min..=max).contains(&got) { Ok(()) } else { Err(Error::Limit { op: OP, arg, min, max, got }) }
        };
        limit("channels", 1, MAX, self.channels)?;
        limit("stride", 1, MAX, self.stride)?;
        limit("dilation", 1, MAX, self.dilation)?;
        for side in 0..2 {
            let before = [self.vertical, self.horizontal][side];
            limit("kernel", 1, MAX, self.kernel[side])?;
            limit("zeros", 0, MAX, before[0].max(before[1]))?;
            // Places of windows are signed 32-bit numbers.
            let reach = (self.kernel[side] - 1).saturating_mul(self.dilation);
            limit("side", 0, MAX, self.input[side + 1].saturating_add(before[0] + before[1]).saturating_add(reach))?;
        }
        limit("window", 1, MAX, self.kernel[0].saturating_mul(self.kernel[1]).saturating_mul(self.channels))?;
        // Pixels and windows can be counted.
        let count = |sides: [usize; 3]| sides.into_iter().fold(1, usize::saturating_mul);
        limit("input", 0, MAX_PIXELS, count(self.input))?;
        limit("output", 0, MAX_PIXELS, count(self.output()))?;
        Ok(())
    }
}

/// Writes windows `first..first + n` of a convolution, by rows of its output.
///
/// * `x`: `(batch * height * width, channels)`.
/// * `windows`: `(n, row)`, dense, of at least [`Convolution::window`] elements a row; those behind are zeros.
///
/// Quickest where rows of both, and channels, are multiples of 16 bytes.
///
/// # Errors
/// Sizes that disagree, windows past the last one, a refused launch.
pub fn unfold<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    of: &Convolution,
    first: usize,
    windows: DeviceRowsMut<'_, T>,
) -> Result<()> {
    of.validate()?;
    let (n, row) = (windows.n_rows(), windows.width());
    x.expect(OP, "x", of.input.iter().product(), of.channels)?;
    expect_size(OP, "windows", "elements from a row to the next", row, windows.stride())?;
    if row < of.window() {
        return Err(Error::Limit { op: OP, arg: "window", min: of.window(), max: usize::MAX, got: row }.into());
    }
    if first.saturating_add(n) > of.n_windows() {
        let (min, max, got) = (0, of.n_windows(), first.saturating_add(n));
        return Err(Error::Limit { op: OP, arg: "windows", min, max, got }.into());
    }
    let size = size_of::<T>();
    let (from, to) = (x.address(gpu)?, windows.address(gpu)?);
    let fits = |unit: usize| {
        let all = [of.channels * size, x.stride() * size, row * size];
        all.iter().all(|bytes| bytes.is_multiple_of(unit)) && (from | to).is_multiple_of(unit as u64)
    };
    let unit = [16, 4].into_iter().find(|&unit| fits(unit)).unwrap_or(size);
    let units = |elements: usize| (elements * size / unit) as u32;
    let [_, out_height, out_width] = of.output();
    let params = Raw {
        x: from,
        windows: to,
        first_row: first as u64,
        n_rows: blocks(OP, "windows", n, 1)?,
        row_units: units(row),
        height: of.input[1] as u32,
        width: of.input[2] as u32,
        pixel_units: units(x.stride()),
        channel_units: units(of.channels),
        out_height: out_height as u32,
        out_width: out_width as u32,
        kernel_height: of.kernel[0] as u32,
        kernel_width: of.kernel[1] as u32,
        stride: of.stride as u32,
        dilation: of.dilation as u32,
        top: of.vertical[0] as u32,
        left: of.horizontal[0] as u32,
    };
    let grid = Grid::line(blocks(OP, "windows", n, WARPS)?.min(MAX_BLOCKS), WARPS as u32 * 32);
    // SAFETY: x has the pixels of the input, of which the kernel reads `channels` elements each, at places that it has found inside;
    // it writes n rows of `windows`, borrowed exclusively.
    unsafe { gpu.launch(&format!("unfold_{unit}"), grid, &params) }
}

// What the kernels take: kernels/unfold/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    x: u64,
    windows: u64,
    first_row: u64,
    n_rows: u32,
    row_units: u32,
    height: u32,
    width: u32,
    pixel_units: u32,
    channel_units: u32,
    out_height: u32,
    out_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride: u32,
    dilation: u32,
    top: u32,
    left: u32,
}
const _: () = {
    assert!(size_of::<Raw>() == 80 && offset_of!(Raw, first_row) == 16 && offset_of!(Raw, height) == 32);
    assert!(offset_of!(Raw, out_height) == 48 && offset_of!(Raw, stride) == 64);
};
// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
