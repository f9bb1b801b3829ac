//! The published media tokenizers against their publishers' own code.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test may fail as the test does")]

mod files;
mod golden;
mod image_prep;
mod kinds;
mod namings;
mod opened;
mod refusals;

use std::panic::{AssertUnwindSafe, catch_unwind};

use golden::Golden;
use kinds::Bar;

/// The files of the folder, by name.
fn paths() -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(golden::folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_file_is_the_references() {
    let (mut n_run, mut failed) = (0, Vec::new());
    for path in paths() {
        let golden = Golden::open(&path);
        n_run += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| kinds::run(&golden, &Bar::exact())));
        let errors = golden.errors.borrow();
        let told: Vec<String> = errors.iter().map(|(name, error)| format!("{name} {error:.1e}")).collect();
        println!("{}: {}{}", golden.name, told.join(", "), if outcome.is_ok() { "" } else { ": FAILED" });
        if outcome.is_err() {
            failed.push(golden.name.clone());
        }
    }
    println!("{n_run} golden files of codecs were run");
    assert!(n_run > 0, "no golden file in {}", golden::folder().display());
    assert!(failed.is_empty(), "{failed:?}");
}

/// bf16 keeps 8 bits: its features are near, and what is looked up is exact.
#[test]
fn bf16_is_near() {
    for (name, tolerance) in
        [("chameleon_vqgan", 0.1), ("sd_vae", 0.06), ("mimi_odd_length", 0.03), ("hubert_base", 0.03)]
    {
        let golden = Golden::own(name);
        kinds::run(&golden, &Bar { on: files::BF16, tolerance, codes: false });
        println!("{name}: {:?}", golden.errors.borrow());
    }
}

/// f32 on a GPU sums in another order; codes are equal where the margin of a file allows it, which all of them do.
#[cfg(feature = "cuda")]
#[test]
fn every_file_is_the_references_on_a_gpu() {
    use std::io::Write as _;

    use candle_core::DType;

    let device = match mom_core::cuda_device(0) {
        Ok(device) => device,
        Err(error) => {
            writeln!(std::io::stderr(), "SKIPPED every_file_is_the_references_on_a_gpu: {error}").unwrap();
            assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
            return;
        }
    };
    for path in paths() {
        let golden = Golden::open(&path);
        let on = |dtype| files::On { dtype, device: device.clone() };
        kinds::run(&golden, &Bar { on: on(DType::F32), tolerance: 1e-3, codes: true });
        println!("{}: {:?}", golden.name, golden.errors.take());
        kinds::run(&golden, &Bar { on: on(DType::BF16), tolerance: 0.1, codes: false });
        println!("{} in bf16: {:?}", golden.name, golden.errors.take());
    }
}
