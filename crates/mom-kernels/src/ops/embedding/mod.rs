//! Rows of a table by id on the GPU, and the gradient of the table.
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! out_r = table[id_r],   grad_table[v] = sum over the rows r with id_r = v, in row order, of grad_out_r
//! ```
//!
//! A row without an id ([`NO_ID`]) is zero and reaches no gradient. Ids cannot be refused before a launch, being on the
//! device: one that names no row of the table counts as none and is told by [`check`].
//!
//! ```
//! use mom_kernels::cuda::{Gpu, embedding};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! let table = gpu.upload(&[0.0f32, 0.5, 1.0, 1.5])?;
//! let ids = gpu.upload(&[1, embedding::NO_ID, 0])?;
//! let (mut out, mut out_of_range) = (gpu.zeros::<f32>(6)?, gpu.zeros::<u32>(1)?);
//! let rows = gpu.rows(&table, 2)?;
//! embedding::forward(
//!     &gpu,
//!     &rows,
//!     &gpu.read(&ids),
//!     &mut gpu.rows_mut(&mut out, 2)?,
//!     &mut gpu.write(&mut out_of_range),
//! )?;
//! assert_eq!(gpu.download(&out)?, [1.0, 1.5, 0.0, 0.0, 0.0, 0.5]);
//! embedding::check(&gpu, &out_of_range)?;
//! # Ok(())
//! # }
//! ```

mod abi;
mod backward;
mod gather;
mod params;
mod sort;

pub use backward::{backward, backward_workspace_len};
pub use gather::forward;
pub use params::{NO_ID, check};

pub use crate::ops::grouped_gemm::params::Into;
