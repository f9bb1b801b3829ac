//! What a mixer carries from one call to the next while decoding.

use candle_core::DType;
#[cfg(feature = "cuda")]
use candle_core::Tensor;
use mom_kernels::mixer;

use crate::error::require;
use crate::host::Float;
use crate::{Error, Result};

const OP: &str = "state";

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
    fn view(state: &MixerState) -> Option<&mixer::MixerState<Self>>;
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
    fn view(state: &MixerState) -> Option<&mixer::MixerState<Self>> {
        match &state.data {
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
    fn view(state: &MixerState) -> Option<&mixer::MixerState<Self>> {
        match &state.data {
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

    /// The states of some sequences, in the order that is asked for; one may stand there several times.
    ///
    /// # Errors
    /// A sequence that is not there; out of memory.
    pub fn select(&self, sequences: &[usize]) -> Result<Self> {
        let batch = self.batch;
        if let Some(sequence) = sequences.iter().find(|&&sequence| sequence >= batch) {
            return require(false, "sequences", &format!("below {batch}"), sequence).map(|()| self.clone());
        }
        let data = match &self.data {
            Data::F32(state) => Data::F32(select(state, batch, sequences)),
            Data::F64(state) => Data::F64(select(state, batch, sequences)),
            #[cfg(feature = "cuda")]
            Data::Device(state) => {
                let of = |tensor: &Tensor| match tensor.elem_count() {
                    // A window of one position holds nothing.
                    0 => Ok::<_, Error>(Tensor::zeros(
                        (sequences.len(), 0, tensor.dim(2)?),
                        DType::F32,
                        tensor.device(),
                    )?),
                    _ => {
                        let of_sequence = sequences.iter().map(|&sequence| tensor.narrow(0, sequence, 1));
                        crate::cuda::joined_states(&of_sequence.collect::<candle_core::Result<Vec<_>>>()?)
                    }
                };
                Data::Device(DeviceState { conv: of(&state.conv)?, scan: of(&state.scan)? })
            }
        };
        Ok(Self { batch: sequences.len(), data })
    }

    /// The states of all sequences of several ones, one after the other.
    ///
    /// # Errors
    /// None at all; states of different element types, devices or mixers; out of memory.
    pub fn join<'a>(states: impl IntoIterator<Item = &'a Self>) -> Result<Self> {
        let states: Vec<&Self> = states.into_iter().collect();
        let Some(first) = states.first() else {
            return Err(Error::State { op: OP, expected: "at least one".to_owned(), got: "none".to_owned() });
        };
        let batch = states.iter().map(|state| state.batch).sum();
        let other = |state: &Self| Error::State {
            op: OP,
            expected: format!("states of {:?} and one mixer", first.dtype()),
            got: format!("{:?} or another mixer", state.dtype()),
        };
        let data = match &first.data {
            Data::F32(_) => Data::F32(join::<f32>(&states).ok_or_else(|| other(first))?),
            Data::F64(_) => Data::F64(join::<f64>(&states).ok_or_else(|| other(first))?),
            #[cfg(feature = "cuda")]
            Data::Device(of_first) => {
                let mut of_all = Vec::new();
                for state in &states {
                    let Data::Device(state) = &state.data else { return Err(other(state)) };
                    of_all.push(state);
                }
                let of = |part: fn(&DeviceState) -> &Tensor| match part(of_first).elem_count() {
                    0 => Ok::<_, Error>(Tensor::zeros(
                        (batch, 0, part(of_first).dim(2)?),
                        DType::F32,
                        part(of_first).device(),
                    )?),
                    _ => {
                        crate::cuda::joined_states(&of_all.iter().map(|state| part(state).clone()).collect::<Vec<_>>())
                    }
                };
                Data::Device(DeviceState { conv: of(|state| &state.conv)?, scan: of(|state| &state.scan)? })
            }
        };
        Ok(Self { batch, data })
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

fn select<T: Copy>(state: &mixer::MixerState<T>, batch: usize, sequences: &[usize]) -> mixer::MixerState<T> {
    let of = |values: &[T]| {
        let width = values.len() / batch.max(1);
        sequences.iter().flat_map(|&sequence| &values[sequence * width..(sequence + 1) * width]).copied().collect()
    };
    mixer::MixerState::new(of(&state.conv), of(&state.scan))
}

/// `None` for states of another element type or of other sizes.
fn join<T: StateFloat>(states: &[&MixerState]) -> Option<mixer::MixerState<T>> {
    let mut all = mixer::MixerState::new(Vec::new(), Vec::new());
    let mut widths = None;
    for state in states {
        let of = T::view(state)?;
        let batch = state.batch.max(1);
        let width = (of.conv.len() / batch, of.scan.len() / batch);
        if *widths.get_or_insert(width) != width {
            return None;
        }
        all.conv.extend_from_slice(&of.conv);
        all.scan.extend_from_slice(&of.scan);
    }
    Some(all)
}
