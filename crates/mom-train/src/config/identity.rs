//! What makes a run the run it is, and what may change at any start.
//!
//! Model, data, seed and optimiser are a run's identity. Everything else is operation: where it runs, how long, how often it
//! is evaluated, what is kept. Where data lie does not matter; what they hold is compared apart.

use super::RunConfig;
use crate::{Error, Result};

/// Whether a key of operation changes a number of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It does: where runs are compared, it is equal.
    OnNumbers,
    /// It does not, but for the last bits of sums that are cut otherwise (`bucket_mib` and `ctas`, of several ranks).
    None,
}

/// Keys of operation.
const OPERATION: [(&str, Effect); 24] = [
    ("train.steps", Effect::OnNumbers),
    ("train.init_from", Effect::OnNumbers),
    ("train.eval_every", Effect::OnNumbers),
    ("train.eval_batches", Effect::OnNumbers),
    ("train.checkpoint_every", Effect::None),
    ("train.keep_checkpoints", Effect::None),
    ("train.keep_every", Effect::None),
    ("train.keep_best", Effect::None),
    ("train.sample_every", Effect::None),
    ("train.downstream", Effect::None),
    ("train.horizons", Effect::OnNumbers),
    ("train.ema", Effect::None),
    ("train.on_spike", Effect::OnNumbers),
    ("train.spike_factor", Effect::OnNumbers),
    ("train.device", Effect::OnNumbers),
    ("train.dtype", Effect::OnNumbers),
    ("train.recompute", Effect::None),
    ("train.graph", Effect::None),
    ("train.dist.reduce", Effect::OnNumbers),
    ("train.dist.timeout_secs", Effect::None),
    ("train.dist.start_secs", Effect::None),
    ("train.dist.bucket_mib", Effect::None),
    ("train.dist.ctas", Effect::None),
    ("train.dist.context", Effect::OnNumbers),
];

/// How much of two configurations must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Of a run that goes on: model, data, seed, optimiser.
    OfRun,
    /// Of runs that are compared: all that a number depends on.
    OfComparison,
}

impl Identity {
    /// Whether a key may differ.
    pub fn leaves_free(self, key: &str) -> bool {
        OPERATION.iter().any(|&(name, effect)| name == key && (self == Self::OfRun || effect == Effect::None))
    }
}

/// A field in which two configurations differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Its dotted name.
    pub key: String,
    /// `name = old value (now new value)`.
    pub text: String,
}

/// All fields in which two configurations differ, but for where data lie.
///
/// # Errors
/// A value that TOML cannot hold.
pub(crate) fn differences(old: &RunConfig, new: &RunConfig) -> Result<Vec<Difference>> {
    let value = |config: &RunConfig| {
        let config = RunConfig { data: config.data.without_paths(), ..config.clone() };
        toml::Value::try_from(config)
            .map_err(|error| Error::Content { path: "config.toml".into(), reason: error.to_string() })
    };
    let mut found = Vec::new();
    // What is not said is what the data told.
    let mut new = new.clone();
    new.model.mean_keys = new.model.mean_keys.or(old.model.mean_keys);
    collect("", Some(&value(old)?), Some(&value(&new)?), &mut found);
    Ok(found)
}

/// The list whose entries are told apart; any other one is a value.
const SOURCES: &str = "data.sources";

fn collect(name: &str, old: Option<&toml::Value>, new: Option<&toml::Value>, found: &mut Vec<Difference>) {
    if let (Some(toml::Value::Table(old)), Some(toml::Value::Table(new))) = (old, new) {
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let dotted = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            collect(&dotted, old.get(key), new.get(key), found);
        }
    } else if let (Some(toml::Value::Array(old)), Some(toml::Value::Array(new)), SOURCES) = (old, new, name)
        && old.len() == new.len()
    {
        for (at, (old, new)) in old.iter().zip(new).enumerate() {
            collect(&format!("{name}.{at}"), Some(old), Some(new), found);
        }
    } else if old != new {
        let show = |value: Option<&toml::Value>| value.map_or("absent".to_owned(), toml::Value::to_string);
        let text = format!("{name} = {} (now {})", show(old), show(new));
        found.push(Difference { key: name.to_owned(), text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(overrides: &[&str]) -> RunConfig {
        let text = r#"
            model = { setting = "chameleon", variant = "mom", scale = "nano" }
            data = { shards = "shards", batch = 4, seqlen = 128 }
            train = { steps = 10 }
        "#;
        RunConfig::from_toml(text, &overrides.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn operation_may_change_and_identity_may_not() {
        let kept = |overrides: &[&str], identity: Identity| {
            let found = differences(&parse(&[]), &parse(overrides)).unwrap();
            found.into_iter().filter(|d| !identity.leaves_free(&d.key)).map(|d| d.text).collect::<Vec<_>>()
        };
        let operation = [
            "train.steps=20",
            "train.eval_every=7",
            "train.keep_best=text",
            "train.keep_checkpoints=9",
            "train.dist.timeout_secs=99",
        ];
        assert!(kept(&operation, Identity::OfRun).is_empty());
        let compared = kept(&operation, Identity::OfComparison);
        assert_eq!(compared, ["train.eval_every = 100 (now 7)", "train.steps = 10 (now 20)"]);
        assert!(kept(&["data.shards=/elsewhere"], Identity::OfComparison).is_empty());
        for (key, value) in [
            ("model.variant", "dense"),
            ("train.seed", "1"),
            ("train.init_seed", "1"),
            ("train.accumulate", "2"),
            ("data.batch", "2"),
            ("data.tokenizers.text.vocab_size", "600"),
            ("optimizer.learning_rate", "1e-3"),
        ] {
            let found = kept(&[&format!("{key}={value}")], Identity::OfRun);
            assert!(found.len() == 1 && found[0].starts_with(key), "{key}: {found:?}");
        }
    }

    #[test]
    fn of_sources_that_differ_in_a_weight_the_weight_is_told() {
        let of = |weight: &str| {
            let text = r#"
                model = { setting = "chameleon", variant = "mom", scale = "nano" }
                data = { batch = 4, seqlen = 128, sources = [{ path = "a" }, { path = "b", weight = 1.0 }] }
                train = { steps = 10 }
            "#;
            RunConfig::from_toml(text, &[format!("data.sources.1.weight={weight}")]).unwrap()
        };
        let found: Vec<String> = differences(&of("1.0"), &of("3.0")).unwrap().into_iter().map(|it| it.text).collect();
        assert_eq!(found, ["data.sources.1.weight = 1.0 (now 3.0)"]);
    }

    #[test]
    fn every_key_of_operation_is_a_key() {
        let all = [
            "train.keep_every=2",
            "train.keep_best=joint",
            "train.sample_every=3",
            "train.downstream=16",
            "train.ema=0.99",
            "train.on_spike=skip",
            "train.spike_factor=9.0",
            "train.init_from=a",
            "train.dist.timeout_secs=9",
        ];
        let table = toml::Table::try_from(parse(&all)).unwrap();
        // Those that are left out where they have their default.
        let omitted = ["train.horizons", "train.dtype", "train.recompute", "train.graph"];
        for (key, _) in OPERATION.iter().filter(|(key, _)| !omitted.contains(key)) {
            let (section, name) = key.split_once('.').unwrap();
            let value = name.split('.').try_fold(&table[section], |value, name| value.get(name));
            assert!(value.is_some(), "{key}");
        }
    }
}
