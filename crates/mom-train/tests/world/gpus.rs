//! Ranks on GPUs: one each where there are enough, else all on the first, which NCCL takes for several hosts.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::gpu;
use crate::processes::{Run, losses, outputs, text, wait_for};

/// A rank's command: where there are fewer GPUs than ranks all are on the first one.
fn on_gpus(size: usize) -> impl Fn(usize, Command) -> Command {
    let enough = mom_core::cuda::memory(size - 1).is_ok();
    move |rank, mut command| {
        if !enough {
            // NCCL refuses two ranks on one GPU of a host; what it takes for other hosts it reaches by sockets.
            command
                .env("NCCL_HOSTID", format!("host-{rank}"))
                .env("NCCL_SOCKET_IFNAME", "lo")
                .env("CUDA_VISIBLE_DEVICES", "0");
        }
        command
    }
}

fn furthest(got: &[(u64, f64)], want: &[(u64, f64)]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(got, want)| (got.1 / want.1 - 1.0).abs()).fold(0.0, f64::max)
}

/// Trains and gives the losses of all validations.
fn trained(size: usize, more: &[&str]) -> (Run, Vec<(u64, f64)>) {
    let run = Run::new(&[&["train.device=cuda", "train.steps=50", "train.eval_every=5"], more].concat());
    for output in outputs(run.start(size, &[], on_gpus(size))) {
        assert!(output.status.success(), "{}: {}", output.status, text(&output));
    }
    let losses = losses(&run.out());
    (run, losses)
}

#[test]
fn ranks_on_gpus_train_as_one_does() {
    let Some(_gpus) = gpu("ranks_on_gpus_train_as_one_does") else { return };
    for setting in ["chameleon", "transfusion"] {
        for (dtype, bound) in [("f32", 1e-5), ("bf16", 1e-2)] {
            let (dtype, setting) = (format!("train.dtype={dtype}"), format!("model.setting={setting}"));
            let more = [dtype.as_str(), &setting, "train.graph=never", "optimizer.learning_rate=1e-3"];
            let (_, alone) = trained(1, &more);
            for reduce in ["fastest", "fixed-order"] {
                let reduce = format!("train.dist.reduce={reduce}");
                let several = [&more[..], &[&reduce]].concat();
                let (_, got) = trained(2, &several);
                let off = furthest(&got, &alone);
                println!("{setting}, {dtype}, {reduce}: {off:.1e}");
                assert!(off < bound, "{setting}, {dtype}, {reduce}: {off:.1e}");
            }
        }
    }
}

/// Kernels, sums over ranks and new weights of a step as one graph.
#[test]
fn captured_steps_of_ranks_are_those_that_are_launched_one_by_one() {
    let Some(_gpus) = gpu("captured_steps_of_ranks_are_those_that_are_launched_one_by_one") else { return };
    for (dtype, bound) in [("train.dtype=f32", 1e-5), ("train.dtype=bf16", 1e-2)] {
        for reduce in ["train.dist.reduce=fastest", "train.dist.reduce=fixed-order"] {
            let more = [dtype, reduce, "train.accumulate=1", "optimizer.learning_rate=1e-3", "train.dist.bucket_mib=1"];
            let of = |graph| trained(2, &[&more[..], &[graph]].concat());
            let ((_, singly), (_, captured)) = (of("train.graph=never"), of("train.graph=always"));
            let off = furthest(&captured, &singly);
            println!("captured, {dtype}, {reduce}: {off:.1e}");
            assert!(off < bound, "{dtype}, {reduce}: {off:.1e}");
        }
    }
}

/// A chunk of each sequence on each rank, with states and windows between them by NCCL, and gradients of several buckets beside those; some
/// chunks have no picture.
#[test]
fn chunks_on_gpus_train_as_whole_sequences_do() {
    let Some(_gpus) = gpu("chunks_on_gpus_train_as_whole_sequences_do") else { return };
    for setting in ["chameleon", "transfusion", "three-modality"] {
        for (dtype, bound) in [("f32", 1e-5), ("bf16", 1e-2)] {
            let (dtype, setting) = (format!("train.dtype={dtype}"), format!("model.setting={setting}"));
            let more = [
                dtype.as_str(),
                &setting,
                "train.graph=never",
                "optimizer.learning_rate=1e-3",
                "model.d_model=256",
                "model.n_layers=3",
                "data.tokenizers.image.size=32",
                "data.tokenizers.image.patch=4",
                "train.dist.bucket_mib=1",
            ];
            // Gradients of one batch, and sums of several.
            let [one, several] = ["train.accumulate=1", "train.accumulate=2"];
            let alone = [one, several].map(|accumulate| trained(1, &[&more[..], &[accumulate]].concat()).1);
            for (size, context, alone, others) in [
                (2, 2, &alone[0], [one, "train.recompute=none", "train.dist.reduce=fastest"]),
                (2, 2, &alone[1], [several, "train.recompute=block", "train.dist.reduce=fixed-order"]),
                (4, 2, &alone[1], [several, "train.recompute=none", "train.dist.reduce=fastest"]),
                (4, 4, &alone[0], [one, "train.recompute=none", "train.dist.reduce=fixed-order"]),
            ] {
                let context = format!("train.dist.context={context}");
                let (_, got) = trained(size, &[&more[..], &[&context], &others].concat());
                let off = furthest(&got, alone);
                println!("{setting}, {dtype}, {size} ranks, {context}, {others:?}: {off:.1e}");
                assert!(off < bound, "{setting}, {dtype}, {size} ranks, {context}, {others:?}: {off:.1e}");
            }
        }
    }
}

#[test]
fn a_fixed_order_gives_the_same_bits_and_an_average_comes_along() {
    let Some(_gpus) = gpu("a_fixed_order_gives_the_same_bits_and_an_average_comes_along") else { return };
    // Samples are drawn between steps whose weights may be on their way.
    let more = [
        "train.dist.reduce=fixed-order",
        "train.ema=0.9",
        "train.accumulate=6",
        "train.dist.bucket_mib=1",
        "train.sample_every=7",
    ];
    let ((one, first), (_, second)) = (trained(3, &more), trained(3, &more));
    assert_eq!(first, second);
    // What they wrote goes on at another number of ranks, and alone.
    for (size, steps) in [(2, "train.steps=52"), (1, "train.steps=54")] {
        for output in outputs(one.start(size, &[steps], on_gpus(size))) {
            assert!(output.status.success(), "{}", text(&output));
        }
    }
    let trained = mom_train::Trained::open(&one.out()).unwrap();
    assert_eq!(trained.step(), 54);
    assert!(trained.with_ema().is_ok());
}

#[test]
fn a_rank_that_is_killed_or_hangs_ends_all() {
    let Some(_gpus) = gpu("a_rank_that_is_killed_or_hangs_ends_all") else { return };
    for (sent, expected) in [(Signal::KILL, "ended without a word"), (Signal::STOP, "no sign of life")] {
        let run = Run::new(&[
            "train.device=cuda",
            "train.steps=1000000",
            "train.eval_every=1000000",
            "train.dist.timeout_secs=4",
        ]);
        let mut children = run.start(2, &[], on_gpus(2));
        wait_for(&run.out().join("checkpoints/step-00000004/checksums.json"));
        kill_process(Pid::from_child(&children[1]), sent).unwrap();
        let mut victim = children.remove(1);
        let start = std::time::Instant::now();
        let output = outputs(children).remove(0);
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        println!("{sent:?}: {:.1} s", start.elapsed().as_secs_f64());
        assert!(!output.status.success() && text(&output).contains(expected), "{}", text(&output));
        let _ = victim.kill();
        victim.wait().unwrap();
        assert!(mom_train::Trained::open(&run.out()).is_ok(), "the newest checkpoint is whole");
    }
}
