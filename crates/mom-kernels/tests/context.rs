//! Sequences in chunks, each a rank's: as the whole, forward and backward.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;

use common::mixer::{MixerCase, SMALL, Sizes};
use common::ranks::{Rank, ranks};
use common::scan::ScanCase;
use common::{Fields, Noise, Tokens, assert_close, cast, check_gradients, dot, join_time, poisoned};
use mom_kernels::mixer;
use mom_kernels::selective_scan;
use mom_kernels::{Element, Rows};

const ODD: Sizes = Sizes { d_model: 9, d_inner: 37, d_state: 16, d_conv: 3, dt_rank: 3 };

/// Chunks of these lengths, one behind the other.
fn chunks(lengths: &[usize]) -> Vec<Range<usize>> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - length..*end)
    });
    ends.collect()
}

/// Output, by position, and all gradients of one chunk.
fn of_chunk<T: Element>(case: &MixerCase<T>, grad_out: &[T], context: &Rank) -> (Vec<T>, Fields<T>) {
    let (plan, x, weights) = (&case.plan, case.x(), case.weights());
    let (out, saved) = mixer::forward_chunk_saving(plan, x, &weights, context).unwrap();
    let unsaved = mixer::forward_chunk(plan, x, &weights, context).unwrap();
    assert_eq!(common::bits(&out), common::bits(&unsaved));
    let rows = Rows::new("grad_out", grad_out, case.sizes.d_model).unwrap();
    let grads = mixer::backward_chunk(plan, x, &weights, &saved, rows, context).unwrap();
    (case.tokens.to_positions(&out, case.sizes.d_model), case.fields_of(grads))
}

/// Output and gradients of the whole, from chunks of these lengths.
fn chunked<T: Element>(case: &MixerCase<T>, grad_out: &[T], lengths: &[usize]) -> (Vec<T>, Fields<T>) {
    let (chunks, d_model) = (chunks(lengths), case.sizes.d_model);
    assert_eq!(chunks.last().unwrap().end, case.tokens.seqlen);
    let of_ranks = ranks(chunks.len(), |rank| {
        let range = chunks[mixer::Context::index(&rank)].clone();
        let part = case.time(range.clone());
        let grad_out = case.tokens.rows_of_time(grad_out, d_model, range);
        let (out, mut grads) = of_chunk(&part, &grad_out, &rank);
        let x = part.tokens.to_positions(&grads["x"], d_model);
        grads.insert("x", x);
        (out, grads)
    });
    let join = |parts: Vec<Vec<T>>| case.tokens.to_rows(&join_time(&parts, case.tokens.batch), d_model);
    let out = join(of_ranks.iter().map(|(out, _)| out.clone()).collect());
    let mut grads = of_ranks[0].1.clone();
    for (_, of_rank) in &of_ranks[1..] {
        for (name, sum) in &mut grads {
            sum.iter_mut().zip(&of_rank[name]).for_each(|(sum, &grad)| *sum += grad);
        }
    }
    grads.insert("x", join(of_ranks.iter().map(|(_, grads)| grads["x"].clone()).collect()));
    (out, grads)
}

fn grad_out<T: Element>(case: &MixerCase<T>) -> Vec<T> {
    cast(&Noise::new(41).values(case.tokens.n_rows() * case.sizes.d_model, 0.0, 1.0))
}

/// Chunks against the whole, in both directions; how far they are apart.
fn compare<T: Element>(case: &MixerCase<T>, lengths: &[usize], tolerance: f64) {
    let grad_out = grad_out(case);
    let (want, want_grads) = (case.forward(None), case.backward(&grad_out));
    let (got, grads) = chunked(case, &grad_out, lengths);
    assert_close(&format!("out of {lengths:?}"), &got, &common::to_f64(&want), tolerance);
    assert_eq!(grads.len(), want_grads.len());
    for (name, want) in &want_grads {
        assert_close(&format!("{name} of {lengths:?}"), &grads[name], &common::to_f64(want), tolerance);
    }
}

/// 1, 2, 3 and 8 uneven chunks of 48 positions; none is shorter than a window of 3.
const LENGTHS: [&[usize]; 6] = [&[48], &[24, 24], &[45, 3], &[5, 27, 16], &[3, 3, 42], &[3, 7, 4, 11, 3, 8, 9, 3]];

#[test]
fn chunks_are_as_the_whole() {
    for (seed, lengths) in LENGTHS.into_iter().enumerate() {
        let tokens = Tokens::random(seed as u64, 2, 48, 3);
        for sizes in [SMALL, ODD, Sizes { d_conv: 1, ..SMALL }] {
            compare(&MixerCase::random(tokens.clone(), sizes, [true; 4], 1), lengths, 1e-12);
            let packed = tokens.clone().with_documents(seed as u64);
            compare(&MixerCase::random(packed, sizes, [true, false, true, false], 2), lengths, 1e-12);
        }
        let single = MixerCase::random(tokens.with_documents(9), ODD, [true; 4], 3).cast::<f32>();
        compare(&single, lengths, 1e-5);
    }
}

/// Chunks begin at 16 and 32: documents that begin there, one before, one behind, within a window of it, and no document start in a
/// whole chunk.
#[test]
fn documents_begin_on_and_beside_borders() {
    for starts in
        [&[0, 16][..], &[0, 15, 33], &[0, 17, 31], &[0, 14, 18, 30, 34], &[0], &[0, 40], &[0, 16, 32], &[0, 15, 16, 17]]
    {
        let mut tokens = Tokens::random(5, 2, 48, 2);
        let is_start = |position: usize| starts.contains(&(position % 48));
        tokens.starts = Some((0..96).map(is_start).collect());
        compare(&MixerCase::random(tokens, SMALL, [true; 4], 4), &[16, 16, 16], 1e-12);
    }
}

#[test]
fn a_modality_may_be_absent_of_a_chunk() {
    let mut tokens = Tokens::random(6, 2, 30, 3);
    tokens.ids = (0..60).map(|position| [0, 2, 1][position % 30 / 10]).collect();
    compare(&MixerCase::random(tokens, SMALL, [true; 4], 5), &[10, 10, 10], 1e-12);
}

#[test]
fn gradients_of_chunks_agree_with_finite_differences() {
    let case = MixerCase::random(Tokens::random(7, 1, 11, 2), SMALL, [true; 4], 6);
    let grad_out = grad_out(&case);
    let (_, grads) = chunked(&case, &grad_out, &[4, 3, 4]);
    check_gradients(&case.fields, &grads, |fields| {
        dot(&MixerCase { fields: fields.clone(), ..case.clone() }.forward(None), &grad_out)
    });
}

/// What a chunk leaves is its last state from zero and how any other one decays; backwards its first adjoint.
#[test]
fn a_chunks_ends_are_those_of_the_scan() {
    for tokens in
        [Tokens::random(8, 2, 21, 2), Tokens::random(9, 3, 40, 3).with_documents(4), Tokens::random(1, 2, 0, 2)]
    {
        let case = ScanCase::random(tokens, 21, 5, 7);
        let fresh = case.clone().without(&["initial_state"]);
        let (mut decay, mut end) = (poisoned(case.state_len()), poisoned(case.state_len()));
        selective_scan::ends(&fresh.inputs(), &mut decay, &mut end).unwrap();
        let mut state = case.fields["initial_state"].clone();
        selective_scan::carry(&mut state, &decay, &end).unwrap();
        let forward = case.forward();
        assert_close("last_state", &state, &forward["last_state"], 1e-13);
        let n = case.tokens.n_rows() * case.d_inner;
        let (grad_out, grad_last) =
            (Noise::new(3).values(n, 0.0, 1.0), Noise::new(4).values(case.state_len(), 0.0, 1.0));
        let rows = Rows::new("grad_out", &grad_out, case.d_inner).unwrap();
        let (mut decay, mut end) = (poisoned(case.state_len()), poisoned(case.state_len()));
        selective_scan::adjoint_ends(&fresh.inputs(), rows, &mut decay, &mut end).unwrap();
        let mut adjoint = grad_last.clone();
        selective_scan::carry(&mut adjoint, &decay, &end).unwrap();
        let grads = case.backward(&forward["saved_states"], &grad_out, Some(&grad_last));
        assert_close("grad_initial_state", &adjoint, &grads["initial_state"], 1e-13);
        let refused = selective_scan::ends(&case.inputs(), &mut decay, &mut end).unwrap_err().to_string();
        assert_eq!(refused, "selective_scan: initial_state is present, expected absent");
    }
}

#[test]
fn a_chunk_that_is_shorter_than_a_window_is_refused() {
    let case = MixerCase::random(Tokens::random(10, 2, 2, 2), SMALL, [true; 4], 8);
    let messages =
        ranks(1, |rank| mixer::forward_chunk(&case.plan, case.x(), &case.weights(), &rank).unwrap_err().to_string());
    assert!(messages[0].starts_with("mixer: seqlen of a chunk = 2 is outside 3.."), "{messages:?}");
}
