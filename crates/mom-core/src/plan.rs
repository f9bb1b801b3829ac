//! A batch's plan, shared by the nodes of a tape.

use std::ops::Deref;
use std::sync::Arc;

use candle_core::Device;
use mom_kernels::ModalityPlan;

use crate::Result;

/// A [`ModalityPlan`] that nodes share, with its copy on the GPU once one has asked for it. Clones are the same plan.
#[derive(Debug, Clone)]
pub struct Plan(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: ModalityPlan,
    #[cfg(feature = "cuda")]
    device: std::sync::OnceLock<crate::cuda::PlanOnDevice>,
}

impl From<ModalityPlan> for Plan {
    fn from(host: ModalityPlan) -> Self {
        Self(Arc::new(Shared {
            host,
            #[cfg(feature = "cuda")]
            device: std::sync::OnceLock::new(),
        }))
    }
}

impl Deref for Plan {
    type Target = ModalityPlan;

    fn deref(&self) -> &ModalityPlan {
        &self.0.host
    }
}

impl Plan {
    /// Copies the plan to a GPU now rather than at its first use there; does nothing for the CPU.
    ///
    /// # Errors
    /// A plan that is on another device; out of memory.
    pub fn upload(&self, device: &Device) -> Result<()> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            self.on(&crate::cuda::OnGpu::of(device)?)?;
        }
        let _ = device;
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Plan {
    /// The plan in a device's memory, copied there at the first call; a plan belongs to one device.
    pub(crate) fn on(&self, device: &crate::cuda::OnGpu) -> Result<&mom_kernels::cuda::DevicePlan> {
        let plan = match self.0.device.get() {
            Some(plan) => plan,
            None => {
                let plan = crate::cuda::PlanOnDevice::upload(device, &self.0.host)?;
                self.0.device.get_or_init(|| plan)
            }
        };
        plan.on(device)
    }
}
