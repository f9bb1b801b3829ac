//! A whole Mixture-of-Mamba mixer, and the block around it on candle's tape, against their own products alone.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use criterion::{Criterion, criterion_group, criterion_main};
use mom_benches::mixer::Mixer;
use mom_benches::shape::{BATCH, D_INNER, D_MODEL, DT_RANK, N_MODALITIES, N_ROWS, SEQLEN, X_DBL};
use mom_benches::{best_secs, report, spans, values};
use mom_core::{Block, BlockConfig, Init, MixerConfig, Plan, Untied};
use mom_kernels::grouped_gemm::{GroupedGrads, GroupedWeights, Into, backward_input, backward_weights, forward};
use mom_kernels::{ModalityOffsets, Rows, RowsMut, mixer};

/// The three products of one projection, and what they read and write.
struct Products<'a> {
    weights: GroupedWeights<'a, f32>,
    x: Vec<f32>,
    grad_y: Vec<f32>,
    y: Vec<f32>,
    grad_x: Vec<f32>,
    grads: Vec<Vec<f32>>,
}

impl<'a> Products<'a> {
    fn new(weights: GroupedWeights<'a, f32>) -> Self {
        let (n_in, n_out) = (weights.in_features(), weights.out_features());
        Self {
            weights: weights.without_biases(),
            x: values(1, N_ROWS * n_in, 0.0, 1.0),
            grad_y: values(2, N_ROWS * n_out, 0.0, 1.0),
            y: vec![0.0; N_ROWS * n_out],
            grad_x: vec![0.0; N_ROWS * n_in],
            grads: vec![vec![0.0; n_in * n_out]; N_MODALITIES],
        }
    }

    fn run(&mut self, offsets: &ModalityOffsets) {
        let (n_in, n_out) = (self.weights.in_features(), self.weights.out_features());
        let x = Rows::new("x", &self.x, n_in).unwrap();
        let grad_y = Rows::new("grad_y", &self.grad_y, n_out).unwrap();
        forward(offsets, x, &self.weights, RowsMut::new("y", black_box(&mut self.y), n_out).unwrap()).unwrap();
        let grad_x = RowsMut::new("grad_x", black_box(&mut self.grad_x), n_in).unwrap();
        backward_input(offsets, grad_y, &self.weights, grad_x, Into::Overwrite).unwrap();
        let grad_weights = black_box(&mut self.grads).iter_mut().map(Vec::as_mut_slice).collect();
        let grads = GroupedGrads::new(grad_weights);
        backward_weights(offsets, x, grad_y, &self.weights, grads).unwrap();
    }
}

/// The residual block as a user has it: norm, mixer and residual as candle modules, gradients of everything.
fn block() -> (Block, Var) {
    let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    let mixer = MixerConfig { n_modalities: N_MODALITIES, untied: Untied::ALL, ..MixerConfig::new(D_MODEL) };
    let block = Block::new(&BlockConfig::new(mixer), &Init::seeded(1), vb).unwrap();
    let x = Tensor::from_vec(values(1, N_ROWS * D_MODEL, 0.0, 1.7), (N_ROWS, D_MODEL), &Device::Cpu).unwrap();
    (block, Var::from_tensor(&x).unwrap())
}

fn bench(c: &mut Criterion) {
    let mixer = Mixer::new(spans(BATCH, SEQLEN, N_MODALITIES).unwrap());
    let (weights, plan) = (mixer.weights().unwrap(), &mixer.plan);
    let offsets = plan.modality_offsets();
    let grad_out = values(7, N_ROWS * D_MODEL, 0.0, 1.0);
    let x = mixer.x().unwrap();
    let mut run_forward = || {
        black_box(mixer::forward_saving(plan, x, &weights).unwrap());
    };
    let mut run_both = || {
        let (_, saved) = mixer::forward_saving(plan, x, &weights).unwrap();
        let grad_out = Rows::new("grad_out", &grad_out, D_MODEL).unwrap();
        black_box(mixer::backward(plan, x, &weights, &saved, grad_out).unwrap());
    };
    let mut products: Vec<_> = [&weights.in_proj, &weights.x_proj, &weights.dt_proj, &weights.out_proj]
        .map(|w| Products::new(w.clone()))
        .into();
    let mut run_products = || products.iter_mut().for_each(|products| products.run(offsets));
    let multiply_adds = 3 * N_ROWS * (D_MODEL * 2 * D_INNER + D_INNER * X_DBL + DT_RANK * D_INNER + D_INNER * D_MODEL);

    let (block, input) = block();
    let block_plan = Plan::from(plan.clone());
    let mut run_block = || {
        let y = block.forward(&input, &block_plan).unwrap();
        black_box(y.sum_all().unwrap().backward().unwrap());
    };

    let [secs, forward_secs, block_secs, products_secs] =
        best_secs(Duration::from_secs(2), [&mut run_both, &mut run_forward, &mut run_block, &mut run_products]);
    println!("forward alone: {:.3} ms", forward_secs * 1e3);
    println!("products alone: {:.1} GFLOP/s", 2.0 * multiply_adds as f64 / products_secs / 1e9);
    report("mixer forward + backward", secs, "its products", products_secs, 3.0);
    report("block forward + backward", block_secs, "its products", products_secs, 3.0);
    c.bench_function("mixer/block", |b| b.iter(&mut run_block));
    c.bench_function("mixer/forward", |b| b.iter(&mut run_forward));
    c.bench_function("mixer/forward_backward", |b| b.iter(&mut run_both));
    c.bench_function("mixer/products", |b| b.iter(&mut run_products));
}

criterion_group!(benches, bench);
criterion_main!(benches);
