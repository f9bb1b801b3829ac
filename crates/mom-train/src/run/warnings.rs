//! What a user may not have meant.

use mom_data::{CodeKind, ImageNeed};

use crate::optim::learning_rate;
use crate::{Prepared, RunConfig};

/// What is to be told at the start of a run.
pub(super) fn of(config: &RunConfig, prepared: &Prepared) -> Vec<String> {
    let RunConfig { data, train, optimizer, .. } = config;
    let mut warnings = Vec::new();
    if optimizer.warmup_steps > train.steps {
        let reached = learning_rate(optimizer, train.steps, train.steps);
        warnings.push(format!(
            "warning: the warm-up (optimizer.warmup_steps = {}) is longer than the run ({} steps): the rate only comes to {reached:.2e}",
            optimizer.warmup_steps, train.steps
        ));
    }
    let of_step = data.batch as f64 * data.seqlen as f64 * train.accumulate as f64;
    let of_pass = prepared.dataset.train.n_positions();
    if of_step > of_pass {
        warnings.push(format!(
            "warning: a step of {of_step} positions is more than a pass over the data (about {of_pass:.0} positions); lower \
             data.batch, data.seqlen or train.accumulate"
        ));
    }
    let image = &data.tokenizers.image;
    let n_codes = (image.size / image.patch.max(1)).pow(2) + 2;
    if config.needs().image == ImageNeed::Codes && image.kind == CodeKind::Fitted && data.seqlen < n_codes {
        warnings.push(format!(
            "warning: a sequence (data.seqlen = {}) is shorter than the codes of an image and two markers ({n_codes}): every image is cut",
            data.seqlen
        ));
    }
    warnings
}
