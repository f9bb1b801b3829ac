//! The grouped products on the GPU against the CPU's in f64: every direction, element type, tile and odd size; poisoned
//! memory; twice the same bits; one captured graph for other counts; the library's products beside the kernel's.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

#[path = "../cuda_support/mod.rs"]
mod cuda_support;
mod graphs;
mod library;
mod problem;
mod refusals;
mod residual;
mod shapes;
