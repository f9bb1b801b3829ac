//! Blocks and operations on a GPU against the same on the CPU, through candle's tape; devices, and threads on one of them.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::explicit_write)]

mod blocks;
mod devices;
mod operations;

use std::collections::BTreeMap;
use std::io::Write as _;

use candle_core::{DType, Device, Tensor};
use mom_core::{Plan, cuda_device};

/// The first GPU; where there is none, says so on stderr.
fn gpu(test: &str) -> Option<Device> {
    match cuda_device(0) {
        Ok(device) => Some(device),
        Err(error) => {
            writeln!(std::io::stderr(), "SKIPPED {test}: {error}").unwrap();
            assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
            None
        }
    }
}

/// Two sequences of three modalities with documents.
fn plan() -> Plan {
    let (batch, seqlen) = (2, 96);
    let ids: Vec<u8> = (0..batch * seqlen).map(|p| ((p / 7) % 3) as u8).collect();
    let starts: Vec<bool> = (0..batch * seqlen).map(|p| p % seqlen == 0 || p % 41 == 5).collect();
    Plan::new(batch, seqlen, 3, &ids, Some(&starts)).unwrap()
}

/// Values in [-1, 1).
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn host(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn compare(got: &BTreeMap<String, Vec<f32>>, want: &BTreeMap<String, Vec<f32>>, limit: f64) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, want) in want {
        let error: f64 = got[name].iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum();
        let norm: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
        let error = (error / norm).sqrt();
        println!("{name:40} {error:.2e}");
        assert!(error <= limit, "{name}: {error:.2e} over {limit:.2e}");
    }
}
