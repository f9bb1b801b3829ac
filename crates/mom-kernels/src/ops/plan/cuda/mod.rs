//! Rows in modality order on the device: the plan, sorted there or copied from the host, and what operations read of it.
//!
//! Needs the feature `cuda`.
//!
//! Everything stays on the device: offsets too, so that one captured graph holds for any counts of modalities.

mod abi;
mod plan;
mod views;

pub use plan::DevicePlan;
pub use views::{DeviceLayout, DeviceOffsets, EqualGroups};
