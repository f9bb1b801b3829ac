//! `eval` and `export`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mom_train::ablate::SweepObserver;
use mom_train::{Downstream, EvalOptions, Figure, Prepared, Score, config, evaluate};

use super::arguments::{EvalArguments, ExportArguments};
use super::output::say;
use super::signals::Signals;
use super::terminal::Terminal;

/// Tells the losses of a trained model.
pub fn eval(arguments: &EvalArguments) -> Result<()> {
    let trained = super::trained(&arguments.model, arguments.ema, &arguments.set)?;
    let sources = arguments.data.as_deref().map(config::sources_at).transpose()?.unwrap_or_default();
    let options = EvalOptions {
        sources,
        batches: arguments.batches,
        device: arguments.device.parse()?,
        precision: arguments.dtype.as_deref().map(str::parse).transpose()?,
        scored: arguments.scores,
        downstream: arguments.downstream,
    };
    let temporary;
    let (folder, _lock): (PathBuf, _) = match (&arguments.tokens, trained.folder()) {
        (Some(folder), _) => (folder.clone(), None),
        // A run's tokens are where it left them, and nobody else makes what is missing meanwhile.
        (None, Some(run)) if arguments.data.is_none() => {
            let folder = Prepared::folder_of(trained.run(), run);
            ensure!(
                folder.is_dir(),
                "{} is not here, where the run has its tokens (data.prepared): start where the run was started, or name documents (--data)",
                folder.display()
            );
            let lock = Prepared::hold(&folder)?;
            (folder, lock)
        }
        _ => {
            temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
            (temporary.path().to_path_buf(), None)
        }
    };
    let mut terminal = Terminal::new(Signals::default());
    let evaluation = evaluate(&trained, &options, &folder, |p| terminal.preparing(p.what, p.done, p.total))?;
    terminal.clear();
    if arguments.json {
        return say!("{}", serde_json::to_string(&evaluation)?);
    }
    for (modality, loss) in &evaluation.loss {
        let bits = evaluation.bits_per_byte.filter(|_| modality == "text");
        let bits = bits.map(|bits| format!(" ({bits:.4} bits per byte)")).unwrap_or_default();
        say!("{modality}: loss {loss:.4}{bits}")?;
    }
    for Score { given, drawn, n, exact, chrf, word_error_rate, matched } in &evaluation.scores {
        let percent = |name: &str, share: &Option<f64>| share.map(|share| format!("{name} {:.1} %", 100.0 * share));
        let parts = [percent("exact", exact), percent("chrF2", chrf), percent("word errors", word_error_rate)];
        let parts: Vec<String> = parts
            .into_iter()
            .flatten()
            .chain([format!("nearer than others' {:.1} % (chance: 50)", 100.0 * matched)])
            .collect();
        say!("{given} to {drawn}, {n} documents: {}", parts.join(", "))?;
    }
    if let Some(of) = &evaluation.downstream {
        downstream(of)?;
    }
    say!("joint: loss {:.4} after {} steps, over {} targets", evaluation.joint, evaluation.step, evaluation.n_targets)
}

/// A line for each figure, and for what could not be asked.
fn downstream(of: &Downstream) -> Result<()> {
    for Figure { task, measure, value, n, ceiling, chance, .. } in &of.figures {
        if measure == "facts" {
            let own = ceiling.map(|ceiling| format!(" (their own captions: {ceiling:.2})")).unwrap_or_default();
            say!("{task}, facts a caption: {value:.2}{own}")?;
            continue;
        }
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let beside = |name: &str, share: &Option<f64>| share.map(|share| format!("; {name} {}", percent(share)));
        let [ceiling, chance] = [beside("their own", ceiling), beside("chance", chance)].map(Option::unwrap_or_default);
        say!("{task}, {measure}: {} of {n}{ceiling}{chance}", percent(*value))?;
    }
    of.notes.iter().try_for_each(|note| say!("{note}"))
}

/// Writes a trained model into a folder of its own.
pub fn export(arguments: &ExportArguments) -> Result<()> {
    super::trained(&arguments.model, arguments.ema, &[])?.export(&arguments.out)?;
    say!("{}", arguments.out.display())
}
