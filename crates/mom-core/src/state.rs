//! What a mixer carries from one call to the next while decoding.

use candle_core::DType;
#[cfg(feature = "cuda")]
use candle_core::Tensor;
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
    #[cfg(feature = "cuda")]
    Device(DeviceState),
}

/// On a GPU, where states are f32 whatever the activations are. They are never written twice: a clone is a snapshot.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone)]
pub(crate) struct DeviceState {
    /// `(batch, d_conv - 1, d_inner)`.
    pub conv: Tensor,
    /// `(batch, d_inner, d_state)`.
    pub scan: Tensor,
}

#[cfg(feature = "cuda")]
impl PartialEq for DeviceState {
    /// Waits for the device; states that cannot be read are like no others.
    fn eq(&self, other: &Self) -> bool {
        let values = |tensor: &Tensor| tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).ok();
        let same = |a, b| values(a).is_some_and(|a| Some(a) == values(b));
        same(&self.conv, &other.conv) && same(&self.scan, &other.scan)
    }
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
            _ => None,
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
            _ => None,
        }
    }
}

impl MixerState {
    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Element type of the state itself; on a GPU f32.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::F32(_) => DType::F32,
            Data::F64(_) => DType::F64,
            #[cfg(feature = "cuda")]
            Data::Device(_) => DType::F32,
        }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(batch: usize, state: DeviceState) -> Self {
        Self { batch, data: Data::Device(state) }
    }

    /// The state on a GPU, for `batch` sequences.
    #[cfg(feature = "cuda")]
    pub(crate) fn device(&mut self, op: &'static str, batch: usize) -> Result<&mut DeviceState> {
        let expected = format!("a GPU, batch {batch}");
        match &mut self.data {
            Data::Device(state) if self.batch == batch => Ok(state),
            Data::Device(_) => Err(Error::State { op, expected, got: format!("a GPU, batch {}", self.batch) }),
            _ => Err(Error::State { op, expected, got: format!("the CPU, batch {}", self.batch) }),
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
