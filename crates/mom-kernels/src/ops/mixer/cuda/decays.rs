//! A = -exp(A_log), and back.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::error::expect_size;
use crate::ops::mixer::params::OP;
use crate::runtime::{DeviceMut, DeviceRef, Gpu, Grid, Result, blocks};

const THREADS: u32 = 256;

/// `a = -exp(a_log)`.
pub(super) fn decays(gpu: &Gpu, a_log: &DeviceRef<'_, f32>, a: &mut DeviceMut<'_, f32>) -> Result<()> {
    expect_size(OP, "a", "elements", a_log.len(), a.len())?;
    let params = Raw { a_log: a_log.address(gpu)?, a: 0, out: a.address(gpu)?, n: a_log.len() as u64 };
    let grid = Grid::line(blocks(OP, "d_inner * d_state", a_log.len(), THREADS as usize)?, THREADS);
    // SAFETY: a thread reads and writes one element below n, the length of both.
    unsafe { gpu.launch("mixer_decays", grid, &params) }
}

/// The gradient of A becomes that of A_log, in place: dA / dA_log = A.
pub(super) fn decays_gradient(gpu: &Gpu, a: &DeviceRef<'_, f32>, grad: &mut DeviceMut<'_, f32>) -> Result<()> {
    expect_size(OP, "grad_a_log", "elements", a.len(), grad.len())?;
    let params = Raw { a_log: 0, a: a.address(gpu)?, out: grad.address(gpu)?, n: a.len() as u64 };
    let grid = Grid::line(blocks(OP, "d_inner * d_state", a.len(), THREADS as usize)?, THREADS);
    // SAFETY: as above.
    unsafe { gpu.launch("mixer_decays_gradient", grid, &params) }
}

/// kernels/mixer/params.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    a_log: u64,
    a: u64,
    out: u64,
    n: u64,
}
const _: () = assert!(size_of::<Raw>() == 32 && offset_of!(Raw, out) == 16);
// SAFETY: a plain struct of integers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
