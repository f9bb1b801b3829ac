//! Steps whose gradient stands out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Norms of the last steps, from which a norm that stands out is told: one above a factor times their median. It is asked of
/// [`Self::FEWEST`] steps at least, so that a run's first steps, whose gradients fall quickly, are let through.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Norms(VecDeque<f64>);

impl Norms {
    /// Steps that are remembered.
    pub const MOST: usize = 128;
    /// Steps before there is a limit.
    pub const FEWEST: usize = 32;

    /// The largest norm of the next step that does not stand out.
    pub fn limit(&self, factor: Option<f64>) -> Option<f64> {
        let factor = factor.filter(|_| self.0.len() >= Self::FEWEST)?;
        let mut sorted: Vec<f64> = self.0.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(factor * sorted[sorted.len() / 2])
    }

    /// Remembers the norm of a step that was taken.
    pub fn push(&mut self, norm: f64) {
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_multiple_of_the_median_of_the_last_steps() {
        let mut norms = Norms::default();
        (0..31).for_each(|_| norms.push(2.0));
        assert_eq!(norms.limit(Some(10.0)), None, "too few steps");
        norms.push(1e9);
        assert_eq!((norms.limit(Some(10.0)), norms.limit(None)), (Some(20.0), None));
        (0..128).for_each(|_| norms.push(3.0));
        assert_eq!(norms.0.len(), Norms::MOST);
        assert_eq!(norms.limit(Some(5.0)), Some(15.0));
    }
}
