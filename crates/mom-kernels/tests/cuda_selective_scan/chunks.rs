//! Sequences that are cut into chunks of time: states that come through them, documents that start in them, and the whole.

use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{Gpu, selective_scan as device};

use crate::cuda_support::*;
use crate::scan::*;

/// Few sequences, which are cut into chunks of time: 1000 steps into six times 160 and 40.
const CUT: Case = Case { seqlen: 1000, documents: false, ..FULL };

#[test]
fn chunks_of_every_kind() {
    let Some(gpu) = gpu("chunks_of_every_kind") else { return };
    assert!(device::forward_workspace_len(CUT.batch, CUT.seqlen, CUT.d_inner, CUT.d_state) > 0);
    check_all(&gpu, CUT);
    check_all(&gpu, Case { documents: true, ..CUT });
    check_all(&gpu, Case { states: false, ..CUT });
    check_all(&gpu, Case { bias: false, gate_and_skip: false, ..CUT });
    check_all(&gpu, Case { bias: false, softplus: false, ..CUT });
    check_all(&gpu, Case { dt_rank: 3, ..CUT }); // rows that do not lie on 16 bytes
    for (d_inner, d_state) in [(33, 16), (96, 5), (40, 32), (20, 64)] {
        check::<bf16>(&gpu, Case { d_inner, d_state, ..CUT }, 90);
        check::<f32>(&gpu, Case { d_inner, d_state, ..CUT }, 91);
    }
    for seqlen in [512, 513, 527, 639, 640, 641, 1023, 1041] {
        check::<bf16>(&gpu, Case { batch: 1, seqlen, ..CUT }, 92);
    }
}

#[test]
fn documents_start_in_some_chunks() {
    let Some(gpu) = gpu("documents_start_in_some_chunks") else { return };
    let case = Case { documents: true, ..CUT };
    let starts: [&[usize]; 8] = [&[0], &[1, 2], &[159], &[160], &[161, 191, 192], &[319, 961], &[960, 999], &[500]];
    for (seed, of_first) in starts.into_iter().enumerate() {
        // The other sequence has those of the next.
        let of_second = starts[(seed + 1) % starts.len()].iter().map(|at| case.seqlen + at);
        let mut is_start = vec![false; case.batch * case.seqlen];
        of_first.iter().copied().chain(of_second).for_each(|at| is_start[at] = true);
        check_problem::<bf16>(
            &gpu,
            &far::<bf16>(Problem::with_starts::<bf16>(case, &is_start, 100 + seed as u64), -4.0),
        );
        check_problem::<f32>(&gpu, &far::<f32>(Problem::with_starts::<f32>(case, &is_start, 120 + seed as u64), -4.0));
    }
}

/// Three chunks are of the backward pass alone, unless what they leave is given.
#[test]
fn a_whole_forward_pass_before_chunks_of_the_backward_pass() {
    let Some(gpu) = gpu("a_whole_forward_pass_before_chunks_of_the_backward_pass") else { return };
    let case = Case { batch: 25, seqlen: 2050, d_inner: 128, documents: false, ..FULL };
    assert_eq!(device::forward_workspace_len(case.batch, case.seqlen, case.d_inner, case.d_state), 0);
    check_problem::<bf16>(&gpu, &far::<bf16>(Problem::new::<bf16>(case, 160), -4.0));
}

/// What the chunks leave is the same whoever computes it, and so is what follows: where a pass is cut in the same way to the last bit.
#[test]
fn a_pass_that_is_given_what_chunks_leave_is_the_pass() {
    let Some(gpu) = gpu("a_pass_that_is_given_what_chunks_leave_is_the_pass") else { return };
    fn both<T: TestElement>(gpu: &Gpu, case: Case) -> [Outputs; 2] {
        let problem = far::<T>(Problem::new::<T>(case, 170), -3.0);
        [Ends::Computed, Ends::Given].map(|ends| run_on_device::<T>(gpu, &problem, Places::Apart, ends))
    }
    for case in [
        CUT,
        Case { documents: true, ..CUT },
        Case { states: false, gate_and_skip: false, ..CUT },
        Case { d_inner: 33, d_state: 20, ..CUT },
        Case { n_modalities: 7, ..CUT },
        // Not cut.
        FULL,
        Case { n_modalities: 7, ..FULL },
    ] {
        for [computed, given] in [both::<bf16>(&gpu, case), both::<f16>(&gpu, case), both::<f32>(&gpu, case)] {
            assert!(same_bits(&computed, &given), "{case:?}");
        }
    }
    // In three chunks where a forward pass alone has one.
    let three = Case { batch: 4, seqlen: 2050, d_inner: 1024, documents: false, ..FULL };
    assert_eq!(device::forward_workspace_len(three.batch, three.seqlen, three.d_inner, three.d_state), 0);
    let of = device::Chunk { batch: three.batch, d_inner: three.d_inner, d_state: three.d_state };
    assert!(device::ends_workspace_len(of, three.seqlen) > 0);
    let [computed, given] = both::<f32>(&gpu, three);
    let mut report = Report::new("given ends, three chunks");
    for (i, what) in NAMES.into_iter().enumerate() {
        report.within(what, &given[i], &computed[i], 1e-5);
    }
    report.finish();
}

/// With `dt` further on by this much on average: at -4 a state comes through a thousand steps, at 4 not through forty.
fn far<T: TestElement>(mut problem: Problem, by: f64) -> Problem {
    problem.dt_bias = rounded::<f32>(&problem.dt_bias.iter().map(|x| x + by).collect::<Vec<_>>());
    problem
}

#[test]
fn states_come_through_chunks_or_do_not() {
    let Some(gpu) = gpu("states_come_through_chunks_or_do_not") else { return };
    for by in [-6.0, -4.0, 2.0, 4.0] {
        check_problem::<bf16>(&gpu, &far::<bf16>(Problem::new::<bf16>(CUT, 140), by));
        check_problem::<f16>(&gpu, &far::<f16>(Problem::new::<f16>(CUT, 141), by));
        check_problem::<f32>(&gpu, &far::<f32>(Problem::new::<f32>(CUT, 142), by));
    }
}

/// A sequence alone is cut, one of many is not.
#[test]
fn a_sequence_in_chunks_is_the_sequence() {
    let Some(gpu) = gpu("a_sequence_in_chunks_is_the_sequence") else { return };
    let case = Case { batch: 100, seqlen: 700, d_inner: 64, n_modalities: 1, dt_rank: 8, documents: false, ..FULL };
    let len = |batch| device::forward_workspace_len(batch, case.seqlen, case.d_inner, case.d_state);
    assert!(len(1) > 0 && len(case.batch) == 0);
    let many = far::<f32>(Problem::new::<f32>(case, 150), -3.0);
    let alone = Case { batch: 1, ..case };
    let first = |x: &[f64]| x[..x.len() / case.batch].to_vec();
    let plan = mom_kernels::ModalityPlan::new(1, case.seqlen, 1, &vec![0; case.seqlen], None).unwrap();
    let (dt_bias, a, d_skip) = (many.dt_bias.clone(), many.a.clone(), many.d_skip.clone());
    let [u, dt, x_dbl, xz, initial, grad_out, grad_last] =
        [&many.u, &many.dt, &many.x_dbl, &many.xz, &many.initial, &many.grad_out, &many.grad_last].map(|x| first(x));
    let one = Problem { case: alone, plan, u, dt, dt_bias, a, x_dbl, d_skip, xz, initial, grad_out, grad_last };
    let (one, many) = (on_device::<f32>(&gpu, &one, Places::Apart), on_device::<f32>(&gpu, &many, Places::Apart));
    let mut report = Report::new("chunks and the whole");
    for (i, what) in NAMES.into_iter().enumerate() {
        if !["grad_dt_bias", "grad_a", "grad_d_skip"].contains(&what) {
            report.within(what, &one[i], &first(&many[i]), 1e-5);
        }
    }
    report.finish();
}
