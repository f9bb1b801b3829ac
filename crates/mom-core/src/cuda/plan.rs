//! Plans on a device.

use std::sync::Arc;

use candle_core::{CudaDevice, Device};
use mom_kernels::ModalityPlan;
use mom_kernels::attention::AttentionMask;
use mom_kernels::cuda::attention::DeviceMask;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::{DevicePlan, Gpu};
use mom_kernels::mixer::Context;

use super::on_gpu::OnGpu;
use crate::error::{other_place, place};
use crate::{Error, Result};

/// A plan and the device that it is on.
#[derive(Debug)]
pub(crate) struct PlanOnDevice {
    plan: DevicePlan,
    device: CudaDevice,
    gpu: Arc<Gpu>,
}

impl PlanOnDevice {
    pub fn upload(on: &OnGpu, plan: &ModalityPlan) -> Result<Self> {
        Ok(Self { plan: DevicePlan::upload(&on.gpu, plan)?, device: on.device.clone(), gpu: on.gpu.clone() })
    }

    pub fn with_context(self, context: Option<Arc<dyn Context>>) -> Self {
        Self { plan: self.plan.with_context(context), ..self }
    }

    pub fn for_any_counts(self) -> Self {
        Self { plan: self.plan.for_any_counts(), ..self }
    }

    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        self.expect_on(&other.device)?;
        Ok(self.plan.copy_from(&self.gpu, &other.plan)?)
    }

    pub fn on(&self, on: &OnGpu) -> Result<&DevicePlan> {
        self.expect_on(&on.device)?;
        Ok(&self.plan)
    }

    fn expect_on(&self, device: &CudaDevice) -> Result<()> {
        expect_on(&self.device, device)
    }
}

/// An attention's mask and the device that it is on.
#[derive(Debug)]
pub(crate) struct MaskOnDevice {
    mask: DeviceMask,
    /// The place of each position in its document.
    positions: CudaSlice<u32>,
    device: CudaDevice,
}

impl MaskOnDevice {
    pub fn upload(on: &OnGpu, mask: &AttentionMask) -> Result<Self> {
        let positions = on.gpu.upload(&mask.positions_in_documents())?;
        Ok(Self { mask: DeviceMask::upload(&on.gpu, mask)?, positions, device: on.device.clone() })
    }

    pub fn positions(&self) -> &CudaSlice<u32> {
        &self.positions
    }

    pub fn on(&self, on: &OnGpu) -> Result<&Self> {
        expect_on(&self.device, &on.device)?;
        Ok(self)
    }

    pub fn mask(&self) -> &DeviceMask {
        &self.mask
    }
}

fn expect_on(of_plan: &CudaDevice, wanted: &CudaDevice) -> Result<()> {
    if of_plan.id() == wanted.id() {
        return Ok(());
    }
    let (of_plan, wanted) = (Device::Cuda(of_plan.clone()), Device::Cuda(wanted.clone()));
    let (expected, got) = (place(&wanted), other_place(&of_plan, &wanted));
    Err(Error::Device { op: "plan", arg: "plan", expected, got })
}
