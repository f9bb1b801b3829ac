//! Every operation alone: its output and all gradients.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use mom_core::ops::{self, GroupedLinear, SelectiveScan};
use mom_core::{Init, MixerConfig, MixtureOfMamba, Plan, Result, Untied, to_positions, to_rows};
use mom_kernels::selective_scan::DeltaActivation;

use crate::{compare, gpu, host, plan, values};

/// Relative to the norm of what is compared. bf16 rounds by 1.7e-3 of it what goes in, comes out, and comes back; inputs are
/// rounded for both sides.
const F32: f64 = 1e-4;
const BF16: f64 = 1e-2;

/// An input by name: its shape, whether it has the activations' type, and its values.
struct Input {
    name: &'static str,
    shape: Vec<usize>,
    is_wide: bool,
    values: Vec<f32>,
}

impl Input {
    /// Of the activations' type.
    fn activation(name: &'static str, shape: &[usize], seed: u64) -> Self {
        Self { name, shape: shape.to_vec(), is_wide: false, values: values(shape.iter().product(), seed) }
    }

    /// f32 whatever the activations are.
    fn small(name: &'static str, shape: &[usize], seed: u64) -> Self {
        Self { is_wide: true, ..Self::activation(name, shape, seed) }
    }

    fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        self.values.iter_mut().for_each(|value| *value = f(*value));
        self
    }

    /// As a variable; on the CPU f32 of the values that `dtype` has.
    fn on(&self, device: &Device, dtype: DType) -> Var {
        let dtype = if self.is_wide { DType::F32 } else { dtype };
        let tensor = Tensor::from_slice(&self.values, self.shape.as_slice(), &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(dtype).unwrap();
        let tensor = if device.is_cpu() { tensor.to_dtype(DType::F32) } else { tensor.to_device(device) };
        Var::from_tensor(&tensor.unwrap()).unwrap()
    }
}

/// Compares output and gradients of `operation` over these inputs on a GPU with those on the CPU.
fn check(device: &Device, what: &str, inputs: &[Input], operation: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for (dtype, limit) in [(DType::F32, F32), (DType::BF16, BF16)] {
        println!("{what}, {dtype:?}");
        let run = |device: &Device| {
            let vars: Vec<Var> = inputs.iter().map(|input| input.on(device, dtype)).collect();
            let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let out = operation(&tensors).unwrap();
            let scale = Tensor::from_vec(values(out.elem_count(), 99), out.shape(), device).unwrap();
            let loss = (out.to_dtype(DType::F32).unwrap() * scale).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            let mut all = BTreeMap::from([("output".to_owned(), host(&out))]);
            for (input, var) in inputs.iter().zip(&vars) {
                let grad = grads.get(var).unwrap();
                assert_eq!(grad.dims(), var.dims(), "{what}: {}", input.name);
                all.insert(format!("gradient of {}", input.name), host(grad));
            }
            all
        };
        compare(&run(device), &run(&Device::Cpu), limit);
    }
}

#[test]
fn rms_norm_agrees_with_the_cpu() {
    let Some(device) = gpu("rms_norm_agrees_with_the_cpu") else { return };
    for (n_rows, width) in [(192, 64), (7, 10), (1, 1)] {
        let inputs = [Input::activation("x", &[n_rows, width], 1), Input::small("weight", &[width], 2)];
        check(&device, "rms_norm", &inputs, |t| ops::rms_norm(&t[0], &t[1], 1e-5));
    }
}

#[test]
fn sums_silu_and_ranges_of_rows_agree_with_the_cpu() {
    let Some(device) = gpu("sums_silu_and_ranges_of_rows_agree_with_the_cpu") else { return };
    for width in [8, 10] {
        let a = || Input::activation("a", &[37, width], 1);
        let b = || Input::activation("b", &[37, width], 2);
        check(&device, "add", &[a(), b()], |t| ops::add(&t[0], &t[1]));
        check(&device, "add of one", &[a()], |t| ops::add(&t[0], &t[0]));
        check(&device, "scaled", &[a()], |t| ops::scaled(&t[0], -1.5));
        check(&device, "silu", &[a()], |t| ops::silu(&t[0]));
        check(&device, "narrow_rows", &[a()], |t| ops::narrow_rows(&t[0], 3..36));
        check(&device, "stack_rows", &[a(), b()], |t| ops::stack_rows(&[&t[0], &t[1], &t[0]]));
    }
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let x = Tensor::from_vec(values(1001, 3), 1001, &Device::Cpu).unwrap();
        let there = mom_core::convert(&x.to_device(&device).unwrap(), dtype).unwrap();
        assert_eq!(host(&there), host(&x.to_dtype(dtype).unwrap()), "{dtype:?}");
        let back = mom_core::convert(&there, DType::F32).unwrap();
        assert_eq!(host(&back), host(&there));
        let (sum, want) = (mom_core::accumulate(&there, &there).unwrap(), (&back + &back).unwrap());
        assert_eq!((sum.dtype(), host(&sum)), (DType::F32, host(&want)), "{dtype:?}");
    }
}

#[test]
fn rows_and_positions_agree_with_the_cpu() {
    let Some(device) = gpu("rows_and_positions_agree_with_the_cpu") else { return };
    let plan = plan();
    let x = [Input::activation("x", &[plan.batch(), plan.seqlen(), 10], 1)];
    check(&device, "to_rows", &x, |t| to_rows(&t[0], &plan));
    let x = [Input::activation("x", &[plan.n_rows(), 10], 1)];
    check(&device, "to_positions", &x, |t| to_positions(&t[0], &plan));
}

#[test]
fn grouped_linear_agrees_with_the_cpu() {
    let Some(device) = gpu("grouped_linear_agrees_with_the_cpu") else { return };
    let plan = plan();
    let (n_in, n_out) = (32, 48);
    for (n_weights, has_biases) in [(3, true), (3, false), (1, true), (1, false)] {
        let mut inputs = vec![Input::activation("x", &[plan.n_rows(), n_in], 1)];
        let names = [["weight 0", "weight 1", "weight 2"], ["bias 0", "bias 1", "bias 2"]];
        for at in 0..n_weights {
            inputs.push(Input::activation(names[0][at], &[n_out, n_in], 10 + at as u64));
        }
        for at in 0..if has_biases { n_weights } else { 0 } {
            inputs.push(Input::small(names[1][at], &[n_out], 20 + at as u64));
        }
        check(&device, "grouped_linear", &inputs, |t| {
            let (weights, biases) = t[1..].split_at(n_weights);
            ops::grouped_linear(&t[0], &GroupedLinear::new(n_in, n_out, weights.to_vec(), biases.to_vec())?, &plan)
        });
    }
}

#[test]
fn causal_conv1d_agrees_with_the_cpu() {
    let Some(device) = gpu("causal_conv1d_agrees_with_the_cpu") else { return };
    let plan = plan();
    for (d_inner, d_conv, has_bias) in [(64, 4, true), (64, 4, false), (10, 3, true), (32, 2, true), (8, 1, false)] {
        let mut inputs = vec![
            Input::activation("x", &[plan.n_rows(), d_inner], 1),
            Input::small("weight", &[d_inner, 1, d_conv], 2),
        ];
        inputs.extend(has_bias.then(|| Input::small("bias", &[d_inner], 3)));
        check(&device, "causal_conv1d", &inputs, |t| ops::causal_conv1d(&t[0], &t[1], t.get(2), &plan));
    }
}

/// A scan by its sizes, and what it has beside u, dt, a, b and c.
struct Scan {
    plan: Plan,
    d_inner: usize,
    d_state: usize,
    n_biases: usize,
    d_skip: bool,
    z: bool,
    activation: DeltaActivation,
}

impl Scan {
    fn full(d_inner: usize, d_state: usize) -> Self {
        let activation = DeltaActivation::Softplus;
        Self { plan: plan(), d_inner, d_state, n_biases: 3, d_skip: true, z: true, activation }
    }

    fn check(&self, device: &Device) {
        let (n_rows, d_inner, d_state) = (self.plan.n_rows(), self.d_inner, self.d_state);
        let dt = Input::activation("dt", &[n_rows, d_inner], 2);
        // Without softplus dt is the step size itself.
        let dt = match self.activation {
            DeltaActivation::Softplus => dt,
            DeltaActivation::Identity => dt.map(|dt| 0.3 + 0.2 * dt),
        };
        let mut inputs = vec![
            Input::activation("u", &[n_rows, d_inner], 1),
            dt,
            Input::small("a", &[d_inner, d_state], 3).map(|a| -1.0 - 0.9 * a),
            Input::activation("b", &[n_rows, d_state], 4),
            Input::activation("c", &[n_rows, d_state], 5),
        ];
        inputs.extend((self.n_biases > 0).then(|| Input::small("dt_bias", &[self.n_biases, d_inner], 6)));
        inputs.extend(self.d_skip.then(|| Input::small("d_skip", &[d_inner], 7)));
        inputs.extend(self.z.then(|| Input::activation("z", &[n_rows, d_inner], 8)));
        check(device, "selective_scan", &inputs, |t| {
            let mut rest = t[5..].iter().cloned();
            let scan = SelectiveScan {
                u: t[0].clone(),
                dt: t[1].clone(),
                a: t[2].clone(),
                b: t[3].clone(),
                c: t[4].clone(),
                dt_bias: if self.n_biases > 0 { rest.next() } else { None },
                d_skip: if self.d_skip { rest.next() } else { None },
                z: if self.z { rest.next() } else { None },
                delta_activation: self.activation,
            };
            ops::selective_scan(scan, &self.plan)
        });
    }
}

#[test]
fn selective_scan_agrees_with_the_cpu() {
    let Some(device) = gpu("selective_scan_agrees_with_the_cpu") else { return };
    for (d_inner, d_state) in [(64, 16), (10, 5), (16, 32), (8, 1)] {
        Scan::full(d_inner, d_state).check(&device);
    }
    Scan { n_biases: 1, ..Scan::full(64, 16) }.check(&device);
    Scan { n_biases: 0, ..Scan::full(64, 16) }.check(&device);
    Scan { z: false, ..Scan::full(64, 16) }.check(&device);
    Scan { d_skip: false, ..Scan::full(64, 16) }.check(&device);
    let plain = Scan { n_biases: 0, d_skip: false, z: false, ..Scan::full(24, 16) };
    Scan { activation: DeltaActivation::Identity, ..plain }.check(&device);
    // Long enough to be cut into chunks of time.
    let ids: Vec<u8> = (0..2100).map(|p| ((p / 9) % 3) as u8).collect();
    let long = Plan::new(1, 2100, 3, &ids, None).unwrap();
    Scan { plan: long, ..Scan::full(32, 16) }.check(&device);
}

#[test]
fn a_scan_and_a_conv_off_the_tape_give_the_same() {
    let Some(device) = gpu("a_scan_and_a_conv_off_the_tape_give_the_same") else { return };
    let plan = plan();
    let rows = |width, seed| Input::activation("rows", &[plan.n_rows(), width], seed).on(&device, DType::BF16);
    let small = |shape: &[usize], seed| Input::small("small", shape, seed).on(&device, DType::F32);
    let scan = |tensor: fn(&Var) -> Tensor| SelectiveScan {
        u: tensor(&rows(32, 1)),
        dt: tensor(&rows(32, 2)),
        dt_bias: None,
        a: tensor(&small(&[32, 16], 3)).abs().unwrap().neg().unwrap(),
        b: tensor(&rows(16, 4)),
        c: tensor(&rows(16, 5)),
        d_skip: None,
        z: None,
        delta_activation: DeltaActivation::Softplus,
    };
    let tracked = ops::selective_scan(scan(|var| var.as_tensor().clone()), &plan).unwrap();
    let plain = ops::selective_scan(scan(Var::as_detached_tensor), &plan).unwrap();
    assert!(tracked.track_op() && !plain.track_op());
    assert_eq!(host(&tracked), host(&plain));
    let (x, weight) = (rows(32, 1), small(&[32, 1, 4], 2));
    let tracked = ops::causal_conv1d(&x, &weight, None, &plan).unwrap();
    let plain = ops::causal_conv1d(&x.as_detached_tensor(), &weight.as_detached_tensor(), None, &plan).unwrap();
    assert!(tracked.track_op() && !plain.track_op());
    assert_eq!(host(&tracked), host(&plain));
}

#[test]
fn a_mixer_by_operations_agrees_with_one_node_and_with_the_cpu() {
    let Some(device) = gpu("a_mixer_by_operations_agrees_with_one_node_and_with_the_cpu") else { return };
    let plan = plan();
    for (untied, bias) in [(Untied::ALL, false), (Untied::NONE, false), ("in+dt".parse().unwrap(), true)] {
        let run = |device: &Device, dtype: DType, by_operations: bool| {
            let map = VarMap::new();
            let vb = VarBuilder::from_varmap(&map, dtype, device);
            let config = MixerConfig { n_modalities: 3, untied, bias, ..MixerConfig::new(32) };
            let mixer = MixtureOfMamba::new(&config, &Init::seeded(4), vb).unwrap();
            let x = Tensor::from_vec(values(plan.n_rows() * 32, 1), (plan.n_rows(), 32), device).unwrap();
            let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
            let out = if by_operations { mixer.forward_by_operations(&x, &plan) } else { mixer.forward(&x, &plan) };
            let out = out.unwrap();
            let scale = Tensor::from_vec(values(out.elem_count(), 2), out.shape(), device).unwrap();
            let grads = (out.to_dtype(DType::F32).unwrap() * scale).unwrap().sum_all().unwrap().backward().unwrap();
            let mut all = BTreeMap::from([("output".to_owned(), host(&out))]);
            for (name, var) in map.data().lock().unwrap().iter().chain([(&"x".to_owned(), &x)]) {
                all.insert(name.clone(), host(grads.get(var).unwrap()));
            }
            all
        };
        let want = run(&Device::Cpu, DType::F32, false);
        let one_node = run(&device, DType::F32, false);
        let by_operations = run(&device, DType::F32, true);
        compare(&by_operations, &one_node, 1e-4);
        compare(&by_operations, &want, 1e-4);
        // bf16: weights and activations are rounded by 1.7e-3 of their norm, half a dozen times in a row.
        compare(&run(&device, DType::BF16, true), &want, 3e-2);
    }
}

#[test]
fn a_batch_without_rows_works_on_a_gpu() {
    let Some(device) = gpu("a_batch_without_rows_works_on_a_gpu") else { return };
    for (batch, seqlen) in [(0, 5), (2, 0)] {
        let plan = Plan::new(batch, seqlen, 3, &[], None).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let map = VarMap::new();
            let vb = VarBuilder::from_varmap(&map, dtype, &device);
            let config = MixerConfig { n_modalities: 3, untied: Untied::ALL, ..MixerConfig::new(32) };
            let mixer = MixtureOfMamba::new(&config, &Init::seeded(4), vb).unwrap();
            let like = Tensor::zeros((1, 32), dtype, &device).unwrap();
            let rows = |width: usize| like.narrow(0, 0, 0).unwrap().narrow(1, 0, width).unwrap();
            let small = |shape: &[usize]| Tensor::ones(shape, DType::F32, &device).unwrap();
            let is_empty = |out: Result<Tensor>, width: usize| {
                let out = out.unwrap();
                assert_eq!((out.dims(), out.dtype()), ([0, width].as_slice(), dtype));
            };
            is_empty(mixer.forward(&rows(32), &plan), 32);
            is_empty(ops::rms_norm(&rows(32), &small(&[32]), 1e-5), 32);
            is_empty(ops::causal_conv1d(&rows(32), &small(&[32, 1, 4]), None, &plan), 32);
            let linear = GroupedLinear::new(32, 8, vec![Tensor::zeros((8, 32), dtype, &device).unwrap()], vec![]);
            is_empty(ops::grouped_linear(&rows(32), &linear.unwrap(), &plan), 8);
            let scan = SelectiveScan {
                u: rows(32),
                dt: rows(32),
                dt_bias: None,
                a: small(&[32, 16]),
                b: rows(16),
                c: rows(16),
                d_skip: None,
                z: None,
                delta_activation: DeltaActivation::Softplus,
            };
            is_empty(ops::selective_scan(scan, &plan), 32);
            let positions = to_positions(&rows(32), &plan).unwrap();
            assert_eq!(positions.dims(), [batch, seqlen, 32]);
            is_empty(to_rows(&positions, &plan), 32);
        }
    }
}
