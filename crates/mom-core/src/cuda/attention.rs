//! Attention and the rotary embedding on the GPU.

use candle_core::Tensor;
use mom_kernels::cuda::attention::{self, AttentionGrads, AttentionInputs};
use mom_kernels::cuda::rotary_embedding::{Angles, rotate};
use mom_kernels::rotary_embedding::Direction;

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use crate::autograd::{Backward, record_storage};
use crate::host::contiguous;
use crate::ops::{ATTENTION as OP, ROTARY, Turn};
use crate::{Plan, Result};

/// As [`crate::ops::attention`]; the tensors are contiguous.
pub(crate) fn attention(inputs: [Tensor; 3], n_heads: usize, plan: &Plan) -> Result<Tensor> {
    let [q, _, _] = &inputs;
    dispatch!(OP, "q", q, T => {
        let on = OnGpu::of(q.device())?;
        let shape = q.shape().clone();
        if q.elem_count() == 0 {
            return on.no_rows::<T>(shape);
        }
        let mut out = on.room::<T>(q.elem_count())?;
        let mut lse = on.room::<f32>(plan.n_rows() * n_heads)?;
        {
            let views = Views::<T>::of(&on, &inputs)?;
            let to = on.gpu.rows_mut(&mut out, views.width(plan))?;
            attention::forward(&on.gpu, &views.inputs(&on, n_heads, plan)?, to, on.gpu.write(&mut lse))?;
        }
        let out = on.tensor(out, &shape);
        let lse = on.tensor(lse, plan.n_rows() * n_heads);
        let node = Node { inputs: inputs.clone(), out: out.clone(), lse, n_heads, plan: plan.clone() };
        let (storage, _) = out.storage_and_layout();
        let storage = storage.try_clone(out.layout())?;
        Ok(record_storage(inputs.to_vec(), storage, shape, node)?)
    })
}

/// Queries, keys and values as kernels read them.
struct Views<'a, T> {
    q: OnDevice<'a, T>,
    k: OnDevice<'a, T>,
    v: OnDevice<'a, T>,
}

impl<'a, T: GpuFloat> Views<'a, T> {
    fn of(on: &OnGpu, [q, k, v]: &'a [Tensor; 3]) -> Result<Self> {
        Ok(Self {
            q: OnDevice::of(on, OP, "q", q)?,
            k: OnDevice::of(on, OP, "k", k)?,
            v: OnDevice::of(on, OP, "v", v)?,
        })
    }

    fn width(&self, plan: &Plan) -> usize {
        self.q.len() / plan.n_rows()
    }

    fn inputs<'b>(&'b self, on: &'b OnGpu, n_heads: usize, plan: &'b Plan) -> Result<AttentionInputs<'b, T>> {
        let (gpu, width) = (&*on.gpu, self.width(plan));
        let layout = plan.on(on)?.layout(gpu);
        let mask = plan.mask_on(on)?.mask().view(gpu);
        let (q, k, v) = (self.q.rows(gpu, width)?, self.k.rows(gpu, width)?, self.v.rows(gpu, width)?);
        Ok(AttentionInputs::new(layout, mask, n_heads, q, k, v))
    }
}

struct Node {
    inputs: [Tensor; 3],
    out: Tensor,
    lse: Tensor,
    n_heads: usize,
    plan: Plan,
}

impl Node {
    fn gradients<T: GpuFloat>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let on = OnGpu::of(self.out.device())?;
        let (gpu, plan) = (&*on.gpu, &self.plan);
        let views = Views::<T>::of(&on, &self.inputs)?;
        let width = views.width(plan);
        let (out, grad) =
            (OnDevice::<T>::of(&on, OP, "out", &self.out)?, OnDevice::<T>::of(&on, OP, "grad_output", grad)?);
        let lse = OnDevice::<f32>::of(&on, OP, "lse", &self.lse)?;
        let n = self.out.elem_count();
        let (mut grad_q, mut grad_k, mut grad_v) = (on.room::<T>(n)?, on.room::<T>(n)?, on.room::<T>(n)?);
        let mut delta = on.room::<f32>(attention::backward_workspace_len(plan.batch(), plan.seqlen(), self.n_heads))?;
        attention::backward(
            gpu,
            &views.inputs(&on, self.n_heads, plan)?,
            &out.rows(gpu, width)?,
            &lse.view(gpu)?,
            &grad.rows(gpu, width)?,
            AttentionGrads::new(
                gpu.rows_mut(&mut grad_q, width)?,
                gpu.rows_mut(&mut grad_k, width)?,
                gpu.rows_mut(&mut grad_v, width)?,
            ),
            gpu.write(&mut delta),
        )?;
        Ok([grad_q, grad_k, grad_v].into_iter().map(|grad| Some(on.tensor(grad, self.out.shape()))).collect())
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let grad = contiguous(grad)?;
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(&grad))?)
    }
}

/// As [`crate::ops::rotary_embedding`]; `x` is contiguous.
pub(crate) fn rotary_embedding(x: Tensor, turn: Turn) -> Result<Tensor> {
    dispatch!(ROTARY, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let shape = x.shape().clone();
        if x.elem_count() == 0 {
            return on.no_rows::<T>(shape);
        }
        let out = turned::<T>(&on, &x, &turn, Direction::Forward)?;
        Ok(record_storage(vec![x], on.storage(out), shape, OnGpuTurn(turn))?)
    })
}

fn turned<T: GpuFloat>(
    on: &OnGpu,
    x: &Tensor,
    turn: &Turn,
    direction: Direction,
) -> Result<mom_kernels::cuda::cudarc::driver::CudaSlice<T>> {
    let gpu = &*on.gpu;
    let (positions, n) = turn.positions()?;
    // Those of a batch are on the device; what is decoded begins behind a state.
    let moved = if turn.offsets.is_empty() { None } else { Some(gpu.upload(&positions)?) };
    let positions = match &moved {
        Some(positions) => positions,
        None => turn.plan.mask_on(on)?.positions(),
    };
    let table = turn.rotary.on(n, x.device())?;
    let table = OnDevice::<f32>::of(on, ROTARY, "table", &table)?;
    let mut out = on.room::<T>(x.elem_count())?;
    {
        let rows = OnDevice::<T>::of(on, ROTARY, "x", x)?;
        let angles = Angles {
            layout: turn.plan.on(on)?.layout(gpu),
            positions: gpu.read(positions),
            table: table.view(gpu)?,
            n_heads: turn.n_heads,
            head_dim: turn.rotary.head_dim(),
        };
        let width = angles.n_heads * angles.head_dim;
        let (from, to) = (rows.rows(gpu, width)?, gpu.rows_mut(&mut out, width)?);
        // SAFETY: the table was made for the largest of these positions.
        unsafe { rotate(gpu, &angles, &from, to, direction) }?;
    }
    Ok(out)
}

struct OnGpuTurn(Turn);

impl Backward for OnGpuTurn {
    fn name(&self) -> &'static str {
        ROTARY
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let grad = contiguous(grad)?;
        let turned: Result<Tensor> = dispatch!(ROTARY, "grad_output", grad, T => {
            let on = OnGpu::of(grad.device())?;
            Ok(on.tensor(turned::<T>(&on, &grad, &self.0, Direction::Backward)?, grad.shape()))
        });
        Ok(vec![Some(turned?)])
    }
}
