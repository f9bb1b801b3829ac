//! Sums and copies of large arrays over all ranks.

use super::World;
use crate::Result;

/// What ranks do with arrays together. Every rank calls the same functions in the same order, with arrays of the same lengths.
///
/// An array over all ranks is `size` equal stretches, in the order of the ranks.
pub(crate) trait Collective<Array: ?Sized> {
    /// Adds the arrays of all ranks, in the order of the ranks where sums are to be the same in every run, and gives each its stretch
    /// of the sum.
    ///
    /// # Errors
    /// A rank that failed.
    fn reduce_scatter(&self, all: &Array, own: &mut Array) -> Result<()>;

    /// Gives every rank the stretches of all.
    ///
    /// # Errors
    /// A rank that failed.
    fn all_gather(&self, own: &Array, all: &mut Array) -> Result<()>;
}

/// Through the hub: rank 0 adds, always in the order of the ranks.
impl Collective<[f32]> for World {
    fn reduce_scatter(&self, all: &[f32], own: &mut [f32]) -> Result<()> {
        let size = self.size();
        let answer = self.exchange("a sum", bytemuck::cast_slice(all).to_vec(), |of_ranks| {
            let mut of_ranks = of_ranks.into_iter().map(floats);
            let mut sum = of_ranks.next().unwrap_or_default();
            for values in of_ranks {
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            let len = sum.len().div_ceil(size).max(1);
            let mut stretches: Vec<Vec<u8>> =
                sum.chunks(len).map(|stretch| bytemuck::cast_slice(stretch).to_vec()).collect();
            stretches.resize(size, Vec::new());
            Ok(stretches)
        })?;
        self.fill(own, answer)
    }

    fn all_gather(&self, own: &[f32], all: &mut [f32]) -> Result<()> {
        let size = self.size();
        let answer =
            self.exchange("weights", bytemuck::cast_slice(own).to_vec(), |of_ranks| Ok(vec![of_ranks.concat(); size]))?;
        self.fill(all, answer)
    }
}

/// Ranks of one world have one byte order.
fn floats(bytes: Vec<u8>) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&bytes)
}

impl World {
    fn fill(&self, to: &mut [f32], answer: Vec<u8>) -> Result<()> {
        let values = floats(answer);
        if values.len() != to.len() {
            let reason = format!("rank 0 answered with {} values, expected {}", values.len(), to.len());
            return Err(crate::Error::World { reason });
        }
        to.copy_from_slice(&values);
        Ok(())
    }
}
