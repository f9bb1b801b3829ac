//! Sums and copies of large arrays over all ranks, through the hub: what NCCL does on GPUs.
//!
//! Every rank calls the same functions in the same order, with arrays of the same lengths. An array over all ranks is as many equal stretches
//! as there are ranks, in their order.

use super::World;
use crate::{Error, Result};

impl World {
    /// Adds the arrays of all ranks, always in the order of the ranks, and gives each its stretch of the sum.
    ///
    /// # Errors
    /// A rank that failed, or has an array of another length.
    pub(crate) fn reduce_scatter(&self, all: &[f32], own: &mut [f32]) -> Result<()> {
        let (size, n, share) = (self.size(), all.len(), own.len());
        let answer = self.exchange("a sum", bytemuck::cast_slice(all).to_vec(), |of_ranks| {
            let mut sum = vec![0.0; n];
            for (rank, bytes) in of_ranks.into_iter().enumerate() {
                let values = floats(&bytes);
                if values.len() != n {
                    let message = format!("its array has {} values, rank 0's has {n}", values.len());
                    return Err(Error::Rank { rank, message });
                }
                if rank == 0 {
                    sum.copy_from_slice(&values);
                } else {
                    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            let mut stretches: Vec<Vec<u8>> =
                sum.chunks(share.max(1)).map(|stretch| bytemuck::cast_slice(stretch).to_vec()).collect();
            stretches.resize(size, Vec::new());
            Ok(stretches)
        })?;
        fill(own, &answer)
    }

    /// Gives every rank the stretches of all.
    ///
    /// # Errors
    /// As [`Self::reduce_scatter`].
    pub(crate) fn all_gather(&self, own: &[f32], all: &mut [f32]) -> Result<()> {
        let size = self.size();
        let answer =
            self.exchange("weights", bytemuck::cast_slice(own).to_vec(), |of_ranks| Ok(vec![of_ranks.concat(); size]))?;
        fill(all, &answer)
    }
}

/// Ranks of one world have one byte order.
fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

fn fill(to: &mut [f32], answer: &[u8]) -> Result<()> {
    let values = floats(answer);
    if values.len() != to.len() {
        let reason = format!("rank 0 answered with {} values, expected {}", values.len(), to.len());
        return Err(Error::World { reason });
    }
    to.copy_from_slice(&values);
    Ok(())
}
