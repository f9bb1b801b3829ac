//! The machine of a run: its name, its driver, and its ceilings, measured in the same run.

use std::process::Command;

use mom_kernels::cuda::cudarc::driver::result::{device, mem_pool};
use mom_kernels::cuda::cudarc::driver::sys::CUmemPool_attribute;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::library::{Factor, matmul};
use mom_kernels::cuda::{CudaError, DeviceRows, Gpu};
use serde::Serialize;

use crate::timing::{Bench, noise};
use crate::{Error, LARGE};

/// What the figures of a run belong to.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Name of the card.
    pub card: String,
    pub compute_capability: (i32, i32),
    pub n_multiprocessors: u32,
    /// The driver's version and the clocks before the run, as nvidia-smi tells them.
    pub driver: String,
    pub multiprocessor_clock: String,
    /// Device copy, read plus written.
    pub copy_tb_s: f64,
    /// cuBLASLt's bf16 product of in_proj's shape at L, on random values; absent where the library is.
    pub product_tflop_s: Option<f64>,
}

impl Machine {
    /// Times a copy of 2 GiB and the product.
    pub fn measure(bench: &mut Bench<'_>) -> Result<Self, Error> {
        let gpu = bench.gpu;
        let bytes = 2usize << 30;
        let (from, mut to) = (gpu.zeros::<u8>(bytes)?, gpu.zeros::<u8>(bytes)?);
        let ms = bench.time("copy", "2 GiB", 2.0 * bytes as f64, 0.0, || {
            let copied = gpu.stream().memcpy_dtod(&from, &mut to);
            copied.map_err(|source| CudaError::Driver { what: "copying on the device", source })
        })?;
        Ok(Self {
            card: gpu.stream().context().name()?,
            compute_capability: gpu.compute_capability(),
            n_multiprocessors: gpu.n_multiprocessors(),
            driver: nvidia_smi(gpu.ordinal(), "driver_version"),
            multiprocessor_clock: nvidia_smi(gpu.ordinal(), "clocks.sm"),
            copy_tb_s: 2.0 * bytes as f64 / ms / 1e9,
            product_tflop_s: product(bench)?,
        })
    }
}

fn product(bench: &mut Bench<'_>) -> Result<Option<f64>, Error> {
    let gpu = &Gpu::with_stream(bench.gpu.stream().clone())?;
    if let Err(error) = gpu.load_library() {
        println!("no dense product: {error}");
        return Ok(None);
    }
    let (m, k, n) = (LARGE.n_rows(), LARGE.d_model, 2 * LARGE.d_inner());
    let random = |len, seed| gpu.upload(&noise(len, seed, 1.0).into_iter().map(bf16::from_f32).collect::<Vec<_>>());
    let (x, weight, mut y) = (random(m * k, 1)?, random(n * k, 2)?, gpu.zeros::<bf16>(m * n)?);
    let (x, weight) = (gpu.rows(&x, k)?, DeviceRows::new("weight", gpu.read(&weight), k)?);
    let flop = 2.0 * (m * n) as f64 * k as f64;
    let bytes = 2.0 * (m * k + n * k + m * n) as f64;
    let ms = bench.time("product", "in_proj L", bytes, flop, || {
        matmul(gpu, 1.0, Factor::plain(&x), Factor::transposed(&weight), 0.0, gpu.rows_mut(&mut y, n)?, None)
    })?;
    Ok(Some(flop / ms / 1e9))
}

/// Bytes of device memory that are allocated now.
pub fn allocated_bytes(gpu: &Gpu) -> Result<u64, Error> {
    gpu.stream().synchronize()?;
    let mut bytes = 0u64;
    // SAFETY: the device is that of a live context, the pool its own, and the driver writes 64 bits for this attribute.
    unsafe {
        let pool = device::get_default_mem_pool(gpu.stream().context().cu_device())?;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast())?;
    }
    Ok(bytes)
}

fn nvidia_smi(device: usize, what: &str) -> String {
    let arguments = [format!("--id={device}"), format!("--query-gpu={what}"), "--format=csv,noheader".to_owned()];
    answer(Command::new("nvidia-smi").args(arguments))
}

/// The commit of the working directory, `-dirty` where files differ from it.
pub fn commit() -> String {
    answer(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]))
}

/// The first line that a program prints, or `unknown`.
fn answer(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let text = output.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    text.lines().next().filter(|line| !line.is_empty()).unwrap_or("unknown").trim().to_owned()
}
