//! The operations: a folder for each.
//!
//! `mod` is the operation's page: the equation, its source, what is saved for backward. `params` has its arguments, once for
//! CPU and GPU, and their one validation (in `check`, where that is long). `cpu` and `cuda` compute it: `args` names the
//! arguments for that side's memory, and on the GPU asks what only a GPU must; `abi` is what kernels take, `select` which of
//! them is launched. What runs on the GPU alone has no such two halves: it is a folder, or a file, of its own.
//!
//! Imports run one way: `forward`, `backward`, `step` -> `args` -> `params` -> what lies outside of `ops`. An operation that
//! is made of others imports them, and never the other way round.

#[cfg(feature = "cuda")]
pub mod adamw;
pub mod attention;
pub mod causal_conv1d;
#[cfg(feature = "cuda")]
pub mod column_sums;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod elementwise;
#[cfg(feature = "cuda")]
pub mod embedding;
#[cfg(feature = "cuda")]
pub mod group_norm;
pub mod grouped_gemm;
#[cfg(feature = "cuda")]
pub mod matmul;
pub mod mixer;
#[cfg(feature = "cuda")]
pub mod multi_copy;
pub mod plan;
pub mod rms_norm;
pub mod rotary_embedding;
pub mod selective_scan;
#[cfg(feature = "cuda")]
pub mod unfold;
#[cfg(feature = "cuda")]
pub mod weight_average;
