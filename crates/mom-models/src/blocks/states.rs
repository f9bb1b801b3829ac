//! What decoding carries from one call to the next.

use mom_core::MixerState;

use super::routed::RoutedState;
use super::transformer::KeyValues;
use crate::Result;
use crate::error::config;

/// The states of all blocks, for a batch of sequences. A clone is a snapshot.
#[derive(Debug, Clone)]
pub enum States {
    /// Of Mamba's blocks.
    Mamba(Vec<MixerState>),
    /// Of routed blocks.
    Routed(Vec<RoutedState>),
    /// Keys and values of what a transformer has read.
    Transformer(Vec<KeyValues>),
}

impl States {
    /// Those of Mamba's blocks.
    pub(crate) fn mamba(&self) -> Option<&[MixerState]> {
        match self {
            Self::Mamba(states) => Some(states),
            Self::Routed(_) | Self::Transformer(_) => None,
        }
    }

    fn routed(&self) -> Option<&[RoutedState]> {
        match self {
            Self::Routed(states) => Some(states),
            Self::Mamba(_) | Self::Transformer(_) => None,
        }
    }

    fn transformer(&self) -> Option<&[KeyValues]> {
        match self {
            Self::Transformer(states) => Some(states),
            Self::Mamba(_) | Self::Routed(_) => None,
        }
    }

    /// The states of some sequences, in the order that is asked for; one may stand there several times.
    ///
    /// # Errors
    /// A sequence that is not there; out of memory.
    pub fn select(&self, sequences: &[usize]) -> Result<Self> {
        Ok(match self {
            Self::Mamba(states) => Self::Mamba(each(states, |state| Ok(state.select(sequences)?))?),
            Self::Routed(states) => Self::Routed(each(states, |state| state.select(sequences))?),
            Self::Transformer(states) => Self::Transformer(each(states, |state| state.select(sequences))?),
        })
    }

    /// The states of all sequences of several ones, one after the other.
    ///
    /// # Errors
    /// None at all; states of different architectures or lengths; out of memory.
    pub fn join(all: &[&Self]) -> Result<Self> {
        match all.first() {
            None => Err(config("states", "at least one", 0)),
            Some(Self::Mamba(first)) => {
                let of = |block: usize| Ok(MixerState::join(blocks(all, block, Self::mamba)?)?);
                Ok(Self::Mamba((0..first.len()).map(of).collect::<Result<_>>()?))
            }
            Some(Self::Routed(first)) => {
                let of = |block: usize| RoutedState::join(&blocks(all, block, Self::routed)?);
                Ok(Self::Routed((0..first.len()).map(of).collect::<Result<_>>()?))
            }
            Some(Self::Transformer(first)) => {
                let of = |block: usize| KeyValues::join(&blocks(all, block, Self::transformer)?);
                Ok(Self::Transformer((0..first.len()).map(of).collect::<Result<_>>()?))
            }
        }
    }
}

fn each<S>(states: &[S], of: impl Fn(&S) -> Result<S>) -> Result<Vec<S>> {
    states.iter().map(of).collect()
}

/// The state of one block in each of several.
fn blocks<'a, S>(all: &[&'a States], block: usize, of: impl Fn(&'a States) -> Option<&'a [S]>) -> Result<Vec<&'a S>> {
    let found = all.iter().map(|states| of(states).and_then(|states| states.get(block)));
    found.collect::<Option<_>>().ok_or_else(|| config("states", "of one architecture", "those of another"))
}
