//! Functions of any number of tensors on candle's tape.
//!
//! candle's custom operations take three inputs at most and keep no context; recorded functions lift both limits.
//!
//! # How
//! ```text
//! inputs 0, 1, 2 -> carrier -> token -+
//! inputs 3, 4 -----------> carrier -> token -> main -> output
//! ```
//! A carrier is a custom operation over two or three inputs whose one-element output (the token) only makes the inputs
//! ancestors of the main node; a single input needs none. When candle reaches the main node it runs
//! [`Backward::backward`] once, which gives all gradients; they wait in a slot that the carriers share. The main node hands
//! a zero to its token, so candle goes on to the carriers, each of which hands out the gradients of its own inputs.
//!
//! This asks three things of candle's tape: that it visits a node after all of its users, that it visits a custom operation
//! once in a backward pass, and that a pass stays on one thread. A tape that does otherwise is an error
//! ([`crate::Error::Tape`]): a carrier that comes before the main node, or twice, finds no gradients in the slot, which is
//! not the same as a gradient of zero. Passes over one graph, one after the other or at once on several threads, do not
//! meet: what a pass leaves in a slot is found by its own thread alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Storage, Tensor, TensorId};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

use super::{Backward, Sink, expect_count, expect_like};
use crate::Error;

/// Puts a function of inputs, some of which are tracked, on candle's tape.
pub(super) fn record(
    inputs: Vec<Tensor>,
    output: Storage,
    shape: Shape,
    backward: Box<dyn Backward>,
) -> candle_core::Result<Tensor> {
    let needed: Vec<bool> = inputs.iter().map(Tensor::track_op).collect();
    let sink = Sink::current();
    let sunk: Vec<Option<TensorId>> = inputs.iter().map(|input| sink.as_ref()?.takes(input)).collect();
    let mut taped: Vec<Tensor> =
        inputs.iter().zip(&sunk).filter(|(_, sunk)| sunk.is_none()).map(|(input, _)| input.clone()).collect();
    let anchor = sink.as_ref().filter(|_| !taped.iter().any(Tensor::track_op)).map(Sink::anchor);
    // Everything that is asked for goes to the sink, and yet the tape must come by here.
    let anchored = anchor.map(|anchor| taped.push(anchor.clone())).is_some();
    let slot = Arc::new(Slot { name: backward.name(), passes: Mutex::default() });
    let main = |direct| Main {
        slot: slot.clone(),
        needed,
        sunk,
        sink,
        anchored,
        direct,
        output: Mutex::new(Some((output, shape))),
        backward,
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

/// Where gradients wait between the main node and the carriers: those of the last pass of each thread.
struct Slot {
    name: &'static str,
    passes: Mutex<HashMap<ThreadId, Vec<Waiting>>>,
}

/// A gradient in a slot. That of an input which nothing was put for yet is not there at all.
enum Waiting {
    /// Computed by the main node; `None` is zero.
    Put(Option<Tensor>),
    /// Handed out.
    Taken,
}

impl Slot {
    /// Begins a pass of this thread. What the pass before has left, because it ended with an error, is dropped.
    fn put(&self, gradients: Vec<Option<Tensor>>) {
        let gradients = gradients.into_iter().map(Waiting::Put).collect();
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).insert(thread::current().id(), gradients);
    }

    /// Takes the gradient of an input, which the main node has put in this pass; zeros for `None`, since the tape takes no
    /// `None` for a tracked input.
    fn take(&self, index: usize, input: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !input.track_op() {
            return Ok(None);
        }
        let waiting = {
            let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = passes.get_mut(&thread::current().id()).and_then(|gradients| gradients.get_mut(index));
            slot.map(|slot| std::mem::replace(slot, Waiting::Taken))
        };
        let gradient = match waiting {
            Some(Waiting::Put(Some(gradient))) => gradient,
            Some(Waiting::Put(None)) => input.zeros_like()?,
            None => return Err(self.tape(index, "before it visited the function on this thread")),
            Some(Waiting::Taken) => return Err(self.tape(index, "twice")),
        };
        expect_like(self.name, index, &gradient, input.shape())?;
        Ok(Some(gradient))
    }

    fn tape(&self, input: usize, asked: &'static str) -> candle_core::Error {
        Error::Tape { op: self.name, input, asked }.into()
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
    /// Whether the sink's anchor is the last of the tape's inputs, whose gradient is zero.
    anchored: bool,
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
        expect_count(self.slot.name, gradients.len(), self.needed.len())?;
        let mut taped = Vec::new();
        for (gradient, sunk) in gradients.into_iter().zip(&self.sunk) {
            match (sunk, &self.sink, gradient) {
                (Some(id), Some(sink), Some(gradient)) => sink.put(*id, gradient)?,
                (Some(_), ..) => {}
                (None, _, gradient) => taped.push(gradient),
            }
        }
        if self.anchored {
            taped.push(None);
        }
        self.slot.put(taped);
        if self.direct { self.slot.take(0, input) } else { Ok(Some(input.zeros_like()?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record;
    use super::*;
    use candle_core::{DType, Device, Var};

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

    fn slot() -> Arc<Slot> {
        Arc::new(Slot { name: "weighted", passes: Mutex::default() })
    }

    #[test]
    fn a_tape_that_visits_carriers_first_or_twice_is_an_error() {
        let var = |value: f64| Var::new(&[value], &Device::Cpu).unwrap();
        let (a, b, token) = (var(1.0), var(2.0), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        let slot = slot();
        let carrier = Carrier { slot: slot.clone(), first: 0 };
        let visit = || CustomOp2::bwd(&carrier, &a, &b, &token, &token);
        let message = visit().unwrap_err().to_string();
        assert!(message.contains("weighted") && message.contains("before it visited"), "{message}");
        // A gradient of zero is something else.
        slot.put(vec![Some(a.ones_like().unwrap()), None]);
        let (of_a, of_b) = visit().unwrap();
        assert_eq!(of_a.unwrap().to_vec1::<f64>().unwrap(), [1.0]);
        assert_eq!(of_b.unwrap().to_vec1::<f64>().unwrap(), [0.0]);
        let message = visit().unwrap_err().to_string();
        assert!(message.contains("weighted") && message.contains("twice"), "{message}");
        // The next pass begins anew.
        slot.put(vec![None, None]);
        visit().unwrap();
    }

    #[test]
    fn a_pass_that_another_thread_ends_is_an_error() {
        let var = Var::new(&[1.0f64], &Device::Cpu).unwrap();
        let slot = slot();
        slot.put(vec![Some(var.ones_like().unwrap())]);
        let message = thread::scope(|scope| scope.spawn(|| slot.take(0, &var).unwrap_err().to_string()).join());
        assert!(message.unwrap().contains("on this thread"));
        assert!(slot.take(0, &var).unwrap().is_some());
    }

    /// As [`Weighted`] of two inputs; waits until as many threads have come here.
    struct Meeting(std::sync::Barrier);

    impl Backward for Meeting {
        fn name(&self) -> &'static str {
            "meeting"
        }
        fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
            let gradients = Weighted(2).backward(grad, needed);
            self.0.wait();
            gradients
        }
    }

    #[test]
    fn threads_that_go_backward_over_one_graph_at_once_get_all_gradients() {
        const THREADS: usize = 4;
        for _ in 0..50 {
            let (a, b) = (Var::new(&[1.0f64], &Device::Cpu).unwrap(), Var::new(&[2.0f64], &Device::Cpu).unwrap());
            let inputs = vec![a.as_tensor().clone(), b.as_tensor().clone()];
            let loss = record(inputs, vec![5.0f64], 1, Meeting(std::sync::Barrier::new(THREADS))).unwrap();
            let passes = thread::scope(|scope| {
                let passes: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| loss.backward().unwrap())).collect();
                passes.into_iter().map(|pass| pass.join().unwrap()).collect::<Vec<_>>()
            });
            for grads in passes {
                let of = |var: &Var| grads.get(var).unwrap().to_vec1::<f64>().unwrap();
                assert_eq!((of(&a), of(&b)), (vec![1.0], vec![2.0]));
            }
        }
    }

    #[test]
    fn a_second_pass_gives_the_same_also_after_one_that_failed() {
        let (a, b) = (Var::new(&[1.0f64], &Device::Cpu).unwrap(), Var::new(&[2.0f64], &Device::Cpu).unwrap());
        let inputs = vec![a.as_tensor().clone(), b.as_tensor().clone()];
        let loss = record(inputs, vec![5.0f64], 1, Weighted(2)).unwrap();
        let want = |grads: &candle_core::backprop::GradStore| {
            let of = |var: &Var| grads.get(var).unwrap().to_vec1::<f64>().unwrap();
            assert_eq!((of(&a), of(&b)), (vec![1.0], vec![2.0]));
        };
        want(&loss.backward().unwrap());
        want(&loss.backward().unwrap());
        // A pass that ends behind the main node leaves its gradients in the slot.
        struct Fails;
        impl Backward for Fails {
            fn name(&self) -> &'static str {
                "fails"
            }
            fn backward(&self, _: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
                Err(candle_core::Error::Msg("no".to_owned()))
            }
        }
        let middle = record(vec![a.as_tensor().clone()], vec![1.0f64], 1, Fails).unwrap();
        let inputs = vec![middle, b.as_tensor().clone()];
        let over = record(inputs, vec![5.0f64], 1, Weighted(2)).unwrap();
        for _ in 0..2 {
            assert_eq!(over.backward().unwrap_err().to_string(), "no");
        }
        want(&loss.backward().unwrap());
    }
}
