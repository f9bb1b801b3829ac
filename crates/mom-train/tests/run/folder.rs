//! The folder of a run belongs to one process, one configuration and one set of data; what does not matter may change in it.

use std::fs;
use std::path::Path;

use mom_models::Setting;
use mom_train::run::{FolderLock, RunFolder, Silent, train};

use crate::common::{config, read};
use crate::killed::{Killed, Notes, kill_at, prepare, reseal, weights};

#[test]
fn a_folder_knows_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let first = config(Setting::Chameleon, &[]);
    let out = folder.path().join("run");
    RunFolder::open(&out, &first).unwrap();
    let shards = folder.path().join("shards");
    let options = mom_data::scenes::ShardOptions { documents: 60, seed: 9, ..Default::default() };
    mom_data::scenes::write_shards(&shards, &options, |_, _| {}).unwrap();
    let mut other = first.clone();
    other.data.shards = Some(shards.clone());
    let error = RunFolder::open(&out, &other).unwrap_err();
    assert!(error.to_string().contains("the files of the source shards are not those"), "{error}");
    // The same shards under another path are the same shards.
    let moved = folder.path().join("elsewhere/shards");
    fs::create_dir_all(&moved).unwrap();
    for entry in fs::read_dir(first.data.shards.as_ref().unwrap()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), moved.join(entry.file_name())).unwrap();
    }
    other.data.shards = Some(moved.clone());
    RunFolder::open(&out, &other).unwrap();
    // What is gone cannot be compared: its tokens are what is left.
    fs::remove_dir_all(moved).unwrap();
    RunFolder::open(&out, &other).unwrap();
}

#[test]
fn a_folder_of_another_configuration_or_other_data_is_refused_and_untouched() {
    let killed = Killed::new(&[]);
    let run = &killed.run;
    let heads = (read(run.join("config.toml")), read(run.join("model.json")));

    let wider = config(Setting::Chameleon, &["model.scale=tiny"]);
    let message = killed.refused(&wider);
    assert!(message.contains("was made with model.scale = \"nano\" (now \"tiny\")"), "{message}");

    // The same configuration over shards that have changed.
    let state = killed.checkpoint(4).join("state.json");
    let changed = read(&state).replace(&format!("{:016x}", killed.prepared.fingerprint()), "0000000000000000");
    fs::write(&state, changed).unwrap();
    reseal(&killed.checkpoint(4));
    let message = killed.refused(&killed.config);
    assert!(message.contains("data (a hash of all documents)"), "{message}");
    assert_eq!((read(run.join("config.toml")), read(run.join("model.json"))), heads);
}

#[test]
fn what_does_not_matter_may_change_and_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let first = config(Setting::Chameleon, &[]);
    let prepared = prepare(&first, folder.path());
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    train(&first, &whole, &prepared, &mut Silent).unwrap();
    kill_at(6, &first, &run, &prepared);
    fs::remove_file(run.join("metrics.jsonl")).unwrap();
    let other = config(Setting::Chameleon, &["train.keep_checkpoints=7", "train.checkpoint_every=1"]);
    let mut notes = Notes::default();
    train(&other, &run, &prepared, &mut notes).unwrap();
    assert!(notes.notes.iter().any(|note| note.contains("metrics.jsonl lacks")), "{:?}", notes.notes);
    assert!(weights(&whole) == weights(&run));
    assert!(read(whole.join("metrics.jsonl")).ends_with(&read(run.join("metrics.jsonl"))));
    assert!(read(run.join("config.toml")).contains("keep_checkpoints = 7"));
    for (change, name) in [("optimizer.beta1=0.8", "optimizer.beta1"), ("train.seed=4", "train.seed")] {
        let message = RunFolder::open(&run, &config(Setting::Chameleon, &[change])).unwrap_err().to_string();
        assert!(message.contains(&format!("was made with {name}")), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn files_of_a_run_have_the_modes_that_others_have() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &["train.steps=2"]);
    let run = folder.path().join("run");
    train(&config, &run, &prepare(&config, folder.path()), &mut Silent).unwrap();
    fs::write(folder.path().join("plain"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let plain = mode(&folder.path().join("plain"));
    let checkpoint = run.join("checkpoints/step-00000002");
    for path in fs::read_dir(&checkpoint).unwrap().chain(fs::read_dir(&run).unwrap()).map(|entry| entry.unwrap().path())
    {
        assert!(path.is_dir() || mode(&path) == plain, "{}: {:o}", path.display(), mode(&path));
    }
}

#[test]
fn a_folder_has_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let held = FolderLock::new(folder.path()).unwrap();
    assert!(FolderLock::new(folder.path()).unwrap_err().to_string().contains("in use by another process"));
    drop(held);
    FolderLock::new(folder.path()).unwrap();
}
