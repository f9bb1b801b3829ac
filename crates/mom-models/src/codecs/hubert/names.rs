//! Names of the same tensors in Hugging Face's files and in fairseq's.

use crate::codecs::Weights;
use crate::codecs::network::Network;

/// Who named a file's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    HuggingFace,
    Fairseq {
        /// The norm of the convolutions is one of three modules in a row there, not of two.
        layer_norms: bool,
    },
}

impl Naming {
    pub fn of(weights: &Weights) -> Self {
        let prefix = Network::of(weights).map(|(_, prefix)| prefix).unwrap_or_default();
        let has = |stem: &str| {
            weights.names().filter_map(|name| name.strip_prefix(&prefix)).any(|name| name.starts_with(stem))
        };
        let fairseq =
            has("feature_extractor.conv_layers.0.0.") || has("post_extract_proj.") || has("encoder.pos_conv.");
        if fairseq {
            Self::Fairseq { layer_norms: has("feature_extractor.conv_layers.1.2.") }
        } else {
            Self::HuggingFace
        }
    }

    /// How the file calls a tensor, from Hugging Face's name for it.
    pub fn name(self, name: &str) -> String {
        let Self::Fairseq { layer_norms } = self else { return name.to_owned() };
        let parts: Vec<&str> = name.split('.').collect();
        match &parts[..] {
            ["feature_extractor", "conv_layers", layer, part, rest @ ..] => {
                let part = match (*part, layer_norms) {
                    ("conv", _) => "0",
                    ("layer_norm", true) => "2.1",
                    ("layer_norm", false) => "2",
                    (other, _) => other,
                };
                format!("feature_extractor.conv_layers.{layer}.{part}.{}", rest.join("."))
            }
            ["feature_projection", "layer_norm", rest @ ..] => format!("layer_norm.{}", rest.join(".")),
            ["feature_projection", "projection", rest @ ..] => format!("post_extract_proj.{}", rest.join(".")),
            ["encoder", "pos_conv_embed", "conv", rest @ ..] => format!("encoder.pos_conv.0.{}", rest.join(".")),
            ["encoder", "layers", layer, rest @ ..] => {
                let rest = rest.join(".");
                let renamed = [
                    ("attention.", "self_attn."),
                    ("layer_norm.", "self_attn_layer_norm."),
                    ("feed_forward.intermediate_dense.", "fc1."),
                    ("feed_forward.output_dense.", "fc2."),
                ];
                let found =
                    renamed.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", rest.strip_prefix(ours)?)));
                let dot = if rest.is_empty() { "" } else { "." };
                format!("encoder.layers.{layer}{dot}{}", found.unwrap_or(rest))
            }
            _ => name.to_owned(),
        }
    }

    /// Tensors that training alone needs.
    pub fn is_ignored(self, name: &str) -> bool {
        ["masked_spec_embed", "mask_emb", "label_embs_concat"].contains(&name) || name.starts_with("final_proj.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fairseqs() {
        let group = Naming::Fairseq { layer_norms: false };
        let layer = Naming::Fairseq { layer_norms: true };
        assert_eq!(
            group.name("feature_extractor.conv_layers.3.conv.weight"),
            "feature_extractor.conv_layers.3.0.weight"
        );
        assert_eq!(
            group.name("feature_extractor.conv_layers.0.layer_norm.bias"),
            "feature_extractor.conv_layers.0.2.bias"
        );
        assert_eq!(
            layer.name("feature_extractor.conv_layers.0.layer_norm.bias"),
            "feature_extractor.conv_layers.0.2.1.bias"
        );
        assert_eq!(group.name("feature_projection.layer_norm.bias"), "layer_norm.bias");
        assert_eq!(group.name("encoder.layers.2.layer_norm.bias"), "encoder.layers.2.self_attn_layer_norm.bias");
        assert_eq!(group.name("encoder.layers.2.final_layer_norm.bias"), "encoder.layers.2.final_layer_norm.bias");
        assert_eq!(group.name("encoder.layers.2.attention.q_proj.bias"), "encoder.layers.2.self_attn.q_proj.bias");
        assert_eq!(group.name("encoder.layers.#"), "encoder.layers.#");
        assert_eq!(group.name("encoder.layer_norm.bias"), "encoder.layer_norm.bias");
        assert_eq!(group.name("encoder.pos_conv_embed.conv.weight_g"), "encoder.pos_conv.0.weight_g");
    }
}
