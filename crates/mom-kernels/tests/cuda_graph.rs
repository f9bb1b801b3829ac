//! Conv and scan, both directions, captured once and replayed over other inputs: bit for bit the launches one by one.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::cudarc::driver::sys::CUstreamCaptureMode;
use mom_kernels::cuda::half::bf16;
use mom_kernels::cuda::{DevicePlan, Gpu, Module, causal_conv1d as conv, selective_scan as scan};

const BATCH: usize = 3;
const D: usize = 64;
const D_STATE: usize = 16;

/// x -> conv -> u -> scan -> out, and the gradients of all of them.
struct Memory {
    n: usize,
    plan: DevicePlan,
    ids: CudaSlice<u8>,
    x: CudaSlice<bf16>,
    dt: CudaSlice<bf16>,
    bc: CudaSlice<bf16>,
    grad_out: CudaSlice<bf16>,
    taps: CudaSlice<f32>,
    a: CudaSlice<f32>,
    u: CudaSlice<bf16>,
    out: CudaSlice<bf16>,
    saved: CudaSlice<f32>,
    grad_u: CudaSlice<bf16>,
    grad_dt: CudaSlice<bf16>,
    grad_bc: CudaSlice<bf16>,
    grad_x: CudaSlice<bf16>,
    grad_a: CudaSlice<f32>,
    grad_taps: CudaSlice<f32>,
    scan_forward_workspace: CudaSlice<f32>,
    scan_workspace: CudaSlice<f32>,
    conv_workspace: CudaSlice<f32>,
}

impl Memory {
    fn new(gpu: &Gpu, seqlen: usize) -> Self {
        let n = BATCH * seqlen;
        let mut random = Random(1);
        let ids = gpu.zeros(n).unwrap();
        let plan = DevicePlan::sort(gpu, BATCH, seqlen, 3, &gpu.read(&ids), None).unwrap();
        let mut new = Self {
            n,
            plan,
            ids,
            x: poisoned(gpu, n * D),
            dt: poisoned(gpu, n * D),
            bc: poisoned(gpu, n * 2 * D_STATE),
            grad_out: poisoned(gpu, n * D),
            taps: upload(gpu, &random.normals(D * 4, 0.5)),
            a: upload(gpu, &(0..D * D_STATE).map(|i| -((i % D_STATE) as f64 + 1.0)).collect::<Vec<_>>()),
            u: poisoned(gpu, n * D),
            out: poisoned(gpu, n * D),
            saved: poisoned(gpu, scan::saved_states_len(BATCH, seqlen, D, D_STATE)),
            grad_u: poisoned(gpu, n * D),
            grad_dt: poisoned(gpu, n * D),
            grad_bc: poisoned(gpu, n * 2 * D_STATE),
            grad_x: poisoned(gpu, n * D),
            grad_a: poisoned(gpu, D * D_STATE),
            grad_taps: poisoned(gpu, D * 4),
            scan_forward_workspace: poisoned(gpu, scan::forward_workspace_len(BATCH, seqlen, D, D_STATE)),
            scan_workspace: poisoned(gpu, 1),
            conv_workspace: poisoned(gpu, 1),
        };
        let conv_len = conv::backward_workspace_len(&conv_inputs(gpu, &new.plan, &new.x, &new.taps)).unwrap();
        let inputs = scan_inputs(gpu, &new.plan, [&new.u, &new.dt, &new.bc], &new.a);
        let scan_len = scan::backward_workspace_len(&inputs).unwrap();
        drop(inputs);
        (new.conv_workspace, new.scan_workspace) = (poisoned(gpu, conv_len), poisoned(gpu, scan_len));
        new
    }

    /// Other inputs at the same addresses, and poison in every output.
    fn fill(&mut self, gpu: &Gpu, seed: u64) {
        let mut random = Random(seed);
        let ids: Vec<u8> = (0..self.n).map(|_| random.below(3) as u8).collect();
        let stream = gpu.stream();
        stream.memcpy_htod(&ids, &mut self.ids).unwrap();
        for to in [&mut self.x, &mut self.dt, &mut self.bc, &mut self.grad_out] {
            let values: Vec<bf16> = random.normals(to.len(), 1.0).into_iter().map(bf16::round).collect();
            stream.memcpy_htod(&values, to).unwrap();
        }
        let outputs = [&mut self.u, &mut self.out, &mut self.grad_u, &mut self.grad_dt, &mut self.grad_x];
        for to in outputs.into_iter().chain([&mut self.grad_bc]) {
            stream.memcpy_htod(&vec![bf16::NAN; to.len()], to).unwrap();
        }
        for to in [&mut self.saved, &mut self.grad_a, &mut self.grad_taps] {
            stream.memcpy_htod(&vec![f32::NAN; to.len()], to).unwrap();
        }
    }

    fn run(&mut self, gpu: &Gpu) {
        self.plan.sort_again(gpu, &gpu.read(&self.ids)).unwrap();
        let conv_inputs = conv_inputs(gpu, &self.plan, &self.x, &self.taps);
        conv::forward(gpu, &conv_inputs, gpu.rows_mut(&mut self.u, D).unwrap(), None).unwrap();
        let scan_inputs = scan_inputs(gpu, &self.plan, [&self.u, &self.dt, &self.bc], &self.a);
        let outputs = scan::ScanOutputs::new(gpu.rows_mut(&mut self.out, D).unwrap())
            .with_saved_states(gpu.write(&mut self.saved));
        let workspace = &mut self.scan_forward_workspace;
        let len = scan::forward_workspace_len(BATCH, self.n / BATCH, D, D_STATE);
        let workspace = gpu.write(workspace).first("workspace", len).unwrap();
        scan::forward(gpu, &scan_inputs, outputs, workspace).unwrap();
        let grad_bc = gpu.rows_mut(&mut self.grad_bc, 2 * D_STATE).unwrap();
        let (grad_b, grad_c) = grad_bc.split_columns(D_STATE).unwrap();
        let grads = scan::ScanGrads::new(
            gpu.rows_mut(&mut self.grad_u, D).unwrap(),
            gpu.rows_mut(&mut self.grad_dt, D).unwrap(),
            gpu.write(&mut self.grad_a),
            grad_b,
            grad_c,
        );
        let grad_out = gpu.rows(&self.grad_out, D).unwrap();
        let output_grads = scan::ScanOutputGrads::new(grad_out);
        let (saved, workspace) = (gpu.read(&self.saved), gpu.write(&mut self.scan_workspace));
        scan::backward(gpu, &scan_inputs, saved, &output_grads, grads, workspace).unwrap();
        let grads = conv::ConvGrads::new(gpu.rows_mut(&mut self.grad_x, D).unwrap(), gpu.write(&mut self.grad_taps));
        let (grad_u, workspace) = (gpu.rows(&self.grad_u, D).unwrap(), gpu.write(&mut self.conv_workspace));
        conv::backward(gpu, &conv_inputs, grad_u, None, grads, workspace).unwrap();
    }

    /// Every output.
    fn outputs(&self, gpu: &Gpu) -> Vec<Vec<f64>> {
        let wide = [&self.u, &self.out, &self.grad_u, &self.grad_dt, &self.grad_bc, &self.grad_x];
        let mut outputs: Vec<_> = wide.into_iter().map(|x| download(gpu, x)).collect();
        outputs.extend([&self.grad_a, &self.grad_taps].map(|x| download(gpu, x)));
        outputs
    }
}

fn conv_inputs<'a>(
    gpu: &'a Gpu,
    plan: &'a DevicePlan,
    x: &'a CudaSlice<bf16>,
    taps: &'a CudaSlice<f32>,
) -> conv::ConvInputs<'a, bf16> {
    conv::ConvInputs::new(plan.layout(gpu), gpu.rows(x, D).unwrap(), gpu.read(taps))
}

fn scan_inputs<'a>(
    gpu: &'a Gpu,
    plan: &'a DevicePlan,
    [u, dt, bc]: [&'a CudaSlice<bf16>; 3],
    a: &'a CudaSlice<f32>,
) -> scan::ScanInputs<'a, bf16> {
    let bc = gpu.rows(bc, 2 * D_STATE).unwrap();
    scan::ScanInputs::new(
        plan.layout(gpu),
        gpu.rows(u, D).unwrap(),
        gpu.rows(dt, D).unwrap(),
        gpu.read(a),
        bc.clone().columns(0, D_STATE).unwrap(),
        bc.columns(D_STATE, D_STATE).unwrap(),
    )
}

#[test]
fn a_replay_gives_the_bits_of_the_launches() {
    let Some(device) = gpu("a_replay_gives_the_bits_of_the_launches") else { return };
    // The default stream is refused by the driver.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    assert!(device.stream().begin_capture(mode).is_err());
    let gpu = on_a_stream_of_its_own(&device);
    drop(device);
    // Nothing has run before the capture: `preload` is all that it needs.
    for operation in ["modality_plan", "causal_conv1d", "selective_scan"] {
        gpu.preload(Module::of(operation)).unwrap();
    }
    // A sequence at once, and in chunks of time.
    for seqlen in [200, 600] {
        replay(&gpu, seqlen);
    }
}

fn replay(gpu: &Gpu, seqlen: usize) {
    let mut memory = Memory::new(gpu, seqlen);
    let graph = captured(gpu, || {
        memory.run(gpu);
        Ok(())
    });
    for seed in [2, 3] {
        memory.fill(gpu, seed);
        graph.launch().unwrap();
        let replayed = memory.outputs(gpu);
        memory.fill(gpu, seed);
        memory.run(gpu);
        let launched = memory.outputs(gpu);
        assert!(launched.iter().flatten().all(|x| x.is_finite()), "an element was not written");
        assert!(replayed == launched, "{seqlen} steps, seed {seed}: the replay differs");
    }
}
