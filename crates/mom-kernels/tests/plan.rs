//! The modality plan: a stable counting sort, its inverse, and what it refuses.
#![allow(clippy::unwrap_used)]

use mom_kernels::{ModalityOffsets, ModalityPlan, SequenceLayout};
use proptest::prelude::*;

fn batches() -> impl Strategy<Value = (usize, usize, usize, Vec<u8>)> {
    (0usize..5, 0usize..40, 1usize..6).prop_flat_map(|(batch, seqlen, k)| {
        let ids = prop::collection::vec(0..k as u8, batch * seqlen);
        (Just(batch), Just(seqlen), Just(k), ids)
    })
}

proptest! {
    #[test]
    fn rows_and_positions_are_inverse((batch, seqlen, k, ids) in batches()) {
        let plan = ModalityPlan::new(batch, seqlen, k, &ids, None).unwrap();
        prop_assert_eq!(plan.row_of_position().len(), ids.len());
        for position in 0..ids.len() {
            let row = plan.row_of_position()[position] as usize;
            prop_assert_eq!(plan.position_of_row()[row] as usize, position);
            prop_assert_eq!(plan.layout().row(position), row);
        }
    }

    #[test]
    fn rows_are_sorted_by_modality_and_stable_within_one((batch, seqlen, k, ids) in batches()) {
        let plan = ModalityPlan::new(batch, seqlen, k, &ids, None).unwrap();
        let offsets = plan.modality_offsets();
        prop_assert_eq!(offsets.n_modalities(), k);
        prop_assert_eq!(offsets.n_rows(), ids.len());
        for modality in 0..k {
            let positions = &plan.position_of_row()[offsets.rows(modality)];
            prop_assert!(positions.is_sorted());
            prop_assert_eq!(positions.len(), ids.iter().filter(|&&id| usize::from(id) == modality).count());
            for row in offsets.rows(modality) {
                prop_assert_eq!(usize::from(ids[plan.position_of_row()[row] as usize]), modality);
                prop_assert_eq!(offsets.modality_of_row(row), modality);
            }
        }
    }

    #[test]
    fn offsets_are_the_prefix_sums_of_the_counts(counts in prop::collection::vec(0usize..50, 0..8)) {
        let offsets = ModalityOffsets::from_counts(counts.iter().copied());
        prop_assert_eq!(offsets.n_modalities(), counts.len());
        prop_assert_eq!(offsets.n_rows(), counts.iter().sum::<usize>());
        for (modality, &count) in counts.iter().enumerate() {
            prop_assert_eq!(offsets.rows(modality).len(), count);
            prop_assert_eq!(offsets.rows(modality).end, offsets.as_slice()[modality + 1]);
        }
    }
}

#[test]
fn a_dense_plan_leaves_rows_where_positions_are() {
    let starts = [true, false, false, true, false, true];
    let plan = ModalityPlan::dense(2, 3, Some(&starts)).unwrap();
    assert_eq!(plan.row_of_position(), [0, 1, 2, 3, 4, 5]);
    assert_eq!((plan.batch(), plan.seqlen(), plan.n_rows(), plan.n_modalities()), (2, 3, 6, 1));
    assert_eq!(plan.document_starts(), Some(&starts[..]));
    let contiguous = SequenceLayout::contiguous(2, 3, Some(&starts)).unwrap();
    for position in 0..6 {
        assert_eq!(plan.layout().row(position), contiguous.row(position));
        assert_eq!(plan.layout().starts_document(position), starts[position]);
        assert_eq!(contiguous.starts_document(position), starts[position]);
    }
    assert_eq!((contiguous.batch(), contiguous.seqlen(), contiguous.n_rows()), (2, 3, 6));
    assert!(!SequenceLayout::contiguous(2, 3, None).unwrap().starts_document(0));
}

#[test]
fn all_256_modalities_fit() {
    let ids: Vec<u8> = (0..=255).rev().collect();
    let plan = ModalityPlan::new(1, 256, 256, &ids, None).unwrap();
    assert_eq!(plan.position_of_row()[0], 255);
    assert_eq!(plan.modality_offsets().modality_of_row(200), 200);
}

#[test]
fn what_a_plan_refuses_is_named() {
    let message = |batch, seqlen, k, ids: &[u8], starts: Option<&[bool]>| {
        ModalityPlan::new(batch, seqlen, k, ids, starts).unwrap_err().to_string()
    };
    assert_eq!(message(2, 2, 0, &[0; 4], None), "modality_plan: n_modalities = 0 is outside 1..=256");
    assert_eq!(message(2, 2, 257, &[0; 4], None), "modality_plan: n_modalities = 257 is outside 1..=256");
    assert_eq!(message(2, 2, 2, &[0; 3], None), "modality_plan: modality_ids has 3 elements, expected 4");
    assert_eq!(
        message(2, 2, 2, &[0; 4], Some(&[true; 5])),
        "modality_plan: document_starts has 5 elements, expected 4"
    );
    assert_eq!(message(2, 2, 2, &[0, 1, 1, 2], None), "modality_ids[3] = 2, but there are 2 modalities (ids 0..2)");
    let too_many = "modality_plan: batch * seqlen = 4295032832 is outside 0..=4294967295";
    assert_eq!(message(1 << 16, (1 << 16) + 1, 2, &[], None), too_many);
    let huge = format!("modality_plan: batch = {} is outside 0..=4294967295", usize::MAX);
    assert_eq!(message(usize::MAX, 0, 2, &[], None), huge);
    let error = SequenceLayout::contiguous(0, usize::MAX, None).unwrap_err().to_string();
    assert_eq!(error, format!("sequence_layout: seqlen = {} is outside 0..=4294967295", usize::MAX));
    let error = SequenceLayout::contiguous(1, 2, Some(&[true])).unwrap_err().to_string();
    assert_eq!(error, "sequence_layout: document_starts has 1 elements, expected 2");
}

#[test]
fn counts_past_the_end_of_usize_do_not_wrap() {
    let offsets = ModalityOffsets::from_counts([usize::MAX, 5]);
    assert_eq!(offsets.n_rows(), usize::MAX);
    assert_eq!(offsets.rows(1).len(), 0);
}
