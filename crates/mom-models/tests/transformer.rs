//! The transformer's block and Mixture-of-Transformers' against PyTorch, and every arm by finite differences and properties.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use common::{Owned, config};
use mom_core::{Init, ModalityPlan, Plan, to_positions, to_rows};
use mom_models::blocks::{TransformerBlock, TransformerConfig};
use mom_models::diffusion::Noise;
use mom_models::{Model, ModelConfig, Normaliser, Setting, Variant};
use safetensors::SafeTensors;

/// Golden values of tests/golden/transformer.py, which says how they were made.
fn golden(name: &str) -> (HashMap<String, Tensor>, HashMap<String, String>) {
    let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    (tensors, metadata.metadata().clone().unwrap())
}

fn numbers(text: &str) -> Vec<usize> {
    let digits = |c: char| !c.is_ascii_digit();
    text.split(digits).filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect()
}

fn assert_close(got: &Tensor, want: &Tensor, what: &str) {
    let worst = (got - want).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    assert!(worst < 1e-11, "{what}: {worst}");
}

#[test]
fn blocks_are_pytorchs() {
    for name in ["transformer", "mot"] {
        let (tensors, metadata) = golden(name);
        let of = |key: &str| metadata[key].parse::<usize>().unwrap();
        let x = Var::from_tensor(&tensors["x"]).unwrap();
        let (n, d_model) = x.dims2().unwrap();
        let batch = of("batch");
        let modalities: Vec<u8> = numbers(&metadata["modalities"]).into_iter().map(|m| m as u8).collect();
        let starts = numbers(&metadata["starts"]);
        let starts: Vec<bool> = (0..n).map(|p| starts.contains(&p)).collect();
        let spans: Vec<_> = numbers(&metadata["spans"]).chunks(2).map(|ends| ends[0]..ends[1]).collect();
        let plan = ModalityPlan::new(batch, n / batch, 2, &modalities, Some(&starts)).unwrap();
        let plan = Plan::with_spans(plan, &spans).unwrap();
        let weights: HashMap<String, Var> = tensors
            .iter()
            .filter(|(key, _)| key.ends_with(".weight") && !key.starts_with("grad."))
            .map(|(key, tensor)| (key.clone(), Var::from_tensor(tensor).unwrap()))
            .collect();
        let vb = weights.iter().map(|(key, var)| (key.clone(), var.as_tensor().clone())).collect();
        let vb = VarBuilder::from_tensors(vb, DType::F64, &Device::Cpu);
        let variant: Variant = name.parse().unwrap();
        let config = ModelConfig::new(Setting::Chameleon, variant, "nano".parse().unwrap(), 8).transformer();
        let config = TransformerConfig { d_model, n_heads: of("n_heads"), d_ff: of("d_ff"), ..config };
        let block = TransformerBlock::new(&config, &config.rotary().unwrap(), &Init::seeded(0), vb).unwrap();
        let positions = x.reshape((batch, n / batch, d_model)).unwrap();
        let y = block.forward(&to_rows(&positions, &plan).unwrap(), &plan).unwrap();
        let y = to_positions(&y, &plan).unwrap().reshape((n, d_model)).unwrap();
        assert_close(&y, &tensors["y"], &format!("{name}: y"));
        let grads = (y * &tensors["weight_of_y"]).unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(grads.get(&x).unwrap(), &tensors["grad.x"], &format!("{name}: grad.x"));
        assert_eq!(weights.len(), if name == "mot" { 12 } else { 6 });
        for (key, var) in &weights {
            assert_close(grads.get(var).unwrap(), &tensors[&format!("grad.{key}")], &format!("{name}: grad.{key}"));
        }
    }
}

fn loss(model: &Model, batch: &Owned, noise: Option<&Noise>) -> Tensor {
    let view = batch.view();
    model.loss(&view, noise, Normaliser::of(&view)).unwrap().total
}

#[test]
fn gradients_of_every_arm_are_those_of_finite_differences() {
    for setting in Setting::ALL {
        for variant in Variant::BASELINES {
            let config = config(setting, variant);
            let (model, parameters) = Model::seeded(&config, 3, DType::F64, &Device::Cpu).unwrap();
            let batch = Owned::new(setting, 2, 22);
            let noise = batch.noise();
            let noise = noise.as_ref();
            let grads = loss(&model, &batch, noise).backward().unwrap();
            for (name, var) in parameters.iter() {
                let values = var.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let grad = grads.get(var).unwrap_or_else(|| panic!("{variant}: {name} has no gradient"));
                let grad = grad.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let at = grad.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
                let moved = |by: f64| {
                    let mut values = values.clone();
                    values[at] += by;
                    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    loss(&model, &batch, noise).to_vec1::<f64>().unwrap()[0]
                };
                // Small enough that no router changes its mind.
                let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                moved(0.0);
                assert!(
                    (difference - grad[at]).abs() < 1e-6 * (1.0 + grad[at].abs()),
                    "{setting} {variant} {name}: {difference} {}",
                    grad[at]
                );
            }
        }
    }
}

#[test]
fn counted_weights_are_those_that_are_there() {
    for setting in Setting::ALL {
        for variant in Variant::BASELINES {
            let config = config(setting, variant);
            let (_, parameters) = Model::seeded(&config, 3, DType::F32, &Device::Cpu).unwrap();
            let want = config.total_parameters() + config.patcher_parameters();
            assert_eq!(parameters.n_elements(), want, "{setting} {variant}");
        }
        // What all modalities share counts as often too: the less, the larger the model.
        let at_scale =
            |variant| ModelConfig::new(setting, variant, "94M".parse().unwrap(), 65_536).total_parameters() as f64;
        let ratio = at_scale(Variant::WideDense) / at_scale(Variant::Mom);
        assert!((1.0..1.01).contains(&ratio), "{setting}: {ratio}");
    }
}

#[test]
fn keys_are_counted_by_document_and_picture() {
    // Documents of 3 and 5 positions, the second with a picture of its last three.
    let batch = Owned {
        document_starts: (0..8).map(|p| p == 0 || p == 3).collect(),
        positions: vec![5, 6, 7],
        images: vec![0; 3],
        ..Owned::new(Setting::Transfusion, 1, 8)
    };
    let want = (1 + 2 + 3 + 1 + 2 + 5 + 5 + 5) as f64 / 8.0;
    assert_eq!(batch.view().mean_keys().unwrap(), want);
}

#[test]
fn one_modality_of_mot_is_a_transformer_and_one_expert_is_dense() {
    // With a modality absent, Mixture-of-Transformers is the transformer of the other's weights.
    let of = |variant| {
        let config = config(Setting::Chameleon, variant);
        let (model, _) = Model::seeded(&config, 3, DType::F64, &Device::Cpu).unwrap();
        let mut batch = Owned::new(Setting::Chameleon, 1, 18);
        batch.modality_ids.fill(0);
        batch.target_modality_ids.fill(0);
        loss(&model, &batch, None).to_vec1::<f64>().unwrap()[0]
    };
    // A shared weight starts as modality 0's.
    assert!((of(Variant::Mot) - of(Variant::Transformer)).abs() < 1e-12);
}
