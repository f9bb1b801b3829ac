//! A batch of mom-data as mom-models reads it.

use mom_models::{Batch, ImagePatches};

/// A batch as a model reads it.
pub(crate) fn view(batch: &mom_data::Batch) -> Batch<'_> {
    Batch {
        batch: batch.batch,
        seqlen: batch.seqlen,
        tokens: &batch.tokens,
        targets: &batch.targets,
        modality_ids: &batch.modality_ids,
        target_modality_ids: &batch.target_modality_ids,
        document_starts: &batch.document_starts,
        patches: ImagePatches {
            values: &batch.patches,
            positions: &batch.patch_positions,
            images: &batch.patch_images,
        },
    }
}

const _: () = assert!(mom_data::NO_TARGET == mom_models::NO_TARGET);
