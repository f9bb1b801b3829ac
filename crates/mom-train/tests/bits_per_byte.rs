//! Bits per byte are of the bytes that the loss was measured on.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;

use mom_train::run::{Silent, train};
use mom_train::{Prepared, RunConfig};

#[test]
fn they_are_of_the_held_out_documents_alone() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |name: &str, text: &str, n: usize| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{{\"text\": {text:?}}}\n").repeat(n)).unwrap();
        path
    };
    // What is trained on are long words that are a token each; what is held out are letters that no merge was learned for.
    let trained_on = lines("trained.jsonl", &"hippopotamus rhinoceros ".repeat(20), 60);
    let held_out_text = "zq xj vk wy zx qj kv yw";
    let held_out = lines("held-out.jsonl", held_out_text, 12);
    let text = format!(
        r#"
        model = {{ setting = "chameleon", variant = "dense", scale = "nano" }}
        data = {{ batch = 2, seqlen = 64, tokenizers = {{ text = {{ vocab_size = 280 }} }}, sources = [
            {{ path = {trained_on:?}, split = "train" }}, {{ path = {held_out:?}, split = "validation" }} ] }}
        train = {{ steps = 2, eval_every = 2, eval_batches = 64, checkpoint_every = 2 }}
        optimizer = {{ learning_rate = 1e-2, warmup_steps = 1 }}
        "#
    );
    let config = RunConfig::from_toml(&text, &[]).unwrap();
    let run = folder.path().join("run");
    let prepared = Prepared::new(&config, &run, |_| {}).unwrap();
    let of_token = |text: &str| text.len() as f64 / prepared.tokenizers.text().encode(text).unwrap().len() as f64;
    let (all, own) = (prepared.dataset.bytes_per_text_token().unwrap(), of_token(held_out_text));
    assert!(all > 3.0 * own, "{all} bytes a token of all documents, {own} of those that are held out");
    let last = train(&config, &run, &prepared, &mut Silent).unwrap().curve.pop().unwrap();
    // All of a pass was looked at: 12 documents, each with a target at its end that stands for no byte.
    let n_tokens = prepared.tokenizers.text().encode(held_out_text).unwrap().len() as f64;
    let nats = last.loss["text"] * 12.0 * (n_tokens + 1.0);
    let expected = nats / std::f64::consts::LN_2 / (12.0 * held_out_text.len() as f64);
    let bits = last.bits_per_byte.unwrap();
    assert!((bits / expected - 1.0).abs() < 1e-6, "{bits} is not {expected}");
}
