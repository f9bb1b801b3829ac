//! Published networks that a configuration names: opened, compared with what is asked for, and attached to tokenizers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mom_data::{
    CodeKind, External, FileReference, ImageConfig, Modality, Needs, NetworkDevice, NetworkDtype, SpeechConfig,
    TokenizerConfig, Tokenizers,
};
use mom_models::codecs::{ImageCodec, ImageForm, Network, Settings, SpeechCodec, Units, Weights};

use super::{Latents, PublishedImages, PublishedSpeech};
use crate::error::require;
use crate::files::At;
use crate::{DeviceKind, Error, Precision, Result};

/// What is done about weights with other bytes than those that tokens were made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherBytes {
    /// An error: the run is another one.
    Refuse,
    /// They count as absent, which is told where they are needed.
    Tell,
}

/// Opens the networks that a configuration names for what a model needs. `device`: where they compute unless the configuration
/// says it.
///
/// # Errors
/// A file that cannot be read, is damaged or holds another network; sizes other than configured, named.
pub(crate) fn open(config: &TokenizerConfig, needs: Needs, device: DeviceKind) -> Result<External> {
    let mut external = External::default();
    if config.has_image_network(needs) {
        external.image = Some(Arc::new(images(config, &config.image, device)?));
    }
    if config.has_speech_network(needs) {
        external.speech = Some(Arc::new(speech(&config.speech, device)?));
    }
    Ok(external)
}

/// Tokenizers that were read, with the networks that their tokens were made by. `now`: the configuration that says where files
/// lie; where they do not, they are looked for where they lay. What is not there is told where it is needed, and in the list
/// that comes back.
///
/// # Errors
/// Weights with other bytes, if they are to be refused.
pub(crate) fn attach(
    tokenizers: Tokenizers,
    now: &TokenizerConfig,
    device: DeviceKind,
    other: OtherBytes,
) -> Result<(Tokenizers, Vec<String>)> {
    let (then, needs) = (tokenizers.config().clone(), tokenizers.needs());
    let known = tokenizers.external_identities().clone();
    let mut told = Vec::new();
    let mut tokenizers = tokenizers;
    let mut take = |modality, kind: CodeKind, tokenizers: Tokenizers, opened: Result<External>| match opened {
        Ok(external) => match tokenizers.clone().with_external(external) {
            Ok(attached) => Ok(attached),
            Err(error) if other == OtherBytes::Refuse => Err(error.into()),
            Err(error) => {
                let reason = format!("{error} (the weights are the same, their config.json or dtype is another)");
                Ok(tokenizers.with_absent(modality, reason))
            }
        },
        Err(error) if other == OtherBytes::Refuse && !is_absent(&error) => Err(error),
        Err(error) => {
            told.push(format!(
                "{error}: the run goes on with tokens that are there; nothing new can be encoded, and no {} decoded, by {}",
                modality.name(),
                kind.name()
            ));
            Ok(tokenizers.with_absent(modality, error.to_string()))
        }
    };
    if then.has_image_network(needs) {
        let config = ImageConfig {
            weights: found(&now.image.weights, &then.image.weights),
            config: found(&now.image.config, &then.image.config),
            device: now.image.device,
            batch: now.image.batch,
            ..then.image.clone()
        };
        let opened = same_bytes([&config.weights], &known.image_files)
            .and_then(|()| images(&then, &config, device))
            .map(|images| External { image: Some(Arc::new(images)), speech: None });
        tokenizers = take(Modality::Image, config.kind, tokenizers, opened)?;
    }
    if then.has_speech_network(needs) {
        let config = SpeechConfig {
            weights: found(&now.speech.weights, &then.speech.weights),
            config: found(&now.speech.config, &then.speech.config),
            quantizer: found(&now.speech.quantizer, &then.speech.quantizer),
            device: now.speech.device,
            ..then.speech.clone()
        };
        let opened = same_bytes([&config.weights, &config.quantizer], &known.speech_files)
            .and_then(|()| speech(&config, device))
            .map(|speech| External { image: None, speech: Some(Arc::new(speech)) });
        tokenizers = take(Modality::Speech, config.kind, tokenizers, opened)?;
    }
    Ok((tokenizers, told))
}

/// A configuration whose files are found from any folder.
pub(crate) fn from_anywhere(config: &TokenizerConfig) -> Result<TokenizerConfig> {
    let mut config = config.clone();
    let (image, speech) = (&mut config.image, &mut config.speech);
    let paths = [&mut image.weights, &mut image.config, &mut speech.weights, &mut speech.config, &mut speech.quantizer];
    for path in paths.into_iter().flatten() {
        *path = std::path::absolute(&*path).at("find", path)?;
    }
    Ok(config)
}

/// A file where it is said to lie now, or where it lay.
fn found(now: &Option<PathBuf>, then: &Option<PathBuf>) -> Option<PathBuf> {
    let both = [now, then].into_iter().flatten();
    both.clone().find(|path| path.exists()).or_else(|| both.clone().next()).cloned()
}

/// Fails unless files have the bytes that they are known by.
fn same_bytes<const N: usize>(files: [&Option<PathBuf>; N], known: &[FileReference]) -> Result<()> {
    for (path, known) in files.into_iter().flatten().zip(known) {
        let got = Weights::open(path)?.hash()?;
        if got != known.blake3 {
            let reason = format!("it has BLAKE3 {got}; tokens were made with {known}");
            return Err(Error::Content { path: path.clone(), reason });
        }
    }
    Ok(())
}

/// Whether a file is simply not there.
fn is_absent(error: &Error) -> bool {
    use mom_models::codecs::CodecError;
    match error {
        Error::Model(mom_models::Error::Codec(CodecError::Io { source, .. })) => {
            source.kind() == std::io::ErrorKind::NotFound
        }
        _ => false,
    }
}

fn images(all: &TokenizerConfig, config: &ImageConfig, device: DeviceKind) -> Result<PublishedImages> {
    let (path, device) = (path_of(&config.weights), device_of(config.device, device));
    let weights = Weights::open(path)?;
    let network = if config.kind == CodeKind::Vae { Network::Vae } else { Network::Vqgan };
    expect(&weights, network, "data.tokenizers.image.kind", config.kind)?;
    let settings = Settings::of_file(&weights, config.config.as_deref())?;
    let codec = ImageCodec::new(&weights, &settings, dtype_of(config.dtype), &device.open()?)?;
    let of_weights = |n: usize| format!("{n}, as the weights in {} have", path.display());
    let factor = codec.factor();
    match codec.form() {
        ImageForm::Codes { n_codes } => {
            require(config.codes == n_codes, "data.tokenizers.image.codes", &of_weights(n_codes), config.codes)?;
            let expected = format!("{} pixels for a code", of_weights(factor));
            require(config.patch == factor, "data.tokenizers.image.patch", &expected, config.patch)?;
        }
        ImageForm::Latents { channels } => {
            let is = config.channels == channels;
            require(is, "data.tokenizers.image.channels", &of_weights(channels), config.channels)?;
            let side = config.size / factor;
            let expected = format!("a divisor of the {side} x {side} latents of a picture of {} pixels", config.size);
            let divides = side > 0 && side.is_multiple_of(config.patch);
            require(divides, "data.tokenizers.image.patch", &expected, config.patch)?;
        }
    }
    let latents = match config.latents {
        mom_data::Latents::Mean => Latents::Mean,
        mom_data::Latents::Draw => Latents::Drawn { seed: all.seed },
    };
    PublishedImages::new(codec, config.size, latents, config.batch)
}

fn speech(config: &SpeechConfig, device: DeviceKind) -> Result<PublishedSpeech> {
    let (path, device) = (path_of(&config.weights), device_of(config.device, device));
    let weights = Weights::open(path)?;
    let (network, units) = match config.kind {
        CodeKind::Hubert => {
            let (layer, quantizer) = (config.layer.unwrap_or_default(), path_of(&config.quantizer));
            (Network::Hubert, Units::Layer { layer, quantizer })
        }
        _ => (Network::Mimi, Units::Codebooks(1)),
    };
    expect(&weights, network, "data.tokenizers.speech.kind", config.kind)?;
    let settings = Settings::of_file(&weights, config.config.as_deref())?;
    let codec = SpeechCodec::new(&weights, &settings, &units, dtype_of(config.dtype), &device.open()?)?;
    let of_weights = |n: usize| format!("{n}, as the weights in {} have", path.display());
    let (n_units, rate) = (codec.n_units(), codec.sample_rate());
    require(config.units == n_units, "data.tokenizers.speech.units", &of_weights(n_units), config.units)?;
    let is = config.sample_rate as usize == rate;
    require(is, "data.tokenizers.speech.sample_rate", &of_weights(rate), config.sample_rate)?;
    PublishedSpeech::new(codec)
}

/// Fails unless a file holds a network.
fn expect(weights: &Weights, network: Network, field: &str, kind: CodeKind) -> Result<()> {
    let found = match Network::of(weights) {
        Some((found, _)) if found == network => return Ok(()),
        Some((found, _)) => found.name().to_owned(),
        None => {
            let first: Vec<&str> = weights.names().take(3).collect();
            format!("{} tensors of no network that is known ({}, ...)", weights.names().len(), first.join(", "))
        }
    };
    let reason = format!("{field} = {:?} expects the weights of {}, and it holds {found}", kind.name(), network.name());
    Err(Error::Content { path: weights.path().to_owned(), reason })
}

/// A path that validation has found to be there.
fn path_of(path: &Option<PathBuf>) -> &Path {
    path.as_deref().unwrap_or(Path::new(""))
}

fn device_of(own: Option<NetworkDevice>, otherwise: DeviceKind) -> DeviceKind {
    match own {
        None => otherwise,
        Some(NetworkDevice::Cpu) => DeviceKind::Cpu,
        Some(NetworkDevice::Cuda) => DeviceKind::Cuda,
    }
}

fn dtype_of(dtype: NetworkDtype) -> candle_core::DType {
    match dtype {
        NetworkDtype::F32 => Precision::F32.dtype(),
        NetworkDtype::Bf16 => Precision::Bf16.dtype(),
    }
}
