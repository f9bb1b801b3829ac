//! A GPU without room: in a process of its own, since it takes the memory from everybody.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use common::gpu;
use mom_core::cuda::OnGpu;
use mom_kernels::cuda::cudarc::driver::result::mem_get_info;
use mom_models::{Setting, Variant};
use mom_train::speed::{SpeedOptions, measure};
use mom_train::{DeviceKind, Error};

const LEFT_BYTES: usize = 192 << 20;

#[test]
fn a_model_or_a_step_that_does_not_fit_says_what_to_change() {
    let Some(_gpu) = gpu("a_model_or_a_step_that_does_not_fit_says_what_to_change") else { return };
    let device = mom_core::cuda_device(0).unwrap();
    let on = OnGpu::of(&device).unwrap();
    let options = |scale: &str, vocab_size, seqlen| SpeedOptions {
        vocab_size,
        seqlen,
        warmup: 0,
        steps: 1,
        device: DeviceKind::Cuda,
        ..SpeedOptions::new(Setting::Chameleon, Variant::Mom, scale.parse().unwrap())
    };
    // Kernels are loaded, and what a small model needs is in the process' hands.
    measure(&options("nano", 64, 64)).unwrap();
    let free = mem_get_info().unwrap().0;
    let taken = on.gpu.zeros::<u8>(free - LEFT_BYTES).unwrap();
    let advice = |options: &SpeedOptions| match measure(options) {
        Err(Error::OutOfMemory { advice, .. }) => advice,
        other => panic!("{other:?}"),
    };
    // 18 M weights of two bytes fit, what the optimiser keeps beside them does not.
    let of_model = advice(&options("37M", 30_000, 64));
    assert!(of_model.contains("GiB") && of_model.contains("model.scale"), "{of_model}");
    let of_step = advice(&options("tiny", 64, 1 << 17));
    assert!(of_step.contains("data.batch") && of_step.contains("train.recompute=block"), "{of_step}");
    // Afterwards all is as it was.
    measure(&options("nano", 64, 64)).unwrap();
    drop(taken);
    measure(&options("tiny", 64, 1 << 14)).unwrap();
}
