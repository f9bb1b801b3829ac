//! One token through residual blocks on a GPU, over memory that stays where it is.

use candle_core::Tensor;
use mom_kernels::cuda::cudarc::driver::{CudaSlice, CudaViewMut};
use mom_kernels::cuda::mixer::Block as BlockView;
use mom_kernels::cuda::mixer::step::{self as kernels, StepStates, Steps, step_workspace_bytes};
use mom_kernels::cuda::{CudaError, DeviceRows, DeviceRowsMut, Gpu};

use super::graph::{Captured, capture_on};
use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, driver_error};
use super::weights::{Of, with_block};
use crate::error::{expect_device, require};
use crate::state::{DeviceState, MixerState};
use crate::{Block, Error, Result, RmsNorm};

const OP: &str = "mixer_step";

/// States of blocks for a few sequences, and what a token needs beside them. Nothing of it moves, so that a token can be
/// captured as a graph.
#[derive(Debug)]
pub struct StepMemory {
    on: OnGpu,
    batch: usize,
    d_model: usize,
    /// The residual stream, `(batch, d_model)` of the activations' type.
    x: CudaSlice<u8>,
    workspace: CudaSlice<u8>,
    /// Of each block `(batch, d_conv - 1, d_inner)` and `(batch, d_inner, d_state)`.
    conv: CudaSlice<f32>,
    scan: CudaSlice<f32>,
    shapes: Vec<[[usize; 3]; 2]>,
}

/// Weights behind the blocks, and where their product goes.
#[derive(Debug)]
pub struct StepHead<'a> {
    /// The last norm.
    pub norm: &'a RmsNorm,
    /// `(vocab_size, d_model)`.
    pub weight: &'a Tensor,
    /// `(batch, vocab_size)`, overwritten.
    pub logits: &'a mut CudaSlice<f32>,
}

impl StepMemory {
    /// Memory for `batch` sequences, zero; none where blocks of these sizes have no such step, there are more sequences
    /// than it takes, or the card has less shared memory than it needs.
    ///
    /// # Errors
    /// No block; parameters of another element type than T or on another device; out of memory.
    pub fn new<T: GpuFloat>(blocks: &[Block], batch: usize) -> Result<Option<Self>> {
        require(!blocks.is_empty(), "blocks", "at least one", 0)?;
        let on = OnGpu::of(blocks[0].norm().parts().0.device())?;
        let mut bytes = 0;
        for block in blocks {
            let needed = with_views::<T, _>(&on, &on.gpu, block, 0, |views| {
                match step_workspace_bytes(&on.gpu, views, batch) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(CudaError::Argument(_) | CudaError::Card { .. }) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            })?;
            match needed {
                Some(needed) => bytes = needed.max(bytes),
                None => return Ok(None),
            }
        }
        let shapes: Vec<_> = blocks
            .iter()
            .map(|block| {
                let config = block.mixer().config();
                let (d_inner, d_state) = (config.d_inner(), config.d_state);
                [[batch, config.d_conv - 1, d_inner], [batch, d_inner, d_state]]
            })
            .collect();
        let total = |at: usize| shapes.iter().map(|shapes| elements(shapes[at])).sum();
        let d_model = blocks[0].mixer().config().d_model;
        let gpu = &*on.gpu;
        Ok(Some(Self {
            batch,
            d_model,
            x: gpu.zeros(batch * d_model * size_of::<T>())?,
            workspace: gpu.zeros(bytes)?,
            conv: gpu.zeros(total(0))?,
            scan: gpu.zeros(total(1))?,
            shapes,
            on,
        }))
    }

    /// Copies states of the blocks here.
    ///
    /// # Errors
    /// States of other blocks, another batch or on the CPU.
    pub fn load(&mut self, states: &[MixerState]) -> Result<()> {
        require(states.len() == self.shapes.len(), "states", &self.shapes.len().to_string(), states.len())?;
        let (mut conv_at, mut scan_at) = (0, 0);
        for (state, &[conv, scan]) in states.iter().zip(&self.shapes) {
            let mut state = state.clone();
            let state = state.device(OP, self.batch)?;
            let (conv, scan) = (elements(conv), elements(scan));
            copy_in(&self.on, &state.conv, self.conv.slice_mut(conv_at..conv_at + conv))?;
            copy_in(&self.on, &state.scan, self.scan.slice_mut(scan_at..scan_at + scan))?;
            (conv_at, scan_at) = (conv_at + conv, scan_at + scan);
        }
        Ok(())
    }

    /// Copies of the states, one for each block.
    ///
    /// # Errors
    /// Out of memory.
    pub fn states(&self) -> Result<Vec<MixerState>> {
        let on = &self.on;
        let copy = |from: &CudaSlice<f32>, at: usize, shape: [usize; 3]| -> Result<Tensor> {
            let n = elements(shape);
            let mut to = on.room::<f32>(n)?;
            if n > 0 {
                let copied = on.gpu.stream().memcpy_dtod(&from.slice(at..at + n), &mut to);
                copied.map_err(driver_error("copying states"))?;
            }
            Ok(on.tensor(to, shape.as_slice()))
        };
        let (mut conv_at, mut scan_at) = (0, 0);
        let mut states = Vec::with_capacity(self.shapes.len());
        for &[conv, scan] in &self.shapes {
            let state = DeviceState { conv: copy(&self.conv, conv_at, conv)?, scan: copy(&self.scan, scan_at, scan)? };
            states.push(MixerState::on_device(self.batch, state));
            (conv_at, scan_at) = (conv_at + elements(conv), scan_at + elements(scan));
        }
        Ok(states)
    }

    /// A token of every sequence, all of one modality: `embed` writes its row of the residual stream, `(batch, d_model)`, the
    /// blocks of [`Self::new`] go one position on, and the head gives its logits.
    ///
    /// # Errors
    /// Those of `embed`; blocks that are not those of the memory, a modality that they do not have, a head of another size.
    pub fn step<T: GpuFloat>(
        &mut self,
        blocks: &[Block],
        modality: usize,
        embed: impl FnOnce(&Gpu, &mut DeviceRowsMut<'_, T>) -> Result<()>,
        head: StepHead<'_>,
    ) -> Result<()> {
        let gpu = self.on.gpu.clone();
        self.launch(&gpu, blocks, modality, embed, head)
    }

    /// Records a [`Self::step`] instead of taking it; one was taken before. Other threads may use the device meanwhile.
    ///
    /// # Safety
    /// The graph is launched no longer than this memory, what `embed` reads, the blocks' weights and the head's memory stay
    /// where they are; `embed` launches by what it is given alone, and allocates nothing.
    ///
    /// # Errors
    /// As [`Self::step`]; what the driver does not capture.
    pub unsafe fn capture<T: GpuFloat>(
        &mut self,
        blocks: &[Block],
        modality: usize,
        embed: impl FnOnce(&Gpu, &mut DeviceRowsMut<'_, T>) -> Result<()>,
        head: StepHead<'_>,
    ) -> Result<Captured> {
        let aside = self.on.gpu.beside()?;
        let on = self.on.clone();
        // SAFETY: by this function's own contract; what `launch` reads and writes beside that is this memory, it allocates
        // nothing, and launches by `aside` alone.
        unsafe { capture_on(aside.stream(), on, || self.launch(&aside, blocks, modality, embed, head)) }
    }

    /// Allocates nothing.
    fn launch<T: GpuFloat>(
        &mut self,
        gpu: &Gpu,
        blocks: &[Block],
        modality: usize,
        embed: impl FnOnce(&Gpu, &mut DeviceRowsMut<'_, T>) -> Result<()>,
        head: StepHead<'_>,
    ) -> Result<()> {
        require(blocks.len() == self.shapes.len(), "blocks", &self.shapes.len().to_string(), blocks.len())?;
        let on = self.on.clone();
        // Before anything is launched: the states change where they are.
        let (norm, eps) = head.norm.parts();
        let norm = OnDevice::<f32>::of(&on, OP, "norm", norm)?;
        let weight = OnDevice::<T>::of(&on, OP, "head", head.weight)?;
        let (vocab_size, _) = head.weight.dims2()?;
        if head.logits.stream() != on.gpu.stream() {
            let expected = format!("cuda:{}, on the stream of the blocks", on.gpu.ordinal());
            let got = format!("cuda:{}, on another stream", head.logits.stream().context().ordinal());
            return Err(Error::Device { op: OP, arg: "logits", expected, got });
        }
        for block in blocks {
            expect_device(OP, "norm.weight", head.weight, block.norm().parts().0)?;
            block.mixer().weights().expect_beside(head.weight)?;
            expect_modality(block, modality)?;
        }
        let x = gpu.write(&mut self.x).cast::<T>("x", self.batch * self.d_model)?;
        let mut x = DeviceRowsMut::new("x", x, self.d_model)?;
        embed(gpu, &mut x)?;
        // The weights of each projection's one modality are all that the kernels see of it.
        let mut steps = Steps::new(gpu, 0, gpu.write(&mut self.workspace));
        let (mut conv_at, mut scan_at) = (0, 0);
        for (block, &[conv, scan]) in blocks.iter().zip(&self.shapes) {
            let (conv, scan) = (elements(conv), elements(scan));
            let states = StepStates::new(
                gpu.write_view(self.conv.slice_mut(conv_at..conv_at + conv)),
                gpu.write_view(self.scan.slice_mut(scan_at..scan_at + scan)),
            );
            with_views::<T, _>(&on, gpu, block, modality, |views| Ok(steps.block(views, &mut x, states)?))?;
            (conv_at, scan_at) = (conv_at + conv, scan_at + scan);
        }
        let views = kernels::StepHead::new(norm.view(gpu)?, eps as f32, weight.view(gpu)?);
        let mut logits = gpu.rows_mut(head.logits, vocab_size)?;
        let x: DeviceRows<'_, T> = x.into_rows();
        Ok(steps.head(&views, &x, &mut logits)?)
    }
}

fn elements(shape: [usize; 3]) -> usize {
    shape.iter().product()
}

fn copy_in(on: &OnGpu, from: &Tensor, mut to: CudaViewMut<'_, f32>) -> Result<()> {
    let from = OnDevice::<f32>::of(on, OP, "state", from)?;
    require(from.len() == to.len(), "state", &format!("{} values", to.len()), from.len())?;
    if from.is_empty() {
        return Ok(());
    }
    Ok(on.gpu.stream().memcpy_dtod(&from.slice()?, &mut to).map_err(driver_error("copying states"))?)
}

/// Calls `with` with a block's weights, those of one modality alone: biases of several would have to be brought together
/// first, in every token. `gpu` is that of `on`, or one beside it.
fn with_views<T: GpuFloat, R>(
    on: &OnGpu,
    gpu: &Gpu,
    block: &Block,
    modality: usize,
    with: impl FnOnce(&BlockView<'_, T>) -> Result<R>,
) -> Result<R> {
    expect_modality(block, modality)?;
    let weights = block.mixer().weights();
    with_block(on, gpu, block.norm().parts(), weights, Of::Modality(modality), |views| with(&views))
}

fn expect_modality(block: &Block, modality: usize) -> Result<()> {
    let n_modalities = block.mixer().config().n_modalities;
    require(modality < n_modalities, "modality", &format!("below {n_modalities}"), modality)
}
