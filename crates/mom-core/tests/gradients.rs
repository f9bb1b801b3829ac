//! Gradients: the mixer as one node against its operations, and both against finite differences in f64.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use common::{assert_close, mixer, tensor};
use mom_core::{Block, BlockConfig, Init, MixerConfig, MixerState, Plan, SharedDtBias, Untied, ops};

fn plan(batch: usize, seqlen: usize, n_modalities: usize, starts: &[usize]) -> Plan {
    let ids: Vec<u8> = (0..batch * seqlen).map(|p| ((p / 3 + p / 7) % n_modalities) as u8).collect();
    let starts: Vec<bool> = (0..batch * seqlen).map(|p| starts.contains(&p)).collect();
    Plan::new(batch, seqlen, n_modalities, &ids, Some(&starts)).unwrap()
}

#[test]
fn one_node_and_its_operations_agree_for_all_sixteen_choices() {
    let plan = plan(2, 19, 3, &[0, 8, 19, 30]);
    let x = Var::from_tensor(&tensor(1, &[38, 16], DType::F64)).unwrap();
    let weight = tensor(2, &[38, 16], DType::F64);
    for untied in Untied::every() {
        for shared_dt_bias in [SharedDtBias::Applied, SharedDtBias::Dropped] {
            let config = MixerConfig { n_modalities: 3, untied, shared_dt_bias, bias: true, ..MixerConfig::new(16) };
            let (mixer, parameters) = mixer(&config, 5);
            let fused = mixer.forward(&x, &plan).unwrap();
            let plain = mixer.forward_by_operations(&x, &plan).unwrap();
            assert_close(&format!("{untied} output"), &fused, &plain, 1e-12);
            let grads = |y: Tensor| (y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
            let (fused, plain) = (grads(fused), grads(plain));
            for (name, parameter) in &parameters {
                let what = format!("{untied} {name}");
                assert_close(&what, fused.get(parameter).unwrap(), plain.get(parameter).unwrap(), 1e-11);
            }
            assert_close(&format!("{untied} x"), fused.get(&x).unwrap(), plain.get(&x).unwrap(), 1e-11);
        }
    }
}

/// Compares the gradient of a scalar function of some variables with central differences, element by element (at most 40
/// of each variable, spread over it).
fn check_gradients(variables: &[(&str, &Var)], function: impl Fn() -> Tensor) {
    let grads = function().backward().unwrap();
    for (name, variable) in variables {
        let grad = grads.get(variable).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let start = variable.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let shape = variable.shape().clone();
        let stride = start.len().div_ceil(40);
        for i in (0..start.len()).step_by(stride) {
            let step = 1e-5;
            let at = |value: f64| {
                let mut moved = start.clone();
                moved[i] = value;
                variable.set(&Tensor::from_vec(moved, &shape, variable.device()).unwrap()).unwrap();
                function().to_scalar::<f64>().unwrap()
            };
            let difference = (at(start[i] + step) - at(start[i] - step)) / (2.0 * step);
            at(start[i]);
            let error = (grad[i] - difference).abs();
            assert!(error <= 1e-7 * (1.0 + difference.abs()), "{name}[{i}]: {} against {difference}", grad[i]);
        }
    }
}

#[test]
fn the_mixer_meets_finite_differences() {
    let plan = plan(2, 11, 2, &[4, 16]);
    for untied in [Untied::ALL, Untied::NONE, "in+dt".parse().unwrap()] {
        let config = MixerConfig { n_modalities: 2, untied, d_state: 3, d_conv: 3, bias: true, ..MixerConfig::new(6) };
        let (mixer, parameters) = mixer(&config, 3);
        let x = Var::from_tensor(&tensor(4, &[22, 6], DType::F64)).unwrap();
        let weight = tensor(5, &[22, 6], DType::F64);
        let mut variables: Vec<(&str, &Var)> = parameters.iter().map(|(name, var)| (name.as_str(), var)).collect();
        variables.push(("x", &x));
        check_gradients(&variables, || (mixer.forward(&x, &plan).unwrap() * &weight).unwrap().sum_all().unwrap());
    }
}

#[test]
fn rows_and_norm_meet_finite_differences() {
    let plan = plan(2, 5, 3, &[]);
    let x = Var::from_tensor(&tensor(6, &[2, 5, 4], DType::F64)).unwrap();
    let norm = Var::from_tensor(&tensor(7, &[4], DType::F64)).unwrap();
    let weight = tensor(8, &[2, 5, 4], DType::F64);
    check_gradients(&[("x", &x), ("norm", &norm)], || {
        let rows = mom_core::to_rows(&x, &plan).unwrap();
        let normed = ops::rms_norm(&rows, &norm, 1e-5).unwrap();
        let positions = mom_core::to_positions(&normed.sqr().unwrap(), &plan).unwrap();
        (positions * &weight).unwrap().sum_all().unwrap()
    });
}

#[test]
fn sums_silu_and_ranges_of_rows_meet_finite_differences() {
    let a = Var::from_tensor(&tensor(3, &[5, 4], DType::F64)).unwrap();
    let b = Var::from_tensor(&tensor(4, &[3, 4], DType::F64)).unwrap();
    let weight = tensor(5, &[8, 4], DType::F64);
    let weigh = |y: &Tensor| (y * weight.narrow(0, 0, y.dim(0).unwrap()).unwrap()).unwrap().sum_all().unwrap();
    let of = |y: mom_core::Result<Tensor>| weigh(&y.unwrap());
    let variables = [("a", &a), ("b", &b)];
    check_gradients(&variables[..1], || of(ops::silu(&a)));
    check_gradients(&variables[..1], || of(ops::scaled(&a, -1.5)));
    check_gradients(&variables[..1], || of(ops::narrow_rows(&a, 1..4)));
    check_gradients(&variables, || of(ops::stack_rows(&[&b, &a])));
    check_gradients(&variables, || of(ops::add(&b, &ops::narrow_rows(&a, 2..5).unwrap())));
    assert_close("silu", &ops::silu(&a).unwrap(), &a.silu().unwrap(), 1e-14);
    assert_close("rows", &ops::narrow_rows(&a, 1..4).unwrap(), &a.narrow(0, 1, 3).unwrap(), 0.0);
    assert_close(
        "stack",
        &ops::stack_rows(&[&b, &a]).unwrap(),
        &Tensor::cat(&[b.as_tensor(), a.as_tensor()], 0).unwrap(),
        0.0,
    );
    let refused = |y: mom_core::Result<Tensor>, what: &str| {
        let message = y.unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    };
    refused(ops::narrow_rows(&a, 2..6), "narrow_rows");
    refused(ops::add(&a, &b), "add");
    refused(ops::stack_rows(&[&a, &tensor(1, &[2, 3], DType::F64)]), "stack_rows");
    refused(ops::stack_rows(&[&a, &tensor(1, &[2, 4], DType::F32)]), "stack_rows");
    refused(ops::stack_rows(&[]), "stack_rows");
}

#[test]
fn an_input_used_twice_gets_both_gradients() {
    let plan = plan(1, 6, 1, &[]);
    let (mixer, _) = mixer(&MixerConfig::new(4), 1);
    let x = Var::from_tensor(&tensor(9, &[6, 4], DType::F64)).unwrap();
    check_gradients(&[("x", &x)], || {
        let once = mixer.forward(&x, &plan).unwrap();
        let twice = mixer.forward(&(&once + x.as_tensor()).unwrap(), &plan).unwrap();
        (once * twice).unwrap().sum_all().unwrap()
    });
}

#[test]
fn frozen_parameters_and_inputs_are_left_alone() {
    let plan = plan(1, 6, 1, &[]);
    let (mixer, parameters) = mixer(&MixerConfig::new(4), 1);
    let x = tensor(9, &[6, 4], DType::F64);
    let grads = mixer.forward(&x, &plan).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_none());
    assert!(parameters.values().all(|parameter| grads.get(parameter).is_some()));
}

#[test]
fn two_backward_passes_over_one_graph_agree() {
    let plan = plan(1, 6, 1, &[]);
    let (mixer, parameters) = mixer(&MixerConfig::new(4), 1);
    let loss = mixer.forward(&tensor(9, &[6, 4], DType::F64), &plan).unwrap().sum_all().unwrap();
    let (first, second) = (loss.backward().unwrap(), loss.backward().unwrap());
    for parameter in parameters.values() {
        assert_close("again", second.get(parameter).unwrap(), first.get(parameter).unwrap(), 0.0);
    }
}

/// A plan of one position for each of `batch` sequences, or of `seqlen`.
fn span(batch: usize, seqlen: usize) -> Plan {
    let ids: Vec<u8> = (0..batch * seqlen).map(|p| (p % 2) as u8).collect();
    Plan::new(batch, seqlen, 2, &ids, None).unwrap()
}

#[test]
fn a_backward_pass_through_decoding_is_an_error_and_the_values_are_the_same() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    let config = MixerConfig { n_modalities: 2, untied: Untied::ALL, ..MixerConfig::new(8) };
    let block = Block::new(&BlockConfig::new(config.clone()), &Init::seeded(3), vb.clone()).unwrap();
    // The same weights as plain tensors.
    let plain = map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    let plain = VarBuilder::from_tensors(plain, DType::F64, &Device::Cpu);
    let fixed = Block::new(&BlockConfig::new(config), &Init::seeded(3), plain).unwrap();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();

    type Decode<'a> = Box<dyn Fn(&Block, &Tensor, &mut MixerState) -> Tensor + 'a>;
    let (one, four) = (span(2, 1), span(2, 4));
    let cases: [(&str, usize, Decode<'_>); 4] = [
        ("step", 2, Box::new(|block, x, state| block.step(x, &one, state).unwrap())),
        ("step", 2, Box::new(|block, x, state| block.mixer().step(x, &one, state).unwrap())),
        ("forward_from", 8, Box::new(|block, x, state| block.forward_from(x, &four, state).unwrap())),
        ("forward_from", 8, Box::new(|block, x, state| block.mixer().forward_from(x, &four, state).unwrap())),
    ];
    for (name, n_rows, decode) in cases {
        let x = Var::from_tensor(&tensor(4, &[n_rows, 8], DType::F64)).unwrap();
        let run = |block: &Block, x: &Tensor| {
            let mut state = block.mixer().initial_state(2).unwrap();
            let first = decode(block, x, &mut state);
            // The second call begins with what the first has left.
            (values(&first), decode(block, x, &mut state), state)
        };
        let (first, tracked, state) = run(&block, &x);
        let (want_first, want, want_state) = run(&fixed, &x.as_detached_tensor());
        assert!(!want.track_op(), "{name}: nothing to track");
        assert_eq!((first, values(&tracked), &state), (want_first, values(&want), &want_state), "{name}");
        let (_, untaped, _) = mom_core::autograd::without_tape(|| run(&block, &x));
        assert!(!untaped.track_op(), "{name}: off the tape");

        // By the weights, by x, and into a sink.
        let error = |loss: Tensor| loss.sum_all().unwrap().backward().unwrap_err().to_string();
        let (_, by_x, _) = run(&fixed, &x);
        let (_, by_weights, _) = run(&block, &x.as_detached_tensor());
        let sink = mom_core::autograd::Sink::new(map.data().lock().unwrap().values(), &Device::Cpu).unwrap();
        let (_, by_sink, _) = sink.scope(|| run(&block, &x.as_detached_tensor()));
        for loss in [tracked, by_x, by_weights, by_sink] {
            let message = error(loss);
            assert!(message.contains(name) && message.contains("no backward pass"), "{message}");
        }
    }
}
