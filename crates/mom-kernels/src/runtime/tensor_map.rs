//! Tensor maps: how the copy engine of compute capability 9.0 finds a box of a matrix.

use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};

use super::element::{DeviceElement, Dtype};
use super::error::{CudaError, Result};

/// `TensorMap` of kernels/grouped_gemm/params.h.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorMap([u64; 16]);

/// A matrix in device memory: rows `stride` elements apart, all 16-byte aligned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub address: u64,
    pub n_rows: usize,
    pub width: usize,
    pub stride: usize,
}

impl TensorMap {
    /// No map.
    pub const NONE: Self = Self([0; 16]);

    /// Boxes of `box_rows` rows and 128 bytes, permuted in shared memory as 128-byte swizzling does.
    ///
    /// # Errors
    /// The driver refuses the matrix.
    pub fn new<T: DeviceElement>(matrix: &Matrix, box_rows: usize) -> Result<Self> {
        let data_type = match T::DTYPE {
            Dtype::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Dtype::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Dtype::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        };
        let sizes = [matrix.width as u64, matrix.n_rows as u64];
        let strides = [(matrix.stride * size_of::<T>()) as u64];
        let (of_box, steps) = ([128 / size_of::<T>() as u32, box_rows as u32], [1, 1]);
        let mut map = CUtensorMap { opaque: [0; 16] };
        // SAFETY: the driver reads two sizes, one stride, two sizes of the box and two steps, and writes the map.
        unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                data_type,
                2,
                matrix.address as *mut _,
                sizes.as_ptr(),
                strides.as_ptr(),
                of_box.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map_err(CudaError::driver("describing a matrix to the copy engine"))?;
        Ok(Self(map.opaque))
    }
}
