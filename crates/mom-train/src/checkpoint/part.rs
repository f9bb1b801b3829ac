//! What of a parameter a process owns, and where it lies in a snapshot.

use std::ops::Range;

use candle_core::Var;

use super::shares;
use crate::Trainer;
use crate::optim::Stretch;

/// A parameter, or a stretch of one, and its place in each part of a snapshot: weights, first and second moments, and perhaps averages.
#[derive(Debug)]
pub(super) struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

impl Part {
    /// Its values in a part of a snapshot.
    pub fn of<'a>(&self, part: &'a [f32]) -> &'a [f32] {
        &part[self.range.clone()]
    }
}

/// What a trainer owns: all parameters, or a rank's stretches of them.
pub(super) fn of(trainer: &Trainer) -> Vec<Part> {
    let parameters = trainer.parameters();
    let Some(stretches) = trainer.stretches() else {
        let mut end = 0;
        let part = |(name, variable): (&str, &Var)| {
            let start = end;
            end += variable.elem_count();
            Part { name: name.to_owned(), shape: variable.dims().to_vec(), range: start..end }
        };
        return parameters.iter().map(part).collect();
    };
    let names: Vec<&str> = parameters.iter().map(|(name, _)| name).collect();
    let part = |Stretch { parameter, range, at }: &Stretch| Part {
        name: shares::name_of(names[*parameter], range),
        shape: vec![range.len()],
        range: *at..at + range.len(),
    };
    stretches.iter().map(part).collect()
}
