//! The cross-entropy on the GPU against plain loops in f64: rows held and streamed, at every alignment, in place and
//! beside, with weights, without targets, with targets that name no class; sums by group; poisoned memory; twice the
//! same bits.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cross_entropy::{
    GroupInputs, Losses, NO_TARGET, Scale, Targets, check, forward, forward_backward, forward_backward_in_place,
    group_sums, group_sums_workspace_len, scale, scale_in_place, total,
};
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{DeviceRows, DeviceRowsMut, Gpu};

const SCALE: Scale = Scale::new(0.25).with_z(1e-2);

/// How a matrix of `width` columns lies in memory: columns before and behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Frame {
    before: usize,
    behind: usize,
}

const DENSE: Frame = Frame { before: 0, behind: 0 };

impl Frame {
    fn stride(self, width: usize) -> usize {
        self.before + width + self.behind
    }

    /// The rows inside of a matrix that is NaN around them.
    fn fill(self, rows: &[f64], width: usize) -> Vec<f64> {
        let mut all = vec![f64::NAN; rows.len() / width * self.stride(width)];
        for (to, from) in all.chunks_exact_mut(self.stride(width)).zip(rows.chunks_exact(width)) {
            to[self.before..self.before + width].copy_from_slice(from);
        }
        all
    }

    /// The rows, and whether everything around them is still NaN.
    fn take(self, all: &[f64], width: usize) -> (Vec<f64>, bool) {
        let (mut rows, mut untouched) = (Vec::new(), true);
        for row in all.chunks_exact(self.stride(width)) {
            rows.extend_from_slice(&row[self.before..self.before + width]);
            untouched &= row[..self.before].iter().chain(&row[self.before + width..]).all(|x| x.is_nan());
        }
        (rows, untouched)
    }
}

struct Problem {
    vocabulary: usize,
    logits: Vec<f64>,
    targets: Vec<u32>,
    weights: Option<Vec<f64>>,
}

impl Problem {
    fn new<T: TestElement>(n_rows: usize, vocabulary: usize, weighted: bool) -> Self {
        let mut r = Random((n_rows * 31 + vocabulary) as u64);
        // Rows of other levels and spreads; a row far from zero, one that is all but certain of its target.
        let mut logits = r.normals(n_rows * vocabulary, 3.0);
        let mut targets: Vec<u32> = (0..n_rows).map(|_| r.below(vocabulary) as u32).collect();
        for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
            let level = [0.0, 60.0, -45.0, 0.0][row % 4];
            logits.iter_mut().for_each(|x| *x += level);
            match row % 5 {
                3 => targets[row] = [0, vocabulary as u32 - 1][row % 2],
                4 => logits[targets[row] as usize] += 30.0,
                _ => {}
            }
        }
        for row in (0..n_rows).filter(|row| row % 7 == 2) {
            targets[row] = NO_TARGET;
        }
        let weights = weighted.then(|| rounded::<f32>(&(0..n_rows).map(|_| r.uniform() * 2.0).collect::<Vec<_>>()));
        Self { vocabulary, logits: rounded::<T>(&logits), targets, weights }
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[row])
    }

    /// Loss, lse and gradient; with `cast` between operations, so that f32 can be followed too.
    fn reference(&self, cast: impl Fn(f64) -> f64) -> [Vec<f64>; 3] {
        let (mut losses, mut lses, mut grad) = (Vec::new(), Vec::new(), Vec::new());
        for (row, logits) in self.logits.chunks_exact(self.vocabulary).enumerate() {
            let Some(&at_target) = logits.get(self.targets[row] as usize) else {
                losses.push(0.0);
                lses.push(0.0);
                grad.extend(logits.iter().map(|_| 0.0));
                continue;
            };
            let max = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum = logits.iter().map(|l| cast((l - max).exp())).sum::<f64>();
            let lse = cast(max + sum.ln());
            losses.push(cast(lse - at_target));
            lses.push(lse);
            let (scale, z) = (f64::from(SCALE.scale) * self.weight(row), f64::from(SCALE.z));
            for (v, l) in logits.iter().enumerate() {
                let hot = f64::from(u8::from(v == self.targets[row] as usize));
                let softmax = cast(cast((l - max).exp()) / sum);
                grad.push(cast(scale * (softmax * (1.0 + 2.0 * z * lse) - hot)));
            }
        }
        [losses, lses, grad]
    }
}

/// Where the gradient goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    None,
    Beside(Frame),
    Logits,
}

/// Loss, lse and gradient (the logits where there is none), and the count of targets out of range.
fn run<T: TestElement>(gpu: &Gpu, p: &Problem, frame: Frame, place: Target) -> ([Vec<f64>; 3], u32) {
    let (n_rows, width) = (p.targets.len(), p.vocabulary);
    let mut logits = upload::<T>(gpu, &frame.fill(&p.logits, width));
    let grad_frame = if let Target::Beside(frame) = place { frame } else { frame };
    let mut grad = poisoned::<T>(gpu, n_rows * grad_frame.stride(width));
    let (mut loss, mut lse) = (poisoned::<f32>(gpu, n_rows), poisoned::<f32>(gpu, n_rows));
    let mut out_of_range = gpu.zeros::<u32>(1).unwrap();
    let targets = gpu.upload(&p.targets).unwrap();
    let weights = p.weights.as_ref().map(|weights| upload::<f32>(gpu, weights));
    let targets = Targets::new(gpu.read(&targets)).with_weights(weights.as_ref().map(|weights| gpu.read(weights)));
    let mut losses = Losses::new(
        gpu.write(&mut loss).first("loss", n_rows).unwrap(),
        gpu.write(&mut lse).first("lse", n_rows).unwrap(),
        gpu.write(&mut out_of_range),
    );
    fn columns<'a, T>(rows: DeviceRows<'a, T>, frame: Frame, width: usize) -> DeviceRows<'a, T> {
        rows.columns(frame.before, width).unwrap()
    }
    fn columns_mut<'a, T>(rows: DeviceRowsMut<'a, T>, frame: Frame, width: usize) -> DeviceRowsMut<'a, T> {
        rows.columns(frame.before, width).unwrap()
    }
    match place {
        Target::None => {
            let rows = columns(gpu.rows(&logits, frame.stride(width)).unwrap(), frame, width);
            forward(gpu, &rows, &targets, &mut losses).unwrap();
        }
        Target::Beside(to) => {
            let rows = columns(gpu.rows(&logits, frame.stride(width)).unwrap(), frame, width);
            let mut grad = columns_mut(gpu.rows_mut(&mut grad, to.stride(width)).unwrap(), to, width);
            forward_backward(gpu, &rows, &targets, SCALE, &mut grad, &mut losses).unwrap();
        }
        Target::Logits => {
            let mut rows = columns_mut(gpu.rows_mut(&mut logits, frame.stride(width)).unwrap(), frame, width);
            forward_backward_in_place(gpu, &mut rows, &targets, SCALE, &mut losses).unwrap();
        }
    }
    drop((losses, targets));
    let (from, frame) = if let Target::Beside(to) = place { (&grad, to) } else { (&logits, frame) };
    let (grad, untouched) = frame.take(&download(gpu, from), width);
    assert!(untouched, "{frame:?} {place:?}: something was written beside the columns");
    ([download(gpu, &loss), download(gpu, &lse), grad], gpu.download(&out_of_range).unwrap()[0])
}

fn check_problem<T: TestElement>(gpu: &Gpu, p: &Problem, frame: Frame) {
    let [loss, lse, grad] = p.reference(|x| x);
    let naive = p.reference(|x| f64::from(x as f32));
    let n_rows = p.targets.len();
    for place in [Target::None, Target::Logits, Target::Beside(frame), Target::Beside(Frame { before: 3, behind: 2 })] {
        let (got, out_of_range) = run::<T>(gpu, p, frame, place);
        let name = format!("{} {n_rows}x{} {frame:?} {place:?}", T::DTYPE.name(), p.vocabulary);
        let mut report = Report::new(name.clone());
        report.within("loss", &got[0], &loss, 1e-5);
        report.within("lse", &got[1], &lse, 1e-6);
        if place == Target::None {
            assert_eq!(got[2], p.logits, "the logits are not written");
        } else {
            report.output::<T>("grad", &got[2], &grad, &naive[2], 1e-4);
            // One at the target would hide an error in all others: these apart.
            let rest = |grad: &[f64]| -> Vec<f64> {
                let is_rest = |i: &usize| p.targets[i / p.vocabulary] as usize != i % p.vocabulary;
                (0..grad.len()).filter(is_rest).map(|i| grad[i]).collect()
            };
            report.output::<T>("grad but targets", &rest(&got[2]), &rest(&grad), &rest(&naive[2]), 1e-4);
            for (row, grad) in got[2].chunks_exact(p.vocabulary).enumerate() {
                assert!(p.targets[row] != NO_TARGET || grad.iter().all(|&g| g == 0.0), "{name}: row {row}");
            }
        }
        report.finish();
        assert_eq!(out_of_range, 0);
        let bits = |x: &[Vec<f64>; 3]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&got) == bits(&run::<T>(gpu, p, frame, place).0), "{name}: two runs differ");
    }
}

#[test]
fn every_size_and_alignment() {
    let Some(gpu) = gpu("every_size_and_alignment") else { return };
    let frames =
        [DENSE, Frame { before: 8, behind: 8 }, Frame { before: 1, behind: 0 }, Frame { before: 5, behind: 6 }];
    // Around the rows that 128, 256, 512 and 1024 threads hold, and beyond.
    for vocabulary in [2, 3, 8, 9, 31, 257, 1000, 8192, 8199, 16_384] {
        for frame in frames {
            check_problem::<bf16>(&gpu, &Problem::new::<bf16>(9, vocabulary, true), frame);
            check_problem::<f16>(&gpu, &Problem::new::<f16>(9, vocabulary, false), frame);
            check_problem::<f32>(&gpu, &Problem::new::<f32>(9, vocabulary, true), frame);
        }
    }
    for vocabulary in [32_000, 50_257, 65_535, 65_536, 65_537, 100_000] {
        for frame in [DENSE, Frame { before: 3, behind: 0 }] {
            check_problem::<bf16>(&gpu, &Problem::new::<bf16>(9, vocabulary, false), frame);
            check_problem::<f32>(&gpu, &Problem::new::<f32>(9, vocabulary, true), frame);
        }
    }
    check_problem::<bf16>(&gpu, &Problem::new::<bf16>(2, 1 << 20, false), DENSE);
}

/// What the sanitizer is run on: every kernel of a type, at every alignment, in little time.
#[test]
fn a_few_odd_rows() {
    let Some(gpu) = gpu("a_few_odd_rows") else { return };
    for vocabulary in [5, 260, 4099, 9001, 17_000, 33_003, 70_001] {
        for frame in [DENSE, Frame { before: 3, behind: 2 }] {
            check_problem::<bf16>(&gpu, &Problem::new::<bf16>(3, vocabulary, true), frame);
        }
    }
}

/// More rows than blocks: each block walks several, with rows without targets between.
#[test]
fn many_rows() {
    let Some(gpu) = gpu("many_rows") else { return };
    for vocabulary in [50, 333] {
        check_problem::<bf16>(&gpu, &Problem::new::<bf16>(6000, vocabulary, true), DENSE);
        check_problem::<f32>(&gpu, &Problem::new::<f32>(6000, vocabulary, false), DENSE);
    }
    check_problem::<bf16>(&gpu, &Problem::new::<bf16>(300, 33_000, true), Frame { before: 1, behind: 1 });
}

#[test]
fn no_row_and_no_target() {
    let Some(gpu) = gpu("no_row_and_no_target") else { return };
    let none = Problem { vocabulary: 100, logits: vec![], targets: vec![], weights: None };
    let mut grad = gpu.zeros::<bf16>(1).unwrap();
    let (mut loss, mut lse) = (gpu.zeros::<f32>(1).unwrap(), gpu.zeros::<f32>(1).unwrap());
    let mut out_of_range = gpu.zeros::<u32>(1).unwrap();
    let targets = gpu.zeros::<u32>(1).unwrap();
    let targets = Targets::new(gpu.read(&targets).first("targets", 0).unwrap());
    let mut losses = Losses::new(
        gpu.write(&mut loss).first("loss", 0).unwrap(),
        gpu.write(&mut lse).first("lse", 0).unwrap(),
        gpu.write(&mut out_of_range),
    );
    let memory = gpu.write(&mut grad).first("grad", 0).unwrap();
    let mut rows = DeviceRowsMut::new("grad", memory, none.vocabulary).unwrap();
    forward_backward_in_place(&gpu, &mut rows, &targets, SCALE, &mut losses).unwrap();
    // Logits that are no numbers do not reach a row without a target.
    let p = Problem { logits: vec![f64::NAN; 300], targets: vec![NO_TARGET; 3], ..none };
    let (got, _) = run::<f32>(&gpu, &p, DENSE, Target::Logits);
    assert!(got.iter().flatten().all(|&x| x == 0.0));
}

#[test]
fn what_is_no_number_is_not_swallowed() {
    let Some(gpu) = gpu("what_is_no_number_is_not_swallowed") else { return };
    for vocabulary in [10, 1000, 40_000] {
        for poisoned in [0, 3, vocabulary - 1] {
            let mut p = Problem::new::<f32>(2, vocabulary, false);
            p.targets = vec![5, 5];
            p.logits[poisoned] = f64::NAN;
            let (got, _) = run::<f32>(&gpu, &p, DENSE, Target::Logits);
            assert!(got[0][0].is_nan() && got[2][..vocabulary].iter().all(|x| x.is_nan()), "{vocabulary} {poisoned}");
            assert!(got[0][1].is_finite() && got[2][vocabulary..].iter().all(|x| x.is_finite()));
        }
    }
    // A class that is masked by minus infinity has no share.
    let mut p = Problem::new::<f32>(1, 100, false);
    p.targets = vec![7];
    p.logits[50] = f64::NEG_INFINITY;
    let (got, _) = run::<f32>(&gpu, &p, DENSE, Target::Logits);
    let [loss, _, grad] = p.reference(|x| x);
    assert!((got[0][0] - loss[0]).abs() < 1e-5 && got[2][50] == 0.0 && (got[2][7] - grad[7]).abs() < 1e-6);
}

#[test]
fn a_target_out_of_range_is_told() {
    let Some(gpu) = gpu("a_target_out_of_range_is_told") else { return };
    for vocabulary in [100, 70_000] {
        let mut p = Problem::new::<f32>(30, vocabulary, false);
        p.targets[4] = vocabulary as u32;
        p.targets[29] = NO_TARGET - 1;
        let (got, out_of_range) = run::<f32>(&gpu, &p, DENSE, Target::Logits);
        assert_eq!(out_of_range, 2);
        let [loss, _, grad] = p.reference(|x| x);
        let mut report = Report::new("two targets that name no class");
        report.within("loss", &got[0], &loss, 1e-5);
        report.within("grad", &got[2], &grad, 1e-4);
        report.finish();
    }
    check(&gpu, &gpu.upload(&[0u32]).unwrap()).unwrap();
    let error = check(&gpu, &gpu.upload(&[2u32]).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "cross_entropy: 2 of targets are out of range");
}

#[test]
fn sums_of_groups() {
    let Some(gpu) = gpu("sums_of_groups") else { return };
    for (n_rows, n_groups, weighted) in
        [(0, 3, true), (1, 1, false), (2047, 8, true), (2049, 3, false), (700_001, 5, true)]
    {
        let mut r = Random(n_rows as u64);
        let vocabulary = 10;
        let targets: Vec<u32> = (0..n_rows).map(|i| if i % 6 == 5 { NO_TARGET } else { r.below(11) as u32 }).collect();
        let groups: Vec<u8> = (0..n_rows).map(|_| r.below(n_groups + 1) as u8).collect();
        let [loss, lse] = [r.normals(n_rows, 5.0), r.normals(n_rows, 9.0)].map(|x| rounded::<f32>(&x));
        let weights = rounded::<f32>(&r.normals(n_rows, 1.0).iter().map(|w| w.abs()).collect::<Vec<_>>());
        let (mut want, mut want_bad) = (vec![0.0; n_groups * 3], 0);
        for i in (0..n_rows).filter(|&i| (targets[i] as usize) < vocabulary) {
            let w = if weighted { weights[i] } else { 1.0 };
            match want.get_mut(groups[i] as usize * 3..groups[i] as usize * 3 + 3) {
                Some(sums) => [1.0, loss[i], lse[i] * lse[i]].iter().zip(sums).for_each(|(x, sum)| *sum += w * x),
                None => want_bad += 1,
            }
        }
        let [loss, lse, weights] = [loss, lse, weights].map(|x| upload::<f32>(&gpu, &x));
        let (targets, groups) =
            (gpu.upload(&[&targets[..], &[0]].concat()).unwrap(), gpu.upload(&[&groups[..], &[0]].concat()).unwrap());
        let run = || {
            let mut sums = gpu.upload(&vec![f64::NAN; n_groups * 3]).unwrap();
            let len = group_sums_workspace_len(n_rows, n_groups);
            let mut workspace = gpu.upload(&vec![f64::NAN; len.max(1)]).unwrap();
            let mut out_of_range = gpu.zeros::<u32>(1).unwrap();
            let weights = weighted.then(|| gpu.read(&weights).first("weights", n_rows).unwrap());
            let inputs = GroupInputs::new(
                Targets::new(gpu.read(&targets).first("targets", n_rows).unwrap()).with_weights(weights),
                vocabulary,
                gpu.read(&loss).first("loss", n_rows).unwrap(),
                gpu.read(&lse).first("lse", n_rows).unwrap(),
            )
            .with_groups(gpu.read(&groups).first("groups", n_rows).unwrap());
            let workspace = gpu.write(&mut workspace).first("workspace", len).unwrap();
            let (mut to, mut bad) = (gpu.write(&mut sums), gpu.write(&mut out_of_range));
            group_sums(&gpu, &inputs, n_groups, &mut to, &mut bad, workspace).unwrap();
            drop((to, bad));
            (gpu.download(&sums).unwrap(), gpu.download(&out_of_range).unwrap()[0])
        };
        let (got, bad) = run();
        let mut report = Report::new(format!("{n_rows} rows, {n_groups} groups, weighted {weighted}"));
        report.within("sums", &got, &want, 1e-12);
        report.finish();
        assert_eq!(bad, want_bad);
        assert_eq!((got, bad), run());
    }
}

#[test]
fn sizes_that_disagree_are_refused() {
    let Some(gpu) = gpu("sizes_that_disagree_are_refused") else { return };
    let logits = gpu.zeros::<f32>(12).unwrap();
    let (mut loss, mut lse) = (gpu.zeros::<f32>(3).unwrap(), gpu.zeros::<f32>(3).unwrap());
    let mut out_of_range = gpu.zeros::<u32>(1).unwrap();
    let targets = gpu.zeros::<u32>(4).unwrap();
    let mut losses = Losses::new(gpu.write(&mut loss), gpu.write(&mut lse), gpu.write(&mut out_of_range));
    let targets = Targets::new(gpu.read(&targets));
    let error = forward(&gpu, &gpu.rows(&logits, 4).unwrap(), &targets, &mut losses).unwrap_err();
    assert_eq!(error.to_string(), "cross_entropy: targets has 4 elements, expected 3");
    let error = forward(&gpu, &gpu.rows(&logits, 1).unwrap(), &targets, &mut losses).unwrap_err();
    assert_eq!(error.to_string(), "cross_entropy: vocabulary = 1 is outside 2..=1048576");
}

#[test]
fn the_total_is_the_sum_over_rows_in_f64() {
    let Some(gpu) = gpu("the_total_is_the_sum_over_rows_in_f64") else { return };
    for n_rows in [1, 31, 1024, 1025, 70_001] {
        let mut r = Random(n_rows as u64 + 3);
        let [loss, lse, weights] = [5.0, 9.0, 1.0].map(|scale| rounded::<f32>(&r.normals(n_rows, scale)));
        let (of_loss, of_lse) = (upload::<f32>(&gpu, &loss), upload::<f32>(&gpu, &lse));
        let of_weights = upload::<f32>(&gpu, &weights);
        for weighted in [false, true] {
            let share = |row: usize| if weighted { weights[row] } else { 1.0 };
            let term = |row: usize| share(row) * (loss[row] + f64::from(SCALE.z) * lse[row] * lse[row]);
            let want = f64::from(SCALE.scale) * (0..n_rows).map(term).sum::<f64>();
            let magnitude = f64::from(SCALE.scale) * (0..n_rows).map(|row| term(row).abs()).sum::<f64>();
            let mut got = poisoned::<f32>(&gpu, 1);
            let (of_weights, weights) = (gpu.read(&of_weights), weighted);
            let (loss, lse) = (gpu.read(&of_loss), gpu.read(&of_lse));
            total(&gpu, &loss, &lse, weights.then_some(&of_weights), SCALE, &mut gpu.write(&mut got)).unwrap();
            let got = download(&gpu, &got)[0];
            assert!((got - want).abs() <= 1e-7 * magnitude, "{n_rows} rows: {got}, not {want}");
        }
    }
}

fn scaled<T: TestElement>(gpu: &Gpu) {
    for (n, skipped) in [(7, 0), (8, 1), (2048, 0), (2049, 0), (100_003, 3)] {
        let mut r = Random(n as u64 + 11);
        let (values, factor) = (r.normals(n + skipped, 2.0), f64::from(0.37f32));
        let factors = upload::<f32>(gpu, &[factor]);
        let narrow = rounded::<T>(&values);
        let want = rounded::<T>(&narrow[skipped..].iter().map(|x| x * factor).collect::<Vec<_>>());
        let mut of_narrow = upload::<T>(gpu, &values);
        let mut to = gpu.write_view(of_narrow.slice_mut(skipped..n + skipped));
        scale_in_place::<T>(gpu, &mut to, &gpu.read(&factors)).unwrap();
        drop(to);
        let got = download(gpu, &of_narrow);
        assert_eq!(got[..skipped], narrow[..skipped], "memory in front was written");
        assert_eq!(got[skipped..], want);

        let wide = rounded::<f32>(&values);
        let want = rounded::<T>(&rounded::<f32>(&wide[skipped..].iter().map(|x| x * factor).collect::<Vec<_>>()));
        let (of_wide, mut to) = (upload::<f32>(gpu, &values), poisoned::<T>(gpu, n));
        let from = gpu.read_view(of_wide.slice(skipped..n + skipped));
        scale::<T>(gpu, &from, &gpu.read(&factors), &mut gpu.write_view(to.slice_mut(..n))).unwrap();
        assert_eq!(download(gpu, &to)[..n], want);
    }
}

#[test]
fn gradients_are_scaled_by_a_factor_on_the_device() {
    let Some(gpu) = gpu("gradients_are_scaled_by_a_factor_on_the_device") else { return };
    scaled::<f32>(&gpu);
    scaled::<bf16>(&gpu);
    scaled::<f16>(&gpu);
}
