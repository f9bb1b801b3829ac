//! Floating-point operations, counted from the shapes.
//!
//! A multiply-add is two operations. Forward, a token meets in each block: its four projections (2 in out each), the conv
//! (2 d_conv d_inner), and the scan, 8 for each channel and state (delta A, exp, times h, delta u B (2), sum, C h (2)).
//! A router's logits count, and in a transformer's block its products of weights, of queries and keys, and of weights and
//! values, for as many keys as the configuration says that a query meets ([`ModelConfig::mean_keys`]).
//! Norms, gates and activations are left out: below 1 %. The backward pass is twice the forward pass. Heads and patchers
//! count where a token meets them.

use mom_core::Projection;

use crate::{Architecture, ModelConfig, Normaliser, Setting, Variant};

/// Operations for each state of each channel in a forward scan step.
const SCAN: f64 = 8.0;

/// Forward operations of a block of Mamba's for each token.
pub(crate) fn mamba_block(config: &ModelConfig) -> f64 {
    let mixer = config.block().mixer;
    let products: usize =
        Projection::ALL.into_iter().map(|p| mixer.features(p)).map(|(n_in, n_out)| 2 * n_in * n_out).sum();
    let conv = 2 * mixer.d_conv * mixer.d_inner();
    let scan = SCAN * (mixer.d_inner() * mixer.d_state) as f64;
    (products + conv) as f64 + scan
}

/// Forward operations of the backbone for each token.
pub fn backbone_forward(config: &ModelConfig) -> f64 {
    match config.variant.architecture() {
        Architecture::Mamba | Architecture::Routed(_) => {
            let learned = config.variant == Variant::Router;
            let router = if learned { 2 * config.scale.d_model * config.setting.n_modalities() } else { 0 };
            config.scale.n_blocks() as f64 * (mamba_block(config) + router as f64)
        }
        Architecture::Transformer(_) => {
            config.scale.n_layers as f64 * config.transformer().forward_flops(config.mean_keys)
        }
    }
}

/// Forward operations of the head for each target.
pub fn head_forward(config: &ModelConfig) -> f64 {
    (2 * config.scale.d_model * config.vocab_size) as f64
}

/// Forward operations of the patcher for each patch; the timestep embedding, once for each image, is left out.
pub fn patcher_forward(config: &ModelConfig) -> f64 {
    match config.setting {
        Setting::Transfusion => match &config.unet {
            None => (4 * config.scale.d_model * config.patch_dim) as f64,
            Some(unet) => unet.forward_flops(config.scale.d_model, config.patch_dim),
        },
        Setting::Chameleon | Setting::ThreeModality => 0.0,
    }
}

/// Operations of a training step, forward and backward, over `n_tokens` positions.
pub fn training_step(config: &ModelConfig, n_tokens: usize, counts: Normaliser) -> f64 {
    let forward = backbone_forward(config) * n_tokens as f64
        + head_forward(config) * counts.n_targets as f64
        + patcher_forward(config) * counts.n_patches as f64;
    3.0 * forward
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Variant;

    #[test]
    fn a_token_costs_about_six_operations_for_each_active_weight_and_the_same_in_every_variant() {
        let of = |variant| ModelConfig::new(Setting::ThreeModality, variant, "1.5B".parse().unwrap(), 65_536);
        let counts = Normaliser { n_targets: 1, n_patches: 0 };
        let dense = training_step(&of(Variant::Dense), 1, counts);
        assert_eq!(dense, training_step(&of(Variant::Mom), 1, counts));
        // A transformer is as wide as that allows, a router costs next to nothing, and what is wide costs what it is.
        for (variant, least, most) in [
            (Variant::Transformer, 0.998, 1.002),
            (Variant::Mot, 0.998, 1.002),
            (Variant::Router, 1.0, 1.001),
            (Variant::RandomRouter, 1.0, 1.0),
            (Variant::WideDense, 2.0, 3.1),
        ] {
            let config = ModelConfig { mean_keys: 2048, ..of(variant) };
            let ratio = training_step(&config, 1, counts) / dense;
            assert!((least..=most).contains(&ratio), "{variant} {ratio}");
        }
        // The embedding costs nothing; the scan adds a little.
        let weights = (of(Variant::Dense).active_parameters() - 65_536 * 2048) as f64;
        let ratio = dense / (6.0 * weights);
        assert!((1.0..1.06).contains(&ratio), "{ratio}");
    }
}
