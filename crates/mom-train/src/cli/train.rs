//! `train` and `data`.

use std::path::Path;

use anyhow::Result;
use mom_train::ablate::SweepObserver;
use mom_train::run::{self, Observer, RunFolder};
use mom_train::telemetry::RunResult;
use mom_train::{Error, Prepared, RunConfig};

use super::Ended;
use super::arguments::RunArguments;
use super::output::{aside, say};
use super::signals::Signals;
use super::terminal::Terminal;

/// Opens or makes the data of a run.
fn prepare(config: &RunConfig, out: &Path, terminal: &mut Terminal) -> Result<Prepared> {
    let prepared = Prepared::new(config, &Prepared::folder_of(config, out), |progress| {
        terminal.preparing(progress.what, progress.done, progress.total);
    })?;
    terminal.clear();
    prepared.notes().iter().for_each(|note| terminal.note(note));
    Ok(prepared)
}

/// Fits tokenizers and tokenises sources, and stops there.
pub fn data(arguments: &RunArguments) -> Result<()> {
    let out = arguments.out.as_path();
    let config = &RunConfig::read_for(out, &arguments.config, &arguments.overrides)?;
    let mut terminal = Terminal::new(Signals::catch()?);
    let _folder = RunFolder::open(out, config)?;
    let prepared = prepare(config, out, &mut terminal)?;
    let dataset = &prepared.dataset;
    for (split, set) in [("training", &dataset.train), ("held-out", &dataset.held_out)] {
        let by_source = set.by_source().map(|(name, n)| format!("{n} of {name}")).collect::<Vec<_>>();
        say!("{split}: {} documents ({})", set.len(), by_source.join(", "))?;
    }
    for (name, tally) in &dataset.tallies {
        say!("{name}: {tally}")?;
    }
    let loader = prepared.train_loader(config)?;
    say!(
        "packed into {} positions: {:.1} % padding, {} documents longer than that",
        config.data.seqlen,
        100.0 * loader.padding(),
        loader.n_cut()
    )?;
    if let Some(bytes) = dataset.bytes_per_text_token() {
        say!("a text token stands for {bytes:.2} bytes")?;
    }
    Ok(())
}

/// Trains one model.
pub fn train(arguments: &RunArguments) -> Result<Ended> {
    let out = arguments.out.as_path();
    let config = &RunConfig::read_for(out, &arguments.config, &arguments.overrides)?;
    let mut terminal = Terminal::new(Signals::catch()?);
    // Before the data is read: a folder that is in use, or another run's, is refused as it is.
    let folder = RunFolder::open(out, config)?;
    if let Some(result) = folder.finished(config) {
        return tell(result).map(|()| Ended::Done);
    }
    let prepared = prepare(config, out, &mut terminal)?;
    terminal.note(&in_short(config, &prepared));
    let result = run::train_in(&folder, config, &prepared, &mut terminal);
    terminal.clear();
    let result = match result {
        Err(error @ Error::Stopped { .. }) => {
            aside(&error.to_string());
            return Ok(Ended::Stopped);
        }
        other => other?,
    };
    tell(&result).map(|()| Ended::Done)
}

/// The last losses of a run.
fn tell(result: &RunResult) -> Result<()> {
    let Some(last) = result.curve.last() else { return Ok(()) };
    for (modality, loss) in &last.loss {
        let bits = last.bits_per_byte.filter(|_| modality == "text");
        let bits = bits.map(|bits| format!(" ({bits:.4} bits per byte)"));
        say!("{modality}: validation loss {loss:.4}{} after {} steps", bits.unwrap_or_default(), last.step)?;
    }
    Ok(())
}

/// A run in a line: weights, positions of a step, passes over the data.
fn in_short(config: &RunConfig, prepared: &Prepared) -> String {
    // What cannot be is told by the run itself.
    let resolved = prepared.resolved(config).unwrap_or_else(|_| config.clone());
    let model = resolved.model_config(&prepared.tokenizers);
    let millions = |n: usize| n as f64 / 1e6;
    let of_step = config.data.batch as f64 * config.data.seqlen as f64 * config.train.accumulate as f64;
    let passes = of_step * config.train.steps as f64 / prepared.dataset.train.n_positions().max(1.0);
    format!(
        "{} {} {}: {:.1} M weights ({:.1} M active), {of_step} positions a step, {} steps, {passes:.1} passes over the data",
        model.setting,
        model.variant,
        model.scale,
        millions(model.total_parameters() + model.patcher_parameters()),
        millions(model.active_parameters() + model.patcher_parameters()),
        config.train.steps,
    )
}
