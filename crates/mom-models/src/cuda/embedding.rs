//! Rows of a table by index on a GPU.

use candle_core::Tensor;
use mom_core::autograd::{Backward, record_storage};
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::cuda::embedding::{self as kernels, Into};

use super::on_device;
use crate::Result;
use crate::layers::Ids;

const EMBEDDING: &str = "embedding";

/// As [`crate::layers::embedding`], whose checks were passed; the table is contiguous.
pub(crate) fn embedding(table: Tensor, ids: &Ids) -> Result<Tensor> {
    let (n_entries, width) = table.dims2()?;
    let n_rows = ids.len();
    dispatch!(EMBEDDING, "table", table, T => {
        let on = OnGpu::of(table.device())?;
        if n_rows == 0 {
            // Off the tape, as the loss of no rows.
            return Ok(on.tensor(on.gpu.zeros::<T>(0)?, (0, width)));
        }
        let gpu = &*on.gpu;
        // SAFETY: the kernel below writes a row for each id; before it nothing reads them.
        let mut out = unsafe { on.uninit::<T>(n_rows * width) }?;
        let ids = on_device(EMBEDDING, ids)?;
        {
            let (rows, ids) = (OnDevice::<T>::of(&on, EMBEDDING, "table", &table)?, OnDevice::<u32>::of(&on, EMBEDDING, "ids", ids)?);
            let mut out = gpu.rows_mut(&mut out, width)?;
            let mut out_of_range = gpu.zeros::<u32>(1)?;
            let (rows, ids) = (rows.rows(gpu, width)?, ids.view(gpu)?);
            kernels::forward(gpu, &rows, &ids, &mut out, &mut gpu.write(&mut out_of_range))?;
        }
        let node = EmbeddingNode { ids: ids.clone(), n_entries, width };
        Ok(record_storage(vec![table], on.storage(out), (n_rows, width), node)?)
    })
}

struct EmbeddingNode {
    ids: Tensor,
    n_entries: usize,
    width: usize,
}

impl EmbeddingNode {
    fn gradient<T: GpuFloat>(&self, grad: &Tensor) -> Result<Tensor> {
        let on = OnGpu::of(grad.device())?;
        let gpu = &*on.gpu;
        let (ids, grad) = (
            OnDevice::<u32>::of(&on, EMBEDDING, "ids", &self.ids)?,
            OnDevice::<T>::of(&on, EMBEDDING, "grad_output", grad)?,
        );
        // SAFETY: the kernel below overwrites every row; before it nothing reads them.
        let mut table = unsafe { on.uninit::<T>(self.n_entries * self.width) }?;
        let mut out_of_range = gpu.zeros::<u32>(1)?;
        let n_rows = self.ids.elem_count();
        // SAFETY: a workspace, whose contents mean nothing to the kernel.
        let mut workspace = unsafe { on.uninit::<u32>(kernels::backward_workspace_len(n_rows, self.width)) }?;
        {
            let mut rows = gpu.rows_mut(&mut table, self.width)?;
            let (ids, grad) = (ids.view(gpu)?, grad.rows(gpu, self.width)?);
            let (mut count, workspace) = (gpu.write(&mut out_of_range), gpu.write(&mut workspace));
            kernels::backward(gpu, &ids, &grad, &mut rows, Into::Overwrite, &mut count, workspace)?;
        }
        Ok(on.tensor(table, (self.n_entries, self.width)))
    }
}

impl Backward for EmbeddingNode {
    fn name(&self) -> &'static str {
        EMBEDDING
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let table: Result<Tensor> = dispatch!(EMBEDDING, "grad_output", grad, T => self.gradient::<T>(grad));
        Ok(vec![Some(table?)])
    }
}
