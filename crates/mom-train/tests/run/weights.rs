//! Weights that are not finite, or of another model, are refused by name.

use candle_core::{Device, Tensor};
use mom_models::Setting;
use mom_train::{Error, Trainer};

use crate::common::config;
use crate::killed::{Killed, prepare, reseal};

#[test]
fn a_checkpoint_with_a_weight_that_is_not_a_number_is_refused_by_name() {
    let killed = Killed::new(&[]);
    // A weight of the checkpoint goes bad: what a broken memory or a bug would do.
    let checkpoint = killed.checkpoint(4);
    let path = checkpoint.join("weights.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "backbone.layers.1.mixer.A_log";
    let poisoned = (tensors[name].ones_like().unwrap() * f64::NAN).unwrap();
    tensors.insert(name.to_owned(), poisoned);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    reseal(&checkpoint);
    let message = killed.refused(&killed.config);
    assert!(message.contains("step-00000004/weights.safetensors"), "{message}");
    assert!(message.contains(&format!("{name} holds values that are not finite")), "{message}");
}

#[test]
fn a_weight_that_goes_bad_while_training_is_named_with_the_step_and_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let mut trainer = Trainer::new(&config, &prepared).unwrap();
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    let name = "backbone.layers.1.mixer.A_log";
    let variable = trainer.parameters().get(name).unwrap();
    variable.set(&(variable.ones_like().unwrap() * f64::NAN).unwrap()).unwrap();
    let other = trainer.parameters().get("lm_head.weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let error = trainer.step().unwrap_err();
    assert!(matches!(&error, Error::NonFinite { step: 3, tensor, .. } if tensor == name), "{error}");
    let after = trainer.parameters().get("lm_head.weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(other, after, "no weight was touched");
    assert!(trainer.validate().unwrap_err().to_string().contains(name));
}

#[test]
fn tensors_of_another_model_are_named() {
    let killed = Killed::new(&[]);
    let checkpoint = killed.checkpoint(4);
    let path = checkpoint.join("weights.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let lm_head = tensors.remove("lm_head.weight").unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    reseal(&checkpoint);
    let message = killed.refused(&killed.config);
    assert!(message.contains("lm_head.weight is missing"), "{message}");
    tensors.insert("lm_head.weight".to_owned(), Tensor::cat(&[&lm_head, &lm_head], 0).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    reseal(&checkpoint);
    let message = killed.refused(&killed.config);
    assert!(message.contains("lm_head.weight is F32"), "{message}");
}
