//! A tape of recorded functions alone.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use candle_core::op::BackpropOp;
use candle_core::{DType, Shape, Storage, Tensor, TensorId};

use super::{Backward, expect_like, within};
use crate::Error;

/// Takes down the functions that are recorded within its scope, and goes back through them.
///
/// Between parameters and loss stand recorded functions alone: one of candle's own operations in between is an error at the
/// next recorded function, since this tape would not go through it. A backward pass consumes the tape.
///
/// ```
/// # use candle_core::{DType, Device, Tensor, Var};
/// use mom_core::{autograd::Tape, ops};
/// # let x = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let weight = Var::new(&[1f32, 1.0], &Device::Cpu)?;
/// let tape = Tape::new();
/// let y = tape.scope(|| ops::rms_norm(&ops::rms_norm(&x, &weight, 1e-5)?, &weight, 1e-5))?;
/// let mut of_weight = None;
/// tape.backward(&y, y.ones_like()?, |id, gradient| {
///     assert_eq!(id, weight.as_tensor().id());
///     of_weight = Some(gradient);
///     Ok(())
/// })?;
/// assert!(of_weight.is_some(), "the sum over both uses");
/// # Ok::<(), mom_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tape(Rc<RefCell<Recorded>>);

#[derive(Default)]
struct Recorded {
    nodes: Vec<Node>,
    outputs: HashSet<TensorId>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.nodes.iter().map(|node| node.backward.name())).finish()
    }
}

/// A function that was recorded.
struct Node {
    output: TensorId,
    inputs: Vec<Input>,
    needed: Vec<bool>,
    backward: Box<dyn Backward>,
}

struct Input {
    id: TensorId,
    of: Of,
    shape: Shape,
    dtype: DType,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    /// Of nothing that a gradient is asked of.
    Nothing,
    /// Of a function on the tape.
    Function,
    /// Somebody's variable.
    Parameter,
}

thread_local! {
    static CURRENT: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

impl Tape {
    /// A tape with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a forward pass whose functions are recorded on this tape, instead of candle's. Its tensors are tracked, as
    /// variables are, so that what candle's own operations make of one is not taken for a constant.
    pub fn scope<R>(&self, forward: impl FnOnce() -> R) -> R {
        within(&CURRENT, Some(self.clone()), forward)
    }

    pub(super) fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    pub(super) fn record(
        &self,
        inputs: &[Tensor],
        output: Storage,
        shape: Shape,
        backward: Box<dyn Backward>,
    ) -> candle_core::Result<Tensor> {
        let mut recorded = self.0.borrow_mut();
        let describe = |(index, input): (usize, &Tensor)| {
            let of = match (input.track_op(), input.is_variable()) {
                (false, _) => Of::Nothing,
                (true, _) if recorded.outputs.contains(&input.id()) => Of::Function,
                (true, true) => Of::Parameter,
                (true, false) => return Err(Error::NotRecorded { op: backward.name(), input: index }),
            };
            Ok(Input { id: input.id(), of, shape: input.shape().clone(), dtype: input.dtype() })
        };
        let inputs = inputs.iter().enumerate().map(describe).collect::<Result<Vec<_>, _>>()?;
        let output = Tensor::from_storage(output, shape, BackpropOp::none(), true);
        let needed = inputs.iter().map(|input| input.of != Of::Nothing).collect();
        recorded.outputs.insert(output.id());
        recorded.nodes.push(Node { output: output.id(), inputs, needed, backward });
        Ok(output)
    }

    /// The parameters that `output` depends on: of others a backward pass hands out no gradient.
    ///
    /// ```
    /// # use candle_core::{Device, Var};
    /// # use mom_core::{autograd::Tape, ops};
    /// let [a, b] = [Var::new(&[1f32], &Device::Cpu)?, Var::new(&[2f32], &Device::Cpu)?];
    /// let tape = Tape::new();
    /// let (of_a, _) = tape.scope(|| Ok::<_, mom_core::Error>((ops::scaled(&a, 3.0)?, ops::scaled(&b, 3.0)?)))?;
    /// let reached = tape.parameters_of(&of_a);
    /// assert!(reached.contains(&a.as_tensor().id()) && !reached.contains(&b.as_tensor().id()));
    /// # Ok::<(), mom_core::Error>(())
    /// ```
    pub fn parameters_of(&self, output: &Tensor) -> HashSet<TensorId> {
        let recorded = self.0.borrow();
        let uses = uses(&recorded.nodes, output.id());
        let inputs = recorded.nodes.iter().flat_map(|node| &node.inputs);
        let parameters = inputs.filter(|input| input.of == Of::Parameter && uses.contains_key(&input.id));
        parameters.map(|input| input.id).collect()
    }

    /// Goes back from `output`, whose own gradient is `seed`, and hands each parameter's gradient to `take`, once, as soon as
    /// no function can add to it any more. A parameter that the output does not depend on is not handed out, nor is one
    /// whose gradient all functions have given as absent.
    ///
    /// # Errors
    /// An output that no function on the tape has made; a gradient of another shape or element type than its input; what a
    /// function or `take` refuses.
    pub fn backward(
        self,
        output: &Tensor,
        seed: Tensor,
        take: impl FnMut(TensorId, Tensor) -> candle_core::Result<()>,
    ) -> candle_core::Result<()> {
        let Recorded { mut nodes, outputs } = self.0.take();
        if !outputs.contains(&output.id()) {
            return Err(Error::NotRecorded { op: "backward", input: 0 }.into());
        }
        expect_like("backward", 0, &seed, output.shape())?;
        let uses = uses(&nodes, output.id());
        let mut pass = Pass { uses, gradients: HashMap::from([(output.id(), seed)]), take };
        // From the last function on; what one has saved is freed behind it.
        while let Some(node) = nodes.pop() {
            if pass.uses.contains_key(&node.output) {
                pass.through(node)?;
            }
        }
        Ok(())
    }
}

/// Where a backward pass is.
struct Pass<F> {
    /// How often functions that are still to come will be asked for a tensor's gradient.
    uses: HashMap<TensorId, usize>,
    /// The sums of what came so far.
    gradients: HashMap<TensorId, Tensor>,
    take: F,
}

impl<F: FnMut(TensorId, Tensor) -> candle_core::Result<()>> Pass<F> {
    fn through(&mut self, node: Node) -> candle_core::Result<()> {
        let Node { output, inputs, needed, backward } = node;
        let mut given = vec![false; inputs.len()];
        // Without a gradient it is zero: all functions behind this one have given theirs as absent.
        if let Some(gradient) = self.gradients.remove(&output) {
            let name = backward.name();
            backward.backward_each(&gradient.contiguous()?, &needed, &mut |index, gradient| {
                let (Some(input), Some(given)) = (inputs.get(index), given.get_mut(index)) else {
                    return super::expect_count(name, index + 1, needed.len());
                };
                if input.of == Of::Nothing {
                    return Ok(());
                }
                expect_like(name, index, &gradient, &input.shape)?;
                if gradient.dtype() != input.dtype {
                    let expected = input.dtype.as_str();
                    return Err(Error::DType { op: name, arg: "gradient", expected, got: gradient.dtype() }.into());
                }
                *given = true;
                self.add(input, Some(gradient))
            })?;
        }
        let absent = inputs.iter().zip(given).filter(|(input, given)| input.of != Of::Nothing && !given);
        absent.into_iter().try_for_each(|(input, _)| self.add(input, None))
    }

    /// One use less that is still to come.
    fn add(&mut self, input: &Input, gradient: Option<Tensor>) -> candle_core::Result<()> {
        if let Some(gradient) = gradient {
            let sum = match self.gradients.remove(&input.id) {
                Some(before) => crate::ops::add(&before.detach(), &gradient.detach())?,
                None => gradient,
            };
            self.gradients.insert(input.id, sum);
        }
        let left = self.uses.get_mut(&input.id).map(|left| {
            *left -= 1;
            *left
        });
        match self.gradients.remove(&input.id) {
            Some(sum) if input.of == Of::Parameter && left == Some(0) => (self.take)(input.id, sum),
            Some(sum) => {
                self.gradients.insert(input.id, sum);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// How often functions that the output depends on take a tensor.
fn uses(nodes: &[Node], output: TensorId) -> HashMap<TensorId, usize> {
    let mut uses = HashMap::from([(output, 1)]);
    for node in nodes.iter().rev() {
        if uses.contains_key(&node.output) {
            for input in node.inputs.iter().filter(|input| input.of != Of::Nothing) {
                *uses.entry(input.id).or_insert(0) += 1;
            }
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::autograd::{record, without_tape};

    /// `factor x`, whose gradient is given or not.
    struct Times {
        factor: f64,
        given: bool,
    }

    impl Backward for Times {
        fn name(&self) -> &'static str {
            "times"
        }
        fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
            Ok(vec![if self.given { Some(grad.affine(self.factor, 0.0)?) } else { None }])
        }
    }

    fn times(x: &Tensor, factor: f64, given: bool) -> Tensor {
        let values = x.detach().affine(factor, 0.0).unwrap().to_vec1::<f64>().unwrap();
        record(vec![x.clone()], values, 2, Times { factor, given }).unwrap()
    }

    fn var(values: [f64; 2]) -> Var {
        Var::new(&values, &Device::Cpu).unwrap()
    }

    fn gradients(tape: Tape, loss: &Tensor) -> Vec<(TensorId, Vec<f64>)> {
        let mut all = Vec::new();
        let take = |id, gradient: Tensor| {
            all.push((id, gradient.to_vec1::<f64>()?));
            Ok(())
        };
        tape.backward(loss, loss.ones_like().unwrap(), take).unwrap();
        all
    }

    #[test]
    fn a_gradient_is_handed_out_once_and_as_soon_as_it_is_whole() {
        let (a, b, c) = (var([1.0, 2.0]), var([3.0, 4.0]), var([5.0, 6.0]));
        let tape = Tape::new();
        let loss = tape.scope(|| {
            let of_a = times(&a, 2.0, true);
            let both = crate::ops::add(&of_a, &times(&b, 3.0, true)).unwrap();
            // Off the way to the loss.
            times(&c, 9.0, true);
            crate::ops::add(&times(&both, 5.0, true), &b).unwrap()
        });
        // The last use of b in the forward pass comes first on the way back, its first one last but one.
        let got = gradients(tape, &loss);
        assert_eq!(got, [(b.as_tensor().id(), vec![16.0; 2]), (a.as_tensor().id(), vec![10.0; 2])]);
    }

    #[test]
    fn what_a_function_gives_as_absent_is_zero() {
        let (a, b) = (var([1.0, 2.0]), var([3.0, 4.0]));
        let tape = Tape::new();
        let loss = tape.scope(|| {
            let cut = times(&times(&a, 2.0, true), 3.0, false);
            let twice = crate::ops::add(&times(&b, 4.0, true), &times(&b, 7.0, false)).unwrap();
            crate::ops::add(&cut, &twice).unwrap()
        });
        assert_eq!(gradients(tape, &loss), [(b.as_tensor().id(), vec![4.0; 2])]);
    }

    #[test]
    fn an_operation_that_is_not_on_the_tape_is_an_error() {
        let a = var([1.0, 2.0]);
        let tape = Tape::new();
        tape.scope(|| {
            let between = (times(&a, 2.0, true) + 1.0).unwrap();
            let message = crate::ops::scaled(&between, 2.0).unwrap_err().to_string();
            assert!(message.contains("scaled: input 0 is not a parameter"), "{message}");
        });
        let outside = times(&a, 2.0, true);
        let error = tape.backward(&outside, outside.ones_like().unwrap(), |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("backward: input 0"), "{error}");
    }

    #[test]
    fn a_seed_of_another_shape_and_a_gradient_of_another_type_are_errors() {
        struct Narrower;
        impl Backward for Narrower {
            fn name(&self) -> &'static str {
                "narrower"
            }
            fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
                Ok(vec![Some(grad.to_dtype(DType::F32)?)])
            }
        }
        let a = var([1.0, 2.0]);
        let record =
            |tape: &Tape| tape.scope(|| record(vec![a.as_tensor().clone()], vec![1.0f64, 2.0], 2, Narrower)).unwrap();
        let tape = Tape::new();
        let y = record(&tape);
        let message =
            tape.backward(&y, Tensor::new(1.0f64, &Device::Cpu).unwrap(), |_, _| Ok(())).unwrap_err().to_string();
        assert!(message.contains("shape"), "{message}");
        let tape = Tape::new();
        let y = record(&tape);
        let message = tape.backward(&y, y.ones_like().unwrap(), |_, _| Ok(())).unwrap_err().to_string();
        assert!(message.contains("narrower") && message.contains("gradient"), "{message}");
    }

    #[test]
    fn without_a_tape_nothing_is_taken_down_and_outside_of_the_scope_neither() {
        let a = var([1.0, 2.0]);
        let tape = Tape::new();
        assert!(!tape.scope(|| without_tape(|| times(&a, 2.0, true))).track_op());
        times(&a, 2.0, true);
        assert_eq!(format!("{tape:?}"), "Tape(RefCell { value: [] })");
    }
}
