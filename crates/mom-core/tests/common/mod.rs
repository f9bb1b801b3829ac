//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use mom_core::{Init, MixerConfig, MixtureOfMamba};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform values in [-1, 1).
pub fn values(seed: u64, n: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| 2.0 * rng.random::<f64>() - 1.0).collect()
}

pub fn tensor(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let n = shape.iter().product();
    Tensor::from_vec(values(seed, n), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// ||got - want|| / ||want||; where want is all zero, got must be too.
pub fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let (got, want) = (flat(got), flat(want));
    assert!(got.iter().all(|v| v.is_finite()), "not finite");
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(&want).map(|(g, w)| g - w));
    match norm(&mut want.iter().copied()) {
        0.0 if error == 0.0 => 0.0,
        0.0 => f64::INFINITY,
        size => error / size,
    }
}

pub fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "{what}: relative error {error:.2e}, tolerance {tolerance:.0e}");
}

/// A mixer in f64 with its parameters by name.
pub fn mixer(config: &MixerConfig, seed: u64) -> (MixtureOfMamba, BTreeMap<String, Var>) {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    let mixer = MixtureOfMamba::new(config, &Init::seeded(seed), vb).unwrap();
    let parameters = map.data().lock().unwrap().iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    (mixer, parameters)
}
