//! Rotary position embedding over rows in modality order.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use mom_kernels::rotary_embedding::{self, Direction, RotaryTable};
use mom_kernels::{Rows, RowsMut};

use crate::autograd::{Backward, record};
use crate::error::{expect_shape, require};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::{Plan, Result};

pub(crate) const OP: &str = "rotary_embedding";

/// Angles of positions, kept for every batch that comes. Clones share them.
#[derive(Debug, Clone)]
pub struct Rotary {
    head_dim: usize,
    base: f64,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    table: Option<Arc<RotaryTable>>,
    /// `(n_positions, head_dim / 2, 2)` in f32, where tensors are on a GPU.
    #[cfg(feature = "cuda")]
    on_device: Option<Tensor>,
}

impl Rotary {
    /// For heads of `head_dim` features; `base` is 10,000 in the papers.
    ///
    /// # Errors
    /// A head_dim that is odd or zero, a base that is not above 1.
    pub fn new(head_dim: usize, base: f64) -> Result<Self> {
        RotaryTable::new(0, head_dim, base)?;
        Ok(Self { head_dim, base, kept: Arc::default() })
    }

    /// Features of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// A table of at least so many positions.
    fn table(&self, n_positions: usize) -> Result<Arc<RotaryTable>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = kept.table.as_ref().filter(|table| table.n_positions() >= n_positions) {
            return Ok(table.clone());
        }
        // With room to grow: decoding asks for one position more each time.
        let table = Arc::new(RotaryTable::new(n_positions.next_power_of_two(), self.head_dim, self.base)?);
        kept.table = Some(table.clone());
        #[cfg(feature = "cuda")]
        {
            kept.on_device = None;
        }
        Ok(table)
    }

    /// The table of at least so many positions in the memory of `device`.
    #[cfg(feature = "cuda")]
    pub(crate) fn on(&self, n_positions: usize, device: &candle_core::Device) -> Result<Tensor> {
        let table = self.table(n_positions)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = kept.on_device.as_ref().filter(|tensor| tensor.device().same_device(device)) {
            return Ok(tensor.clone());
        }
        let turns: Vec<f32> = table.turns().iter().map(|&turn| turn as f32).collect();
        let n = turns.len();
        let tensor = crate::to_device(&turns, n, device)?;
        kept.on_device = Some(tensor.clone());
        Ok(tensor)
    }
}

/// Turns the features of every head by an angle of its position in its document.
///
/// `offsets`: of each sequence that is decoded, the positions that came before; empty where every document begins here.
///
/// `x`: `(n_rows, n_heads * head_dim)`, rows in modality order. Returns the same shape. **Saved for backward:** nothing.
///
/// # Errors
/// A shape that is not the plan's and the heads', an element type that the device does not have: f32 or f64 on the CPU, bf16
/// or f32 on a GPU.
pub fn rotary_embedding(x: &Tensor, n_heads: usize, rotary: &Rotary, offsets: &[u32], plan: &Plan) -> Result<Tensor> {
    let x = contiguous(x)?;
    require(n_heads > 0, "n_heads", "at least 1", n_heads)?;
    expect_shape(OP, "x", &[plan.n_rows(), n_heads * rotary.head_dim], &x)?;
    let fit = offsets.is_empty() || offsets.len() == plan.batch();
    require(fit, "offsets", "none, or one for each sequence", offsets.len())?;
    let turn = Turn { n_heads, rotary: rotary.clone(), offsets: offsets.to_vec(), plan: plan.clone() };
    turn.recorded(x)
}

/// A rotation, one way or the other.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub n_heads: usize,
    pub rotary: Rotary,
    pub offsets: Vec<u32>,
    pub plan: Plan,
}

impl Turn {
    fn recorded(self, x: Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return crate::cuda::rotary_embedding(x, self);
        }
        dispatch!(OP, "x", x, T => {
            let out = self.values::<T>(&x, Direction::Forward)?;
            let shape = x.shape().clone();
            Ok(record(vec![x], out, shape, self)?)
        })
    }

    /// Positions of the rows' documents, and how many angles they need.
    pub fn positions(&self) -> Result<(Vec<u32>, usize)> {
        let mut positions = self.plan.attention_mask()?.positions_in_documents();
        if !self.offsets.is_empty() {
            let of_sequences = positions.chunks_exact_mut(self.plan.seqlen().max(1)).zip(&self.offsets);
            for (positions, &offset) in of_sequences {
                positions.iter_mut().for_each(|position| *position = position.saturating_add(offset));
            }
        }
        let n = positions.iter().max().map_or(0, |&last| last as usize + 1);
        Ok((positions, n))
    }

    fn values<T: Float>(&self, x: &Tensor, direction: Direction) -> Result<Vec<T>> {
        let host = Host::<T>::of(OP, "x", x)?;
        let from = host.slice()?;
        let width = self.n_heads * self.rotary.head_dim;
        let mut out = vec![T::ZERO; from.len()];
        let (positions, n) = self.positions()?;
        let (table, to) = (self.rotary.table(n)?, RowsMut::new("out", &mut out, width)?);
        let (layout, from) = (self.plan.layout(), Rows::new("x", from, width)?);
        rotary_embedding::rotate(layout, &positions, &table, self.n_heads, from, to, direction)?;
        Ok(out)
    }
}

impl Backward for Turn {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let grad = contiguous(grad)?;
        let turned = dispatch!(OP, "grad_output", grad, T => {
            Ok::<_, crate::Error>(tensor(self.values::<T>(&grad, Direction::Backward)?, grad.shape())?)
        })?;
        Ok(vec![Some(turned)])
    }
}
