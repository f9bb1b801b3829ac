//! Functions of any number of tensors with a gradient, on candle's tape or on one of their own.
//!
//! [`record`] puts a function that plain code has computed on a tape, together with a [`Backward`] that holds what its
//! gradient needs. The tape is
//!
//! * within [`Tape::scope`] that tape: it knows recorded functions alone, adds nothing to a gradient that has one source,
//!   frees what a function has saved as soon as it went back through it, and hands out a parameter's gradient as soon as it
//!   is whole. For a training step that consists of recorded functions;
//! * elsewhere candle's, among candle's own operations ([`candle_core::Tensor::backward`]). A [`Sink`] takes the gradients of
//!   parameters off it.

mod carriers;
mod sink;
mod tape;

use std::cell::RefCell;
use std::thread::LocalKey;

use candle_core::op::BackpropOp;
use candle_core::{Shape, Storage, Tensor, WithDType};

use crate::Error;

pub use sink::Sink;
pub use tape::Tape;

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

    /// As [`Self::backward`], handing out each gradient with its input's number as soon as it is there, in any order. A
    /// function of many parts does so part by part; the others give all of them at their end.
    ///
    /// # Errors
    /// As [`Self::backward`], and what `give` returns.
    fn backward_each(
        &self,
        grad_output: &Tensor,
        needed: &[bool],
        give: &mut dyn FnMut(usize, Tensor) -> candle_core::Result<()>,
    ) -> candle_core::Result<()> {
        let gradients = self.backward(grad_output, needed)?;
        expect_count(self.name(), gradients.len(), needed.len())?;
        let there = gradients.into_iter().enumerate().filter_map(|(i, gradient)| Some((i, gradient?)));
        there.into_iter().try_for_each(|(i, gradient)| give(i, gradient))
    }
}

fn expect_count(name: &str, got: usize, inputs: usize) -> candle_core::Result<()> {
    if got == inputs {
        return Ok(());
    }
    Err(candle_core::Error::Msg(format!("{name}: {got} gradients for {inputs} inputs")))
}

fn expect_like(name: &str, index: usize, gradient: &Tensor, input: &Shape) -> candle_core::Result<()> {
    if gradient.shape() == input {
        return Ok(());
    }
    let (got, want) = (gradient.dims(), input.dims());
    Err(candle_core::Error::Msg(format!("{name}: gradient {index} has shape {got:?}, its input {want:?}")))
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
    match Tape::current() {
        Some(tape) => tape.record(&inputs, output, shape, Box::new(backward)),
        None => carriers::record(inputs, output, shape, Box::new(backward)),
    }
}

/// As [`record_storage`], for an output that candle's own operations have made of detached inputs.
///
/// # Errors
/// What candle reports.
pub fn record_tensor(inputs: Vec<Tensor>, output: &Tensor, backward: impl Backward) -> candle_core::Result<Tensor> {
    let output = if output.layout().start_offset() == 0 { output.contiguous()? } else { output.force_contiguous()? };
    let (storage, layout) = output.storage_and_layout();
    let storage = storage.try_clone(layout)?;
    record_storage(inputs, storage, output.shape(), backward)
}

/// As [`record_storage`], for a function without a backward pass: one that comes by here is an error, rather than a gradient
/// that lacks the function's part. `inputs`: what it reads, parameters first.
pub(crate) fn record_forward_only<'a>(
    name: &'static str,
    inputs: impl IntoIterator<Item = &'a Tensor>,
    output: Storage,
    shape: impl Into<Shape>,
) -> candle_core::Result<Tensor> {
    // One input brings the tape here as well as all would. A parameter does in any case, while the tape does not follow
    // every way that leads to other tensors.
    let input = inputs.into_iter().find(|input| input.track_op()).cloned();
    record_storage(input.into_iter().collect(), output, shape, ForwardOnly(name))
}

struct ForwardOnly(&'static str);

impl Backward for ForwardOnly {
    fn name(&self) -> &'static str {
        self.0
    }
    fn backward(&self, _: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Err(Error::NoGradient { op: self.0 }.into())
    }
}

/// Whether a function of these tensors goes on the tape: one of them is tracked, and this is no [`without_tape`].
pub fn tracks<'a>(inputs: impl IntoIterator<Item = &'a Tensor>) -> bool {
    !WITHOUT_TAPE.with_borrow(|without| *without) && inputs.into_iter().any(Tensor::track_op)
}

/// Runs a forward pass whose functions record and save nothing: for validation and decoding.
pub fn without_tape<R>(forward: impl FnOnce() -> R) -> R {
    within(&WITHOUT_TAPE, true, forward)
}

thread_local! {
    static WITHOUT_TAPE: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `forward` while this thread's `current` is `value`; what it was before comes back even in a panic.
fn within<T: Default, R>(current: &'static LocalKey<RefCell<T>>, value: T, forward: impl FnOnce() -> R) -> R {
    struct Restore<T: Default + 'static>(&'static LocalKey<RefCell<T>>, T);
    impl<T: Default> Drop for Restore<T> {
        fn drop(&mut self) {
            self.0.set(std::mem::take(&mut self.1));
        }
    }
    let _restore = Restore(current, current.replace(value));
    forward()
}
