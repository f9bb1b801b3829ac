//! `ablate`.

use anyhow::{Context, Result, bail};
use mom_models::Setting;
use mom_train::ablate::rates::ArmRates;
use mom_train::ablate::report::{Comparison, DownstreamComparison};
use mom_train::ablate::{self, Rates, Served, Stage, SweepOptions, Unserved, Variants};
use mom_train::{DeviceKind, run};

use super::Ended;
use super::arguments::AblateArguments;
use super::output::say;
use super::signals::Signals;
use super::terminal::{self, Terminal};

impl AblateArguments {
    fn options(&self) -> Result<SweepOptions> {
        let defaults = SweepOptions::default();
        let device = self.device.parse::<DeviceKind>()?;
        // A setting that is named is wanted; of all those are, that the data can serve. One setting at its best rates, with a
        // null and seeds, is what a few minutes of a CPU have room for.
        let is_default_on_cpu = device == DeviceKind::Cpu && self.data.is_none();
        let (settings, unserved) = match self.setting.as_deref() {
            None if is_default_on_cpu => (defaults.settings, defaults.unserved),
            None | Some("all") => (Setting::ALL.to_vec(), Unserved::Skip),
            Some(names) => (names.split(',').map(str::parse).collect::<Result<_, _>>()?, Unserved::Refuse),
        };
        let steps = self.steps.unwrap_or(defaults.steps);
        Ok(SweepOptions {
            settings,
            unserved,
            variants: self.variants.as_deref().map(str::parse).transpose()?.unwrap_or(Variants::Default),
            scale: self.scale.as_deref().map(str::parse).transpose()?.unwrap_or(defaults.scale),
            steps,
            seeds: if self.seeds.is_empty() { defaults.seeds } else { self.seeds.clone() },
            rates: match (self.learning_rates.as_slice(), self.no_bracket) {
                ([], false) if self.whole_bracket => Rates::WholeBracket,
                ([], false) if self.short_bracket => Rates::Bracket,
                ([], false) => Rates::bracket(steps),
                ([], true) => Rates::Own,
                (rates, _) => Rates::List(rates.to_vec()),
            },
            horizons: self.horizons.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
            downstream: self.downstream.unwrap_or(defaults.downstream),
            null: !self.no_null,
            data: self.data.clone(),
            out: self.out.clone().unwrap_or(defaults.out),
            device,
            documents: self.documents.unwrap_or(defaults.documents),
            batch: self.batch.unwrap_or(defaults.batch),
            seqlen: self.seqlen.unwrap_or(defaults.seqlen),
            limit: self.minutes.map(limit).transpose()?,
            overrides: self.overrides.clone(),
        })
    }
}

/// Minutes as a duration.
fn limit(minutes: f64) -> Result<std::time::Duration> {
    std::time::Duration::try_from_secs_f64(60.0 * minutes)
        .with_context(|| format!("--minutes must be a time that is not negative, got {minutes}"))
}

/// Compares variants.
pub fn ablate(arguments: &AblateArguments) -> Result<Ended> {
    let options = arguments.options()?;
    if arguments.dry_run {
        return dry_run(&options).map(|()| Ended::Done);
    }
    let command = std::env::var("MOM_COMMAND").unwrap_or_else(|_| {
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    });
    let signals = Signals::catch()?;
    let mut terminal = Terminal::new(signals.clone());
    let outcome = ablate::run(&options, &command, &mut terminal)?;
    terminal.clear();
    say!("{:<15} {:<10} {:>5} {:<7} {:>10}  {:>7}", "setting", "variant", "seed", "target", "loss", "gain")?;
    for record in ablate::report::records(&outcome.results) {
        let loss = record.final_val_loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
        let gain = record.gain_over_dense.map_or("-".to_owned(), |gain| format!("{:+.2} %", 100.0 * gain));
        say!(
            "{:<15} {:<10} {:>5} {:<7} {loss:>10}  {gain:>7}",
            record.setting,
            record.variant,
            record.seed,
            record.modality
        )?;
    }
    comparisons(&ablate::report::comparisons(&outcome.results))?;
    downstream(&ablate::report::downstream_comparisons(&outcome.results))?;
    rates(&outcome.rates)?;
    say!("report: {}", options.out.join("report.html").display())?;
    if outcome.stopped && !signals.raised() {
        say!("time is up; the same command goes on from here")?;
    }
    if !outcome.failed.is_empty() {
        let failed: Vec<String> =
            outcome.failed.iter().map(|(planned, error)| format!("{}: {error}", planned.name())).collect();
        bail!("{} of the runs failed:\n{}", failed.len(), failed.join("\n"));
    }
    let hopeless: Vec<String> = outcome.rates.iter().filter(|arm| arm.is_hopeless()).map(arm_in_words).collect();
    if !hopeless.is_empty() {
        bail!(
            "diverged at every rate of {}, so that there is nothing to compare: {}",
            if options.rates.is_bracket() { "the bracket" } else { "--learning-rates" },
            hopeless.join(", ")
        );
    }
    if outcome.stopped && signals.raised() {
        say!("stopped by a signal; the same command goes on from here")?;
        return Ok(Ended::Stopped);
    }
    Ok(Ended::Done)
}

/// What every difference from dense amounts to.
fn comparisons(all: &[Comparison]) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    if all.iter().all(|comparison| comparison.n_seeds == 1) {
        say!("one seed: how much seeds differ is unknown, and any difference here may be chance")?;
    }
    say!(
        "{:<15} {:<10} {:<7} {:>8}  {:<18} {:<5} verdict",
        "setting",
        "variant",
        "target",
        "gain",
        "95 % interval",
        "seeds"
    )?;
    for of in all {
        let gain = of.gain.map_or("-".to_owned(), |gain| format!("{:+.2} %", 100.0 * gain.mean));
        let interval = of.gain_interval().unwrap_or_else(|| "-".to_owned());
        let Comparison { setting, variant, target, n_seeds, .. } = of;
        say!("{setting:<15} {variant:<10} {target:<7} {gain:>8}  {interval:<18} {n_seeds:<5} {}", of.words())?;
    }
    Ok(())
}

/// What every headline of the downstream figures amounts to beside dense's.
fn downstream(all: &[DownstreamComparison]) -> Result<()> {
    for of in all.iter().filter(|of| of.is_headline()) {
        let difference = of.difference().unwrap_or_else(|| "-".to_owned());
        let interval = of.interval().unwrap_or_else(|| "-".to_owned());
        let DownstreamComparison { setting, variant, task, measure, .. } = of;
        say!("{setting:<15} {variant:<10} {task} ({measure}): {difference} {interval} {}", of.words())?;
    }
    Ok(())
}

/// Every rate of every arm, and what is to be said of the best.
fn rates(arms: &[ArmRates]) -> Result<()> {
    if arms.is_empty() {
        return Ok(());
    }
    say!("{:<15} {:<10} {:>10} {:>10}", "setting", "variant", "rate", "joint loss")?;
    for arm in arms {
        for rate in arm.rates() {
            let joint = match rate.score() {
                Some(score) if score.is_finite() => format!("{score:.4}"),
                Some(_) => "diverged".to_owned(),
                None => "not done".to_owned(),
            };
            let mark = if arm.best() == Some(rate.rate) { "  best" } else { "" };
            say!("{:<15} {:<10} {:>10} {joint:>10}{mark}", arm.setting, arm.variant, rate.rate)?;
        }
    }
    for (arm, advice) in arms.iter().filter_map(|arm| Some((arm, arm.advice()?))) {
        say!("{}: {advice}", arm_in_words(arm))?;
    }
    Ok(())
}

fn arm_in_words(arm: &ArmRates) -> String {
    format!("{} {}", arm.setting, arm.variant)
}

fn dry_run(options: &SweepOptions) -> Result<()> {
    let Served { plan, skipped } = options.served()?;
    for note in &skipped {
        say!("{note}")?;
    }
    if let Some(first) = plan.first().filter(|_| options.data.is_some()) {
        for source in first.config.data.sources() {
            let reader = source.open()?;
            let bytes: u64 = reader.units().iter().map(|unit| unit.len_bytes).sum();
            say!("{}: {}, {:.1} MB", source.name(), reader.format(), bytes as f64 / 1e6)?;
        }
    }
    let secs = ablate::estimate_secs(&plan).context("the estimate")?;
    let mut left = 0.0;
    for (planned, secs) in plan.iter().zip(&secs) {
        let state = if planned.stage != Stage::Pending && run::finished(&planned.folder, &planned.config)?.is_some() {
            "done".to_owned()
        } else if planned.rate.is_some() && ablate::diverged(planned)?.is_some() {
            "diverged".to_owned()
        } else {
            left += *secs;
            format!("about {}", terminal::duration(*secs))
        };
        say!("{:<52} {:>6} steps  {state}", planned.name(), planned.config.train.steps)?;
    }
    say!(
        "{} runs{}, about {} to go on {} threads, data preparation apart; nothing was run",
        plan.len(),
        if plan.iter().any(|planned| planned.stage == Stage::Pending) { " at least" } else { "" },
        terminal::duration(left),
        rayon::current_num_threads()
    )?;
    Ok(())
}
