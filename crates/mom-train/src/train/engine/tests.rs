//! Steps of an engine without a trainer around it: what no target, padding and replays change.

use super::super::work::Input;
use super::*;
use candle_core::Tensor;
use mom_data::{Batch, NO_TARGET};
use mom_models::{Setting, Variant};

const SEQLEN: usize = 8;

/// A document, or padding alone.
fn input(padding: bool) -> Input {
    let at = |p: usize| (p * 5 % 11) as u32;
    let batch = Batch {
        batch: 1,
        seqlen: SEQLEN,
        tokens: (0..SEQLEN).map(|p| if padding { 0 } else { at(p) }).collect(),
        targets: (0..SEQLEN).map(|p| if padding { NO_TARGET } else { at(p + 1) }).collect(),
        modality_ids: (0..SEQLEN).map(|p| u8::from(!padding && p > 3)).collect(),
        target_modality_ids: vec![0; SEQLEN],
        document_starts: (0..SEQLEN).map(|p| p == 0).collect(),
        ..Batch::default()
    };
    Input { batch, noise: None }
}

/// An engine wherever there is one. A test that calls it holds [`crate::ONE_ON_DEVICE`].
fn engines() -> Vec<Engine> {
    let config = ModelConfig::new(Setting::Chameleon, Variant::Mom, "nano".parse().unwrap(), 11);
    let new = |dtype, device, captures| {
        Engine::new(&config, 3, Mode { dtype, device, recompute: Recompute::None, captures }).unwrap()
    };
    let mut engines = vec![new(DType::F32, DeviceKind::Cpu, false)];
    match mom_core::cuda_device(0) {
        Ok(_) => engines.extend([DType::BF16, DType::F32].map(|dtype| new(dtype, DeviceKind::Cuda, false))),
        Err(error) => assert!(
            std::env::var_os("MOM_REQUIRE_GPU").is_none() || cfg!(not(feature = "cuda")),
            "MOM_REQUIRE_GPU is set, but {error}"
        ),
    }
    engines
}

fn step(engine: &mut Engine, mut inputs: Vec<Input>) -> StepReport {
    // Without clipping: gradients of 16 bits and their sums in f32 have norms that differ in the last bit.
    let config = OptimizerSection { weight_decay: 0.0, clip_norm: 1e9, ..OptimizerSection::default() };
    let n = inputs.len();
    let first = inputs.remove(0);
    let work = Work::new(&engine.model, &first, inputs, engine.mode, Ok).unwrap();
    let mut turns = Vec::new();
    let control = StepControl { learning_rate: 1e-2, skip_above: None };
    let report = engine.step(work, control, &config, |_, i| {
        turns.push(i);
        Ok(())
    });
    assert!(turns.into_iter().eq(0..n), "one turn a batch");
    report.unwrap()
}

fn weights(engine: &Engine) -> Vec<Vec<f32>> {
    let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    engine.parameters.tensors().map(|(_, tensor)| values(tensor).unwrap()).collect()
}

#[test]
fn a_step_without_a_target_has_no_loss_and_changes_nothing() {
    let _one = crate::ONE_ON_DEVICE.lock();
    for mut engine in engines() {
        let before = weights(&engine);
        let report = step(&mut engine, vec![input(true)]);
        assert_eq!((report.loss, report.grad_norm), (0.0, 0.0));
        assert!(report.by_modality.iter().all(|loss| loss.count == 0));
        assert!(weights(&engine) == before);
    }
}

#[test]
fn a_batch_without_a_target_adds_nothing_to_another() {
    let _one = crate::ONE_ON_DEVICE.lock();
    for (mut one, mut two) in engines().into_iter().zip(engines()) {
        let (alone, with) = (step(&mut one, vec![input(false)]), step(&mut two, vec![input(false), input(true)]));
        assert_eq!((alone.loss, alone.by_modality), (with.loss, with.by_modality));
        assert!(alone.loss > 0.0 && (alone.grad_norm / with.grad_norm - 1.0).abs() < 1e-6);
        assert!(weights(&one) == weights(&two));
    }
}

/// Documents whose modalities and targets lie elsewhere in each.
#[cfg(feature = "cuda")]
fn varied(turn: usize) -> Input {
    let mut input = input(false);
    for p in 0..SEQLEN {
        input.batch.modality_ids[p] = u8::from((p * (turn + 2)) % 5 > 2 + turn % 2);
        input.batch.tokens[p] = ((p * 7 + turn * 3) % 11) as u32;
        if (p + turn).is_multiple_of(3) {
            input.batch.targets[p] = NO_TARGET;
        }
        input.batch.document_starts[p] = p == 0 || p == turn;
    }
    input
}

#[cfg(feature = "cuda")]
#[test]
fn a_replayed_step_has_the_bits_of_its_launches() {
    let _one = crate::ONE_ON_DEVICE.lock();
    let on_gpu = |engine: &Engine| engine.mode.device == DeviceKind::Cuda;
    let three = engines().into_iter().zip(engines()).zip(engines()).filter(|((engine, _), _)| on_gpu(engine));
    for ((mut replayed, mut singly), mut other) in three {
        (replayed.mode.captures, singly.mode.captures, singly.singly) = (true, true, true);
        for turn in 0..7 {
            let [got, want, near] =
                [&mut replayed, &mut singly, &mut other].map(|engine| step(engine, vec![varied(turn)]));
            assert_eq!(got, want);
            // The head over rows with a target alone, and other products.
            let bound = if other.mode.dtype == DType::F32 { 1e-5 } else { 2e-2 };
            assert!((got.loss / near.loss - 1.0).abs() < bound, "turn {turn}: {got:?}, {near:?}");
            let counts = |report: &StepReport| report.by_modality.iter().map(|loss| loss.count).collect::<Vec<_>>();
            assert_eq!(counts(&got), counts(&near));
        }
        assert!(weights(&replayed) == weights(&singly));
    }
}
