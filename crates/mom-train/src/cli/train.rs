//! `train` and `data`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use mom_models::PatcherKind;
use mom_train::ablate::SweepObserver;
use mom_train::dist::{Place, World};
use mom_train::run::{self, Observer, RunFolder};
use mom_train::telemetry::RunResult;
use mom_train::{Error, Prepared, RunConfig};

use super::Ended;
use super::arguments::{RunArguments, TrainArguments};
use super::launch;
use super::output::{aside, say};
use super::signals::Signals;
use super::terminal::Terminal;

/// Opens or makes the data of a run.
fn prepare(config: &RunConfig, out: &Path, terminal: &mut Terminal, moves: &dyn Fn()) -> mom_train::Result<Prepared> {
    let mut prepared = Prepared::new(config, &Prepared::folder_of(config, out), |progress| {
        moves();
        terminal.preparing(progress.what, progress.done, progress.total);
    })?;
    terminal.clear();
    prepared.notes().iter().for_each(|note| terminal.note(note));
    if config.train.sample_every.is_none() && config.train.downstream == 0 {
        prepared.release_networks();
    }
    Ok(prepared)
}

/// Fits tokenizers and tokenises sources, and stops there.
pub fn data(arguments: &RunArguments) -> Result<()> {
    let out = arguments.out.as_path();
    let config = &RunConfig::read_for(out, &arguments.config, &arguments.overrides)?;
    let mut terminal = Terminal::new(Signals::catch()?);
    let _folder = RunFolder::open(out, config)?;
    let prepared = prepare(config, out, &mut terminal, &|| {})?;
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

/// Trains one model: alone, or as one of the ranks that a launcher started.
pub fn train(arguments: &TrainArguments) -> Result<Ended> {
    let TrainArguments { run: arguments, gpus } = arguments;
    if let Some(n) = gpus.filter(|n| *n > 1) {
        // What can be refused is refused by one process, before it starts others.
        let config = RunConfig::read_for(&arguments.out, &arguments.config, &arguments.overrides)?;
        config.validate()?;
        World::check_step(&config, n as usize)?;
        return launch::launch(n as usize);
    }
    let out = arguments.out.as_path();
    let config = &RunConfig::read_for(out, &arguments.config, &arguments.overrides)?;
    let place = if *gpus == Some(1) { Place::alone() } else { Place::of_process()? };
    World::check_step(config, place.size)?;
    let signals = Signals::catch()?;
    let world = Arc::new(World::join(place, out, &config.train.dist)?);
    let outcome = train_in(&world, out, config, signals);
    match world.settle(outcome) {
        Err(error @ Error::Stopped { .. }) => {
            if world.is_root() {
                aside(&error.to_string());
            }
            Ok(Ended::Stopped)
        }
        other => {
            if let Some(result) = other? {
                tell(&result)?;
            }
            Ok(Ended::Done)
        }
    }
}

/// Trains as a rank of its world; the result is for rank 0 to tell.
fn train_in(
    world: &Arc<World>,
    out: &Path,
    config: &RunConfig,
    signals: Signals,
) -> mom_train::Result<Option<RunResult>> {
    world.pick_gpu();
    // Before the data is read: a folder that is in use, or another run's, is refused as it is.
    let folder = world.root_first("the run's folder", || {
        if world.is_root() { RunFolder::open(out, config) } else { RunFolder::beside_root(out, config) }
    })?;
    if !world.is_root() {
        let mut quiet = Quiet(signals);
        let mut prepared = world.root_first("the data", || {
            Prepared::new(config, &Prepared::folder_of(config, out), |_| world.moves("the data"))
        })?;
        prepared.release_networks();
        return run::train_in_world(&folder, config, &prepared, &mut quiet, world).map(|_| None);
    }
    let mut terminal = Terminal::new(signals);
    if !world.is_shared()
        && let Some(result) = folder.finished(config)
    {
        return Ok(Some(result.clone()));
    }
    let prepared = world.root_first("the data", || prepare(config, out, &mut terminal, &|| world.moves("the data")))?;
    terminal.note(&in_short(config, &prepared));
    if world.is_shared() {
        terminal.note(&format!("{} ranks", world.size()));
    }
    let result = run::train_in_world(&folder, config, &prepared, &mut terminal, world);
    terminal.clear();
    result.map(Some)
}

/// A rank that tells nothing, and can be asked to end.
struct Quiet(Signals);

impl Observer for Quiet {
    fn goes_on(&mut self) -> bool {
        !self.0.raised()
    }
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
    // Of small models the digits that there are.
    let millions = |n: usize| format!("{:.*} M", if n < 1_000_000 { 3 } else { 1 }, n as f64 / 1e6);
    let of_step = config.data.batch as f64 * config.data.seqlen as f64 * config.train.accumulate as f64;
    let passes = of_step * config.train.steps as f64 / prepared.dataset.train.n_positions().max(1.0);
    format!(
        "{} {} {}{}: {} weights ({} active), {of_step} positions a step, {} steps, {passes:.1} passes over the data",
        model.setting,
        model.variant,
        model.scale,
        if model.patcher() == PatcherKind::Unet { " with a U-Net" } else { "" },
        millions(model.total_parameters() + model.patcher_parameters()),
        millions(model.active_parameters() + model.patcher_parameters()),
        config.train.steps,
    )
}
