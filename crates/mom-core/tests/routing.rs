//! Properties of the routed block: what must not matter does not, and what must be the same is.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use common::{assert_close, mixer, tensor};
use mom_core::ops::GroupedLinear;
use mom_core::{
    Block, BlockConfig, Error, Init, MixerConfig, MixtureOfMamba, ModalityPlan, Plan, Untied, to_positions, to_rows,
};
use proptest::prelude::*;

const D_MODEL: usize = 12;

fn config(n_modalities: usize, untied: Untied) -> MixerConfig {
    MixerConfig { n_modalities, untied, ..MixerConfig::new(D_MODEL) }
}

fn plan(batch: usize, seqlen: usize, k: usize, ids: &[u8], starts: Option<&[bool]>) -> Plan {
    Plan::from(ModalityPlan::new(batch, seqlen, k, ids, starts).unwrap())
}

fn span(x: &Tensor, start: usize, len: usize) -> Tensor {
    x.narrow(1, start, len).unwrap().contiguous().unwrap()
}

#[test]
fn dense_is_the_mixture_with_equal_weights_whatever_the_modalities() {
    let (dense, from) = mixer(&config(1, Untied::NONE), 3);
    let (mixture, to) = mixer(&config(3, Untied::ALL), 4);
    for (name, parameter) in &to {
        // local_experts_in_proj.M.weight -> in_proj.weight
        let shared = match name.strip_prefix("local_experts_") {
            Some(rest) => {
                let (base, rest) = rest.split_once('.').unwrap();
                format!("{base}.{}", rest.split_once('.').unwrap().1)
            }
            None => name.clone(),
        };
        parameter.set(&from[&shared]).unwrap();
    }
    let x = tensor(1, &[2, 9, D_MODEL], DType::F64);
    let ids: Vec<u8> = (0..18).map(|p| (p * p % 3) as u8).collect();
    let want = dense.forward_positions(&x, &plan(2, 9, 1, &[0; 18], None)).unwrap();
    let got = mixture.forward_positions(&x, &plan(2, 9, 3, &ids, None)).unwrap();
    assert_close("output", &got, &want, 1e-12);
}

#[test]
fn relabelled_modalities_with_permuted_weights_change_nothing() {
    let (one, from) = mixer(&config(3, Untied::ALL), 3);
    let (other, to) = mixer(&config(3, Untied::ALL), 8);
    let relabel = [2u8, 0, 1];
    for (name, parameter) in &from {
        let mut renamed = name.clone();
        for m in 0..3 {
            if name.contains(&format!(".{m}.")) {
                renamed = name.replace(&format!(".{m}."), &format!(".{}.", relabel[m]));
            }
        }
        to[&renamed].set(parameter).unwrap();
    }
    let x = tensor(1, &[1, 20, D_MODEL], DType::F64);
    let ids: Vec<u8> = (0..20).map(|p| (p * p % 3) as u8).collect();
    let relabelled: Vec<u8> = ids.iter().map(|&id| relabel[usize::from(id)]).collect();
    let want = one.forward_positions(&x, &plan(1, 20, 3, &ids, None)).unwrap();
    let got = other.forward_positions(&x, &plan(1, 20, 3, &relabelled, None)).unwrap();
    assert_close("output", &got, &want, 1e-12);
}

#[test]
fn packed_documents_are_as_apart() {
    let (mixer, _) = mixer(&config(2, Untied::ALL), 3);
    let x = tensor(1, &[1, 23, D_MODEL], DType::F64);
    let ids: Vec<u8> = (0..23).map(|p| (p / 4 % 2) as u8).collect();
    let borders = [0usize, 1, 4, 15, 23];
    let starts: Vec<bool> = (0..23).map(|p| borders.contains(&p)).collect();
    let packed = mixer.forward_positions(&x, &plan(1, 23, 2, &ids, Some(&starts))).unwrap();
    for pair in borders.windows(2) {
        let (start, len) = (pair[0], pair[1] - pair[0]);
        let alone = plan(1, len, 2, &ids[start..start + len], None);
        let alone = mixer.forward_positions(&span(&x, start, len), &alone).unwrap();
        assert_close(&format!("document at {start}"), &span(&packed, start, len), &alone, 1e-12);
    }
}

#[test]
fn chunks_and_single_steps_with_the_state_are_the_whole() {
    let (batch, seqlen) = (2, 21);
    let (mixer, _) = mixer(&config(2, Untied::ALL), 3);
    let x = tensor(1, &[batch, seqlen, D_MODEL], DType::F64);
    let ids: Vec<u8> = (0..batch * seqlen).map(|p| (p / 5 % 2) as u8).collect();
    let starts: Vec<bool> = (0..batch * seqlen).map(|p| p == 13).collect();
    let whole = mixer.forward_positions(&x, &plan(batch, seqlen, 2, &ids, Some(&starts))).unwrap();
    for chunk in [1, 2, 5, 16, 21] {
        let mut state = mixer.initial_state(batch).unwrap();
        for start in (0..seqlen).step_by(chunk) {
            let len = chunk.min(seqlen - start);
            let of = |v: &[u8]| (0..batch).flat_map(|b| v[b * seqlen + start..][..len].to_vec()).collect::<Vec<u8>>();
            let starts: Vec<u8> = starts.iter().map(|&s| u8::from(s)).collect();
            let chunk_starts: Vec<bool> = of(&starts).into_iter().map(|s| s == 1).collect();
            let plan = plan(batch, len, 2, &of(&ids), Some(&chunk_starts));
            let rows = to_rows(&span(&x, start, len), &plan).unwrap();
            let out = if chunk == 1 {
                mixer.step(&rows, &plan, &mut state).unwrap()
            } else {
                mixer.forward_from(&rows, &plan, &mut state).unwrap()
            };
            let got = to_positions(&out, &plan).unwrap();
            assert_close(&format!("chunks of {chunk} at {start}"), &got, &span(&whole, start, len), 1e-12);
        }
    }
}

#[test]
fn the_future_does_not_matter() {
    let (mixer, _) = mixer(&config(2, Untied::ALL), 3);
    let x = tensor(1, &[1, 12, D_MODEL], DType::F64);
    let ids: Vec<u8> = (0..12).map(|p| (p / 3 % 2) as u8).collect();
    let whole = mixer.forward_positions(&x, &plan(1, 12, 2, &ids, None)).unwrap();
    let cut = mixer.forward_positions(&span(&x, 0, 7), &plan(1, 7, 2, &ids[..7], None)).unwrap();
    assert_close("prefix", &cut, &span(&whole, 0, 7), 1e-12);
}

#[test]
fn an_absent_modality_has_zero_gradients() {
    let (mixer, parameters) = mixer(&config(3, Untied::ALL), 3);
    let x = tensor(1, &[1, 6, D_MODEL], DType::F64);
    let y = mixer.forward_positions(&x, &plan(1, 6, 3, &[0, 2, 2, 0, 2, 0], None)).unwrap();
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for (name, parameter) in &parameters {
        let size = grads.get(parameter).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        assert_eq!(name.contains(".1."), size == 0.0, "{name}: {size}");
        assert!(size.is_finite());
    }
}

#[test]
fn a_sequence_of_one_token_and_an_empty_batch_work() {
    let (mixer, _) = mixer(&config(2, Untied::ALL), 3);
    for (batch, seqlen) in [(1, 1), (3, 1), (0, 4)] {
        let x = tensor(1, &[batch, seqlen, D_MODEL], DType::F64);
        let y = mixer.forward_positions(&x, &plan(batch, seqlen, 2, &vec![1; batch * seqlen], None)).unwrap();
        assert_eq!(y.dims(), &[batch, seqlen, D_MODEL]);
    }
}

#[test]
fn state_dicts_of_the_published_names_load_and_save() {
    let parameters = VarMap::new();
    let vb = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
    let saved = MixtureOfMamba::new(&config(2, "in+dt".parse().unwrap()), &Init::seeded(1), vb).unwrap();
    let mut names: Vec<String> = parameters.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    let experts = ["in_proj.0.weight", "in_proj.1.weight"].map(|name| format!("local_experts_{name}"));
    assert!(experts.iter().all(|name| names.contains(name)));
    for name in ["A_log", "D", "conv1d.weight", "conv1d.bias", "x_proj.weight", "out_proj.weight"] {
        assert!(names.iter().any(|have| have == name), "{name}");
    }
    let path = std::env::temp_dir().join(format!("mom-core-state-dict-{}.safetensors", std::process::id()));
    parameters.save(&path).unwrap();
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    std::fs::remove_file(&path).unwrap();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let loaded = MixtureOfMamba::new(saved.config(), &Init::seeded(99), vb.clone()).unwrap();
    let x = tensor(1, &[1, 5, D_MODEL], DType::F32);
    let plan = plan(1, 5, 2, &[0, 1, 1, 0, 1], None);
    let outputs = [saved, loaded].map(|mixer| mixer.forward_positions(&x, &plan).unwrap());
    assert_close("output", &outputs[1], &outputs[0], 0.0);
    // Another choice of projections asks for other names.
    let error = MixtureOfMamba::new(&config(2, Untied::ALL), &Init::seeded(1), vb).unwrap_err();
    assert!(error.to_string().contains("local_experts_x_proj.0.weight"), "{error}");
}

#[test]
fn a_dense_model_starts_as_the_first_modality_of_a_mixture() {
    let (_, dense) = mixer(&config(1, Untied::NONE), 7);
    let (_, mixture) = mixer(&config(2, Untied::ALL), 7);
    for base in ["in_proj.weight", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "out_proj.weight"] {
        let (name, part) = base.split_once('.').unwrap();
        let expert = |m: usize| mixture[&format!("local_experts_{name}.{m}.{part}")].as_tensor().clone();
        assert_close(base, &expert(0), &dense[base], 0.0);
        assert!(common::relative_error(&expert(1), &dense[base]) > 0.1, "{base}: modality 1 has a draw of its own");
    }
}

#[test]
fn bad_arguments_are_named() {
    let (mixer, _) = mixer(&config(2, Untied::ALL), 3);
    let plan2 = plan(1, 4, 2, &[0, 1, 1, 0], None);
    let x = tensor(1, &[4, D_MODEL], DType::F64);
    let message = |result: Result<Tensor, Error>| result.unwrap_err().to_string();
    assert_eq!(
        message(mixer.forward(&tensor(1, &[5, D_MODEL], DType::F64), &plan2)),
        "mixer: x has shape [5, 12], expected [4, 12]"
    );
    assert_eq!(
        message(mixer.forward(&x, &plan(1, 4, 3, &[0; 4], None))),
        "configuration: plan.n_modalities must be 2, as in the mixer, got 3"
    );
    let single = x.to_dtype(DType::F32).unwrap();
    assert!(message(mixer.forward(&single, &plan2)).contains("has dtype F64, expected f32"));
    let half = x.to_dtype(DType::BF16).unwrap();
    assert_eq!(message(mixer.forward(&half, &plan2)), "mixer: x has dtype BF16, expected f32 or f64");
    let mut state = mixer.initial_state(3).unwrap();
    assert_eq!(
        message(mixer.forward_from(&x, &plan2, &mut state)),
        "mixer: state is for F64, batch 3, expected F64, batch 1"
    );
    let mut state = mixer.initial_state(1).unwrap();
    let before = state.clone();
    assert!(message(mixer.step(&x, &plan2, &mut state)).contains("seqlen = 4"));
    assert_eq!(state, before, "a refused step leaves the state as it was");
    for error in
        [ModalityPlan::new(1, 2, 2, &[0, 2], None).unwrap_err().into(), Plan::new(1, 2, 2, &[0, 2], None).unwrap_err()]
    {
        let error: Error = error;
        assert_eq!(error.to_string(), "modality_ids[1] = 2, but there are 2 modalities (ids 0..2)");
    }
    let error: Error = Plan::dense(1, 2, Some(&[true])).unwrap_err();
    assert!(error.to_string().contains("document_starts"), "{error}");
}

#[test]
fn a_model_of_16_bits_says_so() {
    for dtype in [DType::BF16, DType::F16, DType::F32, DType::F64] {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, dtype, &Device::Cpu);
        let mixer = MixtureOfMamba::new(&config(2, Untied::ALL), &Init::seeded(1), vb).unwrap();
        assert_eq!(mixer.dtype(), dtype);
        match mixer.initial_state(1) {
            Ok(state) => assert_eq!(state.dtype(), dtype),
            // No state of another type, which the first step would refuse.
            Err(error) => {
                assert!(error.to_string().contains(&format!("dtype {dtype:?}, expected f32 or f64")), "{error}")
            }
        }
    }
}

#[test]
fn weights_of_several_types_are_refused() {
    let weights = vec![tensor(1, &[3, 2], DType::F32), tensor(2, &[3, 2], DType::F64)];
    let error = GroupedLinear::new(2, 3, weights, vec![]).unwrap_err().to_string();
    assert!(error.contains("weight has dtype F64, expected f32"), "{error}");
}

#[test]
fn what_is_not_finite_in_a_checkpoint_is_named() {
    let map = VarMap::new();
    let vb = || VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu).pp("blocks.3");
    let config = config(2, Untied::ALL);
    MixtureOfMamba::new(&config, &Init::seeded(1), vb()).unwrap();
    let bad = map.data().lock().unwrap()["blocks.3.A_log"].clone();
    bad.set(&(bad.as_tensor() * f64::NAN).unwrap()).unwrap();
    let error = MixtureOfMamba::new(&config, &Init::seeded(1), vb()).unwrap_err().to_string();
    assert!(error.contains("blocks.3.A_log") && error.contains("NaN"), "{error}");
}

#[test]
fn a_block_adds_its_mixer_to_its_input() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    let config = BlockConfig::new(config(2, Untied::ALL));
    let block = Block::new(&config, &Init::seeded(1), vb).unwrap();
    let plan = plan(2, 5, 2, &[0, 1, 1, 0, 1, 1, 1, 0, 0, 0], None);
    let x = tensor(1, &[2, 5, D_MODEL], DType::F64);
    let rms = (x.sqr().unwrap().mean_keepdim(2).unwrap() + 1e-5).unwrap().sqrt().unwrap();
    let normed = x.broadcast_div(&rms).unwrap();
    let want = (block.mixer().forward_positions(&normed, &plan).unwrap() + &x).unwrap();
    assert_close("block", &block.forward_positions(&x, &plan).unwrap(), &want, 1e-12);
    let mut state = block.mixer().initial_state(2).unwrap();
    let from = block.forward_from(&to_rows(&x, &plan).unwrap(), &plan, &mut state).unwrap();
    assert_close("from a state", &to_positions(&from, &plan).unwrap(), &want, 1e-12);
    let n: usize = map.data().lock().unwrap().values().map(|v| v.elem_count()).sum();
    assert_eq!(n, config.total_parameters());
}

proptest! {
    #[test]
    fn rows_and_back_is_the_identity(
        (batch, seqlen, ids) in (1usize..4, 1usize..30)
            .prop_flat_map(|(b, l)| (Just(b), Just(l), prop::collection::vec(0u8..4, b * l)))
    ) {
        let plan = plan(batch, seqlen, 4, &ids, None);
        let x = Var::from_tensor(&tensor(1, &[batch, seqlen, 3], DType::F32)).unwrap();
        let rows = to_rows(&x, &plan).unwrap();
        let back = to_positions(&rows, &plan).unwrap();
        prop_assert_eq!(back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                        x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        // Rows are sorted by modality, in time order within each.
        let sorted: Vec<(u8, u32)> = plan.position_of_row().iter().map(|&p| (ids[p as usize], p)).collect();
        prop_assert!(sorted.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
