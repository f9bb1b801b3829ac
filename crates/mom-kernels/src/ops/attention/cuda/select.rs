//! Which kernel attends.

use crate::error::Error;
use crate::ops::attention::params::OP;
use crate::runtime::{Card, CudaError, Dtype};

/// What a launch computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Forward,
    /// Gradients of queries.
    BackwardQ,
    /// Gradients of keys and values.
    BackwardKv,
}

/// The kernel, and the threads of its blocks: with wgmma where the card has it.
pub(super) fn kernel(card: &Card, part: Part, dtype: Dtype) -> Result<(String, u32), CudaError> {
    let dtype = match dtype {
        Dtype::Bf16 | Dtype::F32 => dtype.name(),
        Dtype::F16 => {
            return Err(Error::Presence { op: OP, arg: "kernels for f16", expected: "present", got: "absent" }.into());
        }
    };
    let part = match part {
        Part::Forward => "forward",
        Part::BackwardQ => "backward_q",
        Part::BackwardKv => "backward_kv",
    };
    let sm90 = format!("sm90_attention_{part}_{dtype}");
    Ok(if card.has(&sm90) { (sm90, 256) } else { (format!("attention_{part}_{dtype}"), 128) })
}

/// Rows that a block owns, kernels/attention/tile.cuh and f32.cuh.
pub(super) const fn owned_rows(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 64,
        Dtype::Bf16 | Dtype::F16 => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Kernel;

    #[test]
    fn every_card_has_its_kernels() {
        for capability in Card::capabilities() {
            let card = Card::known(capability, 100).unwrap();
            for (part, dtype) in [Part::Forward, Part::BackwardQ, Part::BackwardKv]
                .into_iter()
                .flat_map(|part| [(part, Dtype::Bf16), (part, Dtype::F32)])
            {
                let (name, threads) = kernel(&card, part, dtype).unwrap();
                assert!(card.has(&name), "{capability:?}: {name}");
                assert_eq!(Kernel::named(&name).unwrap().threads, threads, "{name}");
                assert_eq!(name.starts_with("sm90"), capability == (9, 0) && dtype == Dtype::Bf16);
            }
        }
    }
}
