//! Gradients of parameters, off candle's tape.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, TensorId, Var};

use super::within;

/// Takes the gradients of parameters off the tape.
///
/// candle's tape fills a tensor with zeros for every gradient and adds to it, and visits each parameter as a node of its
/// own: three passes over memory that a parameter with a single use does not need. What is recorded within
/// [`Self::scope`] hands the gradients of a sink's parameters to the sink instead.
///
/// ```
/// # use candle_core::{Device, Tensor, Var};
/// use mom_core::autograd::Sink;
/// # let (a, b) = (Var::new(&[1f32, 2.0], &Device::Cpu)?, Var::new(&[3f32], &Device::Cpu)?);
/// let sink = Sink::new([&a, &b], &Device::Cpu)?;
/// let loss = sink.scope(|| mom_core::ops::rms_norm(&Tensor::ones((4, 2), a.dtype(), &Device::Cpu)?, &a, 1e-5))?;
/// loss.sum_all()?.backward()?;
/// assert_eq!(sink.take(&a).map(|gradient| gradient.dims().to_vec()), Some(vec![2]));
/// assert!(sink.take(&b).is_none(), "it was not used");
/// # Ok::<(), mom_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sink(Arc<SinkParts>);

#[derive(Debug)]
struct SinkParts {
    parameters: HashSet<TensorId>,
    gradients: Mutex<HashMap<TensorId, Tensor>>,
    anchor: Var,
}

thread_local! {
    static CURRENT: RefCell<Option<Sink>> = const { RefCell::new(None) };
}

impl Sink {
    /// A sink for the gradients of these parameters, which live on `device`.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new<'a>(parameters: impl IntoIterator<Item = &'a Var>, device: &Device) -> candle_core::Result<Self> {
        Ok(Self(Arc::new(SinkParts {
            parameters: parameters.into_iter().map(|parameter| parameter.as_tensor().id()).collect(),
            gradients: Mutex::default(),
            anchor: Var::zeros(1, DType::F32, device)?,
        })))
    }

    /// Runs a forward pass whose nodes will hand gradients to this sink.
    pub fn scope<R>(&self, forward: impl FnOnce() -> R) -> R {
        within(&CURRENT, Some(self.clone()), forward)
    }

    /// The gradient of a parameter, summed over its uses and over the backward passes since it was last taken; `None` where
    /// it has none. It is no longer here afterwards.
    pub fn take(&self, parameter: &Var) -> Option<Tensor> {
        self.0.gradients.lock().unwrap_or_else(PoisonError::into_inner).remove(&parameter.as_tensor().id())
    }

    pub(super) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// What a tape goes through where all that is asked for goes to the sink.
    pub(super) fn anchor(&self) -> &Tensor {
        self.0.anchor.as_tensor()
    }

    pub(super) fn takes(&self, input: &Tensor) -> Option<TensorId> {
        let id = input.id();
        self.0.parameters.contains(&id).then_some(id)
    }

    pub(super) fn put(&self, id: TensorId, gradient: Tensor) -> candle_core::Result<()> {
        let mut gradients = self.0.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = match gradients.remove(&id) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        gradients.insert(id, sum);
        Ok(())
    }
}
