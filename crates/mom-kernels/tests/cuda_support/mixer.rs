//! A block on the GPU with all its arrays, and the same on the CPU in f64.
#![allow(dead_code, clippy::unwrap_used)] // each test binary uses a part of it

use std::sync::Arc;

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::{GroupedGrads, GroupedWeights};
use mom_kernels::cuda::mixer::{self as device, Block, BlockGrads, MixerBackward, MixerGrads, MixerSaved};
use mom_kernels::cuda::mixer::{MixerWeights, Saves};
use mom_kernels::cuda::{DevicePlan, Gpu};
use mom_kernels::mixer::Context;
use mom_kernels::{Rows, RowsMut, rms_norm};

use crate::common::mixer::{MixerCase, Sizes, Split};
use crate::common::{Fields, Noise, cast};
use crate::cuda_support::*;

pub const EPS: f64 = 1e-5;
pub const ALL: Split = [true; 4];
pub const ALIGNED: Sizes = Sizes { d_model: 64, d_inner: 128, d_state: 16, d_conv: 4, dt_rank: 8 };
pub const ODD: Sizes = Sizes { d_model: 9, d_inner: 37, d_state: 5, d_conv: 3, dt_rank: 3 };

/// Inputs of a block besides the mixer's fields.
pub struct Around {
    pub norm: Vec<f64>,
    pub grad_out: Vec<f64>,
}

/// `out` and the gradients of everything, by field; the norm's weight is `norm`.
pub type Results = Fields<f64>;

pub fn on_host(case: &MixerCase<f64>, around: &Around) -> Results {
    let d_model = case.sizes.d_model;
    let x = &case.fields["x"];
    let mut normed = vec![0.0; x.len()];
    let rows = Rows::new("x", x, d_model).unwrap();
    rms_norm::forward(rows, &around.norm, EPS, RowsMut::new("y", &mut normed, d_model).unwrap()).unwrap();
    let mut inner = case.clone();
    inner.fields.insert("x", normed);
    let out = inner.forward(None).iter().zip(x).map(|(mixed, x)| mixed + x).collect();
    let mut results = inner.backward(&around.grad_out);
    let (mut grad_x, mut grad_norm) = (vec![0.0; x.len()], vec![0.0; d_model]);
    let grad_normed = Rows::new("grad", &results["x"], d_model).unwrap();
    let grad_rows = RowsMut::new("grad_x", &mut grad_x, d_model).unwrap();
    rms_norm::backward(rows, &around.norm, EPS, grad_normed, grad_rows, &mut grad_norm).unwrap();
    grad_x.iter_mut().zip(&around.grad_out).for_each(|(grad, past)| *grad += past);
    results.extend([("x", grad_x), ("norm", grad_norm), ("out", out)]);
    results
}

/// A projection's weights or gradients on the device.
pub struct Projection<T> {
    pub sizes: [usize; 2],
    pub weights: Vec<CudaSlice<T>>,
    pub biases: Option<CudaSlice<f32>>,
}

impl<T: TestElement> Projection<T> {
    pub fn new(gpu: &Gpu, case: &MixerCase<f64>, [weight, bias]: [&'static str; 2], sizes: [usize; 2]) -> Self {
        let weights = case.fields[weight].chunks_exact(sizes[0] * sizes[1]).map(|w| upload(gpu, w)).collect();
        let biases = case.fields.get(bias).map(|biases| upload(gpu, biases));
        Self { sizes, weights, biases }
    }

    pub fn poisoned(&self, gpu: &Gpu) -> Self {
        let weights = self.weights.iter().map(|w| poisoned(gpu, w.len())).collect();
        Self { sizes: self.sizes, weights, biases: self.biases.as_ref().map(|b| poisoned(gpu, b.len())) }
    }

    pub fn read<'a>(&'a self, gpu: &'a Gpu) -> GroupedWeights<'a, T> {
        let weights = self.weights.iter().map(|w| gpu.read(w)).collect();
        let [n_in, n_out] = self.sizes;
        GroupedWeights::new(n_in, n_out, weights, self.biases.as_ref().map(|b| gpu.read(b))).unwrap()
    }

    pub fn write<'a>(&'a mut self, gpu: &'a Gpu) -> GroupedGrads<'a, T> {
        GroupedGrads::new(self.weights.iter_mut().map(|w| gpu.write(w)).collect())
            .with_grad_biases(self.biases.as_mut().map(|b| gpu.write(b)))
    }

    pub fn insert(&self, gpu: &Gpu, [weight, bias]: [&'static str; 2], results: &mut Results) {
        results.insert(weight, self.weights.iter().flat_map(|w| download(gpu, w)).collect());
        if let Some(biases) = &self.biases {
            results.insert(bias, download(gpu, biases));
        }
    }
}

pub const NAMES: [[&str; 2]; 4] = [
    ["in_proj.weight", "in_proj.bias"],
    ["x_proj.weight", ""],
    ["dt_proj.weight", "dt_proj.bias"],
    ["out_proj.weight", "out_proj.bias"],
];

pub fn on_device<T: TestElement>(gpu: &Gpu, case: &MixerCase<f64>, around: &Around) -> Results {
    in_context::<T>(gpu, case, around, None)
}

/// The same over a chunk of each sequence, where there is a context.
pub fn in_context<T: TestElement>(
    gpu: &Gpu,
    case: &MixerCase<f64>,
    around: &Around,
    context: Option<Arc<dyn Context>>,
) -> Results {
    let Sizes { d_model, d_inner, d_state, dt_rank, .. } = case.sizes;
    let plan = DevicePlan::upload(gpu, &case.plan).unwrap().with_context(context);
    let features = [[d_model, 2 * d_inner], [d_inner, dt_rank + 2 * d_state], [dt_rank, d_inner], [d_inner, d_model]];
    let projections = [0, 1, 2, 3].map(|at| Projection::<T>::new(gpu, case, NAMES[at], features[at]));
    let small = |name: &str| upload::<f32>(gpu, &case.fields[name]);
    let (conv_weight, a_log, d_skip) = (small("conv.weight"), small("A_log"), small("D"));
    let conv_bias = case.fields.contains_key("conv.bias").then(|| small("conv.bias"));
    let norm = upload::<f32>(gpu, &around.norm);
    let [x, grad_out] = [&case.fields["x"], &around.grad_out].map(|x| upload::<T>(gpu, x));
    let [in_proj, x_proj, dt_proj, out_proj] = projections.each_ref().map(|p| p.read(gpu));
    let block = Block::new(
        gpu.read(&norm),
        EPS as f32,
        MixerWeights::new(
            in_proj,
            gpu.read(&conv_weight),
            x_proj,
            dt_proj,
            gpu.read(&a_log),
            gpu.read(&d_skip),
            out_proj,
        )
        .with_conv_bias(conv_bias.as_ref().map(|bias| gpu.read(bias))),
    );
    let sizes = block.mixer.sizes(&plan).unwrap();
    let bytes = |len: usize| gpu.upload(&vec![0xffu8; len]).unwrap();
    let x_rows = gpu.rows(&x, d_model).unwrap();

    let mut plain = poisoned::<T>(gpu, x.len());
    let mut workspace = bytes(device::block_forward_workspace_bytes(&plan, &block, Saves::Nothing).unwrap());
    let out_rows = gpu.rows_mut(&mut plain, d_model).unwrap();
    device::block_forward(gpu, &plan, &x_rows, &block, out_rows, None, gpu.write(&mut workspace)).unwrap();

    let mut out = poisoned::<T>(gpu, x.len());
    let (mut xz, mut x_dbl) = (poisoned::<T>(gpu, sizes.xz_len()), poisoned::<T>(gpu, sizes.x_dbl_len()));
    let mut states = poisoned::<f32>(gpu, sizes.states_len);
    let mut window = (sizes.window_len > 0).then(|| poisoned::<f32>(gpu, sizes.window_len));
    let mut workspace = bytes(device::block_forward_workspace_bytes(&plan, &block, Saves::ForBackward).unwrap());
    let saved = MixerSaved::new(gpu.write(&mut xz), gpu.write(&mut x_dbl), gpu.write(&mut states))
        .with_window(window.as_mut().map(|window| gpu.write(window)));
    let out_rows = gpu.rows_mut(&mut out, d_model).unwrap();
    device::block_forward(gpu, &plan, &x_rows, &block, out_rows, Some(saved), gpu.write(&mut workspace)).unwrap();
    assert_eq!(gpu.download(&plain).unwrap(), gpu.download(&out).unwrap(), "saving changes nothing");

    let mut grads = projections.each_ref().map(|p| p.poisoned(gpu));
    let [mut grad_conv, mut grad_a_log, mut grad_d] =
        [&conv_weight, &a_log, &d_skip].map(|w| poisoned::<f32>(gpu, w.len()));
    let mut grad_conv_bias = conv_bias.as_ref().map(|bias| poisoned::<f32>(gpu, bias.len()));
    let (mut grad_norm, mut grad_x) = (poisoned::<f32>(gpu, d_model), poisoned::<T>(gpu, x.len()));
    let mut workspace = bytes(device::block_backward_workspace_bytes(gpu, &plan, &block).unwrap());
    let pass = MixerBackward::new(
        x_rows,
        MixerSaved::new(gpu.write(&mut xz), gpu.write(&mut x_dbl), gpu.write(&mut states))
            .with_window(window.as_mut().map(|window| gpu.write(window))),
        gpu.rows(&grad_out, d_model).unwrap(),
    );
    let [in_proj, x_proj, dt_proj, out_proj] = grads.each_mut().map(|p| p.write(gpu));
    let block_grads = BlockGrads::new(
        gpu.write(&mut grad_norm),
        MixerGrads::new(
            gpu.rows_mut(&mut grad_x, d_model).unwrap(),
            in_proj,
            gpu.write(&mut grad_conv),
            x_proj,
            dt_proj,
            gpu.write(&mut grad_a_log),
            gpu.write(&mut grad_d),
            out_proj,
        )
        .with_conv_bias(grad_conv_bias.as_mut().map(|bias| gpu.write(bias))),
    );
    device::block_backward(gpu, &plan, &block, pass, block_grads, gpu.write(&mut workspace)).unwrap();

    let mut results = Results::from([
        ("out", download(gpu, &out)),
        ("x", download(gpu, &grad_x)),
        ("norm", download(gpu, &grad_norm)),
        ("conv.weight", download(gpu, &grad_conv)),
        ("A_log", download(gpu, &grad_a_log)),
        ("D", download(gpu, &grad_d)),
    ]);
    if let Some(bias) = &grad_conv_bias {
        results.insert("conv.bias", download(gpu, bias));
    }
    for (grads, names) in grads.iter().zip(NAMES) {
        grads.insert(gpu, names, &mut results);
    }
    results
}

/// The case with its values as the device sees them, and what stands around it.
pub fn seen_by_device<T: TestElement>(mut case: MixerCase<f64>) -> (MixerCase<f64>, Around) {
    let mut noise = Noise::new(77);
    for (name, values) in &mut case.fields {
        let wide = matches!(*name, "A_log" | "D" | "conv.weight" | "conv.bias") || name.ends_with("bias");
        *values = if wide { rounded::<f32>(values) } else { rounded::<T>(values) };
    }
    let d_model = case.sizes.d_model;
    let norm = rounded::<f32>(&cast(&noise.values(d_model, 1.0, 0.3)));
    let grad_out = rounded::<T>(&cast(&noise.values(case.tokens.n_rows() * d_model, 0.0, 1.0)));
    (case, Around { norm, grad_out })
}
