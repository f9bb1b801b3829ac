//! Rows of a table by index, with a gradient that has a fixed order.

use std::sync::Arc;

use candle_core::Tensor;
use mom_core::autograd::{Backward, record};
use mom_core::host::{Float, Host, dispatch, tensor};
use rayon::prelude::*;

use super::Ids;
use crate::Result;

const OP: &str = "embedding";

/// Table rows that one task of the backward pass owns.
const ROWS_PER_TASK: usize = 64;

/// `out_i = table[ids_i]`.
///
/// `table`: `(n_entries, d_model)`. Returns `(ids.len(), d_model)`. The gradient of a table row is the sum over its uses in
/// their order, whatever the number of threads. No rows of a table on a GPU depend on nothing.
///
/// # Errors
/// An id out of range, named with its index; ids that are not where the table is; an unsupported element type or device.
pub fn embedding(table: &Tensor, ids: &Ids) -> Result<Tensor> {
    let (n_entries, d_model) = table.dims2()?;
    ids.expect_below("ids", n_entries)?;
    let table = table.contiguous()?;
    #[cfg(feature = "cuda")]
    if table.device().is_cuda() {
        return crate::cuda::embedding(table, ids);
    }
    let ids = ids.shared();
    let shape = (ids.len(), d_model);
    dispatch!(OP, "table", table, T => {
        let out = gather::<T>(&table, &ids, d_model)?;
        let node = Node { ids, n_entries, d_model };
        Ok(record(vec![table], out, shape, node)?)
    })
}

fn gather<T: Float>(table: &Tensor, ids: &[u32], d_model: usize) -> Result<Vec<T>> {
    let host = Host::<T>::of(OP, "table", table)?;
    let table = host.slice()?;
    let mut out = vec![T::ZERO; ids.len() * d_model];
    out.par_chunks_exact_mut(d_model.max(1)).with_min_len(128).zip(ids).for_each(|(to, &id)| {
        to.copy_from_slice(&table[id as usize * d_model..][..d_model]);
    });
    Ok(out)
}

struct Node {
    ids: Arc<[u32]>,
    n_entries: usize,
    d_model: usize,
}

impl Node {
    fn gradient<T: Float>(&self, grad: &Tensor) -> Result<Tensor> {
        let d_model = self.d_model;
        let host = Host::<T>::of(OP, "grad_output", grad)?;
        let grad = host.slice()?;
        let mut uses: Vec<(u32, u32)> = self.ids.iter().enumerate().map(|(i, &id)| (id, i as u32)).collect();
        uses.par_sort_unstable();
        let mut table = vec![T::ZERO; self.n_entries * d_model];
        table.par_chunks_mut((ROWS_PER_TASK * d_model).max(1)).enumerate().for_each(|(task, rows)| {
            let first = task * ROWS_PER_TASK;
            let start = uses.partition_point(|&(id, _)| (id as usize) < first);
            for &(id, i) in uses[start..].iter().take_while(|&&(id, _)| (id as usize) < first + ROWS_PER_TASK) {
                let to = &mut rows[(id as usize - first) * d_model..][..d_model];
                for (to, &from) in to.iter_mut().zip(&grad[i as usize * d_model..][..d_model]) {
                    *to += from;
                }
            }
        });
        Ok(tensor(table, (self.n_entries, d_model))?)
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let table: Result<Tensor> = dispatch!(OP, "grad_output", grad, T => self.gradient::<T>(grad));
        Ok(vec![Some(table?)])
    }
}
