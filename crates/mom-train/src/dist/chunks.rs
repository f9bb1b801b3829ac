//! One sequence over several ranks: who has which chunk, and what goes between them.
//!
//! Ranks `0..context` have the chunks of the same sequences, in their order, ranks `context..2 context` those of others, and so on: on
//! one host, and so by its fastest links, wherever a launcher counts ranks host by host.

use std::sync::Arc;

use mom_core::Context;

use super::World;
use crate::error::require;
use crate::{Error, Result};

/// The ranks that have the chunks of this rank's sequences.
#[derive(Debug)]
pub(crate) struct Chunks {
    world: Arc<World>,
    n_chunks: usize,
}

impl Chunks {
    /// Those of this rank; `None` where ranks have whole sequences.
    ///
    /// # Errors
    /// A number of ranks that is no multiple of that of chunks.
    pub fn of(world: &Arc<World>, n_chunks: usize) -> Result<Option<Self>> {
        Self::check(world.size(), n_chunks)?;
        Ok((n_chunks > 1).then(|| Self { world: world.clone(), n_chunks }))
    }

    /// Refuses ranks that cannot have equally many chunks.
    pub fn check(n_ranks: usize, n_chunks: usize) -> Result<()> {
        let expected = format!("a number that divides that of ranks, {n_ranks}");
        require(n_chunks >= 1 && n_ranks.is_multiple_of(n_chunks), "train.dist.context", &expected, n_chunks)
    }

    /// What each rank has said, as all of its group said it.
    fn of_groups(&self, of_ranks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let groups = of_ranks.chunks(self.n_chunks).enumerate().map(|(number, group)| {
            let len = group.first().map_or(0, Vec::len);
            match group.iter().position(|own| own.len() != len) {
                Some(at) => {
                    let message = format!("its chunk gives {} bytes, that of the first rank {len}", group[at].len());
                    Err(Error::Rank { rank: number * self.n_chunks + at, message })
                }
                None => Ok(group.concat()),
            }
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        Ok(groups.into_iter().flat_map(|group| vec![group; self.n_chunks]).collect())
    }
}

impl Context for Chunks {
    fn index(&self) -> usize {
        self.world.rank() % self.n_chunks
    }

    fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    /// Through the hub, which all ranks of the world come to: each has as many pieces of a step as the others.
    fn gather(&self, own: &[f64]) -> mom_kernels::Result<Vec<f64>> {
        let own = bytemuck::cast_slice(own).to_vec();
        let answer = self.world.exchange("borders of chunks", own, |of_ranks| self.of_groups(&of_ranks));
        let bytes = answer.map_err(|error| mom_kernels::Error::Exchange { reason: error.to_string() })?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
