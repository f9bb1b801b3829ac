//! What does not fit.

use std::fs;
use std::path::Path;

use crate::bench::{Bench, MIMI, VAE, centroids, mimi, vqgan, weights};

#[test]
fn what_does_not_fit_is_refused_before_anything_is_made() {
    let bench = Bench::new("chameleon", |folder| vqgan(&weights("chameleon_vqgan", folder, None)));
    let vae = weights("sd_vae", bench.folder.path(), Some(VAE));
    let of_mimi = weights("mimi_odd_length", bench.folder.path(), Some(MIMI));
    let at = |path: &Path| format!("data.tokenizers.image.weights={}", path.display());
    let cut = bench.path("cut.safetensors");
    fs::write(&cut, &fs::read(&vae).unwrap()[..5000]).unwrap();
    let code = bench.path("code.bin");
    fs::write(&code, b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00trueq\x01tR.").unwrap();
    let text = bench.path("text.ckpt");
    fs::write(&text, "not weights").unwrap();
    let kind_vae = "data.tokenizers.image.kind=vae";
    let transfusion = ["model.setting=transfusion", kind_vae, &at(&vae), "data.tokenizers.image.channels=4"];
    let transfusion = |more: &'static str| [&transfusion[..], &[more]].concat();
    for (overrides, expected) in [
        (vec!["model.setting=transfusion"], &["tokenizers.image.kind", "continuous values", "got vqgan"][..]),
        (vec![kind_vae], &["tokenizers.image.kind", "makes codes", "got vae"]),
        (vec![&at(&vae)], &["sd_vae/model.safetensors", "Chameleon's VQGAN", "a KL autoencoder"]),
        (vec![&at(&of_mimi)], &["expects the weights of Chameleon's VQGAN", "it holds Mimi"]),
        (vec![&at(Path::new("nowhere.ckpt"))], &["nowhere.ckpt", "No such file"]),
        (vec![&at(&cut)], &["cut.safetensors"]),
        (vec![&at(&code)], &["code.bin", "posix.system", "refused"]),
        (vec![&at(&text)], &["text.ckpt", "safetensors, or a pickle"]),
        (vec!["data.tokenizers.image.codes=8192"], &["data.tokenizers.image.codes must be 256", "got 8192"]),
        (vec!["data.tokenizers.image.patch=8"], &["data.tokenizers.image.patch must be 16", "got 8"]),
        (vec!["data.tokenizers.image.size=40", "data.tokenizers.image.patch=8"], &["patch must be 16"]),
        (vec!["data.tokenizers.image.kind=vqvae"], &["kind", "vqvae"]),
        (vec!["data.tokenizers.image.wheights=x"], &["wheights"]),
        (vec!["data.tokenizers.image.latents=draw"], &["image.latents must be absent for kind vqgan"]),
        (vec!["data.tokenizers.image.config=nowhere.json"], &["nowhere.json"]),
        (transfusion("data.tokenizers.image.channels=16"), &["image.channels must be 4", "got 16"]),
        (
            transfusion("data.tokenizers.image.size=72"),
            &["image.patch must be a divisor of the 9 x 9 latents", "got 2"],
        ),
        (transfusion("data.seqlen=17"), &["data.seqlen must be at least 18", "got 17"]),
    ] {
        let message = bench.refused(&overrides);
        assert!(expected.iter().all(|words| message.contains(words)), "{overrides:?}: {message}");
    }
    let speech = Bench::new("three-modality", |folder| {
        let quantizer = centroids("hubert_base", folder);
        let hubert = weights("hubert_large", folder, Some(r#"{ "num_attention_heads": 3, "do_normalize": true }"#));
        format!(
            "speech = {{ kind = \"hubert\", weights = {hubert:?}, quantizer = {quantizer:?}, layer = 2, units = 24 }}\n\
             image = {{ codes = 16 }}"
        )
    });
    let message = speech.refused(&[]);
    assert!(message.contains("quantizer must be for 48 channels, got 64"), "{message}");
    let message = speech.refused(&["data.tokenizers.speech.layer=5"]);
    assert!(message.contains("layer must be 1 to 4, got 5"), "{message}");
    let message = speech.refused(&[&format!("data.tokenizers.speech.weights={}", of_mimi.display())]);
    assert!(message.contains("expects the weights of HuBERT, and it holds Mimi"), "{message}");
    let spoken = Bench::new("three-modality", |_| format!("{}\nimage = {{ codes = 16 }}", mimi(&of_mimi)));
    let message = spoken.refused(&["data.tokenizers.speech.units=2048"]);
    assert!(message.contains("speech.units must be 32") && message.contains("got 2048"), "{message}");
    let message = spoken.refused(&["data.tokenizers.speech.sample_rate=16000"]);
    assert!(message.contains("speech.sample_rate must be 24000") && message.contains("got 16000"), "{message}");
}
