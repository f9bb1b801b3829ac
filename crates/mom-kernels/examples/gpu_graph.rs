//! Conv and scan captured in a CUDA graph once, then replayed over new inputs: the same bits as launched one by one.
//!
//! `cargo run --release -p mom-kernels --features cuda --example gpu_graph`. Needs no toolkit; without a driver it says so.
//!
//! A capture records launches instead of running them, so before it everything else is done: the kernels are loaded (here
//! by the first, eager call), memory is allocated, and inputs are copied into the same memory for each replay.

use std::time::Instant;

use mom_kernels::cuda::causal_conv1d::{ConvInputs, forward as conv_forward};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::selective_scan::{ScanInputs, ScanOutputs, forward as scan_forward, forward_workspace_len};
use mom_kernels::cuda::{DevicePlan, Gpu, Result as GpuResult};

const BATCH: usize = 2;
const SEQLEN: usize = 512;
const D_INNER: usize = 256;
const D_STATE: usize = 16;
const D_CONV: usize = 4;
const N_ROWS: usize = BATCH * SEQLEN;

/// Weights and inputs at addresses that a graph may keep.
struct Memory {
    plan: DevicePlan,
    ids: CudaSlice<u8>,
    x: CudaSlice<bf16>,
    dt: CudaSlice<bf16>,
    bc: CudaSlice<bf16>,
    taps: CudaSlice<f32>,
    a: CudaSlice<f32>,
    u: CudaSlice<bf16>,
    out: CudaSlice<bf16>,
    workspace: CudaSlice<f32>,
}

impl Memory {
    fn new(gpu: &Gpu) -> GpuResult<Self> {
        let ids = gpu.zeros(N_ROWS)?;
        let plan = DevicePlan::sort(gpu, BATCH, SEQLEN, 3, &gpu.read(&ids), None)?;
        Ok(Self {
            plan,
            ids,
            x: gpu.zeros(N_ROWS * D_INNER)?,
            dt: gpu.zeros(N_ROWS * D_INNER)?,
            bc: gpu.zeros(N_ROWS * 2 * D_STATE)?,
            taps: gpu.upload(&(0..D_INNER * D_CONV).map(|i| (i as f32 * 0.3).sin()).collect::<Vec<_>>())?,
            a: gpu.upload(&(0..D_INNER * D_STATE).map(|i| -((i % D_STATE) as f32 + 1.0)).collect::<Vec<_>>())?,
            u: gpu.zeros(N_ROWS * D_INNER)?,
            out: gpu.zeros(N_ROWS * D_INNER)?,
            workspace: gpu.zeros(forward_workspace_len(BATCH, SEQLEN, D_INNER, D_STATE))?,
        })
    }

    /// Another batch, copied to where the last one was: spans of `span` tokens of modality 0, 1, 2, 0, ...
    fn fill(&mut self, gpu: &Gpu, span: usize) -> Result<(), Box<dyn std::error::Error>> {
        let wave = |len: usize, step: f32| -> Vec<bf16> {
            (0..len).map(|i| bf16::from_f32(((i + span) as f32 * step).sin())).collect()
        };
        let ids: Vec<u8> = (0..N_ROWS).map(|position| (position / span % 3) as u8).collect();
        let stream = gpu.stream();
        stream.memcpy_htod(&ids, &mut self.ids)?;
        stream.memcpy_htod(&wave(N_ROWS * D_INNER, 0.7), &mut self.x)?;
        stream.memcpy_htod(&wave(N_ROWS * D_INNER, 1.3), &mut self.dt)?;
        stream.memcpy_htod(&wave(N_ROWS * 2 * D_STATE, 2.1), &mut self.bc)?;
        stream.memset_zeros(&mut self.out)?;
        // Host memory of a copy may go once the stream has come so far.
        Ok(stream.synchronize()?)
    }

    /// Sorts rows by modality, then `u = silu(conv(x))` and the scan of u: launches alone, no allocation, no wait.
    fn run(&mut self, gpu: &Gpu) -> GpuResult<()> {
        self.plan.sort_again(gpu, &gpu.read(&self.ids))?;
        let conv = ConvInputs::new(self.plan.layout(gpu), gpu.rows(&self.x, D_INNER)?, gpu.read(&self.taps));
        conv_forward(gpu, &conv, gpu.rows_mut(&mut self.u, D_INNER)?, None)?;
        let scan = ScanInputs::new(
            self.plan.layout(gpu),
            gpu.rows(&self.u, D_INNER)?,
            gpu.rows(&self.dt, D_INNER)?,
            gpu.read(&self.a),
            gpu.rows(&self.bc, 2 * D_STATE)?.columns(0, D_STATE)?,
            gpu.rows(&self.bc, 2 * D_STATE)?.columns(D_STATE, D_STATE)?,
        );
        let out = gpu.rows_mut(&mut self.out, D_INNER)?;
        let outputs = ScanOutputs::new(out);
        scan_forward(gpu, &scan, outputs, gpu.write(&mut self.workspace))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The default stream cannot be captured, and a capture must not wait for events that were recorded before it.
    let context = Gpu::new(0)?.stream().context().clone();
    // SAFETY: everything below runs on one stream, whose order is all that its memory needs.
    unsafe { context.disable_event_tracking() };
    let gpu = Gpu::with_stream(context.new_stream()?)?;
    let mut memory = Memory::new(&gpu)?;
    let mut eager = Vec::new();
    for span in [64, 48] {
        memory.fill(&gpu, span)?;
        memory.run(&gpu)?;
        eager.push(gpu.download(&memory.out)?);
    }

    gpu.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    memory.run(&gpu)?;
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream().end_capture(flags)?.ok_or("nothing was captured")?;
    for (span, want) in [64, 48].into_iter().zip(&eager) {
        memory.fill(&gpu, span)?;
        graph.launch()?;
        if gpu.download(&memory.out)? != *want {
            return Err(format!("spans of {span}: the replay differs from the launches one by one").into());
        }
    }
    println!(
        "{N_ROWS} rows x {D_INNER} channels, two batches: a replay gives the same bits as the launches one by one"
    );

    // What a replay saves: the host's time.
    let time = |name: &str, run: &mut dyn FnMut() -> Result<(), Box<dyn std::error::Error>>| {
        let begin = Instant::now();
        for _ in 0..100 {
            run()?;
        }
        let asked = begin.elapsed();
        gpu.stream().synchronize()?;
        let [asked, done] = [asked, begin.elapsed()].map(|time| time.as_secs_f64() * 1e4);
        println!("{name}: {asked:.1} us until launched, {done:.1} us until done");
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    time("one by one", &mut || Ok(memory.run(&gpu)?))?;
    time("replayed", &mut || Ok(graph.launch()?))
}
