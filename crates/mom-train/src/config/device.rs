//! Where and how a run computes.

use std::sync::atomic::{AtomicUsize, Ordering};

use mom_models::{Architecture, Setting, Variant};
use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{Error, Result};

/// Whether a step on a GPU is captured once, as a CUDA graph, and replayed for other batches: it then costs the host one
/// launch instead of hundreds. Not where a batch has continuous patches (Transfusion), whose number varies, nor where
/// gradients are accumulated.
///
/// Its grouped products find their rows on the device, which for large ones is up to a tenth slower than the library; a step
/// of a graph is not, to the last bit, that of a run without graphs. A trainer that captures its steps has the
/// GPU for its thread: what another thread put there meanwhile would become a part of the graph, and a trainer or generator of
/// another thread is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Graph {
    /// Where it can be and the residual stream of a step has at most [`Self::AUTO_ELEMENTS`] elements: up to there the
    /// launches cost more than a graph's memory, which no other step can use, is worth.
    #[default]
    Auto,
    /// In any case; an error where it cannot be.
    Always,
    /// Never.
    Never,
}

impl Graph {
    /// Positions of a step times d_model up to which [`Self::Auto`] captures.
    pub const AUTO_ELEMENTS: usize = 1 << 24;

    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether a step is captured.
    ///
    /// # Errors
    /// [`Self::Always`], and it cannot be: which of the others stands against it.
    pub(crate) fn captures(
        self,
        device: DeviceKind,
        (setting, variant): (Setting, Variant),
        accumulate: usize,
        elements: usize,
    ) -> Result<bool> {
        let checks = [
            ("train.device", device == DeviceKind::Cuda, "cuda for a captured step", device.name().to_owned()),
            (
                "model.setting",
                !setting.has_patches(),
                "one without continuous patches for a captured step",
                setting.name().to_owned(),
            ),
            (
                "model.variant",
                variant.architecture() == Architecture::Mamba,
                "one of Mamba's blocks for a captured step",
                variant.to_string(),
            ),
            ("train.accumulate", accumulate == 1, "1 for a captured step", accumulate.to_string()),
        ];
        match self {
            Self::Never => Ok(false),
            Self::Auto => Ok(checks.iter().all(|(_, fits, ..)| *fits) && elements <= Self::AUTO_ELEMENTS),
            Self::Always => {
                checks.into_iter().try_for_each(|(field, fits, expected, got)| require(fits, field, expected, got))?;
                Ok(true)
            }
        }
    }
}

impl std::str::FromStr for Graph {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            other => require(false, "graph", "auto, always or never", other).map(|()| Self::Auto),
        }
    }
}

/// Element type of projections and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// What a device computes with unless it is told: f32 on the CPU, bf16 on a GPU.
    pub const fn of(device: DeviceKind) -> Self {
        match device {
            DeviceKind::Cpu => Self::F32,
            DeviceKind::Cuda => Self::Bf16,
        }
    }

    /// Name: `f32` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// candle's name of it.
    pub const fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// What the backward pass computes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Conv, delta and norms alone, inside of each block.
    #[default]
    None,
    /// Each block's whole forward pass: nothing but the residual stream is kept.
    Block,
}

impl Recompute {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Where a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// The first GPU that the driver shows (`CUDA_VISIBLE_DEVICES`), of several ranks on a host that of each one's number, in a build with
    /// the feature `cuda`.
    Cuda,
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            other => Err(crate::error::config("dtype", "f32 or bf16", other)),
        }
    }
}

impl std::str::FromStr for DeviceKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => require(false, "device", "cpu or cuda", other).map(|()| Self::Cpu),
        }
    }
}

/// The GPU that this process computes on, by its number among those that the driver shows.
static GPU: AtomicUsize = AtomicUsize::new(0);

/// Picks the GPU of a process that is one of several on its host; the first where it is shown no more than one.
pub(crate) fn pick_gpu(number: usize) {
    // A launcher that gives each process its own shows it that one alone.
    let is_alone = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| !list.is_empty() && !list.contains(','));
    GPU.store(if is_alone { 0 } else { number }, Ordering::Relaxed);
}

impl DeviceKind {
    /// Name: `cpu` or `cuda`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// The device.
    pub(crate) fn open(self) -> Result<candle_core::Device> {
        Ok(match self {
            Self::Cpu => candle_core::Device::Cpu,
            Self::Cuda => mom_core::cuda_device(GPU.load(Ordering::Relaxed))?,
        })
    }
}
