//! Functions of any number of tensors on candle's tape.
//!
//! candle's custom operations take three inputs at most and keep no context. [`record`] lifts both limits: the caller
//! computes the output with plain functions, then records it together with a [`Backward`] that holds what it needs.
//!
//! # How
//! ```text
//! inputs 0, 1, 2 -> carrier -> token -+
//! inputs 3, 4 -----------> carrier -> token -> main -> output
//! ```
//! A carrier is a custom operation over two or three inputs whose one-element output (the token) only makes the inputs
//! ancestors of the main node; a single input needs none. When candle reaches the main node it runs
//! [`Backward::backward`] once, which gives all gradients; they wait in a slot that the carriers share. The main node hands
//! a zero to its token, so candle goes on to the carriers, each of which hands out the gradients of its own inputs. This
//! relies on the tape visiting a node only after all of its users, and on custom operations being visited once per
//! backward pass.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Storage, Tensor, TensorId, Var,
    WithDType,
};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

/// The backward pass of a recorded function.
pub trait Backward: Send + Sync + 'static {
    /// Name in error messages.
    fn name(&self) -> &'static str;

    /// One gradient for each recorded input, in their order and of their shapes, given that of the output.
    ///
    /// `needed[i]` is false where nobody asks for the gradient of input i; `None` is then welcome. Where it is true,
    /// `None` stands for zero.
    ///
    /// # Errors
    /// Whatever the computation refuses; the backward pass ends with it.
    fn backward(&self, grad_output: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>>;
}

/// Puts `output`, computed on the host from `inputs` outside of the tape, on the tape.
///
/// Where no input is tracked (a variable, or computed from one), the result is a plain tensor and `backward` is dropped.
///
/// # Errors
/// Values that do not fill the shape; what candle reports.
pub fn record<T: WithDType>(
    inputs: Vec<Tensor>,
    output: Vec<T>,
    shape: impl Into<Shape>,
    backward: impl Backward,
) -> candle_core::Result<Tensor> {
    let shape = shape.into();
    if shape.elem_count() != output.len() {
        return Err(candle_core::Error::ShapeMismatch { buffer_size: output.len(), shape });
    }
    record_storage(inputs, Storage::Cpu(T::to_cpu_storage_owned(output)), shape, backward)
}

/// As [`record`], for an output on any device, which is that of the inputs.
///
/// # Errors
/// What candle reports.
pub fn record_storage(
    inputs: Vec<Tensor>,
    output: Storage,
    shape: impl Into<Shape>,
    backward: impl Backward,
) -> candle_core::Result<Tensor> {
    let shape = shape.into();
    if !tracks(&inputs) {
        return Ok(Tensor::from_storage(output, shape, BackpropOp::none(), false));
    }
    let needed: Vec<bool> = inputs.iter().map(Tensor::track_op).collect();
    let sink = Sink::current();
    let sunk: Vec<Option<TensorId>> = inputs.iter().map(|input| sink.as_ref()?.takes(input)).collect();
    let mut taped: Vec<Tensor> =
        inputs.iter().zip(&sunk).filter(|(_, sunk)| sunk.is_none()).map(|(input, _)| input.clone()).collect();
    if !taped.iter().any(Tensor::track_op)
        && let Some(sink) = &sink
    {
        // Everything that is asked for goes to the sink, and yet the tape must come by here.
        taped.push(sink.0.anchor.as_tensor().clone());
    }
    let slot = Arc::new(Slot { name: backward.name(), gradients: Mutex::new(Vec::new()) });
    let main = |direct| Main {
        slot: slot.clone(),
        needed,
        sunk,
        sink,
        direct,
        output: Mutex::new(Some((output, shape))),
        backward: Box::new(backward),
    };
    if let [input] = &taped[..] {
        return input.apply_op1(main(true));
    }
    let carrier = |first| Carrier { slot: slot.clone(), first };
    // The chain starts with two or three inputs and takes two more at each link.
    let (mut token, mut next) = match taped.len() {
        n if n % 2 == 0 => (taped[0].apply_op2(&taped[1], carrier(0))?, 2),
        _ => (taped[0].apply_op3(&taped[1], &taped[2], carrier(0))?, 3),
    };
    while next < taped.len() {
        token = taped[next].apply_op3(&taped[next + 1], &token, carrier(next))?;
        next += 2;
    }
    token.apply_op1(main(false))
}

/// Whether a function of these tensors goes on the tape: one of them is tracked, and this is no [`without_tape`].
pub fn tracks<'a>(inputs: impl IntoIterator<Item = &'a Tensor>) -> bool {
    !WITHOUT_TAPE.get() && inputs.into_iter().any(Tensor::track_op)
}

/// Runs a forward pass whose functions record and save nothing: for validation and decoding.
pub fn without_tape<R>(forward: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITHOUT_TAPE.set(self.0);
        }
    }
    let _restore = Restore(WITHOUT_TAPE.replace(true));
    forward()
}

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
    static WITHOUT_TAPE: Cell<bool> = const { Cell::new(false) };
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
        struct Restore(Option<Sink>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        forward()
    }

    /// The gradient of a parameter, summed over its uses; `None` where it has none. It is no longer here afterwards.
    pub fn take(&self, parameter: &Var) -> Option<Tensor> {
        self.0.gradients.lock().unwrap_or_else(PoisonError::into_inner).remove(&parameter.as_tensor().id())
    }

    fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    fn takes(&self, input: &Tensor) -> Option<TensorId> {
        let id = input.id();
        self.0.parameters.contains(&id).then_some(id)
    }

    fn put(&self, id: TensorId, gradient: Tensor) -> candle_core::Result<()> {
        let mut gradients = self.0.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = match gradients.remove(&id) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        gradients.insert(id, sum);
        Ok(())
    }
}

/// Where gradients wait between the main node and the carriers.
struct Slot {
    name: &'static str,
    gradients: Mutex<Vec<Option<Tensor>>>,
}

impl Slot {
    fn put(&self, gradients: Vec<Option<Tensor>>) {
        *self.gradients.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
    }

    /// Takes the gradient of an input; zero where the function gave none, since the tape takes no `None` for a tracked
    /// input.
    fn take(&self, index: usize, input: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !input.track_op() {
            return Ok(None);
        }
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let gradient = match gradients.get_mut(index).and_then(Option::take) {
            Some(gradient) => gradient,
            None => input.zeros_like()?,
        };
        if gradient.shape() != input.shape() {
            return Err(candle_core::Error::Msg(format!(
                "{}: gradient {index} has shape {:?}, its input {:?}",
                self.name,
                gradient.dims(),
                input.dims()
            )));
        }
        Ok(Some(gradient))
    }
}

/// Makes two or three inputs ancestors of the main node, and hands out their gradients.
struct Carrier {
    slot: Arc<Slot>,
    /// Index of the first of its inputs.
    first: usize,
}

impl Carrier {
    fn token() -> (CpuStorage, Shape) {
        (CpuStorage::F32(vec![0.0]), Shape::from(1))
    }

    #[cfg(feature = "cuda")]
    fn token_beside(input: &CudaStorage) -> candle_core::Result<(CudaStorage, Shape)> {
        let device = input.device().clone();
        Ok((CudaStorage::wrap_cuda_slice(device.alloc_zeros::<f32>(1)?, device), Shape::from(1)))
    }
}

impl CustomOp2 for Carrier {
    fn name(&self) -> &'static str {
        self.slot.name
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Self::token())
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Self::token_beside(a)
    }
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.slot.take(self.first, a)?, self.slot.take(self.first + 1, b)?))
    }
}

impl CustomOp3 for Carrier {
    fn name(&self) -> &'static str {
        self.slot.name
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Self::token())
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Self::token_beside(a)
    }
    /// The third argument of every carrier but the first is the token before it, which has no gradient in the slot at
    /// all: index 2 of the first carrier is an input, index `first + 2` of the others is the next carrier's input.
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let third = if self.first == 0 {
            self.slot.take(2, c)?
        } else if c.track_op() {
            Some(c.zeros_like()?)
        } else {
            None
        };
        Ok((self.slot.take(self.first, a)?, self.slot.take(self.first + 1, b)?, third))
    }
}

/// The node that stands for the function: its forward pass hands over what was computed before.
struct Main {
    slot: Arc<Slot>,
    needed: Vec<bool>,
    /// Inputs whose gradients go to the sink.
    sunk: Vec<Option<TensorId>>,
    sink: Option<Sink>,
    /// Whether the tape's only input is this node's own, rather than a token.
    direct: bool,
    output: Mutex<Option<(Storage, Shape)>>,
    backward: Box<dyn Backward>,
}

impl Main {
    fn output(&self) -> candle_core::Result<(Storage, Shape)> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::Msg(format!("{}: recorded twice", self.slot.name)))
    }

    fn elsewhere(&self) -> candle_core::Error {
        candle_core::Error::Msg(format!("{}: the output is on another device than the inputs", self.slot.name))
    }
}

impl CustomOp1 for Main {
    fn name(&self) -> &'static str {
        self.slot.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        match self.output()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => Err(self.elsewhere()),
        }
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        match self.output()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => Err(self.elsewhere()),
        }
    }
    fn bwd(&self, input: &Tensor, _: &Tensor, grad_output: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradients = self.backward.backward(&grad_output.contiguous()?, &self.needed)?;
        if gradients.len() != self.needed.len() {
            return Err(candle_core::Error::Msg(format!(
                "{}: {} gradients for {} inputs",
                self.slot.name,
                gradients.len(),
                self.needed.len()
            )));
        }
        let mut taped = Vec::new();
        for (gradient, sunk) in gradients.into_iter().zip(&self.sunk) {
            match (sunk, &self.sink, gradient) {
                (Some(id), Some(sink), Some(gradient)) => sink.put(*id, gradient)?,
                (Some(_), ..) => {}
                (None, _, gradient) => taped.push(gradient),
            }
        }
        self.slot.put(taped);
        if self.direct { self.slot.take(0, input) } else { Ok(Some(input.zeros_like()?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    /// sum_i (i + 1) x_i, of any number of inputs.
    struct Weighted(usize);

    impl Backward for Weighted {
        fn name(&self) -> &'static str {
            "weighted"
        }
        fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
            (0..self.0).map(|i| needed[i].then(|| grad.affine((i + 1) as f64, 0.0)).transpose()).collect()
        }
    }

    fn weighted(inputs: Vec<Tensor>) -> Tensor {
        let mut output = inputs[0].zeros_like().unwrap();
        for (i, input) in inputs.iter().enumerate() {
            output = (output + input.affine((i + 1) as f64, 0.0).unwrap()).unwrap();
        }
        let n = inputs.len();
        record(inputs, output.to_vec1::<f64>().unwrap(), 3, Weighted(n)).unwrap()
    }

    #[test]
    fn any_number_of_inputs_gets_its_own_gradient() {
        for n in 1..=9 {
            let vars: Vec<_> = (0..n).map(|i| Var::new(&[i as f64, 1.0, -2.0], &Device::Cpu).unwrap()).collect();
            // Through another node before and after, so that the chain is not made of leaves.
            let inputs = vars.iter().map(|v| v.affine(2.0, 0.0).unwrap()).collect();
            let grads = weighted(inputs).sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let sum: f64 = (0..n).map(|i| 2.0 * (i + 1) as f64 * i as f64).sum();
            for (i, var) in vars.iter().enumerate() {
                let got = grads.get(var).unwrap().to_vec1::<f64>().unwrap();
                assert_eq!(got[0], 2.0 * sum * 2.0 * (i + 1) as f64, "input {i} of {n}");
            }
        }
    }

    #[test]
    fn untracked_inputs_get_none_and_an_input_given_twice_gets_the_sum() {
        let var = Var::new(&[1.0, 2.0, 3.0], &Device::Cpu).unwrap();
        let fixed = Tensor::new(&[1.0, 1.0, 1.0], &Device::Cpu).unwrap();
        let inputs =
            vec![fixed.clone(), var.as_tensor().clone(), fixed.clone(), fixed.clone(), var.as_tensor().clone()];
        let grads = weighted(inputs).sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&var).unwrap().to_vec1::<f64>().unwrap(), [7.0; 3]);
        assert!(grads.get(&fixed).is_none());
        assert!(!weighted(vec![fixed.clone(), fixed]).track_op());
    }
}
