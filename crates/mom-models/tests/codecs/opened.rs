//! Codecs as a pipeline sees them.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mom_models::Error;
use mom_models::codecs::{CodecError, Draw, Encoded, ImageCodec, ImageForm, SpeechCodec, Units};
use serde_json::json;

use crate::files;
use crate::golden::{Golden, TOLERANCE, is_left_out};
use crate::kinds;

fn image_codec(path: &Path) -> Result<ImageCodec, Error> {
    ImageCodec::open(path, DType::F32, &Device::Cpu)
}

fn speech_codec(path: &Path, units: &Units<'_>) -> Result<SpeechCodec, Error> {
    SpeechCodec::open(path, units, DType::F32, &Device::Cpu)
}

fn written(golden: &Golden, folder: &Path) -> PathBuf {
    files::safetensors(folder, &golden.weights, &golden.config)
}

#[test]
fn pictures_become_codes_and_come_back() {
    let golden = Golden::own("chameleon_vqgan");
    let folder = tempfile::tempdir().unwrap();
    let codec = image_codec(&written(&golden, folder.path())).unwrap();
    assert_eq!((codec.form(), codec.factor()), (ImageForm::Codes { n_codes: 256 }, 16));
    let &[1, height, width, 3] = golden.shape("pixels") else { panic!() };
    let encoded = codec.encode(golden.bytes("pixels"), 1, height, width, Draw::Mean).unwrap();
    assert_eq!(encoded, [Encoded::Codes(golden.codes("codes"))]);
    let picture = codec.decode(&encoded, height / 16, width / 16).unwrap();
    let want = golden.f32("decoded").to_vec3_of_batch();
    let off = picture.iter().zip(&want).filter(|(got, want)| got.abs_diff(**want) > 1).count();
    assert!(picture.len() == want.len() && off == 0, "{off} values are off");
    for wrong in [vec![Encoded::Latents(vec![0.0; 24])], vec![Encoded::Codes(vec![0; 23])], vec![]] {
        assert!(matches!(codec.decode(&wrong, 4, 6), Err(Error::Codec(CodecError::Argument { .. }))), "{wrong:?}");
    }
}

trait Bytes {
    fn to_vec3_of_batch(&self) -> Vec<u8>;
}

impl Bytes for Tensor {
    fn to_vec3_of_batch(&self) -> Vec<u8> {
        let values = self.permute((0, 2, 3, 1)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(|x| ((x.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0) as u8).collect()
    }
}

#[test]
fn draws_are_functions_of_their_seeds() {
    let golden = Golden::own("sd_vae");
    let folder = tempfile::tempdir().unwrap();
    let codec = image_codec(&written(&golden, folder.path())).unwrap();
    assert_eq!((codec.form(), codec.factor()), (ImageForm::Latents { channels: 4 }, 8));
    let &[1, height, width, 3] = golden.shape("pixels") else { panic!() };
    let one = golden.bytes("pixels");
    let two = [one, one].concat();
    let latents = |encoded: &Encoded| match encoded {
        Encoded::Latents(values) => Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap(),
        Encoded::Codes(_) => panic!("codes"),
    };
    let mean = codec.encode(one, 1, height, width, Draw::Mean).unwrap();
    golden.within(&latents(&mean[0]), "latent_scaled", TOLERANCE);
    let drawn = codec.encode(&two, 2, height, width, Draw::Seeded(&[7, 8])).unwrap();
    let alone = codec.encode(one, 1, height, width, Draw::Seeded(&[8])).unwrap();
    assert!(drawn[0] != drawn[1] && mean[0] != drawn[0]);
    let apart = crate::golden::relative(&latents(&drawn[1]), &latents(&alone[0]));
    assert!(apart < 1e-5, "{apart}");
    assert!(codec.encode(&two, 2, height, width, Draw::Seeded(&[7])).is_err());
    let picture = codec.decode(&mean, height / 8, width / 8).unwrap();
    assert_eq!(picture.len(), one.len());
}

#[test]
fn sound_becomes_units_and_mimis_come_back() {
    if is_left_out("mimi_kyutai_names") {
        return;
    }
    let golden = Golden::own("mimi_kyutai_names");
    let folder = tempfile::tempdir().unwrap();
    let path = written(&golden, folder.path());
    let codec = speech_codec(&path, &Units::Codebooks(8)).unwrap();
    assert_eq!((codec.sample_rate(), codec.hop(), codec.n_units(), codec.n_codebooks()), (24_000, 1920, 64, 8));
    let units = codec.encode(&golden.samples("audio")).unwrap();
    golden.equal(&units, "codes");
    let sound = Tensor::from_vec(codec.decode(&units).unwrap(), golden.shape("decoded"), &Device::Cpu).unwrap();
    golden.within(&sound, "decoded", TOLERANCE);
    let first = speech_codec(&path, &Units::Codebooks(1)).unwrap();
    assert_eq!(first.encode(&golden.samples("audio")).unwrap(), units[..16]);
    assert_eq!(first.decode(&units[..3]).unwrap().len(), 3 * 1920);
    assert_ne!(first.identity(), codec.identity());
    assert!(first.encode(&[]).unwrap().is_empty() && first.decode(&[]).unwrap().is_empty());
    assert!(codec.decode(&units[..9]).is_err());
    assert!(speech_codec(&path, &Units::Codebooks(9)).is_err());
}

#[test]
fn huberts_units_are_the_references() {
    let golden = Golden::own("hubert_spiritlm_25hz");
    let (network, quantizer) = kinds::spiritlm_parts(&golden);
    let folder = tempfile::tempdir().unwrap();
    let parts = folder.path().join("quantizer");
    std::fs::create_dir(&parts).unwrap();
    let quantizer = files::safetensors(&parts, &quantizer, &json!({}));
    let path = files::safetensors(folder.path(), &network, &golden.config);
    let units = Units::Layer { layer: 3, quantizer: &quantizer };
    let codec = speech_codec(&path, &units).unwrap();
    assert_eq!((codec.sample_rate(), codec.hop(), codec.n_units(), codec.references().len()), (16_000, 640, 20, 2));
    golden.equal(&codec.encode(&golden.samples("audio")).unwrap(), "units");
    assert!(codec.encode(&[0.0; 719]).unwrap().is_empty());
    assert!(matches!(codec.decode(&[1]), Err(Error::Codec(CodecError::Lacks { .. }))));
    assert!(speech_codec(&path, &Units::Layer { layer: 5, quantizer: &quantizer }).is_err());
    let error = speech_codec(&path, &Units::Codebooks(1)).unwrap_err();
    assert!(matches!(error, Error::Codec(CodecError::OtherNetwork { .. })), "{error}");
    let error = speech_codec(&path, &Units::Layer { layer: 3, quantizer: &path }).unwrap_err();
    assert!(matches!(error, Error::Codec(CodecError::OtherNetwork { .. })), "{error}");
    let error = image_codec(&path).unwrap_err().to_string();
    assert!(error.contains("an image codec") && error.contains("HuBERT"), "{error}");
}

#[test]
fn an_identity_changes_with_weights_and_settings() {
    let golden = Golden::own("sd_vae");
    let folder = tempfile::tempdir().unwrap();
    let path = written(&golden, folder.path());
    let codec = image_codec(&path).unwrap();
    assert_eq!(codec.identity(), image_codec(&path).unwrap().identity());
    let mut config = golden.config.clone();
    config["scaling_factor"] = json!(0.5);
    let other = image_codec(&files::safetensors(folder.path(), &golden.weights, &config)).unwrap();
    assert_eq!(other.reference(), codec.reference());
    assert_ne!(other.identity(), codec.identity());
    // A reference knows its file again, and no other.
    codec.reference().open(None).unwrap();
    let moved = folder.path().join("moved.safetensors");
    std::fs::rename(&path, &moved).unwrap();
    assert!(codec.reference().open(None).is_err());
    codec.reference().open(Some(&moved)).unwrap();
    let mut weights = golden.weights.clone();
    weights.get_mut("quant_conv.bias").unwrap().bytes[0] ^= 1;
    let changed = files::safetensors(folder.path(), &weights, &config);
    let error = codec.reference().open(Some(&changed)).unwrap_err().to_string();
    assert!(error.contains(&codec.reference().blake3), "{error}");
    assert_ne!(image_codec(&changed).unwrap().identity(), other.identity());
}
