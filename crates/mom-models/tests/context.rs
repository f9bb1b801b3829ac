//! One sequence over several ranks: losses and gradients are those of the whole.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;
#[path = "../../mom-kernels/tests/common/ranks.rs"]
mod ranks;

use std::sync::Arc;

use candle_core::{DType, Device};
use common::{Owned, PATCH_DIM, config};
use mom_core::Context;
use mom_core::autograd::without_tape;
use mom_models::diffusion::Noise;
use mom_models::{Batch, ModalityLoss, Model, ModelConfig, NO_TARGET, Normaliser, Setting, Variant};
use ranks::ranks;

const SEQLEN: usize = 24;

/// What a loss gave: its value, by modality, and the gradient of every parameter.
struct Seen {
    loss: f64,
    by_modality: Vec<ModalityLoss>,
    gradients: Vec<(String, Vec<f64>)>,
}

fn see(
    config: &ModelConfig,
    batch: &Batch<'_>,
    noise: Option<&Noise>,
    counts: Normaliser,
    context: Option<Arc<dyn Context>>,
) -> Seen {
    let (model, parameters) = Model::seeded(config, 5, DType::F64, &Device::Cpu).unwrap();
    let model = model.with_context(context).unwrap();
    let unrecorded = without_tape(|| model.loss(batch, noise, counts).unwrap());
    let losses = model.loss(batch, noise, counts).unwrap();
    let loss = losses.total.to_vec1::<f64>().unwrap()[0];
    assert_eq!(loss, unrecorded.total.to_vec1::<f64>().unwrap()[0]);
    let store = losses.total.backward().unwrap();
    let gradients = parameters.iter().map(|(name, variable)| {
        let gradient = store.get(variable).cloned().unwrap_or_else(|| variable.zeros_like().unwrap());
        (name.to_owned(), gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap())
    });
    Seen { loss, by_modality: losses.by_modality().unwrap(), gradients: gradients.collect() }
}

/// Chunks of `n` ranks against the whole.
fn compare(setting: Setting, variant: Variant, owned: &Owned, n: usize) {
    let config = config(setting, variant);
    let (view, noise) = (owned.view(), owned.noise());
    let counts = Normaliser::of(&view);
    let whole = see(&config, &view, noise.as_ref(), counts, None);
    let data = mom_data::Batch {
        batch: owned.batch,
        seqlen: owned.seqlen,
        tokens: owned.tokens.clone(),
        targets: owned.targets.clone(),
        modality_ids: owned.modality_ids.clone(),
        target_modality_ids: owned.target_modality_ids.clone(),
        document_starts: owned.document_starts.clone(),
        patch_dim: PATCH_DIM,
        patches: owned.values.clone(),
        patch_positions: owned.positions.clone(),
        patch_images: owned.images.clone(),
    };
    let len = SEQLEN / n;
    let of_ranks = ranks(n, |rank| {
        let chunk = data.chunk(rank.index() * len..(rank.index() + 1) * len);
        let part = Owned {
            batch: chunk.batch.batch,
            seqlen: chunk.batch.seqlen,
            tokens: chunk.batch.tokens,
            targets: chunk.batch.targets,
            modality_ids: chunk.batch.modality_ids,
            target_modality_ids: chunk.batch.target_modality_ids,
            document_starts: chunk.batch.document_starts,
            values: chunk.batch.patches,
            positions: chunk.batch.patch_positions,
            images: chunk.batch.patch_images,
        };
        let noise = noise.as_ref().map(|noise| noise.chosen(&chunk.images, &chunk.patches, PATCH_DIM));
        see(&config, &part.view(), noise.as_ref(), counts, Some(Arc::new(rank)))
    });
    let near = |what: &str, got: f64, want: f64| {
        assert!((got - want).abs() <= 1e-11 * want.abs().max(1.0), "{setting}, {n} ranks, {what}: {got}, whole {want}");
    };
    near("loss", of_ranks.iter().map(|seen| seen.loss).sum(), whole.loss);
    for (modality, want) in whole.by_modality.iter().enumerate() {
        let count: usize = of_ranks.iter().map(|seen| seen.by_modality[modality].count).sum();
        assert_eq!(count, want.count);
        near("a modality's loss", of_ranks.iter().map(|seen| seen.by_modality[modality].sum).sum(), want.sum);
    }
    for (i, (name, want)) in whole.gradients.iter().enumerate() {
        let norm = want.iter().map(|g| g * g).sum::<f64>().sqrt();
        let off = |k: usize| of_ranks.iter().map(|seen| seen.gradients[i].1[k]).sum::<f64>() - want[k];
        let difference = (0..want.len()).map(|k| off(k).powi(2)).sum::<f64>().sqrt();
        assert!(difference <= 1e-10 * norm.max(1e-6), "{setting}, {n} ranks, {name}: {difference:e} of {norm:e}");
    }
}

#[test]
fn any_number_of_ranks_is_one() {
    for setting in Setting::ALL {
        // Pictures of four patches lie over some borders.
        let owned = Owned::new(setting, 2, SEQLEN);
        for n in [1, 2, 3, 8] {
            compare(setting, Variant::Mom, &owned, n);
        }
        compare(setting, Variant::Dense, &owned, 3);
    }
}

/// One document over all chunks, of which the first has no target and no picture, and another one modality alone.
#[test]
fn a_chunk_without_targets_has_gradients_of_those_behind() {
    for setting in Setting::ALL {
        let mut owned = Owned::new(setting, 2, SEQLEN);
        let len = SEQLEN / 3;
        for p in 0..2 * SEQLEN {
            owned.document_starts[p] = p % SEQLEN == 0;
            if p % SEQLEN < len {
                owned.targets[p] = NO_TARGET;
                owned.modality_ids[p] = 0;
            }
        }
        let kept: Vec<usize> =
            (0..owned.positions.len()).filter(|&i| owned.positions[i] as usize % SEQLEN >= len).collect();
        let mut images: Vec<u32> = kept.iter().map(|&i| owned.images[i]).collect();
        images.dedup();
        let place = |&i: &usize| images.iter().position(|&image| image == owned.images[i]).unwrap() as u32;
        owned.images = kept.iter().map(place).collect();
        owned.values = kept.iter().flat_map(|&i| owned.values[i * PATCH_DIM..(i + 1) * PATCH_DIM].to_vec()).collect();
        owned.positions = kept.iter().map(|&i| owned.positions[i]).collect();
        compare(setting, Variant::Mom, &owned, 3);
    }
}

#[test]
fn blocks_that_see_beyond_a_chunk_are_refused() {
    for variant in [Variant::Transformer, Variant::Mot, Variant::Router] {
        let messages = ranks(1, |rank| {
            let (model, _) = Model::seeded(&config(Setting::Chameleon, variant), 1, DType::F32, &Device::Cpu).unwrap();
            model.with_context(Some(Arc::new(rank))).unwrap_err().to_string()
        });
        assert!(messages[0].contains("variant must be one of Mamba's blocks"), "{messages:?}");
    }
}
