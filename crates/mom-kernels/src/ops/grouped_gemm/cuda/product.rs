//! Products as every engine takes them, once their shapes have been checked.

use super::abi::{MAX_GROUPS, addresses};
use super::args::GroupedWeights;
use crate::ops::plan::cuda::DeviceOffsets;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRows, Dtype, Gpu, Result};

/// How a product multiplies by the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// By its transpose: `(n, k)`.
    Forward,
    /// By itself: `(k, n)`.
    Input,
}

/// The operand C: what a product is added to.
#[derive(Debug)]
pub(super) enum C<'r, 'a, T> {
    None,
    /// What the output holds.
    Output,
    /// Rows as wide as the output's.
    Rows(&'r DeviceRows<'a, T>),
}

/// Rows times the weight of their modality.
#[derive(Debug)]
pub(super) struct RowsProduct<'s, 'a, T> {
    pub direction: Direction,
    /// The rows of each weight.
    pub groups: &'s DeviceOffsets<'a>,
    pub x: &'s DeviceRows<'a, T>,
    pub weights: &'s GroupedWeights<'a, T>,
    pub c: C<'s, 'a, T>,
}

/// What is summed: `a^T b` over the rows of each modality, for x and the gradient of y in either order.
#[derive(Debug)]
pub(super) struct Sum<'s, 'a, T, G> {
    pub a: &'s DeviceRows<'a, T>,
    pub b: &'s DeviceRows<'a, T>,
    /// Steps in a gradient for one column of `a` and of `b`.
    pub to_a: usize,
    pub to_b: usize,
    pub grads: &'s [DeviceMut<'a, G>],
    pub partial: &'s DeviceMut<'a, f32>,
}

impl<'s, 'a, T: DeviceElement, G: DeviceElement> Sum<'s, 'a, T, G> {
    pub fn new(
        x: &'s DeviceRows<'a, T>,
        grad_y: &'s DeviceRows<'a, T>,
        a_is_grad: bool,
        grads: &'s [DeviceMut<'a, G>],
        partial: &'s DeviceMut<'a, f32>,
    ) -> Self {
        let n_in = x.width();
        let (a, b, to_a, to_b) = if a_is_grad { (grad_y, x, n_in, 1) } else { (x, grad_y, 1, n_in) };
        Self { a, b, to_a, to_b, grads, partial }
    }

    pub fn grads(&self, gpu: &Gpu) -> Result<[u64; MAX_GROUPS]> {
        addresses(self.grads.iter().map(|grad| grad.address(gpu)))
    }

    /// Whether the gradients are f32, as kernels are told; else they are of the activations' type.
    pub fn f32(&self) -> u32 {
        u32::from(G::DTYPE == Dtype::F32)
    }
}
