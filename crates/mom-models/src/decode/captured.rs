//! One token of every sequence as a captured graph, on a GPU.
//!
//! A token of a decoder is some hundred launches, each shorter than what a launch costs the host. So they are captured once
//! for each modality, over states, ids and logits that stay where they are, and replayed. The decoder's own states, which
//! other pushes leave beside each other, are copied here and back as the two alternate.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::Tensor;
use mom_core::MixerState;
use mom_core::cuda::{Captured, GpuFloat, OnDevice, OnGpu, StepHead, StepMemory, dispatch};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::{CudaError, DeviceRowsMut, Gpu, embedding};

use crate::{Model, Result};

const OP: &str = "decode";

/// The steps of a decoder. A clone has its states, and captures graphs of its own when it steps.
#[derive(Debug, Default)]
pub(super) struct CapturedSteps {
    steps: Option<Steps>,
    /// Where the sequences are, if that is ahead of the decoder's own states.
    ahead: Option<Arc<Moment>>,
    /// The model or the batch has no such step.
    refused: bool,
}

impl Clone for CapturedSteps {
    fn clone(&self) -> Self {
        Self { steps: None, ahead: self.ahead.clone(), refused: self.refused }
    }
}

/// States that decoders share until one of them goes on: they are copied when the memory is about to change, or asked for.
#[derive(Debug)]
struct Moment {
    memory: Arc<Mutex<StepMemory>>,
    copied: OnceLock<Vec<MixerState>>,
}

fn lock(memory: &Mutex<StepMemory>) -> MutexGuard<'_, StepMemory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Moment {
    fn states(&self) -> Result<Vec<MixerState>> {
        self.keep(&lock(&self.memory))
    }

    /// The states, copied before the memory, which is locked, changes.
    fn keep(&self, memory: &StepMemory) -> Result<Vec<MixerState>> {
        if let Some(states) = self.copied.get() {
            return Ok(states.clone());
        }
        let states = memory.states()?;
        Ok(self.copied.get_or_init(|| states).clone())
    }
}

/// Memory of a decoder's steps, and their graphs.
#[derive(Debug)]
struct Steps {
    memory: Arc<Mutex<StepMemory>>,
    ids: CudaSlice<u32>,
    logits: CudaSlice<f32>,
    /// Ids that name no row of the embedding; there is none, they are checked before.
    out_of_range: CudaSlice<u32>,
    /// Whether the kernels are loaded, which a capture cannot do.
    warm: bool,
    /// By modality.
    graphs: Vec<Option<Mutex<Captured>>>,
}

impl CapturedSteps {
    /// The states, where they are ahead of the decoder's own.
    pub fn states(&self) -> Result<Option<Vec<MixerState>>> {
        self.ahead.as_ref().map(|moment| moment.states()).transpose()
    }

    /// The states, where they are ahead of the decoder's own, which are behind no longer.
    pub fn settle(&mut self) -> Result<Option<Vec<MixerState>>> {
        let states = self.states()?;
        self.ahead = None;
        Ok(states)
    }

    /// As [`super::Decoder::push`], for one token of each sequence where all have one modality; none where that is not what
    /// is pushed, or where there is something to refuse. `states`: the decoder's own.
    pub fn push(
        &mut self,
        model: &Model,
        states: &[MixerState],
        tokens: &[u32],
        modality_ids: &[u8],
    ) -> Result<Option<Tensor>> {
        let batch = states.first().map_or(0, MixerState::batch);
        let (Some(&modality), config) = (modality_ids.first(), model.config()) else { return Ok(None) };
        let is_step = !self.refused && tokens.len() == batch && modality_ids.len() == batch;
        let is_known = usize::from(modality) < config.setting.n_modalities()
            && tokens.iter().all(|&token| (token as usize) < config.vocab_size);
        let device = model.like().device();
        if !(device.is_cuda() && is_step && is_known && modality_ids.iter().all(|&id| id == modality)) {
            return Ok(None);
        }
        dispatch!(OP, "embedding", model.like(), T => self.push_as::<T>(model, states, tokens, usize::from(modality)))
    }

    fn push_as<T: GpuFloat>(
        &mut self,
        model: &Model,
        states: &[MixerState],
        tokens: &[u32],
        modality: usize,
    ) -> Result<Option<Tensor>> {
        let on = OnGpu::of(model.like().device())?;
        if self.steps.is_none() {
            self.steps = Steps::new::<T>(&on, model, tokens.len())?;
        }
        let Some(steps) = &mut self.steps else {
            self.refused = true;
            return Ok(None);
        };
        match &self.ahead {
            None => lock(&steps.memory).load(states)?,
            Some(moment) if !Arc::ptr_eq(&moment.memory, &steps.memory) => {
                let states = moment.states()?;
                lock(&steps.memory).load(&states)?;
            }
            // A clone shares what is about to change.
            Some(moment) if Arc::strong_count(moment) > 1 => {
                moment.keep(&lock(&steps.memory))?;
            }
            Some(_) => {}
        }
        let logits = steps.push::<T>(&on, model, tokens, modality)?;
        self.ahead = Some(Arc::new(Moment { memory: steps.memory.clone(), copied: OnceLock::new() }));
        Ok(Some(logits))
    }
}

impl Steps {
    /// None where the blocks have no step for so many sequences.
    fn new<T: GpuFloat>(on: &OnGpu, model: &Model, batch: usize) -> Result<Option<Self>> {
        let Some(memory) = StepMemory::new::<T>(model.backbone().blocks(), batch)? else { return Ok(None) };
        let config = model.config();
        Ok(Some(Self {
            memory: Arc::new(Mutex::new(memory)),
            ids: on.gpu.zeros(batch)?,
            logits: on.gpu.zeros(batch * config.vocab_size)?,
            out_of_range: on.gpu.zeros(1)?,
            warm: false,
            graphs: (0..config.setting.n_modalities()).map(|_| None).collect(),
        }))
    }

    fn push<T: GpuFloat>(&mut self, on: &OnGpu, model: &Model, tokens: &[u32], modality: usize) -> Result<Tensor> {
        let stream = on.gpu.stream().clone();
        let failed = |source| CudaError::Driver { what: "copying tokens or logits", source };
        // All that may fail for want of memory comes before the states change.
        // SAFETY: the copy at the end overwrites all of it, and nothing reads it before.
        let mut out = unsafe { on.uninit::<f32>(self.logits.len()) }?;
        stream.memcpy_htod(tokens, &mut self.ids).map_err(failed)?;
        if !self.warm {
            let (mut memory, embed, head) = self.parts(model);
            memory.step::<T>(model.backbone().blocks(), modality, |gpu, x| embed.write(gpu, x), head)?;
            drop(memory);
            self.warm = true;
        } else {
            if self.graphs[modality].is_none() {
                let (mut memory, embed, head) = self.parts(model);
                let blocks = model.backbone().blocks();
                // SAFETY: the memory is this struct's, which goes no sooner than its graphs are of no use, and the weights
                // are the model's, which the decoder borrows.
                let graph = unsafe { memory.capture::<T>(blocks, modality, |gpu, x| embed.write(gpu, x), head) }?;
                drop(memory);
                self.graphs[modality] = Some(Mutex::new(graph));
            }
            if let Some(graph) = &mut self.graphs[modality] {
                graph.get_mut().unwrap_or_else(PoisonError::into_inner).launch()?;
            }
        }
        stream.memcpy_dtod(&self.logits, &mut out).map_err(failed)?;
        Ok(on.tensor(out, (tokens.len(), model.config().vocab_size)))
    }

    /// The memory, what embeds the tokens there, and the head.
    fn parts<'a>(&'a mut self, model: &'a Model) -> (MutexGuard<'a, StepMemory>, Embed<'a>, StepHead<'a>) {
        let Self { memory, ids, logits, out_of_range, .. } = self;
        let head = StepHead { norm: model.backbone().norm_f(), weight: model.lm_head(), logits };
        (lock(memory), Embed { model, ids, out_of_range }, head)
    }
}

/// Rows of the embedding for the tokens.
struct Embed<'a> {
    model: &'a Model,
    ids: &'a CudaSlice<u32>,
    out_of_range: &'a mut CudaSlice<u32>,
}

impl Embed<'_> {
    fn write<T: GpuFloat>(self, gpu: &Gpu, x: &mut DeviceRowsMut<'_, T>) -> mom_core::Result<()> {
        let on = OnGpu::of(self.model.like().device())?;
        let table = OnDevice::<T>::of(&on, OP, "embedding", self.model.like())?;
        let rows = table.rows(gpu, self.model.config().scale.d_model)?;
        Ok(embedding::forward(gpu, &rows, &gpu.read(self.ids), x, &mut gpu.write(self.out_of_range))?)
    }
}
