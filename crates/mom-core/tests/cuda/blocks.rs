//! Blocks and mixers.

use std::collections::BTreeMap;

use crate::{compare, gpu, host, plan, values};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use mom_core::autograd::{Sink, Tape};
use mom_core::{Block, BlockConfig, Init, MixerConfig, ModalityPlan, Plan, Untied, to_positions, to_rows};

const D_MODEL: usize = 32;

struct Model {
    block: Block,
    parameters: VarMap,
    x: Var,
    scale: Tensor,
}

impl Model {
    fn new(dtype: DType, device: &Device) -> Self {
        Self::of(MixerConfig::new(D_MODEL), dtype, device)
    }

    /// Of three modalities, every projection split.
    fn of(mixer: MixerConfig, dtype: DType, device: &Device) -> Self {
        let parameters = VarMap::new();
        let config = BlockConfig::new(MixerConfig { n_modalities: 3, untied: Untied::ALL, ..mixer });
        let vb = VarBuilder::from_varmap(&parameters, dtype, device);
        let block = Block::new(&config, &Init::seeded(3), vb).unwrap();
        let n = plan().n_rows();
        let tensor = |seed| Tensor::from_vec(values(n * D_MODEL, seed), (n, D_MODEL), device).unwrap();
        let x = Var::from_tensor(&tensor(1).to_dtype(dtype).unwrap()).unwrap();
        Self { block, parameters, x, scale: tensor(2) }
    }

    fn loss(&self, plan: &Plan, forward: impl Fn(&Block, &Tensor, &Plan) -> mom_core::Result<Tensor>) -> Tensor {
        let out = forward(&self.block, &self.x, plan).unwrap();
        (out.to_dtype(DType::F32).unwrap() * &self.scale).unwrap().sum_all().unwrap()
    }

    /// Gradients by name, and the loss.
    fn run(&self, forward: impl Fn(&Block, &Tensor, &Plan) -> mom_core::Result<Tensor>) -> BTreeMap<String, Vec<f32>> {
        let loss = self.loss(&plan(), forward);
        let grads = loss.backward().unwrap();
        let mut all = BTreeMap::from([("loss".to_owned(), vec![loss.to_scalar::<f32>().unwrap()])]);
        for (name, var) in self.parameters.data().lock().unwrap().iter().chain([(&"x".to_owned(), &self.x)]) {
            all.insert(name.clone(), host(grads.get(var).unwrap()));
        }
        all
    }
}

#[test]
fn a_block_agrees_with_the_cpu_as_one_node_and_as_modules() {
    let Some(device) = gpu("a_block_agrees_with_the_cpu_as_one_node_and_as_modules") else { return };
    let want = Model::new(DType::F32, &Device::Cpu).run(Block::forward);
    let on_gpu = Model::new(DType::F32, &device);
    compare(&on_gpu.run(Block::forward), &want, 1e-4);
    compare(&on_gpu.run(Block::forward_by_modules), &want, 1e-4);
    // bf16: weights and activations are rounded by 1.7e-3 of their norm, half a dozen times in a row.
    compare(&Model::new(DType::BF16, &device).run(Block::forward), &want, 3e-2);
}

#[test]
fn a_tape_of_its_own_gives_the_bits_of_candles_tape_and_the_last_block_first() {
    let Some(device) = gpu("a_tape_of_its_own_gives_the_bits_of_candles_tape_and_the_last_block_first") else { return };
    let (first, last) = (Model::new(DType::F32, &device), Model::new(DType::F32, &device));
    let blocks = [first.block.clone(), last.block.clone()];
    let forward = || Block::forward_all(&blocks, &first.x, &plan()).unwrap();
    let grads = (forward() * &first.scale).unwrap().sum_all().unwrap().backward().unwrap();
    let tape = Tape::new();
    let out = tape.scope(forward);
    let mut came = Vec::new();
    let take = |id, gradient: Tensor| {
        came.push((id, host(&gradient)));
        Ok(())
    };
    tape.backward(&out, first.scale.clone(), take).unwrap();
    let place = |var: &Var| came.iter().position(|(id, _)| *id == var.as_tensor().id()).unwrap();
    let variables = |model: &Model| model.parameters.data().lock().unwrap().values().cloned().collect::<Vec<Var>>();
    let (of_first, of_last) = (variables(&first), variables(&last));
    for var in of_first.iter().chain(&of_last).chain([&first.x]) {
        assert_eq!(came[place(var)].1, host(grads.get(var).unwrap()));
    }
    let latest = of_last.iter().map(place).max().unwrap();
    assert!(of_first.iter().chain([&first.x]).all(|var| place(var) > latest));
    assert_eq!(came.len(), of_first.len() + of_last.len() + 1, "each once");
}

#[test]
fn recompute_and_a_sink_change_no_bit() {
    let Some(device) = gpu("recompute_and_a_sink_change_no_bit") else { return };
    let model = Model::new(DType::BF16, &device);
    let want = model.run(Block::forward);
    assert_eq!(want, model.run(Block::forward), "two runs");
    let again = Model { block: model.block.clone().with_recompute(true), ..Model::new(DType::BF16, &device) };
    let parameters = model.parameters.data().lock().unwrap().clone();
    let recomputed = Model { parameters: model.parameters, x: model.x.clone(), scale: model.scale.clone(), ..again };
    assert_eq!(want, recomputed.run(Block::forward), "recompute");

    let sink = Sink::new(parameters.values(), &device).unwrap();
    let loss = sink.scope(|| recomputed.loss(&plan(), Block::forward));
    let grads = loss.backward().unwrap();
    assert_eq!(host(grads.get(&recomputed.x).unwrap()), want["x"]);
    for (name, var) in &parameters {
        assert!(grads.get(var).is_none(), "{name} is on the tape too");
        assert_eq!(host(&sink.take(var).unwrap()), want[name], "{name}");
    }
}

#[test]
fn positions_go_to_rows_and_back() {
    let Some(device) = gpu("positions_go_to_rows_and_back") else { return };
    let plan = plan();
    let x = Var::from_tensor(&Tensor::from_vec(values(plan.n_rows() * 5, 4), (2, 96, 5), &device).unwrap()).unwrap();
    let rows = to_rows(&x, &plan).unwrap();
    let on_cpu = to_rows(&x.to_device(&Device::Cpu).unwrap(), &plan).unwrap();
    assert_eq!(host(&rows), host(&on_cpu));
    let back = to_positions(&rows, &plan).unwrap();
    assert_eq!(host(&back), host(&x));
    let grads = (&back * &back).unwrap().sum_all().unwrap().backward().unwrap();
    let doubled: Vec<f32> = host(&x).iter().map(|x| 2.0 * x).collect();
    assert_eq!(host(grads.get(&x).unwrap()), doubled);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(device) = gpu("what_does_not_fit_is_an_error") else { return };
    let model = Model::new(DType::F32, &device);
    let elsewhere = model.x.to_device(&Device::Cpu).unwrap();
    assert!(model.block.forward(&elsewhere, &plan()).is_err(), "x on the host, weights on the GPU");
    let wide = model.x.to_dtype(DType::F64).unwrap();
    let message = model.block.forward(&wide, &plan()).unwrap_err().to_string();
    assert!(message.contains("bf16, f16 or f32"), "{message}");
}

#[test]
fn chunks_and_single_steps_with_the_state_are_the_whole() {
    let Some(device) = gpu("chunks_and_single_steps_with_the_state_are_the_whole") else { return };
    let (batch, seqlen) = (2, 21);
    let ids: Vec<u8> = (0..batch * seqlen).map(|p| ((p / 5) % 3) as u8).collect();
    let starts: Vec<bool> = (0..batch * seqlen).map(|p| p == 13).collect();
    // A convolution over one position has no window to carry.
    let cases = [1, 4].map(|d_conv| [(d_conv, DType::F32, 1e-5, 1e-5), (d_conv, DType::BF16, 2e-2, 3e-2)]);
    for (d_conv, dtype, bound, off_host) in cases.concat() {
        let model = |dtype, device| Model::of(MixerConfig { d_conv, ..MixerConfig::new(D_MODEL) }, dtype, device);
        let block = model(dtype, &device).block;
        let x = Tensor::from_vec(values(batch * seqlen * D_MODEL, 9), (batch, seqlen, D_MODEL), &device).unwrap();
        let x = x.to_dtype(dtype).unwrap();
        let plan =
            |len, ids: &[u8], starts: &[bool]| Plan::from(ModalityPlan::new(batch, len, 3, ids, Some(starts)).unwrap());
        let whole = block.forward_positions(&x, &plan(seqlen, &ids, &starts)).unwrap();
        let furthest = |got: &Tensor, want: &Tensor| {
            let (got, want) = (host(got), host(want));
            let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
            got.iter().zip(&want).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / scale
        };
        let on_host = model(DType::F32, &Device::Cpu).block;
        let x_on_host = x.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
        let want = on_host.forward_positions(&x_on_host, &plan(seqlen, &ids, &starts)).unwrap();
        let off = furthest(&whole, &want);
        assert!(off < off_host, "{dtype:?}, d_conv {d_conv}: {off:.1e} off the CPU");
        for chunk in [1, 5, 16, seqlen] {
            let mut state = block.mixer().initial_state(batch).unwrap();
            let branched = state.clone();
            let fresh = block.mixer().initial_state(batch).unwrap();
            for start in (0..seqlen).step_by(chunk) {
                let len = chunk.min(seqlen - start);
                let positions = (0..batch).flat_map(|b| b * seqlen + start..b * seqlen + start + len);
                let of_ids: Vec<u8> = positions.clone().map(|p| ids[p]).collect();
                let of_starts: Vec<bool> = positions.map(|p| starts[p]).collect();
                let plan = plan(len, &of_ids, &of_starts);
                let span = |tensor: &Tensor| tensor.narrow(1, start, len).unwrap().contiguous().unwrap();
                let rows = to_rows(&span(&x), &plan).unwrap();
                let out = if chunk == 1 {
                    block.step(&rows, &plan, &mut state).unwrap()
                } else {
                    block.forward_from(&rows, &plan, &mut state).unwrap()
                };
                let off = furthest(&to_positions(&out, &plan).unwrap(), &span(&whole));
                assert!(off < bound, "{dtype:?}, d_conv {d_conv}, chunks of {chunk} at {start}: {off:.1e} off");
            }
            assert!(branched == fresh && state != fresh, "a clone is a snapshot");
        }
        let mut of_host = on_host.mixer().initial_state(batch).unwrap();
        let error =
            block.step(&to_rows(&x, &plan(seqlen, &ids, &starts)).unwrap(), &plan(seqlen, &ids, &starts), &mut of_host);
        assert!(error.unwrap_err().to_string().contains("seqlen"));
        let rows = to_rows(&x, &plan(seqlen, &ids, &starts)).unwrap();
        let error = block.forward_from(&rows, &plan(seqlen, &ids, &starts), &mut of_host).unwrap_err().to_string();
        assert!(error.contains("the CPU") && error.contains("a GPU, batch 2"), "{error}");
    }
}

#[test]
fn a_backward_pass_through_decoding_on_a_gpu_is_an_error() {
    let Some(device) = gpu("a_backward_pass_through_decoding_on_a_gpu_is_an_error") else { return };
    for dtype in [DType::F32, DType::BF16] {
        let Model { block, parameters, .. } = Model::new(dtype, &device);
        let one = Plan::new(2, 1, 3, &[2, 0], None).unwrap();
        let four = Plan::new(2, 4, 3, &[0, 1, 2, 2, 1, 1, 0, 2], None).unwrap();
        for (name, plan) in [("step", &one), ("forward_from", &four)] {
            let n = plan.n_rows();
            let x = Tensor::from_vec(values(n * D_MODEL, 5), (n, D_MODEL), &device).unwrap().to_dtype(dtype).unwrap();
            let run = |x: &Tensor| {
                let mut state = block.mixer().initial_state(2).unwrap();
                let out = match name {
                    "step" => block.step(x, plan, &mut state),
                    _ => block.forward_from(x, plan, &mut state),
                };
                (out.unwrap(), state)
            };
            let (tracked, state) = run(&x);
            let (plain, plain_state) = mom_core::autograd::without_tape(|| run(&x));
            assert!(tracked.track_op() && !plain.track_op());
            assert_eq!(host(&tracked), host(&plain), "{name}");
            assert!(state == plain_state, "{name}");
            let sink = Sink::new(parameters.data().lock().unwrap().values(), &device).unwrap();
            let (sunk, _) = sink.scope(|| run(&x));
            let (by_x, _) = run(&Var::from_tensor(&x).unwrap());
            for out in [tracked, sunk, by_x] {
                let loss = out.to_dtype(DType::F32).unwrap().sum_all().unwrap();
                let message = loss.backward().unwrap_err().to_string();
                assert!(message.contains(name) && message.contains("no backward pass"), "{message}");
            }
        }
    }
}
