//! What a run's model tells of the truth of held-out documents, at its end or behind it.

use super::{Run, RunFolder};
use crate::eval::downstream;
use crate::telemetry::{Downstream, RunResult};
use crate::trained::Trained;
use crate::{Error, Generator, Prepared, Result, RunConfig};

impl Run<'_> {
    /// Asks the model as it is; `None` where nobody wants to know.
    pub(super) fn downstream(&self) -> Result<Option<Downstream>> {
        if self.config.train.downstream == 0 {
            return Ok(None);
        }
        let generator = Generator::of(self.trainer.model().clone(), self.prepared.tokenizers.clone(), self.config);
        ask(self.config, self.prepared, &generator).map(Some)
    }
}

/// Asks the model of a finished run that ended before anybody wanted to know, and completes its result.
pub(super) fn add(folder: &RunFolder, config: &RunConfig, prepared: &Prepared) -> Result<RunResult> {
    let trained = Trained::open(folder.path())?;
    let is_last = |result: &&RunResult| result.steps == trained.step();
    let Some(result) = folder.finished(config).filter(is_last) else {
        let reason = format!(
            "its checkpoint is of step {}, and not of its end: train.downstream has nothing to ask",
            trained.step()
        );
        return Err(Error::Content { path: folder.path().into(), reason });
    };
    let generator = Generator::new(&trained, config.train.device, config.train.dtype)?;
    let result = RunResult { downstream: Some(ask(config, prepared, &generator)?), ..result.clone() };
    super::folder::write_result(folder.path(), &result)?;
    Ok(result)
}

fn ask(config: &RunConfig, prepared: &Prepared, generator: &Generator) -> Result<Downstream> {
    downstream(config, &config.data.sources(), prepared, generator, config.train.downstream)
}
