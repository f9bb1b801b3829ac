//! Operations on elements that know nothing of each other, on the GPU: sums, conversions, SiLU, noise, squared errors.
//!
//! Needs the feature `cuda`.
//!
//! | function | |
//! | --- | --- |
//! | [`combine`] | `out = alpha a + beta b` |
//! | [`accumulate`], [`widen`], [`narrow`] | between 16 bits and f32: `sum + x`, and conversions |
//! | [`silu`], [`silu_backward`] | `x sigmoid(x)` |
//! | [`add_noise`] | a diffusion's forward process: `out_r = f_r0 clean_r + f_r1 epsilon_r` |
//! | [`squared_error`], [`squared_error_backward`] | `scale sum (predicted - target)^2` |
//!
//! Everything is computed in f32 and rounded once.
//!
//! ```
//! use mom_kernels::cuda::{Gpu, elementwise};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! let (a, b) = (gpu.upload(&[1.0f32, 2.0])?, gpu.upload(&[10.0f32, 20.0])?);
//! let mut out = gpu.zeros::<f32>(2)?;
//! elementwise::combine(&gpu, 1.0, &gpu.read(&a), 0.5, &gpu.read(&b), &mut gpu.write(&mut out))?;
//! assert_eq!(gpu.download(&out)?, [6.0, 12.0]);
//! # Ok(())
//! # }
//! ```

mod abi;
mod combine;
mod noise;
mod silu;
mod squared_error;

pub use combine::{accumulate, combine, narrow, scale, widen};
pub use noise::add_noise;
pub use silu::{silu, silu_backward};
pub use squared_error::{squared_error, squared_error_backward, squared_error_workspace_len};

use crate::runtime::{Grid, Result, blocks};

const OP: &str = "elementwise";

/// As in kernels/elementwise: threads of a block, and elements of a thread.
const THREADS: u32 = 256;
const PER_THREAD: usize = 8;

fn n_blocks(n: usize) -> Result<u32> {
    blocks(OP, "n", n, THREADS as usize * PER_THREAD)
}

fn grid(n: usize) -> Result<Grid> {
    Ok(Grid::line(n_blocks(n)?, THREADS))
}

#[cfg(test)]
mod tests {
    use crate::runtime::{Card, Dtype};

    #[test]
    fn every_card_has_every_kernel() {
        for card in Card::capabilities().filter_map(|of| Card::known(of, 100)) {
            for of in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
                for what in ["combine", "silu", "silu_backward", "add_noise", "squared_error", "squared_error_backward"]
                {
                    assert!(card.has(&format!("elementwise_{what}_{}", of.name())), "{what} {of:?}");
                }
            }
            for (of, what) in [(Dtype::Bf16, "widen"), (Dtype::F16, "narrow")] {
                assert!(card.has(&format!("elementwise_{what}_{}", of.name())), "{what} {of:?}");
            }
            assert!(card.has("elementwise_squared_error_total"));
        }
    }
}
