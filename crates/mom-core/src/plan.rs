//! A batch's plan, shared by the nodes of a tape.

use std::ops::Deref;
use std::sync::Arc;

use candle_core::Device;
use mom_kernels::ModalityPlan;

#[cfg(feature = "cuda")]
use crate::Error;
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
    /// As [`Self::upload`], for a graph that is captured once and replayed for other plans ([`Self::copy_from`]): no
    /// launch depends on the number of rows of a modality.
    ///
    /// # Errors
    /// A plan that was uploaded before; out of memory.
    pub fn upload_for_any_counts(&self, device: &Device) -> Result<()> {
        let on = crate::cuda::OnGpu::of(device)?;
        let plan = crate::cuda::PlanOnDevice::upload(&on, &self.0.host)?.for_any_counts();
        self.0
            .device
            .set(plan)
            .map_err(|_| Error::Graph { expected: "one that is on no device yet", got: "a plan that was uploaded" })
    }

    /// Brings another plan of the same shape, which is on the same device, to the memory of this one.
    ///
    /// # Errors
    /// Plans of other shapes or devices, or that are not on one; a plan that something else still holds.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        let Some(shared) = Arc::get_mut(&mut self.0) else {
            return Err(Error::Graph {
                expected: "one that nothing else holds",
                got: "a plan that nodes of a tape hold",
            });
        };
        let (Some(to), Some(from)) = (shared.device.get_mut(), other.0.device.get()) else {
            return Err(Error::Graph { expected: "plans on a device", got: "a plan of the host" });
        };
        to.copy_from(from)?;
        shared.host = other.0.host.clone();
        Ok(())
    }

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
