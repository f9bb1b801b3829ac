//! The commands: arguments in, library calls, lines out.

mod ablate;
pub mod arguments;
mod eval;
mod generate;
mod inspect;
mod interactive;
mod launch;
mod output;
mod parts;
mod shards;
mod signals;
mod speed;
mod terminal;
mod train;

use anyhow::Result;
use arguments::Command;
pub use output::aside;

/// How a command ended, if without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All is done.
    Done,
    /// A signal came: what was done is saved, and the same command goes on.
    Stopped,
}

impl Ended {
    /// EX_TEMPFAIL of `sysexits.h`: not done, and the same command goes on.
    const TEMPFAIL: u8 = 75;

    /// Exit status of the program.
    pub fn status(self) -> u8 {
        if self == Self::Done { 0 } else { Self::TEMPFAIL }
    }
}

/// Does what a command says.
pub fn run(command: &Command) -> Result<Ended> {
    let done = |()| Ended::Done;
    match command {
        Command::Ablate(arguments) => ablate::ablate(arguments),
        Command::Train(arguments) => train::train(arguments),
        Command::Data(arguments) => train::data(arguments).map(done),
        Command::Inspect(arguments) => inspect::inspect(arguments).map(done),
        Command::Eval(arguments) => eval::eval(arguments).map(done),
        Command::Export(arguments) => eval::export(arguments).map(done),
        Command::Generate(arguments) => generate::generate(arguments).map(done),
        Command::Shards(arguments) => shards::shards(arguments).map(done),
        Command::Sizes => speed::sizes().map(done),
        Command::Speed(arguments) => speed::speed(arguments),
    }
}

/// A trained model, or the average of its weights; `files`: of its published tokenizers, where they have moved.
fn trained(path: &std::path::Path, ema: bool, files: &[String]) -> Result<mom_train::Trained> {
    let trained = mom_train::Trained::open(path)?.with_files(files)?;
    for (checkpoint, what) in trained.damaged() {
        let (checkpoint, step) = (checkpoint.display(), trained.step());
        aside(&format!("warning: {checkpoint} is damaged ({what}); taking step {step} instead"));
    }
    Ok(if ema { trained.with_ema()? } else { trained })
}
