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
//! ancestors of the main node. When candle reaches the main node it runs [`Backward::backward`] once, which gives all
//! gradients; they wait in a slot that the carriers share. The main node hands a zero to its token, so candle goes on to
//! the carriers, each of which hands out the gradients of its own inputs. This relies on the tape visiting a node only
//! after all of its users, and on custom operations being visited once per backward pass.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Shape, Tensor, WithDType};

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
    let needed: Vec<bool> = inputs.iter().map(Tensor::track_op).collect();
    if !needed.contains(&true) {
        return Tensor::from_vec(output, shape, &Device::Cpu);
    }
    if shape.elem_count() != output.len() {
        return Err(candle_core::Error::ShapeMismatch { buffer_size: output.len(), shape });
    }
    let slot = Arc::new(Slot { name: backward.name(), gradients: Mutex::new(Vec::new()) });
    let carrier = |first| Carrier { slot: slot.clone(), first };
    // The chain starts with one to three inputs and takes two more at each link.
    let (mut token, mut next) = match inputs.len() {
        1 => (inputs[0].apply_op1(carrier(0))?, 1),
        n if n % 2 == 0 => (inputs[0].apply_op2(&inputs[1], carrier(0))?, 2),
        _ => (inputs[0].apply_op3(&inputs[1], &inputs[2], carrier(0))?, 3),
    };
    while next < inputs.len() {
        token = inputs[next].apply_op3(&inputs[next + 1], &token, carrier(next))?;
        next += 2;
    }
    let output = Mutex::new(Some((T::to_cpu_storage_owned(output), shape)));
    token.apply_op1(Main { slot, needed, output, backward: Box::new(backward) })
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
}

impl CustomOp1 for Carrier {
    fn name(&self) -> &'static str {
        self.slot.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(Self::token())
    }
    fn bwd(&self, input: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.slot.take(self.first, input)
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
    output: Mutex<Option<(CpuStorage, Shape)>>,
    backward: Box<dyn Backward>,
}

impl CustomOp1 for Main {
    fn name(&self) -> &'static str {
        self.slot.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::Msg(format!("{}: recorded twice", self.slot.name)))
    }
    fn bwd(&self, token: &Tensor, _: &Tensor, grad_output: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradients = self.backward.backward(&grad_output.contiguous()?, &self.needed)?;
        if gradients.len() != self.needed.len() {
            return Err(candle_core::Error::Msg(format!(
                "{}: {} gradients for {} inputs",
                self.slot.name,
                gradients.len(),
                self.needed.len()
            )));
        }
        self.slot.put(gradients);
        Ok(Some(token.zeros_like()?))
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
