//! What crosses the borders of a chunk, as on the host. Chunks are few and what they leave is small: memory for it is made as it is needed,
//! so that nothing of this is for a captured graph. A step waits for each exchange: memory that is written as a whole is not set to zero first.

use std::ops::Range;

use cudarc::driver::CudaSlice;

use super::args::MixerWeights;
use crate::error::{Error, Result as Checked};
use crate::ops::causal_conv1d::cuda as causal_conv1d;
use crate::ops::causal_conv1d::cuda::{ConvGrads, ConvInputs};
use crate::ops::embedding;
use crate::ops::mixer::params::OP;
use crate::ops::plan::Context;
use crate::ops::plan::cuda::{DeviceLayout, DevicePlan};
use crate::ops::selective_scan::cuda as selective_scan;
use crate::ops::selective_scan::cuda::{Chunk, Order, ScanInputs};
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Result};

/// A chunk among the others of its sequences.
pub(super) struct Borders<'a> {
    gpu: &'a Gpu,
    plan: &'a DevicePlan,
    context: &'a dyn Context,
    /// Positions of a window, d_conv - 1.
    window: usize,
    of: Chunk,
}

/// What came from other chunks.
pub(super) struct Received {
    memory: CudaSlice<f32>,
    /// What of it is for this chunk.
    part: Range<usize>,
}

impl Received {
    pub fn view<'a>(&'a self, gpu: &'a Gpu) -> Result<DeviceRef<'a, f32>> {
        gpu.read(&self.memory).part("what came", self.part.start, self.part.len())
    }
}

/// What goes on with a scan.
pub(super) struct Carried {
    /// What came over the chunk's border, where there is something beyond.
    pub received: Option<Received>,
    /// What the scan's own chunks leave, which the pass need not compute again.
    ends: CudaSlice<f32>,
}

impl Carried {
    pub fn ends<'a>(&'a self, gpu: &'a Gpu) -> DeviceRef<'a, f32> {
        gpu.read(&self.ends)
    }
}

/// `len` elements of a sequence.
fn of_sequence<'a>(
    gpu: &'a Gpu,
    memory: &'a mut CudaSlice<f32>,
    sequence: usize,
    len: usize,
) -> Result<DeviceMut<'a, f32>> {
    let (_, behind) = gpu.write(memory).split_at("end of a window", sequence * len)?;
    behind.first("end of a window", len)
}

impl<'a> Borders<'a> {
    /// `None` where the plan is of whole sequences.
    ///
    /// # Errors
    /// Weights that do not fit together, a chunk that is shorter than a window.
    pub fn of<T: DeviceElement>(
        gpu: &'a Gpu,
        plan: &'a DevicePlan,
        weights: &MixerWeights<'_, T>,
    ) -> Checked<Option<Self>> {
        let Some(context) = plan.context() else { return Ok(None) };
        let features = weights.validate()?;
        let (window, got) = (features.d_conv - 1, plan.seqlen());
        if got < window {
            return Err(Error::Limit { op: OP, arg: "seqlen of a chunk", min: window, max: usize::MAX, got });
        }
        let of = Chunk { batch: plan.batch(), d_inner: features.d_inner, d_state: features.d_state };
        Ok(Some(Self { gpu, plan, context, window, of }))
    }

    /// The inputs of the conv before this chunk, `(batch, d_conv - 1, d_inner)`; nothing before the first one. `conv`: over this chunk.
    pub fn window<T: DeviceElement>(&self, conv: &ConvInputs<'_, T>) -> Result<Option<Received>> {
        let (gpu, len) = (self.gpu, self.window * self.of.d_inner);
        if len == 0 {
            return Ok(None);
        }
        // SAFETY: the kernels below write all of each before anything reads it.
        let (mut own, mut x, mut unused) =
            unsafe { (gpu.uninit::<f32>(self.of.batch * len)?, gpu.uninit::<T>(len)?, gpu.uninit::<T>(len)?) };
        for sequence in 0..self.of.batch {
            // The convolution over a window's positions leaves that window, cut at document starts.
            let layout = self.rows(sequence, self.plan.seqlen() - self.window, [(&conv.x, &mut x)])?;
            let last = ConvInputs { layout, x: gpu.rows(&x, self.of.d_inner)?, ..conv.clone() };
            let to = of_sequence(gpu, &mut own, sequence, len)?;
            causal_conv1d::forward(gpu, &last, gpu.rows_mut(&mut unused, self.of.d_inner)?, Some(to))?;
        }
        self.from(&own, self.context.index().checked_sub(1))
    }

    /// Keeps the window for the backward pass: zeros before the first chunk.
    pub fn keep(&self, window: Option<&DeviceRef<'_, f32>>, mut to: DeviceMut<'_, f32>) -> Result<()> {
        let Some(window) = window else { return self.gpu.zero(&mut to) };
        let d_inner = self.of.d_inner;
        let from = DeviceRows::new("window", window.clone(), d_inner)?;
        self.gpu.copy_rows(&from, &mut DeviceRowsMut::new("saved.window", to, d_inner)?)
    }

    /// The window that was kept; nothing before the first chunk.
    pub fn kept<'k>(&self, window: DeviceRef<'k, f32>) -> Option<DeviceRef<'k, f32>> {
        (self.context.index() > 0).then_some(window)
    }

    /// The gradient that comes to the last inputs of this chunk from the one behind it; nothing to the last one. `conv` is over this chunk,
    /// `before` its window, `grad_u` the gradient of its output.
    pub fn window_gradient<T: DeviceElement>(
        &self,
        conv: &ConvInputs<'_, T>,
        before: Option<DeviceRef<'_, f32>>,
        grad_u: &DeviceRows<'_, T>,
    ) -> Result<Option<Received>> {
        let (gpu, d_inner) = (self.gpu, self.of.d_inner);
        let len = self.window * d_inner;
        if len == 0 {
            return Ok(None);
        }
        let n = self.of.batch * len;
        // Nobody reads what the first chunk says.
        let mut own = if before.is_some() {
            // SAFETY: the kernels below write all of it.
            unsafe { gpu.uninit::<f32>(n) }?
        } else {
            gpu.zeros::<f32>(n)?
        };
        if let Some(before) = before {
            // SAFETY: the kernels below write all of each before anything reads it.
            let (mut x, mut grad, mut unused) =
                unsafe { (gpu.uninit::<T>(len)?, gpu.uninit::<T>(len)?, gpu.uninit::<T>(len)?) };
            // SAFETY: as above; what a workspace holds before means nothing.
            let (mut taps, mut bias, mut workspace) = unsafe {
                let workspace = gpu.uninit::<f32>(causal_conv1d::workspace_len(1, self.window, d_inner))?;
                (gpu.uninit::<f32>(conv.weight.len())?, gpu.uninit::<f32>(d_inner)?, workspace)
            };
            for sequence in 0..self.of.batch {
                // That of this chunk's own window depends on its first positions alone.
                let layout = self.rows(sequence, 0, [(&conv.x, &mut x), (grad_u, &mut grad)])?;
                let initial_state = Some(before.clone().part("window", sequence * len, len)?);
                let first = ConvInputs { layout, x: gpu.rows(&x, d_inner)?, initial_state, ..conv.clone() };
                let grads = ConvGrads::new(gpu.rows_mut(&mut unused, d_inner)?, gpu.write(&mut taps))
                    .with_grad_bias(conv.bias.as_ref().map(|_| gpu.write(&mut bias)))
                    .with_grad_initial_state(of_sequence(gpu, &mut own, sequence, len)?);
                let (grad, workspace) = (gpu.rows(&grad, d_inner)?, gpu.write(&mut workspace));
                causal_conv1d::backward(gpu, &first, grad, None, grads, workspace)?;
            }
        }
        let behind = self.context.index() + 1;
        self.from(&own, Some(behind).filter(|&behind| behind < self.context.n_chunks()))
    }

    /// The scan's state before this chunk, `(batch, d_inner, d_state)`; nothing before the first one.
    pub fn state<T: DeviceElement>(&self, inputs: &ScanInputs<'_, T>) -> Result<Carried> {
        let before = 0..self.context.index();
        self.carried(before, Order::FirstFirst, |to, workspace| selective_scan::ends(self.gpu, inputs, to, workspace))
    }

    /// The gradient of the scan's state behind this chunk; nothing behind the last one. `grad_y`: that of its output.
    pub fn state_gradient<T: DeviceElement>(
        &self,
        inputs: &ScanInputs<'_, T>,
        grad_y: &DeviceRows<'_, T>,
    ) -> Result<Carried> {
        let behind = self.context.index() + 1..self.context.n_chunks();
        self.carried(behind, Order::LastFirst, |to, workspace| {
            selective_scan::adjoint_ends(self.gpu, inputs, grad_y, to, workspace)
        })
    }

    /// What goes through these chunks, from zero. `ends`: writes what this one leaves, and of the scan's own chunks what each does.
    fn carried(
        &self,
        chunks: Range<usize>,
        order: Order,
        ends: impl FnOnce(DeviceMut<'_, f32>, DeviceMut<'_, f32>) -> Result<()>,
    ) -> Result<Carried> {
        let gpu = self.gpu;
        // SAFETY: `ends` writes all of the first; what the second holds before means nothing.
        let (mut own, mut workspace) = unsafe {
            let workspace_len = selective_scan::ends_workspace_len(self.of, self.plan.seqlen());
            (gpu.uninit(selective_scan::ends_len(self.of))?, gpu.uninit(workspace_len)?)
        };
        ends(gpu.write(&mut own), gpu.write(&mut workspace))?;
        let of_all = self.gather(&own)?;
        let mut carried = Carried { received: None, ends: workspace };
        if !chunks.is_empty() {
            let len = self.of.batch * self.of.d_inner * self.of.d_state;
            // SAFETY: all of it is written.
            let mut memory = unsafe { gpu.uninit(len) }?;
            selective_scan::carry(gpu, &gpu.read(&of_all), self.of, chunks, order, gpu.write(&mut memory))?;
            carried.received = Some(Received { memory, part: 0..len });
        }
        Ok(carried)
    }

    /// As many rows of a sequence as a window has, from position `first` on: copies, and how time runs through them.
    fn rows<T: DeviceElement, const N: usize>(
        &self,
        sequence: usize,
        first: usize,
        copies: [(&DeviceRows<'_, T>, &mut CudaSlice<T>); N],
    ) -> Result<DeviceLayout<'a>> {
        let (rows, starts) = self.plan.stretch(self.gpu, sequence, first, self.window)?;
        // SAFETY: it is read where an id is out of range alone, and rows of a plan are there.
        let mut out_of_range = unsafe { self.gpu.uninit::<u32>(1) }?;
        for (from, to) in copies {
            let mut to = self.gpu.rows_mut(to, self.of.d_inner)?;
            embedding::forward(self.gpu, from, &rows, &mut to, &mut self.gpu.write(&mut out_of_range))?;
        }
        DeviceLayout::contiguous(1, self.window, starts)
    }

    /// What a chunk says.
    fn from(&self, own: &CudaSlice<f32>, chunk: Option<usize>) -> Result<Option<Received>> {
        let memory = self.gather(own)?;
        let part = |chunk: usize| chunk * own.len()..(chunk + 1) * own.len();
        Ok(chunk.map(|chunk| Received { memory, part: part(chunk) }))
    }

    fn gather(&self, own: &CudaSlice<f32>) -> Result<CudaSlice<f32>> {
        // Who implements the trait is not held to writing all of it.
        let mut all = self.gpu.zeros(own.len() * self.context.n_chunks())?;
        self.context.gather_on_device(self.gpu, own, &mut all)?;
        Ok(all)
    }
}
