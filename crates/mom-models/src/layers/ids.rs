//! Indices into tables, where a device reads them.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::require_batch;
use crate::{NO_TARGET, Result};

/// Indices: row numbers, tokens or classes. On the host, and on a device too where tensors are there; copied once.
#[derive(Debug, Clone)]
pub struct Ids {
    host: Arc<[u32]>,
    /// Of those that are not [`NO_TARGET`].
    max: Option<u32>,
    may_be_none: bool,
    /// `(n)`; absent on the CPU and where there is no index.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    device: Option<Tensor>,
}

impl Ids {
    /// Indices for tensors of `device`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(ids: impl Into<Arc<[u32]>>, device: &Device) -> Result<Self> {
        let host = ids.into();
        let on_device = !device.is_cpu() && !host.is_empty();
        let device = on_device.then(|| mom_core::to_device(&host, host.len(), device)).transpose()?;
        Ok(Self { max: host.iter().copied().max(), may_be_none: false, host, device })
    }

    /// Targets of rows, some of which have none: [`NO_TARGET`].
    #[cfg(feature = "cuda")]
    pub(crate) fn or_none(ids: impl Into<Arc<[u32]>>, device: &Device) -> Result<Self> {
        let ids = Self::new(ids, device)?;
        Ok(Self { max: ids.host.iter().copied().filter(|&id| id != NO_TARGET).max(), may_be_none: true, ..ids })
    }

    /// Brings as many other indices to the memory of these.
    #[cfg(feature = "cuda")]
    pub(crate) fn copy_from(&mut self, other: &Self) -> Result<()> {
        let Self { host, max, may_be_none, device } = other;
        require_batch(host.len() == self.len(), "ids", None, self.len(), host.len())?;
        if let (Some(to), Some(from)) = (&self.device, device) {
            to.slice_set(from, 0, 0)?;
        }
        *self = Self { host: host.clone(), max: *max, may_be_none: *may_be_none, device: self.device.take() };
        Ok(())
    }

    /// Number of indices.
    pub fn len(&self) -> usize {
        self.host.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.host.is_empty()
    }

    /// The indices.
    pub fn as_slice(&self) -> &[u32] {
        &self.host
    }

    pub(crate) fn shared(&self) -> Arc<[u32]> {
        self.host.clone()
    }

    /// The same on a GPU, where there is an index.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(&self) -> Option<&Tensor> {
        self.device.as_ref()
    }

    /// Fails with the first index that is not below `end`.
    pub(crate) fn expect_below(&self, field: &'static str, end: usize) -> Result<()> {
        if self.max.is_none_or(|max| (max as usize) < end) {
            return Ok(());
        }
        let outside = |&id: &u32| id as usize >= end && !(self.may_be_none && id == NO_TARGET);
        let i = self.host.iter().position(outside).unwrap_or_default();
        require_batch(false, field, Some(i), format!("below {end}"), self.host[i])
    }
}
