//! What HuBERT's weights do not tell.

use super::names::Naming;
use crate::Result;
use crate::codecs::Settings;

/// How a waveform is scaled before the first convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// As it is: base models in fairseq, textless-lib and SpiRit-LM.
    AsItIs,
    /// `(x - mean) / sqrt(variance + eps)` over the whole of it.
    Normalised {
        /// Added to the variance: Hugging Face 1e-7, fairseq 1e-5.
        eps: f64,
    },
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// Behind each branch's sum (base).
    Post,
    /// Before each branch (large).
    Pre,
}

/// Heads, strides, norms: as published where nothing else is stated.
#[derive(Debug, Clone, PartialEq)]
pub struct HubertSettings {
    /// Heads of attention; none: of 64 channels each.
    pub n_heads: Option<usize>,
    /// Layers of the transformer; none: as many as there are.
    pub n_layers: Option<usize>,
    /// Stride of each convolution over samples; none: 5 for a kernel of 10, 2 for kernels of 2 and 3.
    pub conv_stride: Option<Vec<usize>>,
    /// Where norms stand; none: before the branches if all convolutions have norms, else behind.
    pub norm_order: Option<NormOrder>,
    /// How the waveform is scaled.
    pub scaling: Scaling,
    /// Added to variances: 1e-5.
    pub layer_norm_eps: f64,
}

impl HubertSettings {
    /// What a publisher's files state: Hugging Face's `config.json` and `preprocessor_config.json`, or what fairseq writes
    /// into a checkpoint (`cfg`, `args`; SpiRit-LM: `model_cfg`, `task_cfg`).
    ///
    /// Without them, Hugging Face's weights take normalised sound, and fairseq's do where all convolutions have norms (large).
    pub(super) fn of(settings: &Settings, naming: Naming, has_layer_norms: bool) -> Result<Self> {
        let hugging_face = naming == Naming::HuggingFace;
        let model = |key: &str| -> Vec<Vec<String>> {
            [&["model_cfg"][..], &["cfg", "model"], &["args"], &[]]
                .iter()
                .map(|room| room.iter().chain(&[key]).map(|&part| part.to_owned()).collect())
                .collect()
        };
        let count = |keys: Vec<Vec<String>>| first(&keys, |keys| settings.count(keys));
        let flag = |keys: Vec<Vec<String>>| first(&keys, |keys| settings.flag(keys));
        let n_heads = match settings.count(&["num_attention_heads"])? {
            None => count(model("encoder_attention_heads"))?,
            heads => heads,
        };
        let n_layers = match settings.count(&["num_hidden_layers"])? {
            None => count(model("encoder_layers"))?,
            layers => layers,
        };
        let conv_stride = match settings.counts(&["conv_stride"])? {
            None => match first(&model("conv_feature_layers"), |keys| settings.text(keys))? {
                None => None,
                Some(text) => Some(strides(text).ok_or_else(|| {
                    settings.error("conv_feature_layers", "a sum of lists of (channels, kernel, stride)", text)
                })?),
            },
            strides => strides,
        };
        let pre = match settings.flag(&["do_stable_layer_norm"])? {
            None => flag(model("layer_norm_first"))?,
            pre => pre,
        };
        let normalised = match settings.flag(&["do_normalize"])? {
            None => first(
                &[&["task_cfg", "normalize"][..], &["cfg", "task", "normalize"], &["args", "normalize"]]
                    .map(|keys| keys.iter().map(|&key| key.to_owned()).collect()),
                |keys| settings.flag(keys),
            )?,
            normalised => normalised,
        };
        let eps = if hugging_face { 1e-7 } else { 1e-5 };
        let normalised = normalised.unwrap_or(hugging_face || has_layer_norms);
        Ok(Self {
            n_heads,
            n_layers,
            conv_stride,
            norm_order: pre.map(|pre| if pre { NormOrder::Pre } else { NormOrder::Post }),
            scaling: if normalised { Scaling::Normalised { eps } } else { Scaling::AsItIs },
            layer_norm_eps: settings.number(&["layer_norm_eps"])?.unwrap_or(1e-5),
        })
    }
}

/// The first of several settings that is there.
fn first<T>(keys: &[Vec<String>], of: impl Fn(&[&str]) -> Result<Option<T>>) -> Result<Option<T>> {
    for keys in keys {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        if let Some(value) = of(&keys)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Strides of fairseq's text for convolutions: `[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2`.
fn strides(text: &str) -> Option<Vec<usize>> {
    let mut strides = Vec::new();
    for term in text.split('+') {
        let (list, times) = term.split_once('*').unwrap_or((term, "1"));
        let times: usize = times.trim().parse().ok().filter(|times| (1..=64).contains(times))?;
        let inside = list.trim().strip_prefix('[')?.strip_suffix(']')?;
        let triples = inside.split(')').map(|part| part.trim_matches([' ', ',', '(']));
        let stride = |triple: &str| triple.split(',').nth(2)?.trim().parse().ok().filter(|&stride: &usize| stride > 0);
        let some = triples.filter(|triple| !triple.is_empty()).map(stride).collect::<Option<Vec<_>>>()?;
        strides.extend((0..times).flat_map(|_| some.iter().copied()));
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::strides;

    #[test]
    fn fairseqs_text_is_read() {
        let text = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2";
        assert_eq!(strides(text), Some(vec![5, 2, 2, 2, 2, 2, 2]));
        assert_eq!(strides("[(8, 10, 5), (8, 3, 2)]"), Some(vec![5, 2]));
        assert_eq!(strides("[(8, 10)]"), None);
        assert_eq!(strides("__import__('os')"), None);
        assert_eq!(strides("[(8, 10, 5)] * 99999999"), None);
    }
}
