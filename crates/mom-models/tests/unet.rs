//! The U-Net patcher: values by PyTorch, and what must hold of it in a model.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use common::{Owned, VOCAB};
use mom_core::Init;
use mom_models::decode::{Decoder, Guidance};
use mom_models::diffusion::Noise;
use mom_models::{
    Model, ModelConfig, NO_TARGET, Normaliser, Parameters, PatchOrder, Pictures, Setting, UnetConfig, UnetPatcher,
    Variant,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Values of a patch of 4 x 4 pixels in three channels.
const PATCH_DIM: usize = 48;

fn values(n: usize, key: f64, scale: f64) -> Vec<f64> {
    (0..n).map(|i| scale * (0.9 * i as f64 + key).sin()).collect()
}

/// As the program beside the golden file fills a parameter.
fn fill(name: &str, variable: &Var) {
    let (n, dims) = (variable.elem_count(), variable.dims());
    let fan_in: usize = dims[1..].iter().product();
    let is_norm = name.contains("norm") && name.ends_with("weight");
    let (scale, base) = if is_norm { (0.3, 1.0) } else { (1.5 / (fan_in as f64).sqrt(), 0.0) };
    let filled: Vec<f64> = values(n, name.len() as f64, scale).into_iter().map(|value| value + base).collect();
    let filled = Tensor::from_vec(filled, dims, &Device::Cpu).unwrap().to_dtype(variable.dtype()).unwrap();
    variable.set(&filled).unwrap();
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what}[{i}]: {got}, expected {want}");
    }
}

#[test]
fn every_value_and_gradient_is_that_of_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet.safetensors");
    let golden: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for (prefix, order, n_pictures, side) in
        [("last", PatchOrder::ChannelsLast, 2, 3), ("first", PatchOrder::ChannelsFirst, 1, 2)]
    {
        for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 2e-4)] {
            let map = VarMap::new();
            let vb = VarBuilder::from_varmap(&map, dtype, &Device::Cpu);
            let config = UnetConfig { channels: 3, order, width: 8 };
            let unet = UnetPatcher::new(&config, 16, PATCH_DIM, &Init::seeded(1), &vb).unwrap();
            let variables = map.data().lock().unwrap().clone();
            variables.iter().for_each(|(name, variable)| fill(name, variable));
            let n_patches = n_pictures * side * side;
            let images: Vec<u32> = (0..n_patches).map(|i| (i / (side * side)) as u32).collect();
            let pictures = Pictures::new(&images, &Device::Cpu).unwrap();
            let tensor = |n: usize, key: f64, width: usize| {
                let tensor = Tensor::from_vec(values(n * width, key, 1.0), (n, width), &Device::Cpu).unwrap();
                tensor.to_dtype(dtype).unwrap()
            };
            let (x, skips) =
                unet.embed(&tensor(n_patches, 1.0, PATCH_DIM), &pictures, &tensor(n_pictures, 2.0, 256)).unwrap();
            let of = |name: &str| flat(&golden[&format!("{prefix}.{name}")]);
            close(&flat(&x), &of("embedded"), tolerance, "embedded");
            let last = x.narrow(0, n_patches - 1, 1).unwrap();
            let rolled = Tensor::cat(&[&last, &x.narrow(0, 0, n_patches - 1).unwrap()], 0).unwrap();
            let y = (&x + rolled).unwrap().tanh().unwrap();
            let epsilon = unet.predict(&y, &pictures, &skips).unwrap();
            close(&flat(&epsilon), &of("epsilon"), tolerance, "epsilon");
            let loss = (epsilon * tensor(n_patches, 3.0, PATCH_DIM)).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            assert_eq!(
                variables.len(),
                golden.keys().filter(|key| key.starts_with(&format!("{prefix}.grad."))).count()
            );
            for (name, variable) in &variables {
                let gradient = flat(gradients.get(variable.as_tensor()).unwrap());
                let got: f64 = gradient.iter().zip(values(gradient.len(), 4.0, 1.0)).map(|(g, v)| g * v).sum();
                close(&[got], &of(&format!("grad.{name}")), tolerance * 30.0, name);
            }
        }
    }
}

/// A model whose layers that are zero at the start are not.
fn model(dtype: DType, variant: Variant) -> (Model, Parameters) {
    let config = config(variant);
    let (model, parameters) = Model::seeded(&config, 5, dtype, &Device::Cpu).unwrap();
    for (name, variable) in parameters.iter().filter(|(name, _)| name.contains("up.conv_out") || name.contains("conv2"))
    {
        fill(name, variable);
    }
    (model, parameters)
}

fn config(variant: Variant) -> ModelConfig {
    let unet = Some(UnetConfig { channels: 3, order: PatchOrder::ChannelsLast, width: 8 });
    let config = ModelConfig::new(Setting::Transfusion, variant, "nano".parse().unwrap(), VOCAB);
    ModelConfig { patch_dim: PATCH_DIM, unet, ..config }
}

/// Sequences of documents with pictures of 2 x 2 and, where there is room, of 1 x 1 and 3 x 3 patches.
fn batch(batch: usize, seqlen: usize) -> Owned {
    let n = batch * seqlen;
    let mut owned = Owned {
        batch,
        seqlen,
        tokens: (0..n).map(|p| (p * 7 % 8) as u32).collect(),
        targets: vec![NO_TARGET; n],
        modality_ids: vec![0; n],
        target_modality_ids: vec![0; n],
        document_starts: (0..n).map(|p| p % seqlen == 0).collect(),
        values: Vec::new(),
        positions: Vec::new(),
        images: Vec::new(),
    };
    for b in 0..batch {
        let mut at = 2;
        for (i, n_patches) in [4, 4, 1, 9, 4].into_iter().enumerate().skip(b % 2) {
            if at + n_patches + 2 > seqlen {
                break;
            }
            let image = owned.images.last().map_or(0, |&last| last + 1);
            for p in b * seqlen + at..b * seqlen + at + n_patches {
                owned.modality_ids[p] = 1;
                owned.positions.push(p as u32);
                owned.images.push(image);
                owned.values.extend((0..PATCH_DIM).map(|j| ((p * 5 + j * 3) as f32).sin()));
            }
            at += n_patches + 2;
            owned.document_starts[b * seqlen + at - 1] = i % 2 == 0;
        }
    }
    for p in 0..n - 1 {
        if !owned.document_starts[p + 1] && owned.modality_ids[p] == 0 && owned.modality_ids[p + 1] == 0 {
            owned.targets[p] = owned.tokens[p + 1];
        }
    }
    owned
}

fn loss(model: &Model, batch: &Owned, noise: &Noise) -> (Tensor, f64) {
    let losses = model.loss(&batch.view(), Some(noise), Normaliser::of(&batch.view())).unwrap();
    let value = flat(&losses.total)[0];
    (losses.total, value)
}

#[test]
fn a_model_meets_finite_differences() {
    for variant in [Variant::Mom, Variant::Transformer] {
        let (model, parameters) = model(DType::F64, variant);
        let batch = batch(2, 24);
        assert!(batch.images.last() >= Some(&4));
        let noise = batch.noise().unwrap();
        let gradients = loss(&model, &batch, &noise).0.backward().unwrap();
        for (name, variable) in parameters.iter().filter(|(name, _)| name.starts_with("patcher")) {
            let gradient = flat(gradients.get(variable).unwrap());
            let start = flat(variable);
            for i in (0..start.len()).step_by(start.len().div_ceil(3)) {
                let at = |value: f64| {
                    let mut moved = start.clone();
                    moved[i] = value;
                    variable.set(&Tensor::from_vec(moved, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                    loss(&model, &batch, &noise).1
                };
                let difference = (at(start[i] + 2e-6) - at(start[i] - 2e-6)) / 4e-6;
                at(start[i]);
                let error = (gradient[i] - difference).abs();
                assert!(
                    error <= 2e-8 + 2e-6 * difference.abs(),
                    "{variant} {name}[{i}]: {} against {difference}",
                    gradient[i]
                );
            }
        }
    }
}

#[test]
fn pictures_beside_each_other_do_not_meet() {
    let (model, parameters) = model(DType::F64, Variant::Mom);
    let whole = batch(4, 24);
    let noise = whole.noise().unwrap();
    let counts = Normaliser::of(&whole.view());
    let want = model.loss(&whole.view(), Some(&noise), counts).unwrap().total.backward().unwrap();
    let mut sums: Vec<Tensor> = parameters.iter().map(|(_, v)| v.zeros_like().unwrap()).collect();
    let (mut images, mut values) = (0, 0);
    for b in 0..4 {
        let part = sequence(&whole, b);
        let n_images = part.images.last().unwrap() + 1;
        let of_part = noise.images(images..images + n_images as usize, values..values + part.values.len());
        (images, values) = (images + n_images as usize, values + part.values.len());
        let gradients = model.loss(&part.view(), Some(&of_part), counts).unwrap().total.backward().unwrap();
        for (sum, (_, variable)) in sums.iter_mut().zip(parameters.iter()) {
            *sum = (&*sum + gradients.get(variable).unwrap()).unwrap();
        }
    }
    for (sum, (name, variable)) in sums.iter().zip(parameters.iter()) {
        close(&flat(sum), &flat(want.get(variable).unwrap()), 1e-11, name);
    }
}

/// One of the sequences alone.
fn sequence(whole: &Owned, b: usize) -> Owned {
    let span = b * whole.seqlen..(b + 1) * whole.seqlen;
    let of: Vec<usize> =
        (0..whole.positions.len()).filter(|&i| span.contains(&(whole.positions[i] as usize))).collect();
    let first = whole.images[of[0]];
    Owned {
        batch: 1,
        seqlen: whole.seqlen,
        tokens: whole.tokens[span.clone()].to_vec(),
        targets: whole.targets[span.clone()].to_vec(),
        modality_ids: whole.modality_ids[span.clone()].to_vec(),
        target_modality_ids: whole.target_modality_ids[span.clone()].to_vec(),
        document_starts: whole.document_starts[span.clone()].to_vec(),
        values: whole.values[of[0] * PATCH_DIM..(of[of.len() - 1] + 1) * PATCH_DIM].to_vec(),
        positions: of.iter().map(|&i| whole.positions[i] - span.start as u32).collect(),
        images: of.iter().map(|&i| whole.images[i] - first).collect(),
    }
}

#[test]
fn threads_and_element_types_change_no_more_than_they_may() {
    let batch = batch(4, 24);
    let noise = batch.noise().unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (model, parameters) = model(DType::F32, Variant::Mom);
            let (total, value) = loss(&model, &batch, &noise);
            let gradients = total.backward().unwrap();
            let all: Vec<f64> = parameters.iter().flat_map(|(_, v)| flat(gradients.get(v).unwrap())).collect();
            (value.to_bits(), all.into_iter().map(f64::to_bits).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert_eq!(one, run(4), "the same bits by any number of threads");
    let (model, _) = model(DType::F64, Variant::Mom);
    let want = loss(&model, &batch, &noise).1;
    assert!((f64::from_bits(one.0) - want).abs() < 1e-5 * want);
}

#[test]
fn pictures_are_drawn_and_seen_whatever_stands_beside_them() {
    let (model, _) = model(DType::F32, Variant::Mom);
    let mut decoder = Decoder::new(&model, 1).unwrap();
    let mut free = decoder.clone();
    decoder.push(&[1, 7, 2], &[0; 3]).unwrap();
    free.push(&[1, 2], &[0; 2]).unwrap();
    let rng = || ChaCha8Rng::seed_from_u64(2);
    let image = |weight: Option<f64>| {
        let guidance = weight.map(|weight| Guidance { free: &free, weight });
        decoder.clone().sample_image(4, 10, guidance, &mut [rng()]).unwrap()
    };
    assert_eq!(image(Some(1.0)), image(None));
    assert_ne!(image(Some(3.0)), image(None));
    let pair = Decoder::join([&free, &decoder]).unwrap();
    let both = pair.clone().sample_image(4, 10, None, &mut [9, 2].map(ChaCha8Rng::seed_from_u64)).unwrap();
    let single: Vec<f64> = image(None).into_iter().map(f64::from).collect();
    let beside: Vec<f64> = both[both.len() / 2..].iter().map(|&x| f64::from(x)).collect();
    close(&beside, &single, 1e-4, "beside another");
    let message = decoder.clone().sample_image(6, 10, None, &mut [rng()]).unwrap_err().to_string();
    assert!(message.contains("patches.images[0] is 6, expected a square number of patches"), "{message}");
    assert!(decoder.push_image(&vec![0.5; 6 * PATCH_DIM]).is_err());
    decoder.push_image(&vec![0.5; 9 * PATCH_DIM]).unwrap();
}

#[test]
fn counts_are_those_of_the_configuration() {
    for scale in ["nano", "tiny", "small"] {
        for (channels, patch_dim) in [(3, 48), (3, 12), (8, 32), (3, 108)] {
            let width = UnetConfig::width_for(scale.parse::<mom_models::Scale>().unwrap().d_model);
            let unet = Some(UnetConfig { channels, order: PatchOrder::ChannelsFirst, width });
            let config = ModelConfig::new(Setting::Transfusion, Variant::Mom, scale.parse().unwrap(), VOCAB);
            let config = ModelConfig { patch_dim, unet, ..config };
            let (_, parameters) = Model::seeded(&config, 5, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(parameters.n_elements(), config.total_parameters() + config.patcher_parameters(), "{scale}");
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let good = config(Variant::Mom);
    let message = |config: ModelConfig| config.validate().unwrap_err().to_string();
    let unet = good.unet.clone().unwrap();
    let of = |unet: UnetConfig, patch_dim| message(ModelConfig { unet: Some(unet), patch_dim, ..good.clone() });
    assert!(of(UnetConfig { width: 12, ..unet.clone() }, 48).contains("unet.width must be a multiple of 8"));
    assert!(of(UnetConfig { channels: 0, ..unet.clone() }, 48).contains("unet.channels must be at least 1"));
    assert!(of(unet.clone(), 50).contains("patch_dim must be 3 channels times a square"));
    assert!(of(unet.clone(), 27).contains("patches of an even side") && of(unet, 27).contains("got a side of 3"));
    let elsewhere = ModelConfig { patch_dim: 0, setting: Setting::Chameleon, ..good.clone() };
    assert!(message(elsewhere).contains("unet must be absent outside of Transfusion, got chameleon"));
    let (model, _) = model(DType::F32, Variant::Mom);
    let mut wide = batch(1, 24);
    let noise = wide.noise().unwrap();
    let second = wide.images.iter().position(|&image| image == 1).unwrap();
    // Five patches of one picture, three of the next.
    wide.images[second] = 0;
    let error = model.loss(&wide.view(), Some(&noise), Normaliser::default()).unwrap_err().to_string();
    assert_eq!(error, "batch: patches.images[0] is 5, expected a square number of patches, for the unet patcher");
}
