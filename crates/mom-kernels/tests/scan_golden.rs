//! The selective scan against the published reference's values: outputs, last state and every gradient.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::path::PathBuf;

use common::scan::ScanCase;
use common::{Fields, Tokens, assert_close, cast};
use mom_kernels::Element;
use mom_kernels::selective_scan::DeltaActivation;
use safetensors::{Dtype, SafeTensors};

/// Names of the goldens' tensors and of ours.
const NAMES: [(&str, &str); 8] = [
    ("u", "u"),
    ("delta", "dt"),
    ("delta_bias", "dt_bias"),
    ("A", "a"),
    ("B", "b"),
    ("C", "c"),
    ("D", "d_skip"),
    ("z", "z"),
];

struct Golden {
    case: ScanCase<f64>,
    grad_output: Vec<f64>,
    output: Vec<f64>,
    last_state: Vec<f64>,
    grads: Fields<f64>,
}

/// A tensor with the channels innermost: `(batch, channels, seqlen)` becomes `(batch, seqlen, channels)`.
fn token_major(tensors: &SafeTensors<'_>, name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
    let tensor = tensors.tensor(name).ok()?;
    let data = tensor.data();
    let values: Vec<f64> = match tensor.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        other => panic!("{name} is {other:?}"),
    };
    match *tensor.shape() {
        [batch, channels, seqlen] if name != "last_state" => {
            let at = |b: usize, t: usize, c: usize| values[(b * channels + c) * seqlen + t];
            let moved = (0..batch * seqlen * channels)
                .map(|i| at(i / (seqlen * channels), i / channels % seqlen, i % channels))
                .collect();
            Some((vec![batch, seqlen, channels], moved))
        }
        ref shape => Some((shape.to_vec(), values)),
    }
}

/// Reads a file; the rows are then permuted as random modalities would have them, with the same bias for each.
fn read(path: &PathBuf, n_modalities: usize) -> Golden {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let softplus = header.metadata().as_ref().unwrap()["delta_softplus"] == "true";
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (shape, _) = token_major(&tensors, "u").unwrap();
    let (_, d_state) = { token_major(&tensors, "A").map(|(shape, _)| (shape[0], shape[1])).unwrap() };
    let tokens = Tokens::random(3, shape[0], shape[1], n_modalities);
    let rows = |name: &str| {
        let (shape, values) = token_major(&tensors, name)?;
        Some(if shape.len() == 3 && name != "last_state" { tokens.to_rows(&values, shape[2]) } else { values })
    };
    let mut fields = Fields::new();
    let mut grads = Fields::new();
    for (theirs, ours) in NAMES {
        if let Some(values) = rows(theirs) {
            let copies = if ours == "dt_bias" { n_modalities } else { 1 };
            fields.insert(ours, values.repeat(copies));
            grads.insert(ours, rows(&format!("grad.{theirs}")).unwrap());
        }
    }
    let activation = if softplus { DeltaActivation::Softplus } else { DeltaActivation::Identity };
    let (grad_output, output) = (rows("grad_output").unwrap(), rows("output").unwrap());
    let last_state = rows("last_state").unwrap();
    let case = ScanCase::new(tokens, activation, shape[2], d_state, fields);
    Golden { case, grad_output, output, last_state, grads }
}

fn check<T: Element>(n_modalities: usize, output_tolerance: f64, gradient_tolerance: f64) {
    // One copy for the project; it lies beside the test that a user points at another folder.
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = own.join("../mom-core/tests/golden");
    if own.join("Cargo.toml.orig").exists() && !folder.exists() {
        // Past the test harness, which would swallow a print.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED golden values of the scan: they are not part of this package").unwrap();
        return;
    }
    let mut n_files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("scan_") || path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let golden = read(&path, n_modalities);
        let case = golden.case.cast::<T>();
        let outputs = case.forward();
        assert_close(&format!("{name} output"), &outputs["out"], &golden.output, output_tolerance);
        assert_close(&format!("{name} last_state"), &outputs["last_state"], &golden.last_state, output_tolerance);
        let mut grads = case.backward(&outputs["saved_states"], &cast(&golden.grad_output), None);
        assert_close(&format!("{name} output again"), &grads["out"], &golden.output, output_tolerance);
        if let Some(bias) = grads.get_mut("dt_bias") {
            // The reference has one bias: its gradient is the sum over ours.
            let sums = (0..case.d_inner).map(|d| bias[d..].iter().step_by(case.d_inner).copied().sum()).collect();
            *bias = sums;
        }
        for (input, want) in &golden.grads {
            assert_close(&format!("{name} grad.{input}"), &grads[input], want, gradient_tolerance);
        }
        n_files += 1;
    }
    assert_eq!(n_files, 9, "golden files");
}

#[test]
fn f64_agrees_with_the_published_reference() {
    check::<f64>(1, 1e-10, 1e-10);
}

#[test]
fn f64_agrees_with_the_published_reference_whatever_the_row_order() {
    check::<f64>(3, 1e-10, 1e-10);
}

#[test]
fn f32_agrees_with_the_published_reference() {
    check::<f32>(1, 1e-5, 1e-4);
}

#[test]
fn f32_agrees_with_the_published_reference_whatever_the_row_order() {
    check::<f32>(3, 1e-5, 1e-4);
}
