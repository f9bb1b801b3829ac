//! A new run's weights from a trained model's: fine-tuning, and upcycling of dense weights.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use mom_models::{Architecture, ModelConfig};
use safetensors::SafeTensors;

use super::{Trained, weights_at};
use crate::files::At;
use crate::optim::{Moments, squares};
use crate::{Error, Result, RunConfig, Trainer};

/// Sets the weights of a new trainer to those at `path`, by name: a run, a checkpoint, an export, or a file of weights under
/// the published names. A projection with weights for each modality takes one for all where there is only that.
///
/// # Errors
/// A tensor that is missing, superfluous, of another shape, or not finite, named; nothing is changed then.
pub(crate) fn start(trainer: &mut Trainer, path: &Path) -> Result<()> {
    let (file, bytes) = weights_at(path)?;
    let content = |reason: String| Error::Content { path: file.clone(), reason };
    let stored =
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| content(error.to_string()))?;
    let mut used = std::collections::BTreeSet::new();
    let mut values = Vec::new();
    for (name, variable) in trainer.parameters().iter() {
        let names = [Some(name.to_owned()), shared(name)];
        let found = names.iter().flatten().find_map(|name| stored.get_key_value(name));
        let (from, tensor) = found.ok_or_else(|| content(format!("{name} is missing")))?;
        used.insert(from.as_str());
        if tensor.dims() != variable.dims() {
            let (got, expected) = (tensor.dims(), variable.dims());
            return Err(content(format!("{from} is {got:?}, expected {expected:?} for {name}")));
        }
        let tensor = tensor.to_dtype(DType::F32)?;
        if !squares(&tensor)?.is_finite() {
            return Err(content(format!("{from} holds values that are not finite")));
        }
        values.push(tensor);
    }
    if let Some(name) = stored.keys().filter(|name| !used.contains(name.as_str())).min() {
        return Err(content(format!("{name} belongs to no parameter of this model")));
    }
    for ((_, variable), tensor) in trainer.parameters().iter().zip(&values) {
        variable.set(&tensor.to_dtype(variable.dtype())?.to_device(variable.device())?)?;
    }
    let lengths: std::collections::HashMap<String, usize> =
        trainer.parameters().iter().map(|(name, variable)| (name.to_owned(), variable.elem_count())).collect();
    trainer.restore_optimiser(&file, 0, &values, |name| {
        let zeros = vec![0.0; lengths.get(name).copied().unwrap_or_default()];
        Ok(Moments { first: zeros.clone(), second: zeros })
    })?;
    trainer.restart_average(None)
}

/// Refuses what a run cannot start from, as far as it is known before its data are read.
///
/// # Errors
/// A path with no model, a damaged one, or one of another setting or size.
pub(crate) fn check(config: &RunConfig, path: &Path) -> Result<()> {
    let content = |reason: String| Error::Content { path: path.into(), reason };
    if path.is_file() {
        let bytes = fs::read(path).at("read", path)?;
        return SafeTensors::deserialize(&bytes).map(drop).map_err(|error| content(error.to_string()));
    }
    let trained = Trained::open(path)?;
    let (from, mut to) = (trained.config(), config.model_config(trained.tokenizers()));
    if config.model.mean_keys.is_none() {
        to.mean_keys = from.mean_keys;
    }
    let sizes = |config: &ModelConfig| {
        let mixer = config.block().mixer;
        let widths = (mixer.d_inner(), mixer.d_state, mixer.d_conv, mixer.dt_rank());
        (config.setting, config.scale.d_model, config.scale.n_layers, widths, config.patch_dim, config.unet.clone())
    };
    // A transformer's weights start one for each modality, and the other way they do not fit: by names, further on.
    let kind = |config: &ModelConfig| match config.variant.architecture() {
        Architecture::Mamba | Architecture::Routed(_) => None,
        Architecture::Transformer(_) => Some(config.transformer().d_ff),
    };
    if kind(from) != kind(&to) {
        let words = |config: &ModelConfig| match kind(config) {
            None => "Mamba's blocks".to_owned(),
            Some(d_ff) => format!("a transformer's blocks, d_ff {d_ff}"),
        };
        return Err(content(format!("train.init_from has a model of {}, expected {}", words(from), words(&to))));
    }
    if sizes(from) == sizes(&to) {
        return Ok(());
    }
    let words = |config: &ModelConfig| {
        let (setting, d_model, n_layers, (d_inner, d_state, d_conv, dt_rank), patch_dim, unet) = sizes(config);
        let unet = unet.map(|unet| format!(", a unet patcher of width {}", unet.width)).unwrap_or_default();
        format!(
            "{setting}, d_model {d_model}, {n_layers} layers, d_inner {d_inner}, d_state {d_state}, d_conv {d_conv}, dt_rank \
             {dt_rank}, patch_dim {patch_dim}{unet}"
        )
    };
    Err(content(format!("train.init_from has a model of {}, expected {}", words(from), words(&to))))
}

/// The name of a projection's weights for all modalities, from that of one modality's: `local_experts_in_proj.2.weight` is
/// `in_proj.weight` there.
fn shared(name: &str) -> Option<String> {
    let (head, tail) = name.split_once("local_experts_")?;
    let (projection, tail) = tail.split_once('.')?;
    let (modality, tail) = tail.split_once('.')?;
    modality.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("{head}{projection}.{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_name_of_a_modalitys_weights() {
        let name = |name| shared(name);
        assert_eq!(
            name("backbone.layers.0.mixer.local_experts_in_proj.2.weight").as_deref(),
            Some("backbone.layers.0.mixer.in_proj.weight")
        );
        assert_eq!(name("a.local_experts_dt_proj.0.bias").as_deref(), Some("a.dt_proj.bias"));
        assert_eq!(name("backbone.layers.0.mixer.in_proj.weight"), None);
        assert_eq!(name("a.local_experts_in_proj.x.weight"), None);
    }
}
