//! Names of the same tensors in latent-diffusion's and BFL's files, and in diffusers'.

use crate::codecs::Weights;
use crate::codecs::network::Network;

/// How a file calls its tensors, from latent-diffusion's names for them.
///
/// Attention of diffusers was renamed over time: `query`, `key`, `value`, `proj_attn` became `to_q`, `to_k`, `to_v`,
/// `to_out.0`.
pub(in crate::codecs) fn naming(weights: &Weights) -> Box<dyn Fn(&str) -> String> {
    let Some((_, prefix)) = Network::of(weights) else { return Box::new(str::to_owned) };
    let names = || weights.names().filter_map(|name| name.strip_prefix(&prefix));
    if !names().any(|name| name.starts_with("encoder.down_blocks.")) {
        return Box::new(str::to_owned);
    }
    let old = names().any(|name| name.contains(".attentions.0.query.") || name.contains(".attentions.0.proj_attn."));
    let level = |name: &str| name.strip_prefix("decoder.up_blocks.")?.split('.').next()?.parse::<usize>().ok();
    let n_levels = names().filter_map(level).max().map_or(0, |last| last + 1);
    Box::new(move |name| diffusers(name, n_levels, old))
}

fn diffusers(name: &str, n_levels: usize, old: bool) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let block = |rest: &[&str]| rest.join(".").replace("nin_shortcut", "conv_shortcut");
    match &parts[..] {
        [half, "norm_out", rest @ ..] => format!("{half}.conv_norm_out.{}", rest.join(".")),
        [half, "mid", "block_1", rest @ ..] => format!("{half}.mid_block.resnets.0.{}", block(rest)),
        [half, "mid", "block_2", rest @ ..] => format!("{half}.mid_block.resnets.1.{}", block(rest)),
        [half, "mid", "attn_1", rest @ ..] => format!("{half}.mid_block.attentions.0.{}", attention(rest, old)),
        [half, side @ ("down" | "up"), level, rest @ ..] => {
            // diffusers counts the decoder's levels in the order in which they run.
            let level = match level.parse::<usize>() {
                Ok(level) if *side == "up" => n_levels.saturating_sub(level + 1).to_string(),
                _ => (*level).to_owned(),
            };
            let rest = match rest {
                ["block", rest @ ..] => format!("resnets.{}", block(rest)),
                ["attn", i, rest @ ..] => format!("attentions.{i}.{}", attention(rest, old)),
                ["downsample", rest @ ..] => format!("downsamplers.0.{}", rest.join(".")),
                ["upsample", rest @ ..] => format!("upsamplers.0.{}", rest.join(".")),
                rest => rest.join("."),
            };
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{half}.{side}_blocks.{level}{dot}{rest}")
        }
        _ => name.to_owned(),
    }
}

fn attention(rest: &[&str], old: bool) -> String {
    let [part, rest @ ..] = rest else { return String::new() };
    let part = match (*part, old) {
        ("norm", _) => "group_norm",
        ("q", false) => "to_q",
        ("k", false) => "to_k",
        ("v", false) => "to_v",
        ("proj_out", false) => "to_out.0",
        ("q", true) => "query",
        ("k", true) => "key",
        ("v", true) => "value",
        ("proj_out", true) => "proj_attn",
        (other, _) => other,
    };
    format!("{part}.{}", rest.join("."))
}

#[cfg(test)]
mod tests {
    use super::diffusers;

    #[test]
    fn names_are_diffusers() {
        let of = |name| diffusers(name, 4, false);
        assert_eq!(
            of("encoder.down.1.block.0.nin_shortcut.bias"),
            "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"
        );
        assert_eq!(of("decoder.up.0.block.2.norm1.weight"), "decoder.up_blocks.3.resnets.2.norm1.weight");
        assert_eq!(of("decoder.up.3.upsample.conv.weight"), "decoder.up_blocks.0.upsamplers.0.conv.weight");
        assert_eq!(of("decoder.up.#"), "decoder.up_blocks.#");
        assert_eq!(of("decoder.up.3.block.#"), "decoder.up_blocks.0.resnets.#");
        assert_eq!(of("encoder.mid.attn_1.proj_out.bias"), "encoder.mid_block.attentions.0.to_out.0.bias");
        assert_eq!(diffusers("encoder.mid.attn_1.q.bias", 4, true), "encoder.mid_block.attentions.0.query.bias");
        assert_eq!(of("encoder.conv_in.weight"), "encoder.conv_in.weight");
        assert_eq!(of("quant_conv.weight"), "quant_conv.weight");
    }
}
