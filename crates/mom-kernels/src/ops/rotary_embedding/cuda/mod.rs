//! The rotation on the GPU; equation and meaning as [`crate::rotary_embedding`]. bf16 and f32.

mod abi;
mod rotate;

pub use rotate::{Angles, rotate};
