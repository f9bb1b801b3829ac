//! What a mixer carries from one call to the next while decoding.

use candle_core::DType;
use mom_kernels::mixer;

use crate::host::Float;
use crate::{Error, Result};

/// State of one mixer for a batch of sequences: the conv's window and the scan's state. A clone is a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct MixerState {
    batch: usize,
    data: Data,
}

#[derive(Debug, Clone, PartialEq)]
enum Data {
    F32(mixer::MixerState<f32>),
    F64(mixer::MixerState<f64>),
}

/// Element types that a state can have.
pub(crate) trait StateFloat: Float {
    fn wrap(batch: usize, state: mixer::MixerState<Self>) -> MixerState;
    fn unwrap(state: &mut MixerState) -> Option<&mut mixer::MixerState<Self>>;
}

impl StateFloat for f32 {
    fn wrap(batch: usize, state: mixer::MixerState<Self>) -> MixerState {
        MixerState { batch, data: Data::F32(state) }
    }
    fn unwrap(state: &mut MixerState) -> Option<&mut mixer::MixerState<Self>> {
        match &mut state.data {
            Data::F32(state) => Some(state),
            Data::F64(_) => None,
        }
    }
}

impl StateFloat for f64 {
    fn wrap(batch: usize, state: mixer::MixerState<Self>) -> MixerState {
        MixerState { batch, data: Data::F64(state) }
    }
    fn unwrap(state: &mut MixerState) -> Option<&mut mixer::MixerState<Self>> {
        match &mut state.data {
            Data::F64(state) => Some(state),
            Data::F32(_) => None,
        }
    }
}

impl MixerState {
    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::F32(_) => DType::F32,
            Data::F64(_) => DType::F64,
        }
    }

    /// The state as one of element type T for `batch` sequences.
    pub(crate) fn of<T: StateFloat>(&mut self, op: &'static str, batch: usize) -> Result<&mut mixer::MixerState<T>> {
        let got = format!("{:?}, batch {}", self.dtype(), self.batch);
        let mismatch = Error::State { op, expected: format!("{:?}, batch {batch}", T::DTYPE), got };
        if self.batch != batch {
            return Err(mismatch);
        }
        T::unwrap(self).ok_or(mismatch)
    }
}
