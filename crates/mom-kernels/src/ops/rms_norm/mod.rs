//! RMS norm of rows: `y = x r w` with `r = (mean(x^2) + eps)^-1/2` (Zhang & Sennrich, arXiv 1910.07467).
//!
//! **Saved for backward:** nothing; r is one pass over x.
//!
//! ```
//! use mom_kernels::{Rows, RowsMut, rms_norm};
//!
//! // The mean square of (1, 7) is 25.
//! let (x, mut y) = ([1.0f64, 7.0], [0.0; 2]);
//! rms_norm::forward(Rows::new("x", &x, 2)?, &[10.0, 100.0], 0.0, RowsMut::new("y", &mut y, 2)?)?;
//! assert!((y[0] - 2.0).abs() < 1e-12 && (y[1] - 140.0).abs() < 1e-12);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod params;

pub use cpu::{backward, forward};
