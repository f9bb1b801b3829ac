//! Rotary position embedding: pairs of features of a head turn by an angle that grows with the position (RoFormer, arXiv
//! 2104.09864), so that a product of a query and a key depends on how far apart they are.
//!
//! ```text
//! angle(t, i) = t base^(-2 i / head_dim)
//! (x_i, x_{i + head_dim / 2}) -> (x_i cos - x_{i + head_dim / 2} sin, x_{i + head_dim / 2} cos + x_i sin)
//! ```
//!
//! Features are paired by halves, as Llama's checkpoints have them. The backward pass turns back. **Saved for backward:**
//! nothing.
//!
//! ```
//! use mom_kernels::rotary_embedding::{self, Direction, RotaryTable};
//! use mom_kernels::{Rows, RowsMut, SequenceLayout};
//!
//! // One head of two features: the position is the angle.
//! let table = RotaryTable::new(4, 2, 10_000.0)?;
//! let (x, mut out) = ([1.0f64, 0.0, 1.0, 0.0], [0.0; 4]);
//! let (layout, positions) = (SequenceLayout::contiguous(1, 2, None)?, [0, 3]);
//! let rows = Rows::new("x", &x, 2)?;
//! rotary_embedding::rotate(layout, &positions, &table, 1, rows, RowsMut::new("out", &mut out, 2)?, Direction::Forward)?;
//! assert_eq!(out, [1.0, 0.0, 3.0f64.cos(), 3.0f64.sin()]);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod params;

pub use cpu::rotate;
pub use params::{Direction, RotaryTable};
