//! Indices into tables, where a device reads them.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::error::require_batch;

/// Indices: row numbers, tokens or classes. On the host, and on a device too where tensors are there; copied once.
#[derive(Debug, Clone)]
pub struct Ids {
    host: Arc<[u32]>,
    max: u32,
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
        Ok(Self { max: host.iter().copied().max().unwrap_or(0), host, device })
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
        if self.is_empty() || (self.max as usize) < end {
            return Ok(());
        }
        let i = self.host.iter().position(|&id| id as usize >= end).unwrap_or_default();
        require_batch(false, field, Some(i), format!("below {end}"), self.host[i])
    }
}
