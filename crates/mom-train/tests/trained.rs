//! Trained models: evaluated, exported, read back, and started from.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::Path;

use common::{config, error_of, mom_train, read};
use mom_models::Setting;
use mom_train::run::{RunFolder, Silent, train, train_in};
use mom_train::{DeviceKind, EvalOptions, Prepared, RunConfig, Trained, evaluate};

/// A run that is done, and its folder's path.
fn trained(config: &RunConfig, run: &Path) -> mom_train::telemetry::RunResult {
    let folder = RunFolder::open(run, config).unwrap();
    train_in(&folder, config, &Prepared::new(config, run, |_| {}).unwrap(), &mut Silent).unwrap()
}

fn losses(model: &Path, folder: &Path) -> mom_train::Evaluation {
    evaluate(&Trained::open(model).unwrap(), &EvalOptions::default(), folder, |_| {}).unwrap()
}

#[test]
fn an_evaluation_is_the_trainers_own_of_a_run_a_checkpoint_and_an_export() {
    let of_settings = Setting::ALL.map(|setting| (setting, "model.patcher=linear"));
    for (setting, patcher) in of_settings.into_iter().chain([(Setting::Transfusion, "model.patcher=unet")]) {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let config = config(setting, &["train.steps=8", "train.eval_every=4", "train.eval_batches=9", patcher]);
        let result = trained(&config, &run);
        let export = folder.path().join("export");
        Trained::open(&run).unwrap().export(&export).unwrap();
        let scratch = folder.path().join("scratch");
        let last = &result.curve[1];
        for (model, tokens) in [(&run, &run), (&run.join("checkpoints/step-00000008"), &run), (&export, &scratch)] {
            let got = losses(model, tokens);
            assert_eq!((got.step, &got.loss, got.joint), (8, &last.loss, last.joint), "{}", model.display());
        }
        let first = losses(&run.join("checkpoints/step-00000004"), &run);
        assert_eq!((first.step, &first.loss), (4, &result.curve[0].loss));
        let names: Vec<_> = fs::read_dir(&export).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        let message = Trained::open(&run).unwrap().export(&export).unwrap_err().to_string();
        assert!(message.contains("is there already"), "{message}");
        // A flipped bit is found.
        let path = export.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let message = Trained::open(&export).unwrap_err().to_string();
        assert!(message.contains("model.safetensors has the checksum"), "{message}");
    }
}

#[test]
fn an_export_has_the_published_names_and_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let (run, export) = (folder.path().join("run"), folder.path().join("export"));
    trained(&config(Setting::Chameleon, &["train.steps=1"]), &run);
    Trained::open(&run).unwrap().export(&export).unwrap();
    let bytes = fs::read(export.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
    for modality in 0..2 {
        let of = |projection: &str| format!("backbone.layers.0.mixer.local_experts_{projection}.{modality}.weight");
        assert_eq!(shape(&of("in_proj")), [64, 16]);
        assert_eq!(shape(&of("x_proj")), [33, 32]);
        assert_eq!(shape(&of("dt_proj")), [32, 1]);
        assert_eq!(shape(&of("out_proj")), [16, 32]);
    }
    assert_eq!(shape("backbone.layers.1.mixer.A_log"), [32, 16]);
    assert_eq!(shape("backbone.layers.1.mixer.conv1d.weight"), [32, 1, 4]);
    assert_eq!(shape("backbone.norm_f.weight"), [16]);
}

#[test]
fn what_starts_from_a_model_has_its_losses() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, run) = (folder.path().join("dense"), folder.path().join("run"));
    let few = ["train.steps=6", "train.eval_every=6", "model.variant=dense"];
    trained(&config(Setting::ThreeModality, &few), &dense);
    trained(&config(Setting::ThreeModality, &["train.steps=6", "train.eval_every=6", "train.seed=5"]), &run);
    let export = folder.path().join("export");
    Trained::open(&run).unwrap().export(&export).unwrap();
    let before = |model: &Path| {
        let options = EvalOptions { batches: Some(2), device: DeviceKind::Cpu, ..EvalOptions::default() };
        evaluate(&Trained::open(model).unwrap(), &options, model, |_| {}).unwrap()
    };
    // The weights are moved by nothing in one step of a rate of almost zero.
    let still = ["train.steps=1", "optimizer.learning_rate=1e-30", "optimizer.final_learning_rate=0.0"];
    for (origin, reference, exact) in [(&run, &run, true), (&export, &run, true), (&dense, &dense, false)] {
        let from = format!("train.init_from={}", origin.display());
        let tuned = folder.path().join(format!("tuned-{}", origin.file_name().unwrap().to_str().unwrap()));
        let config = config(Setting::ThreeModality, &[&still[..], &[&from]].concat());
        let last = trained(&config, &tuned).curve[0].loss.clone();
        for (modality, want) in before(reference).loss {
            let off = (last[&modality] / want - 1.0).abs();
            // Products of one modality's rows are summed as those of all are; their order in memory is another.
            assert!(if exact { off == 0.0 } else { off < 1e-5 }, "{modality}: {} is not {want}", last[&modality]);
        }
        assert_eq!(read(tuned.join("tokenizers/tokenizers.json")), read(reference.join("tokenizers/tokenizers.json")));
    }
    // A file of weights alone, under the published names.
    let file = format!("train.init_from={}", export.join("model.safetensors").display());
    let config = config(Setting::ThreeModality, &[&still[..], &[&file]].concat());
    let prepared = Prepared::new(&config, &run, |_| {}).unwrap();
    let result = train(&config, &folder.path().join("of-a-file"), &prepared, &mut Silent).unwrap();
    assert_eq!(result.curve[0].loss, before(&run).loss);
}

#[test]
fn what_cannot_start_a_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    trained(&config(Setting::Chameleon, &["train.steps=1"]), &run);
    let from = format!("train.init_from={}", run.display());
    let start = |more: &[&str]| {
        let config = config(Setting::Chameleon, &[&[from.as_str()], more].concat());
        let prepared = Prepared::new(&config, &run, |_| {}).unwrap();
        train(&config, &folder.path().join("other"), &prepared, &mut Silent).unwrap_err().to_string()
    };
    let message = start(&["model.n_layers=2"]);
    assert!(
        message.contains("d_model 16, 1 layers") && message.contains("expected chameleon, d_model 16, 2 layers"),
        "{message}"
    );
    let message = start(&["model.d_state=8"]);
    assert!(message.contains("d_state 16") && message.contains("d_state 8"), "{message}");
    let message = start(&["model.variant=dense"]);
    assert!(message.contains("is missing"), "{message}");
    let message = Trained::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("neither a run, nor a checkpoint of one, nor an exported model"), "{message}");
}

/// A configuration file of a small run.
fn write_config(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("run.toml");
    let mut config = config(Setting::Chameleon, &["train.steps=2", "train.checkpoint_every=1"]);
    config.train.eval_every = 2;
    let text = config.to_toml().unwrap();
    // Without tokenizers: they are the model's.
    let start = text.find("[data.tokenizers]").unwrap();
    let end = text.find("[train]").unwrap();
    fs::write(&path, format!("{}{}", &text[..start], &text[end..])).unwrap();
    path
}

#[test]
fn a_run_that_started_from_a_model_goes_on_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let (origin, tuned) = (folder.path().join("origin"), folder.path().join("tuned"));
    trained(&config(Setting::Chameleon, &["train.steps=1"]), &origin);
    let file = write_config(folder.path());
    let from = |path: &Path| format!("train.init_from={}", path.display());
    let train = |more: &[&str]| {
        let words = ["train", "--config", file.to_str().unwrap(), "--out", tuned.to_str().unwrap()];
        mom_train(&[&words[..], more].concat())
    };
    // Before anything is read or made.
    let message = error_of(&train(&[&from(&folder.path().join("nothing"))]));
    assert!(message.contains("nothing") && message.contains("neither a run"), "{message}");
    let message = error_of(&train(&[&from(&origin), "data.tokenizers.text.vocab_size=290"]));
    assert!(message.contains("leave data.tokenizers away"), "{message}");
    assert!(!tuned.join("tokenizers").exists() && !tuned.join("tokens").exists());
    fs::remove_dir_all(&tuned).unwrap();

    assert!(train(&[&from(&origin), "train.steps=1"]).status.success());
    fs::rename(&origin, folder.path().join("elsewhere")).unwrap();
    let output = train(&[&from(&origin)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("going on from step 1"));
    // All is done: the data are not looked at.
    fs::remove_dir_all(tuned.join("tokens")).unwrap();
    assert!(train(&[&from(&origin)]).status.success());
    assert!(!tuned.join("tokens").exists());
    // Without its checkpoints it cannot grow.
    fs::remove_dir_all(tuned.join("checkpoints")).unwrap();
    let metrics = read(tuned.join("metrics.jsonl"));
    let message = error_of(&train(&[&from(&folder.path().join("elsewhere")), "train.steps=9"]));
    assert!(message.contains("2 steps are done, but there is no checkpoint to go on from"), "{message}");
    assert_eq!(read(tuned.join("metrics.jsonl")), metrics);
}

#[test]
fn a_model_is_evaluated_on_any_source_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let config = config(Setting::ThreeModality, &["train.steps=2", "train.eval_every=2"]);
    let result = trained(&config, &run);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let eval = |model: &Path, more: &[&str]| {
        let model = path(model);
        let output = mom_train(&[&["eval", "--json", "--model", &model], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let own = eval(&run, &[]);
    let last = result.curve.last().unwrap();
    assert_eq!(own["joint"].as_f64(), Some(last.joint));
    assert_eq!(own["loss"]["speech"].as_f64(), last.loss.get("speech").copied());
    let text = folder.path().join("texts/a.txt");
    fs::create_dir_all(text.parent().unwrap()).unwrap();
    fs::write(&text, "a red star above two blue rings. ".repeat(40)).unwrap();
    let export = folder.path().join("export");
    let output = mom_train(&["export", "--model", &path(&run), "--out", &path(&export)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let texts = eval(&export, &["--data", &path(text.parent().unwrap())]);
    assert!(texts["loss"]["text"].as_f64().unwrap() > 0.0 && texts["loss"].get("speech").is_none(), "{texts}");
    // All nats of the text, its end among them, over all its bytes but the blank at its end.
    let [bits, loss, n_targets] =
        [&texts["bits_per_byte"], &texts["loss"]["text"], &texts["n_targets"]].map(|value| value.as_f64().unwrap());
    let expected = loss * n_targets / std::f64::consts::LN_2 / (33.0 * 40.0 - 1.0);
    assert!((bits / expected - 1.0).abs() < 1e-9, "{bits} is not {expected}: {texts}");
    let message = error_of(&mom_train(&["eval", "--model", &path(&run), "--batches", "0"]));
    assert!(message.contains("batches must be at least 1, got 0"), "{message}");
    let checkpoint = run.join("checkpoints/step-00000002");
    assert_eq!(eval(&checkpoint, &[])["joint"], own["joint"]);
    let message = error_of(&mom_train(&["eval", "--model", "/nowhere"]));
    assert!(message.contains("/nowhere") && message.contains("neither a run"), "{message}");
}

#[test]
fn a_document_goes_on_behind_text_pictures_and_speech() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    trained(&config(Setting::ThreeModality, &["train.steps=2"]), &run);
    let generator = mom_train::Generator::open(&run, DeviceKind::Cpu, None).unwrap();
    let scene = mom_data::scenes::document(3, 7, &mom_data::scenes::SceneConfig::default());
    let options = mom_train::GenerateOptions { max_tokens: 9, ..Default::default() };
    let text = |speech: bool| {
        let mut draft = generator.draft(&options).unwrap();
        draft.push_text("a red star").unwrap();
        draft.push_image(&scene.image).unwrap();
        if speech {
            draft.push_speech(&scene.speech).unwrap();
        }
        draft.draw_text().unwrap()
    };
    assert!(!text(true).is_empty());
    assert_eq!(text(true), text(true), "a function of the seed");
    assert_ne!(text(true), text(false), "what was said is heard");
    // What was drawn is a part of the document like what was given.
    let mut draft = generator.draft(&options).unwrap();
    let first = draft.draw_image().unwrap();
    let second = draft.draw_image().unwrap();
    assert_eq!((first.width, second.width), (generator.image_size(), generator.image_size()));
    assert_ne!(first.pixels, second.pixels);
    let message = draft.push_speech(&[]).unwrap_err().to_string();
    assert!(message.contains("speech must be long enough for a unit, got 0 samples"), "{message}");
}

#[test]
fn every_arm_goes_on_is_read_again_and_counts_its_keys_in_the_data() {
    for setting in [Setting::Transfusion, Setting::ThreeModality] {
        for variant in mom_models::Variant::BASELINES {
            let folder = tempfile::tempdir().unwrap();
            let run = folder.path().join("run");
            let variant = format!("model.variant={variant}");
            let of = |steps: &str| {
                config(
                    setting,
                    &[&variant, steps, "train.checkpoint_every=2", "train.eval_every=2", "optimizer.schedule=constant"],
                )
            };
            trained(&of("train.steps=2"), &run);
            let result = trained(&of("train.steps=4"), &run);
            let whole = folder.path().join("whole");
            let curve = |result: &mom_train::telemetry::RunResult| -> Vec<_> {
                result.curve.iter().map(|point| (point.step, point.loss.clone(), point.joint)).collect()
            };
            assert_eq!(curve(&trained(&of("train.steps=4"), &whole)), curve(&result), "{setting} {variant}");
            let model = Trained::open(&run).unwrap();
            assert_eq!(losses(&run, &run).loss, result.curve.last().unwrap().loss, "{setting} {variant}");
            // Documents of these data are longer than ten positions, and shorter than a sequence.
            let keys = model.config().mean_keys;
            let is_transformer = variant.ends_with("=transformer") || variant.ends_with("=mot");
            assert!(if is_transformer { (5..config(setting, &[]).data.seqlen).contains(&keys) } else { keys == 0 });
        }
    }
}

#[test]
fn a_model_with_a_unet_draws_and_starts_others_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let of = |more: &[&str]| config(Setting::Transfusion, &[&["train.steps=2"], more].concat());
    trained(&of(&["model.patcher=unet"]), &run);
    let model = Trained::open(&run).unwrap();
    let unet = model.config().unet.clone().unwrap();
    // Pixels of 4 x 4 patches; the narrowest there is beside a d_model of 16.
    assert_eq!((unet.channels, unet.order, unet.width), (3, mom_models::PatchOrder::ChannelsLast, 8));
    let generator = mom_train::Generator::open(&run, DeviceKind::Cpu, None).unwrap();
    let options = mom_train::GenerateOptions { n_steps: 3, ..Default::default() };
    let picture = generator.image("a red star", &options).unwrap();
    assert_eq!(picture.width, generator.image_size());
    assert_eq!(picture.pixels, generator.image("a red star", &options).unwrap().pixels, "a function of the seed");
    let origin = format!("train.init_from={}", run.display());
    let message = |more: &[&str], name: &str| {
        let config = of(&[&[origin.as_str()], more].concat());
        RunFolder::open(&folder.path().join(name), &config).unwrap_err().to_string()
    };
    assert!(message(&[], "linear").contains("a unet patcher of width 8"));
    let wider = message(&["model.patcher=unet", "model.unet_width=16"], "wider");
    assert!(wider.contains("width 8, expected") && wider.contains("width 16"), "{wider}");
    trained(&of(&[&origin, "model.patcher=unet"]), &folder.path().join("again"));
}

#[test]
fn mixture_of_transformers_starts_from_a_transformer() {
    let folder = tempfile::tempdir().unwrap();
    let [dense, mot] = ["dense", "mot"].map(|name| folder.path().join(name));
    let setting = Setting::Chameleon;
    trained(&config(setting, &["model.variant=transformer", "train.steps=2"]), &dense);
    let origin = format!("train.init_from={}", dense.display());
    let of_mot = config(setting, &["model.variant=mot", "train.steps=1", &origin]);
    trained(&of_mot, &mot);
    let sizes = |run: &Path| Trained::open(run).unwrap().config().transformer().d_ff;
    assert_eq!(sizes(&dense), sizes(&mot));
}
