//! Pictures and captions are generated from the runs of a sweep, by a seed.

use std::fs;
use std::path::Path;

use crate::calls::sweep;
use crate::common::{error_of, mom_train, read};

#[test]
fn images_and_captions_are_generated_from_the_runs_of_a_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let mut arguments = sweep(&out, "4", &["--no-bracket"]);
    arguments.extend(["--setting", "transfusion,chameleon", "--variants", "mom"]);
    arguments.drain(1..5);
    assert!(mom_train(&arguments).status.success());
    let report = read(out.join("report.html"));
    for part in ["id=\"samples\"", "transfusion, seed 0", "chameleon, seed 0", "data:image/png;base64,iVBOR"] {
        assert!(report.contains(part), "{part}");
    }
    let generate = |setting: &str, png: &Path, seed: &str| {
        let run = out.join("runs").join(format!("{setting}-nano-mom-seed0"));
        let mut words =
            vec!["generate", "--model", run.to_str().unwrap(), "--then", "image", "--out", png.to_str().unwrap()];
        words.extend(["a red star above two blue rings.", "--seed", seed, "--steps", "8"]);
        mom_train(&words)
    };
    for setting in ["transfusion", "chameleon"] {
        let paths = ["one.png", "two.png", "other.png"].map(|name| folder.path().join(format!("{setting}-{name}")));
        for (path, seed) in paths.iter().zip(["1", "1", "2"]) {
            let output = generate(setting, path, seed);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let run = out.join("runs").join(format!("{setting}-nano-mom-seed0"));
        let text = |prompt: &[&str], more: &[&str]| {
            let words = ["generate", "--model", run.to_str().unwrap(), "--then", "text", "--seed", "1"];
            mom_train(&[&words[..], more, prompt].concat())
        };
        let describe = |png: &Path| text(&[&format!("image:{}", png.display())], &[]);
        let more = text(&["a red ", "text:star"], &["--top-k", "5", "--top-p", "0.9", "--max-tokens", "7"]);
        assert!(more.status.success() && more.stdout.len() > 1, "{setting}");
        for (wrong, expected) in [
            (&["--top-p", "0"][..], "top_p must be above 0, and 1 at most, got 0"),
            (&["--temperature", "nan"], "temperature must be finite and not negative, got NaN"),
            (&["--guidance", "nan"], "guidance must be finite, got NaN"),
            (&["--out", "x.png"], "--out is for pictures and speech, and --then is text"),
        ] {
            let message = error_of(&text(&["a"], wrong));
            assert!(message.contains(expected), "{message}");
        }
        let message = error_of(&generate(setting, &folder.path().join("x.jpg"), "1"));
        assert!(message.contains("--out must end in .png, got") && message.contains("x.jpg"), "{message}");
        let (caption, again) = (describe(&paths[0]), describe(&paths[0]));
        assert!(caption.status.success() && caption.stdout.len() > 1, "{setting}");
        assert_eq!(caption.stdout, again.stdout);
        let message = error_of(&describe(&run.join("config.toml")));
        assert!(message.contains("config.toml") && message.contains("does not decode"), "{message}");
        // A run of a GPU is decoded here all the same.
        let config = run.join("config.toml");
        fs::write(&config, read(&config).replace("device = \"cpu\"", "device = \"cuda\"\ndtype = \"bf16\"")).unwrap();
        let path = folder.path().join("of-a-gpu.png");
        let output = generate(setting, &path, "1");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(path).unwrap() == fs::read(&paths[0]).unwrap());
        let [one, two, other] = paths.map(|path| fs::read(path).unwrap());
        assert!(one.starts_with(b"\x89PNG") && one == two && one != other, "{setting}: a function of the seed");
    }
    let message = error_of(&generate("three-modality", &folder.path().join("none.png"), "1"));
    assert!(message.contains("three-modality-nano-mom-seed0"), "{message}");
}
