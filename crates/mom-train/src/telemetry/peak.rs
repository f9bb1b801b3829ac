//! What a GPU can do at most: operations a second by the name that its driver gives, from NVIDIA's data sheets.

use crate::{DeviceKind, Precision, Result};

/// Dense products of bf16 with sums in f32, and f32 outside of the tensor cores (products of f32 are computed there, not
/// rounded to TF32), both in TFLOP/s. Where a sheet gives tensor cores "with sparsity" alone, half of its figure.
///
/// Data sheets of the A100, H100, H200, L4, L40S and A10 Tensor Core GPUs; "HGX B200" for the B200 (36 PFLOP/s with
/// sparsity for eight), whose f32 is left out; white papers of the GA102, Ada and RTX Blackwell architectures for GeForce.
const PEAKS: [(&str, f64, Option<f64>); 17] = [
    ("NVIDIA A10", 125.0, Some(31.2)),
    ("NVIDIA A100-PCIE-40GB", 312.0, Some(19.5)),
    ("NVIDIA A100-SXM4-40GB", 312.0, Some(19.5)),
    ("NVIDIA A100-SXM4-80GB", 312.0, Some(19.5)),
    ("NVIDIA A100 80GB PCIe", 312.0, Some(19.5)),
    ("NVIDIA B200", 2250.0, None),
    ("NVIDIA GeForce RTX 3090", 71.0, Some(35.6)),
    ("NVIDIA GeForce RTX 4090", 165.2, Some(82.6)),
    ("NVIDIA GeForce RTX 5090", 209.5, Some(104.8)),
    ("NVIDIA H100 80GB HBM3", 989.5, Some(67.0)),
    ("NVIDIA H100 NVL", 835.5, Some(60.0)),
    ("NVIDIA H100 PCIe", 756.0, Some(51.0)),
    ("NVIDIA H200", 989.5, Some(67.0)),
    ("NVIDIA H200 NVL", 835.5, Some(60.0)),
    ("NVIDIA L4", 121.0, Some(30.3)),
    ("NVIDIA L40", 181.0, Some(90.5)),
    ("NVIDIA L40S", 362.0, Some(91.6)),
];

/// Operations a second of wherever a run computes; `None` where they are not known: on a CPU, a part of a card (MIG), a card
/// that is not in the table.
///
/// # Errors
/// No such device.
pub(crate) fn flops_per_sec(device: DeviceKind, precision: Precision) -> Result<Option<f64>> {
    Ok(name(device)?.and_then(|name| of(&name, precision)))
}

/// Name of the GPU that a run computes on.
///
/// # Errors
/// No such device.
pub(crate) fn name(device: DeviceKind) -> Result<Option<String>> {
    match device {
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => Ok(Some(mom_core::cuda::name(0)?)),
        _ => Ok(None),
    }
}

fn of(name: &str, precision: Precision) -> Option<f64> {
    let (_, bf16, f32) = PEAKS.into_iter().find(|(known, ..)| *known == name)?;
    let tflops = match precision {
        Precision::Bf16 => Some(bf16),
        Precision::F32 => f32,
    };
    tflops.map(|tflops| 1e12 * tflops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_known_by_its_whole_name() {
        assert_eq!(of("NVIDIA H200", Precision::Bf16), Some(989.5e12));
        assert_eq!(of("NVIDIA H200 NVL", Precision::F32), Some(60e12));
        assert_eq!(of("NVIDIA B200", Precision::F32), None);
        for unknown in ["", "NVIDIA H100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla V100-SXM2-16GB"] {
            assert_eq!(of(unknown, Precision::Bf16), None, "{unknown}");
        }
    }
}
