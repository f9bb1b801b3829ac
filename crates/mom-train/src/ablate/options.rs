//! What a sweep is made of.

use std::path::PathBuf;
use std::time::Duration;

use mom_models::{Scale, Setting};

use super::{Arm, Unserved, Variants};
use crate::config::check_downstream;
use crate::error::require;
use crate::{DeviceKind, Result, RunConfig};

/// What a sweep is made of. [`SweepOptions::default`] ends within ten minutes on two cores.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// Settings, in this order.
    pub settings: Vec<Setting>,
    /// What is done about settings that the data cannot serve.
    pub unserved: Unserved,
    /// Variants of each.
    pub variants: Variants,
    /// Size of the models.
    pub scale: Scale,
    /// Optimiser steps of each run.
    pub steps: u64,
    /// Seeds of weights, data order and noise.
    pub seeds: Vec<u64>,
    /// How the learning rate of each arm is found.
    pub rates: Rates,
    /// At which lengths every run is brought to an end, see [`steps_to_reach`](super::statistics::steps_to_reach).
    pub horizons: Horizons,
    /// Whether the null arm is run beside dense: dense from other initial weights, see [`Arm`](super::Arm).
    pub null: bool,
    /// Held-out documents of each kind whose truth each compared run's model is asked for; 0 for none.
    pub downstream: usize,
    /// The user's data: a file or folder of any format, or a TOML file whose section `[data]` is taken (`sources`, and
    /// what else of it is not a flag here). Scenes are generated if there are none.
    pub data: Option<PathBuf>,
    /// Folder of the sweep.
    pub out: PathBuf,
    /// Where it runs.
    pub device: DeviceKind,
    /// Generated documents.
    pub documents: usize,
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Time after which the sweep stops where it is; started again it goes on.
    pub limit: Option<Duration>,
    /// `key=value` overrides of every run's configuration.
    pub overrides: Vec<String>,
}

/// How the learning rate of an arm is found.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Rates {
    /// By short runs around the configured rate, see [`bracket`](super::bracket).
    #[default]
    Bracket,
    /// The same by whole runs of the first seed, of which that at the chosen rate is compared: for runs whose short ones would mislead.
    WholeBracket,
    /// Every run is made at each of these, and an arm is compared at its best, see [`rates`](super::rates).
    List(Vec<f64>),
    /// It is the configured one.
    Own,
}

impl Rates {
    /// A run of so many steps or fewer is cheap, and short runs of it would be of a few hundred, which mislead.
    pub const WHOLE_UP_TO: u64 = 2000;

    /// The bracket of runs of so many steps, where nothing else is asked for.
    pub fn bracket(steps: u64) -> Self {
        if steps <= Self::WHOLE_UP_TO { Self::WholeBracket } else { Self::Bracket }
    }

    /// Whether a bracket finds the rate of each arm.
    pub fn is_bracket(&self) -> bool {
        matches!(self, Self::Bracket | Self::WholeBracket)
    }
}

/// At which lengths every run is brought to an end.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Horizons {
    /// At a quarter and a half of its steps beside its end, where it has enough of them ([`Self::LEAST_STEPS`]) and no override says
    /// another course of the learning rate; else at its end alone.
    #[default]
    Auto,
    /// At these shares of its steps, ascending and below 1, beside its end.
    Shares(Vec<f64>),
}

impl Horizons {
    /// Steps of a run from which on it has horizons by itself.
    pub const LEAST_STEPS: u64 = 240;
    /// Share of a run's steps, and of each horizon's, in which its learning rate comes down.
    pub const DECAY: f64 = 0.2;

    /// So many ends, each at half the steps of the next: 3 are a quarter, a half and the whole. One is the whole alone.
    pub fn halving(n_ends: u32) -> Self {
        Self::Shares((1..n_ends).rev().map(|halvings| (-f64::from(halvings)).exp2()).collect())
    }
}

/// A number of ends (`3`: a quarter, a half, the whole), or shares joined by commas (`0.25,0.5`); a share of 1 is there in any case.
impl std::str::FromStr for Horizons {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "a number of ends from 1 to 8, or ascending shares above 0 and up to 1, joined by commas";
        if let Ok(n_ends) = text.trim().parse::<u32>() {
            require((1..=8).contains(&n_ends), "horizons", expected, text)?;
            return Ok(Self::halving(n_ends));
        }
        let shares: Option<Vec<f64>> = text.split(',').map(|share| share.trim().parse().ok()).collect();
        let mut shares = shares.unwrap_or_default();
        let ascend = shares.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = !shares.is_empty() && ascend && shares.iter().all(|&share| share > 0.0 && share <= 1.0);
        require(fits, "horizons", expected, text)?;
        shares.retain(|&share| share < 1.0);
        Ok(Self::Shares(shares))
    }
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            settings: vec![Setting::ThreeModality],
            unserved: Unserved::Refuse,
            variants: Variants::Default,
            scale: mom_models::NANO,
            steps: 1600,
            seeds: vec![0, 1, 2],
            rates: Rates::WholeBracket,
            horizons: Horizons::Auto,
            null: true,
            downstream: 0,
            data: None,
            out: PathBuf::from("runs/ablation"),
            device: DeviceKind::Cpu,
            documents: 20_000,
            batch: 2,
            seqlen: 1024,
            limit: None,
            overrides: Vec::new(),
        }
    }
}

impl SweepOptions {
    /// Checks what does not depend on the data.
    pub(super) fn check(&self) -> Result<()> {
        require(!self.settings.is_empty(), "settings", "at least one", 0)?;
        require(!self.seeds.is_empty(), "seeds", "at least one", 0)?;
        require(self.documents > 0, "documents", "at least 1", self.documents)?;
        for key in ["model.setting", "model.variant", "train.seed", "train.init_seed", "data.shards", "data.sources"] {
            let text = self.overriding(key);
            let expected = format!("anything but {key}, which the sweep sets itself");
            require(text.is_none(), "override", &expected, text.unwrap_or_default())?;
        }
        let patcher = self
            .overriding("model.patcher")
            .filter(|_| self.variants.list().iter().any(|arm| matches!(arm, Arm::Unet(_))));
        let expected = "anything but model.patcher beside arms that are named by it (-unet)";
        require(patcher.is_none(), "override", expected, patcher.unwrap_or_default())?;
        check_downstream("downstream", self.downstream)?;
        self.check_rates()
    }

    fn check_rates(&self) -> Result<()> {
        let last = self.overriding("optimizer.final_learning_rate").filter(|_| self.rates.is_bracket());
        let expected =
            "anything but optimizer.final_learning_rate beside a bracket, whose runs have it at one share of each rate";
        require(last.is_none(), "override", expected, last.unwrap_or_default())?;
        let Rates::List(rates) = &self.rates else { return Ok(()) };
        let field = "learning_rates";
        require(!rates.is_empty(), field, "at least one", 0)?;
        for (index, &rate) in rates.iter().enumerate() {
            require(rate.is_finite() && rate > 0.0, field, "positive and finite", rate)?;
            let twice = rates[..index].contains(&rate);
            require(!twice, field, "each another", format!("{rate} twice"))?;
        }
        let own = self.overriding("optimizer.learning_rate");
        let expected = "anything but optimizer.learning_rate beside learning rates that are tried";
        require(own.is_none(), "override", expected, own.unwrap_or_default())
    }

    /// The override of a key.
    fn overriding(&self, key: &str) -> Option<&str> {
        let is_of = |text: &&String| text.split('=').next().is_some_and(|have| have.trim() == key);
        self.overrides.iter().find(is_of).map(String::as_str)
    }

    /// Steps at which a run is brought to an end on the way.
    pub(super) fn horizon_steps(&self) -> Vec<u64> {
        let course = ["optimizer.schedule", "optimizer.decay_steps", "optimizer.warmup_steps", "train.steps"];
        let shares = match &self.horizons {
            Horizons::Shares(shares) => shares.clone(),
            Horizons::Auto if self.steps < Horizons::LEAST_STEPS => Vec::new(),
            Horizons::Auto if course.iter().any(|key| self.overriding(key).is_some()) => Vec::new(),
            Horizons::Auto => vec![0.25, 0.5],
        };
        shares.iter().map(|share| (share * self.steps as f64).round() as u64).collect()
    }

    /// Folder of the runs.
    pub(super) fn runs(&self) -> PathBuf {
        self.out.join("runs")
    }

    /// Tokenizers and tokens of a setting: in `data.prepared` where a file of data names one.
    pub(super) fn prepared(&self, config: &RunConfig) -> PathBuf {
        let folder = config.data.prepared.clone().unwrap_or_else(|| self.out.join("data"));
        folder.join(config.model.setting.name())
    }
}
