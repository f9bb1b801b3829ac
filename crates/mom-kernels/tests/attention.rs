//! Attention and the rotary embedding on the CPU: against plain loops, against finite differences, and by properties.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;

use common::{Noise, Tokens};
use mom_kernels::attention::{AttentionGrads, AttentionInputs, AttentionMask, backward, forward};
use mom_kernels::rotary_embedding::{Direction, RotaryTable, rotate};
use mom_kernels::{Element, ModalityPlan, Rows, RowsMut, SequenceLayout};

struct Problem {
    plan: ModalityPlan,
    mask: AttentionMask,
    n_heads: usize,
    width: usize,
    /// q, k, v, then the gradient of the output; rows in modality order.
    x: [Vec<f64>; 4],
}

impl Problem {
    fn new(seed: u64, (batch, seqlen): (usize, usize), (n_heads, head_dim): (usize, usize)) -> Self {
        let plan = Tokens::random(seed, batch, seqlen, 3).with_documents(seed).plan();
        let mask = AttentionMask::new(plan.layout(), &spans(seed, &plan)).unwrap();
        let mut noise = Noise::new(seed ^ 0xa77e);
        let width = n_heads * head_dim;
        let x = [(); 4].map(|()| noise.values(batch * seqlen * width, 0.0, 1.5));
        Self { plan, mask, n_heads, width, x }
    }

    /// Output, lse, and the gradients of q, k and v.
    fn run<T: Element>(&self) -> [Vec<f64>; 5] {
        let [q, k, v, grad] = self.x.each_ref().map(|x| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>());
        let rows = |x| Rows::new("x", x, self.width).unwrap();
        let inputs = AttentionInputs::new(self.plan.layout(), &self.mask, self.n_heads, rows(&q), rows(&k), rows(&v));
        let nan = || vec![T::from_f64(f64::NAN); q.len()];
        let (mut out, mut lse) = (nan(), vec![T::from_f64(f64::NAN); self.plan.n_rows() * self.n_heads]);
        forward(&inputs, RowsMut::new("out", &mut out, self.width).unwrap(), Some(&mut lse)).unwrap();
        let [mut grad_q, mut grad_k, mut grad_v] = [nan(), nan(), nan()];
        let rows_mut = |x| RowsMut::new("grad", x, self.width).unwrap();
        let grads = AttentionGrads::new(rows_mut(&mut grad_q), rows_mut(&mut grad_k), rows_mut(&mut grad_v));
        backward(&inputs, rows(&out), &lse, rows(&grad), grads).unwrap();
        [out, lse, grad_q, grad_k, grad_v].map(|x| x.into_iter().map(T::to_f64).collect())
    }

    /// The output, by plain loops.
    fn plain(&self, x: &[Vec<f64>; 4]) -> Vec<f64> {
        let [q, k, v, _] = x;
        let (d, seqlen) = (self.width / self.n_heads, self.plan.seqlen());
        let mut out = vec![0.0; q.len()];
        for position in 0..self.plan.n_rows() {
            let row = |t: usize| self.plan.row_of_position()[position / seqlen * seqlen + t] as usize * self.width;
            let of_query = row(position % seqlen);
            for head in 0..self.n_heads {
                let at = |row: usize| row + head * d..row + (head + 1) * d;
                let score = |t: usize| {
                    let pairs = q[at(of_query)].iter().zip(&k[at(row(t))]);
                    pairs.map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
                };
                let keys = self.mask.keys(position);
                let total: f64 = keys.clone().map(|t| score(t).exp()).sum();
                for t in keys {
                    let weight = score(t).exp() / total;
                    out[at(of_query)].iter_mut().zip(&v[at(row(t))]).for_each(|(out, v)| *out += weight * v);
                }
            }
        }
        out
    }
}

/// Some runs of positions inside of documents.
fn spans(seed: u64, plan: &ModalityPlan) -> Vec<Range<usize>> {
    let (mut noise, mut spans, mut at) = (Noise::new(seed), Vec::new(), 0);
    let begins = |p: usize| p.is_multiple_of(plan.seqlen()) || plan.document_starts().is_some_and(|starts| starts[p]);
    while at < plan.n_rows() {
        let longest = (at + 1..plan.n_rows()).find(|&p| begins(p)).unwrap_or(plan.n_rows()) - at;
        let len = 1 + noise.below(longest.min(80));
        if noise.below(2) == 0 {
            spans.push(at..at + len);
        }
        at += len;
    }
    spans
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance && got.iter().all(|x| x.is_finite()), "{what}: {worst}");
}

const SHAPES: [((usize, usize), (usize, usize)); 6] = [
    ((1, 1), (1, 1)),
    ((2, 7), (2, 3)),
    ((1, 64), (1, 8)),
    ((2, 65), (3, 16)),
    ((1, 200), (2, 5)),
    ((3, 130), (1, 32)),
];

#[test]
fn it_is_what_plain_loops_give() {
    for (i, (sizes, heads)) in SHAPES.into_iter().enumerate() {
        let problem = Problem::new(i as u64, sizes, heads);
        let want = problem.plain(&problem.x);
        let double = problem.run::<f64>();
        assert_close(&double[0], &want, 1e-12, "f64");
        for (name, (got, want)) in
            ["out", "lse", "grad_q", "grad_k", "grad_v"].into_iter().zip(problem.run::<f32>().into_iter().zip(&double))
        {
            assert_close(&got, want, 2e-5, name);
        }
    }
}

#[test]
fn long_documents_cross_tiles() {
    // One document without spans but a long one in the middle, and none at all.
    for spans in [vec![], vec![100..333]] {
        let plan = Tokens::random(3, 1, 400, 2).plan();
        let mask = AttentionMask::new(plan.layout(), &spans).unwrap();
        let problem = Problem { mask, plan, ..Problem::new(3, (1, 400), (2, 16)) };
        assert_close(&problem.run::<f64>()[0], &problem.plain(&problem.x), 1e-12, "out");
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let problem = Problem::new(11, (2, 70), (2, 4));
    let [_, _, grads @ ..] = problem.run::<f64>();
    let objective = |x: &[Vec<f64>; 4]| -> f64 { problem.plain(x).iter().zip(&x[3]).map(|(y, g)| y * g).sum() };
    let mut noise = Noise::new(5);
    for (which, grad) in grads.iter().enumerate() {
        for _ in 0..40 {
            let at = noise.below(grad.len());
            let mut moved = problem.x.clone();
            moved[which][at] += 1e-5;
            let up = objective(&moved);
            moved[which][at] -= 2e-5;
            let difference = (up - objective(&moved)) / 2e-5;
            assert!((grad[at] - difference).abs() < 1e-7, "{which} {at}: {} {difference}", grad[at]);
        }
    }
}

#[test]
fn packed_documents_are_what_they_are_apart() {
    let (n, width) = (90, 8);
    let mut noise = Noise::new(2);
    let x = [(); 4].map(|()| noise.values(n * width, 0.0, 1.0));
    let run = |range: Range<usize>, starts: Option<&[bool]>, spans: &[Range<usize>]| {
        let plan = ModalityPlan::dense(1, range.len(), starts).unwrap();
        let mask = AttentionMask::new(plan.layout(), spans).unwrap();
        let x = x.each_ref().map(|x| x[range.start * width..range.end * width].to_vec());
        Problem { plan, mask, n_heads: 2, width, x }.run::<f64>()
    };
    let starts: Vec<bool> = (0..n).map(|t| t == 0 || t == 33).collect();
    let packed = run(0..n, Some(&starts), &[5..20, 40..80]);
    let [first, second] = [run(0..33, None, &[5..20]), run(33..n, None, &[7..47])];
    for i in [0, 2, 3, 4] {
        assert_eq!(packed[i], [first[i].clone(), second[i].clone()].concat(), "{i}");
    }
}

#[test]
fn nothing_comes_from_behind_or_from_another_document() {
    let problem = Problem::new(4, (1, 120), (2, 8));
    let before = problem.run::<f64>()[0].clone();
    let row = |t: usize| problem.plan.row_of_position()[t] as usize;
    for changed in [10, 60, 119] {
        let mut x = problem.x.clone();
        for values in &mut x[1..3] {
            values[row(changed) * 16..][..16].fill(7.0);
        }
        let moved = Problem { x, plan: problem.plan.clone(), mask: problem.mask.clone(), ..problem };
        let after = moved.run::<f64>()[0].clone();
        for t in 0..120 {
            let same = before[row(t) * 16..][..16] == after[row(t) * 16..][..16];
            assert_eq!(same, !problem.mask.keys(t).contains(&changed), "{t} {changed}");
        }
    }
}

#[test]
fn wrong_arguments_are_named_and_nothing_is_written() {
    let layout = SequenceLayout::contiguous(1, 4, None).unwrap();
    let mask = AttentionMask::new(layout, &[]).unwrap();
    let other = AttentionMask::new(SequenceLayout::contiguous(1, 5, None).unwrap(), &[]).unwrap();
    let (x, short) = ([1.0f32; 24], [1.0f32; 18]);
    let rows = |x: &'static [f32]| Rows::new("x", x, 6).unwrap();
    let (x, short): (&'static [f32], &'static [f32]) = (x.to_vec().leak(), short.to_vec().leak());
    let inputs = |mask, n_heads, k| AttentionInputs::new(layout, mask, n_heads, rows(x), rows(k), rows(x));
    for (inputs, arg) in [
        (inputs(&other, 2, x), "mask"),
        (inputs(&mask, 4, x), "q"),
        (inputs(&mask, 0, x), "n_heads"),
        (inputs(&mask, 2, short), "k"),
        (inputs(&mask, 2, x).with_scale(f64::NAN), "scale"),
    ] {
        let mut out = [9.0f32; 24];
        let message = forward(&inputs, RowsMut::new("out", &mut out, 6).unwrap(), None).unwrap_err().to_string();
        assert!(message.contains(&format!("attention: {arg} ")), "{message}");
        assert_eq!(out, [9.0; 24]);
    }
}

#[test]
fn a_rotation_turns_back_and_products_depend_on_distance_alone() {
    let plan = Tokens::random(1, 2, 30, 3).plan();
    let (n_heads, head_dim) = (3, 8);
    let table = RotaryTable::new(64, head_dim, 10_000.0).unwrap();
    let positions = |offset: u32| (0..60).map(|p| p % 30 + offset).collect::<Vec<u32>>();
    let width = n_heads * head_dim;
    let mut noise = Noise::new(9);
    let x = noise.values(60 * width, 0.0, 1.0);
    let turn = |x: &[f64], offset, direction| {
        let mut out = vec![f64::NAN; x.len()];
        let (from, to) = (Rows::new("x", x, width).unwrap(), RowsMut::new("out", &mut out, width).unwrap());
        rotate(plan.layout(), &positions(offset), &table, n_heads, from, to, direction).unwrap();
        out
    };
    let turned = turn(&x, 0, Direction::Forward);
    assert_close(&turn(&turned, 0, Direction::Backward), &x, 1e-14, "back");
    let moved = turn(&x, 17, Direction::Forward);
    let product = |x: &[f64], a: usize, b: usize| -> f64 {
        let row = |t: usize| &x[plan.row_of_position()[t] as usize * width..][..head_dim];
        row(a).iter().zip(row(b)).map(|(a, b)| a * b).sum()
    };
    for (a, b) in [(0, 29), (3, 4), (10, 25)] {
        assert!((product(&turned, a, b) - product(&moved, a, b)).abs() < 1e-12);
        assert!((product(&turned, a, b) - product(&x, a, b)).abs() > 1e-3);
    }
    let mut out = vec![0.0; x.len()];
    let (from, to) = (Rows::new("x", &x, width).unwrap(), RowsMut::new("out", &mut out, width).unwrap());
    let message = rotate(plan.layout(), &positions(40), &table, n_heads, from, to, Direction::Forward);
    assert!(message.unwrap_err().to_string().contains("positions = 64 is outside 0..=63"));
}
