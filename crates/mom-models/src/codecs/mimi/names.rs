//! Names of the same tensors in Hugging Face's file and in Kyutai's.

use std::collections::BTreeSet;

use crate::codecs::Weights;

/// How a file calls its tensors, from Hugging Face's names for them.
pub(super) fn naming(weights: &Weights) -> Box<dyn Fn(&str) -> String> {
    if !weights.names().any(|name| name.contains("quantizer.rvq_")) {
        return Box::new(str::to_owned);
    }
    // Kyutai's names tell a transposed convolution.
    let transposed = |name: &str| {
        let (layer, rest) = name.strip_prefix("decoder.model.")?.split_once('.')?;
        rest.starts_with("convtr.").then(|| layer.to_owned())
    };
    let transposed: BTreeSet<String> = weights.names().filter_map(transposed).collect();
    Box::new(move |name| kyutai(name, &transposed))
}

fn kyutai(name: &str, transposed: &BTreeSet<String>) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match &parts[..] {
        ["decoder", "layers", layer, "conv", rest @ ..] if transposed.contains(*layer) => {
            format!("decoder.model.{layer}.convtr.convtr.{}", rest.join("."))
        }
        [half @ ("encoder" | "decoder"), "layers", layer, "conv", rest @ ..] => {
            format!("{half}.model.{layer}.conv.conv.{}", rest.join("."))
        }
        [half @ ("encoder" | "decoder"), "layers", layer, "block", part, "conv", rest @ ..] => {
            format!("{half}.model.{layer}.block.{part}.conv.conv.{}", rest.join("."))
        }
        [half @ ("encoder" | "decoder"), "layers", rest @ ..] => format!("{half}.model.{}", rest.join(".")),
        ["downsample", "conv", rest @ ..] => format!("downsample.conv.conv.conv.{}", rest.join(".")),
        ["upsample", "conv", rest @ ..] => format!("upsample.convtr.convtr.convtr.{}", rest.join(".")),
        [half @ ("encoder_transformer" | "decoder_transformer"), "layers", layer, rest @ ..] => {
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{half}.transformer.layers.{layer}{dot}{}", layer_part(&rest.join(".")))
        }
        ["quantizer", book, rest @ ..] => {
            let book = if book.starts_with("semantic") { "rvq_first" } else { "rvq_rest" };
            let rest = rest.join(".");
            let codebook = rest.replace(".codebook.initialized", "._codebook._initialized");
            let codebook = codebook.replace(".codebook.embed_sum", "._codebook.embedding_sum");
            let codebook = codebook.replace(".codebook.", "._codebook.");
            let room = if rest.starts_with("layers") { "vq." } else { "" };
            format!("quantizer.{book}.{room}{codebook}")
        }
        _ => name.to_owned(),
    }
}

fn layer_part(part: &str) -> String {
    let renamed = [
        ("self_attn_layer_scale.", "layer_scale_1."),
        ("mlp_layer_scale.", "layer_scale_2."),
        ("self_attn.o_proj.", "self_attn.out_proj."),
        ("mlp.fc1.", "linear1."),
        ("mlp.fc2.", "linear2."),
        ("input_layernorm.", "norm1."),
        ("post_attention_layernorm.", "norm2."),
    ];
    let found = renamed.iter().find_map(|(ours, theirs)| Some(format!("{theirs}{}", part.strip_prefix(ours)?)));
    found.unwrap_or_else(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kyutais() {
        let transposed = BTreeSet::from(["2".to_owned()]);
        let of = |name| kyutai(name, &transposed);
        assert_eq!(of("decoder.layers.2.conv.bias"), "decoder.model.2.convtr.convtr.bias");
        assert_eq!(of("decoder.layers.3.block.1.conv.bias"), "decoder.model.3.block.1.conv.conv.bias");
        assert_eq!(of("encoder.layers.#"), "encoder.model.#");
        assert_eq!(of("encoder_transformer.layers.#"), "encoder_transformer.transformer.layers.#");
        assert_eq!(
            of("decoder_transformer.layers.0.mlp_layer_scale.scale"),
            "decoder_transformer.transformer.layers.0.layer_scale_2.scale"
        );
        assert_eq!(of("quantizer.acoustic_residual_vector_quantizer.layers.#"), "quantizer.rvq_rest.vq.layers.#");
        assert_eq!(
            of("quantizer.semantic_residual_vector_quantizer.layers.0.codebook.embed_sum"),
            "quantizer.rvq_first.vq.layers.0._codebook.embedding_sum"
        );
    }
}
