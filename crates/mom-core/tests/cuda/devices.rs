//! Devices: several of them in one call, many in a row, and threads on one.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use mom_core::autograd::Sink;
use mom_core::cuda::{OnDevice, OnGpu, StepHead, StepMemory};
use mom_core::ops::{self, GroupedLinear, SelectiveScan};
use mom_core::{Block, BlockConfig, Init, MixerConfig, Plan, Untied, cuda_device, to_rows};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::selective_scan::DeltaActivation;

use crate::{gpu, host, plan, values};

const D_MODEL: usize = 32;

fn block(parameters: &VarMap, dtype: DType, device: &Device) -> Block {
    let mixer = MixerConfig { n_modalities: 3, untied: Untied::ALL, ..MixerConfig::new(D_MODEL) };
    let vb = VarBuilder::from_varmap(parameters, dtype, device);
    Block::new(&BlockConfig::new(mixer), &Init::seeded(3), vb).unwrap()
}

#[test]
fn a_model_of_16_bits_says_so_on_a_gpu() {
    let Some(device) = gpu("a_model_of_16_bits_says_so_on_a_gpu") else { return };
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let block = block(&VarMap::new(), dtype, &device);
        assert_eq!(block.mixer().dtype(), dtype);
        assert_eq!(block.mixer().initial_state(1).unwrap().dtype(), DType::F32);
    }
}

#[test]
fn tensors_on_several_devices_are_refused() {
    let Some(device) = gpu("tensors_on_several_devices_are_refused") else { return };
    // The CPU, another candle device of the same card, another card where there is one.
    let mut others = vec![Device::Cpu, Device::new_cuda_with_stream(0).unwrap()];
    others.extend(cuda_device(1));
    let here = block(&VarMap::new(), DType::F32, &device);
    for other in others {
        let places = ["the CPU", "another candle device of cuda:0", "cuda:1"];
        let told = |result: mom_core::Result<Tensor>, what: &str| {
            let message = result.unwrap_err().to_string();
            let is_told = message.contains(what) && places.iter().any(|place| message.contains(place));
            assert!(is_told, "{what}, {other:?}: {message}");
        };
        let rows = |width: usize, device: &Device| {
            Tensor::from_vec(values(plan().n_rows() * width, 1), (plan().n_rows(), width), device).unwrap()
        };
        let small = |shape: &[usize], device: &Device| Tensor::ones(shape, DType::F32, device).unwrap();
        let x = rows(D_MODEL, &other);

        // x against weights, both ways.
        told(here.forward(&x, &plan()), "norm");
        told(here.mixer().forward(&x, &plan()), "in_proj");
        let there = block(&VarMap::new(), DType::F32, &other);
        told(there.mixer().forward(&rows(D_MODEL, &device), &plan()), "in_proj");
        // A single weight.
        let map = VarMap::new();
        block(&map, DType::F32, &device);
        let mut tensors: std::collections::HashMap<_, _> =
            map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
        // By the host: the two streams do not wait for each other.
        let moved = tensors["mixer.D"].to_device(&Device::Cpu).unwrap().to_device(&other).unwrap();
        tensors.insert("mixer.D".to_owned(), moved);
        let mixed = VarBuilder::from_backend(Box::new(AsStored(tensors)), DType::F32, device.clone());
        let config = BlockConfig::new(here.mixer().config().clone());
        let mixed = Block::new(&config, &Init::seeded(3), mixed).unwrap();
        told(mixed.mixer().forward(&rows(D_MODEL, &device), &plan()), "D is on");
        told(mixed.forward(&rows(D_MODEL, &device), &plan()), "D is on");

        // A state that was made elsewhere, and a plan that is elsewhere.
        let mut state = there.mixer().initial_state(plan().batch()).unwrap();
        let before = state.clone();
        let error = here.mixer().forward_from(&rows(D_MODEL, &device), &plan(), &mut state).unwrap_err().to_string();
        assert!(error.contains("state"), "{error}");
        assert!(state == before, "a refused call leaves the state as it was");
        if other.is_cuda() {
            let elsewhere = plan();
            elsewhere.upload(&other).unwrap();
            told(here.mixer().forward(&rows(D_MODEL, &device), &elsewhere), "plan");
            let on = OnGpu::of(&device).unwrap();
            assert!(OnDevice::<f32>::of(&on, "test", "x", &x).is_err());
            OnDevice::<f32>::of(&OnGpu::of(&other).unwrap(), "test", "x", &x).unwrap();
        }

        // Operations.
        told(ops::rms_norm(&rows(8, &device), &small(&[8], &other), 1e-5), "weight");
        told(ops::causal_conv1d(&rows(8, &device), &small(&[8, 1, 4], &other), None, &plan()), "weight");
        let bias = small(&[8], &other);
        told(ops::causal_conv1d(&rows(8, &device), &small(&[8, 1, 4], &device), Some(&bias), &plan()), "bias");
        let linear = GroupedLinear::new(8, 4, vec![small(&[4, 8], &other)], vec![]).unwrap();
        told(ops::grouped_linear(&rows(8, &device), &linear, &plan()), "weight");
        let linear = GroupedLinear::new(8, 4, vec![small(&[4, 8], &device)], vec![small(&[4], &other)]);
        assert!(linear.unwrap_err().to_string().contains("bias"));
        let scan = SelectiveScan {
            u: rows(8, &device),
            dt: rows(8, &device),
            dt_bias: None,
            a: small(&[8, 16], &other),
            b: rows(16, &device),
            c: rows(16, &device),
            d_skip: None,
            z: None,
            delta_activation: DeltaActivation::Softplus,
        };
        told(ops::selective_scan(scan, &plan()), "a is on");
    }
    // What is right goes on to be.
    here.forward(&Tensor::zeros((plan().n_rows(), D_MODEL), DType::F32, &device).unwrap(), &plan()).unwrap();
}

/// Tensors where they are.
struct AsStored(std::collections::HashMap<String, Tensor>);

impl candle_nn::var_builder::SimpleBackend for AsStored {
    fn get(
        &self,
        _: candle_core::Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.get_unchecked(name, dtype, device)
    }
    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.0.get(name).cloned().ok_or_else(|| candle_core::Error::Msg(format!("no {name}")))
    }
    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[test]
fn devices_in_a_loop_free_their_kernels_and_share_a_stream_s() {
    let Some(_) = gpu("devices_in_a_loop_free_their_kernels_and_share_a_stream_s") else { return };
    let made: Vec<_> = (0..20)
        .map(|_| {
            let device = Device::new_cuda_with_stream(0).unwrap();
            let on = OnGpu::of(&device).unwrap();
            let x = on.tensor(on.gpu.upload(&[1f32, 2.0]).unwrap(), 2);
            drop((on, device));
            // A tensor alone keeps it.
            let again = OnGpu::of(x.device()).unwrap();
            Arc::downgrade(&again.gpu)
        })
        .collect();
    // One more device sweeps what the last has left.
    let device = Device::new_cuda_with_stream(0).unwrap();
    let on = OnGpu::of(&device).unwrap();
    let alive = made.iter().filter(|gpu| gpu.strong_count() > 0).count();
    assert_eq!(alive, 0, "of 20 devices that are gone");
    assert!(Arc::ptr_eq(&on.gpu, &OnGpu::of(&device.clone()).unwrap().gpu), "clones are one device");

    // Devices that live at once on one stream have one.
    let devices: Vec<_> = (0..20).map(|_| Device::new_cuda(0).unwrap()).collect();
    let first = OnGpu::of(&devices[0]).unwrap();
    for device in &devices {
        assert!(Arc::ptr_eq(&first.gpu, &OnGpu::of(device).unwrap().gpu));
    }
    // And kernels run there, on tensors of one device.
    let x = Tensor::from_vec(values(64, 1), (4, 16), &devices[7]).unwrap();
    let weight = Tensor::ones(16, DType::F32, &devices[7]).unwrap();
    let want = ops::rms_norm(&x.to_device(&Device::Cpu).unwrap(), &weight.to_device(&Device::Cpu).unwrap(), 1e-5);
    let got = ops::rms_norm(&x, &weight, 1e-5).unwrap();
    for (got, want) in host(&got).iter().zip(host(&want.unwrap())) {
        assert!((got - want).abs() < 1e-5, "{got} for {want}");
    }
}

#[test]
fn a_device_with_a_stream_for_each_thread_stays_on_one() {
    let Some(_) = gpu("a_device_with_a_stream_for_each_thread_stays_on_one") else { return };
    let device = Device::new_cuda(0).unwrap();
    let x = Tensor::ones((4, 16), DType::F32, &device).unwrap();
    let weight = Tensor::ones(16, DType::F32, &device).unwrap();
    ops::rms_norm(&x, &weight, 1e-5).unwrap();
    let message =
        thread::scope(|scope| scope.spawn(|| ops::rms_norm(&x, &weight, 1e-5).unwrap_err().to_string()).join());
    let message = message.unwrap();
    assert!(message.contains("another thread") && message.contains("cuda_device"), "{message}");
    ops::rms_norm(&x, &weight, 1e-5).unwrap();
}

#[test]
fn memory_of_no_elements_has_none() {
    let Some(device) = gpu("memory_of_no_elements_has_none") else { return };
    let on = OnGpu::of(&device).unwrap();
    // SAFETY: there is nothing to read.
    assert_eq!(unsafe { on.uninit::<f32>(0) }.unwrap().len(), 0);
    // SAFETY: nothing reads it.
    assert_eq!(unsafe { on.uninit::<f32>(3) }.unwrap().len(), 3);
}

/// Losses and parameters of some steps of plain descent.
fn train(dtype: DType, device: &Device, seed: u64, steps: usize) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    let parameters = VarMap::new();
    let mixer = MixerConfig { n_modalities: 3, untied: Untied::ALL, ..MixerConfig::new(D_MODEL) };
    let vb = VarBuilder::from_varmap(&parameters, dtype, device);
    let blocks: Vec<Block> = (0..2)
        .map(|at| Block::new(&BlockConfig::new(mixer.clone()), &Init::seeded(seed), vb.pp(at)).unwrap())
        .collect();
    let sorted: BTreeMap<String, Var> =
        parameters.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    let sink = Sink::new(sorted.values(), device).unwrap();
    let mut losses = Vec::new();
    for step in 0..steps {
        // Of other lengths and modalities in each step and thread.
        let (batch, seqlen) = (2, 64 + 8 * ((seed as usize + step) % 5));
        let ids: Vec<u8> = (0..batch * seqlen).map(|p| ((p / (3 + seed as usize % 4)) % 3) as u8).collect();
        let plan = Plan::new(batch, seqlen, 3, &ids, None).unwrap();
        let n = batch * seqlen * D_MODEL;
        let draw = |salt| {
            let values = values(n, 1000 * seed + 10 * step as u64 + salt);
            mom_core::to_device(&values, (batch, seqlen, D_MODEL), device).unwrap()
        };
        let (x, target) = (draw(0).to_dtype(dtype).unwrap(), draw(1));
        let loss = sink.scope(|| {
            let out = Block::forward_all(&blocks, &to_rows(&x, &plan).unwrap(), &plan).unwrap();
            let off = (out.to_dtype(DType::F32).unwrap() - to_rows(&target, &plan).unwrap()).unwrap();
            off.sqr().unwrap().mean_all().unwrap()
        });
        loss.backward().unwrap();
        for var in sorted.values() {
            let gradient = sink.take(var).unwrap().to_dtype(DType::F32).unwrap();
            let next = (var.as_detached_tensor().to_dtype(DType::F32).unwrap() - (gradient * 0.05).unwrap()).unwrap();
            var.set(&next.to_dtype(var.dtype()).unwrap()).unwrap();
        }
        losses.push(loss.to_scalar::<f32>().unwrap());
    }
    (losses, sorted.into_iter().map(|(name, var)| (name, host(&var))).collect())
}

#[test]
fn threads_that_train_at_once_on_one_card_get_what_each_gets_alone() {
    let Some(device) = gpu("threads_that_train_at_once_on_one_card_get_what_each_gets_alone") else { return };
    const STEPS: usize = 30;
    for dtype in [DType::F32, DType::BF16] {
        let seeds = [1, 2, 3];
        let alone = seeds.map(|seed| train(dtype, &device, seed, STEPS));
        assert!(alone.iter().all(|(losses, _)| losses.iter().all(|loss| loss.is_finite())), "{alone:?}");
        assert!(alone[0] != alone[1], "threads do different work");
        for round in 0..3 {
            let start = Barrier::new(seeds.len());
            let at_once = thread::scope(|scope| {
                let threads = seeds.map(|seed| {
                    let (start, device) = (&start, &device);
                    scope.spawn(move || {
                        start.wait();
                        train(dtype, device, seed, STEPS)
                    })
                });
                threads.map(|thread| thread.join().unwrap())
            });
            for ((seed, at_once), alone) in seeds.iter().zip(&at_once).zip(&alone) {
                assert_eq!(at_once, alone, "{dtype:?}, seed {seed}, round {round}");
            }
        }
    }
}

#[test]
fn threads_that_go_backward_over_one_graph_on_a_gpu_get_all_gradients() {
    let Some(device) = gpu("threads_that_go_backward_over_one_graph_on_a_gpu_get_all_gradients") else { return };
    let parameters = VarMap::new();
    let block = block(&parameters, DType::BF16, &device);
    let n = plan().n_rows();
    let x = Tensor::from_vec(values(n * D_MODEL, 1), (n, D_MODEL), &device).unwrap().to_dtype(DType::BF16).unwrap();
    let x = Var::from_tensor(&x).unwrap();
    let of = |grads: candle_core::backprop::GradStore| -> BTreeMap<String, Vec<f32>> {
        let all = parameters.data().lock().unwrap();
        let of_x = ("x".to_owned(), host(grads.get(&x).unwrap()));
        all.iter().map(|(name, var)| (name.clone(), host(grads.get(var).unwrap()))).chain([of_x]).collect()
    };
    let loss = || {
        let out = block.forward(&x, &plan()).unwrap();
        out.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap()
    };
    let want = of(loss().backward().unwrap());
    for _ in 0..10 {
        let loss = loss();
        let start = Barrier::new(3);
        let passes: Vec<_> = thread::scope(|scope| {
            let pass = || {
                start.wait();
                loss.backward().unwrap()
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(pass)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for pass in passes {
            assert_eq!(of(pass), want);
        }
    }
}

#[test]
fn a_refused_step_of_several_blocks_leaves_their_states() {
    let Some(device) = gpu("a_refused_step_of_several_blocks_leaves_their_states") else { return };
    let on = OnGpu::of(&device).unwrap();
    let blocks = [block(&VarMap::new(), DType::F32, &device), block(&VarMap::new(), DType::F32, &device)];
    let mut memory = StepMemory::new::<f32>(&blocks, 1).unwrap().unwrap();
    let vocab_size = 16;
    let weight = |device: &Device| Tensor::ones((vocab_size, D_MODEL), DType::F32, device).unwrap();
    let mut logits = on.gpu.zeros::<f32>(vocab_size).unwrap();
    let step = |memory: &mut StepMemory, blocks: &[Block], modality, weight: &Tensor, logits: &mut CudaSlice<f32>| {
        let head = StepHead { norm: blocks[0].norm(), weight, logits };
        memory.step::<f32>(blocks, modality, |_, _| Ok(()), head)
    };
    step(&mut memory, &blocks, 1, &weight(&device), &mut logits).unwrap();
    let before = memory.states().unwrap();
    for other in [Device::Cpu, Device::new_cuda_with_stream(0).unwrap()] {
        let there = block(&VarMap::new(), DType::F32, &other);
        let mixed = [blocks[0].clone(), there];
        step(&mut memory, &mixed, 1, &weight(&device), &mut logits).unwrap_err();
        step(&mut memory, &blocks, 1, &weight(&other), &mut logits).unwrap_err();
        if other.is_cuda() {
            let mut elsewhere = OnGpu::of(&other).unwrap().gpu.zeros::<f32>(vocab_size).unwrap();
            let message = step(&mut memory, &blocks, 1, &weight(&device), &mut elsewhere).unwrap_err().to_string();
            assert!(message.contains("logits") && message.contains("another stream"), "{message}");
        }
    }
    step(&mut memory, &blocks, 3, &weight(&device), &mut logits).unwrap_err();
    assert!(memory.states().unwrap() == before);
}
