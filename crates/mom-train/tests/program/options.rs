//! Bad options are named with what is expected, and the speed of every setting is told.

use crate::common::{error_of, mom_train};

#[test]
fn speed_is_told_of_every_setting() {
    let speed = |more: &[&str]| {
        let words = ["speed", "--scale", "nano", "--vocab", "64", "--batch", "2", "--seqlen", "96", "--steps", "2"];
        mom_train(&[&words, more].concat())
    };
    for setting in ["transfusion", "chameleon", "three-modality"] {
        let output = speed(&["--setting", setting, "--layers", "2"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("(4 blocks)") && text.contains("tokens/s") && text.contains("GiB"), "{text}");
        let loss: f64 = text.trim().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(loss.is_finite() && loss > 0.0, "{text}");
    }
    let unet = ["speed", "--setting", "transfusion", "--patcher", "unet", "--scale", "nano", "--vocab", "64"];
    let output = mom_train(&[&unet[..], &["--batch", "1", "--seqlen", "1424", "--steps", "1"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("transfusion mom with a U-Net nano"), "{text}");
    for (more, expected) in [
        (&["--layers", "0"][..], "layers"),
        (&["--patcher", "unet"], "patcher must be linear in the setting chameleon, got unet"),
        (&["--patcher", "unet", "--setting", "transfusion"], "seqlen must be at least 1424 for a U-Net"),
        (&["--patcher", "unet", "--setting", "transfusion", "--context", "2"], "context must be 1 for a U-Net"),
        (&["--patcher", "unet", "--decode"], "cannot be used with"),
        (&["--setting", "video"], "video"),
        (&["--dtype", "f8"], "[possible values: f32, bf16]"),
        (&["--dtype", "bf16"], "f32 or f64 on the CPU"),
        (&["--device", "cuda"], "feature"),
    ] {
        if cfg!(feature = "cuda") && more.contains(&"cuda") {
            continue;
        }
        let message = String::from_utf8_lossy(&speed(more).stderr).into_owned();
        assert!(message.contains(expected), "{more:?}: {message}");
    }
}

#[test]
fn bad_options_are_named() {
    for (arguments, expected) in [
        (&["--scale", "2B"][..], "scale must be one of nano, tiny"),
        (&["--setting", "video"], "setting must be one of transfusion, chameleon, three-modality, got video"),
        (&["--variants", "moe"], "variant must be dense, mom, mom-alike, published"),
        (&["--device", "tpu"], "[possible values: cpu, cuda]"),
        (&["--device", "cuda"], "device must be cpu: this program was built without the feature"),
        (&["--steps", "0"], "train.steps must be at least 1, got 0"),
        (&["optimizer.lr=1"], "lr"),
        (&["train.accumulate=9223372036854775807"], "train.accumulate must be at most 2^20"),
        (&["--scale", "d16-l9223372036854775807"], "scale must be between 1 and 65536 layers"),
        (&["train.seed=5"], "override must be anything but train.seed"),
        (&["--dry-run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--data", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        if cfg!(feature = "cuda") && arguments.contains(&"cuda") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut all = vec!["ablate", "--out", out.to_str().unwrap(), "--scale", "nano"];
        all.retain(|&word| !arguments.contains(&"--scale") || (word != "--scale" && word != "nano"));
        all.extend(arguments);
        let message = error_of(&mom_train(&all));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
