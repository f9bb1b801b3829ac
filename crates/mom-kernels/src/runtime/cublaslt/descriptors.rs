//! How the library is told of a product.

use cudarc::cublaslt::result;
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasLtMatrixLayout_t,
    cudaDataType,
};

use super::product::Shape;
use crate::runtime::error::{CudaError, Result};

/// An error of the library.
pub(super) fn refused(what: &'static str) -> impl Fn(CublasError) -> CudaError {
    move |source| CudaError::Library { what, source }
}

/// A product and its matrices as the library describes them, column-major.
pub(super) struct Descriptors {
    pub(super) product: Description,
    pub(super) a: Layout,
    pub(super) b: Layout,
    pub(super) y: Layout,
    pub(super) addend: Layout,
}

impl Descriptors {
    pub(super) fn new(shape: &Shape) -> Result<Self> {
        Self::create(shape).map_err(refused("describing a product to cuBLASLt"))
    }

    pub(super) fn create(shape: &Shape) -> std::result::Result<Self, CublasError> {
        let &Shape { m, n, k, a_transposed, b_transposed, strides, .. } = shape;
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = Description(result::create_matmul_desc(compute, cudaDataType::CUDA_R_32F)?);
        // `cublasOperation_t`: CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        product.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, i32::from(b_transposed))?;
        product.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, i32::from(a_transposed))?;
        if shape.has_bias {
            let epilogue = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as i32;
            product.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
        }
        let (a_rows, a_width) = if a_transposed { (k, m) } else { (m, k) };
        let (b_rows, b_width) = if b_transposed { (n, k) } else { (k, n) };
        let a = Layout::create(shape.input, a_rows, a_width, strides[0])?;
        let b = Layout::create(shape.input, b_rows, b_width, strides[1])?;
        let y = Layout::create(shape.output, m, n, strides[2])?;
        let addend = Layout::create(shape.output, m, n, strides[3])?;
        Ok(Self { product, a, b, y, addend })
    }
}

pub(super) struct Description(pub(super) cublasLtMatmulDesc_t);

impl Description {
    /// `T` is `u64` for a bias' address, else `i32`.
    fn set<T>(&self, attribute: DescAttribute, value: T) -> std::result::Result<(), CublasError> {
        // SAFETY: the attribute has the size of the value, as the callers pass it.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
    }

    /// Where the bias is, of a shape that has one.
    pub(super) fn set_bias(&self, at: u64) -> Result<()> {
        let set = self.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, at);
        set.map_err(refused("describing a product to cuBLASLt"))
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by `Descriptors::create`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

pub(super) struct Layout(pub(super) cublasLtMatrixLayout_t);

impl Layout {
    /// Of a row-major matrix.
    pub(super) fn create(
        dtype: cudaDataType,
        rows: usize,
        width: usize,
        stride: usize,
    ) -> std::result::Result<Self, CublasError> {
        result::create_matrix_layout(dtype, width as u64, rows as u64, stride as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by `Layout::create`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

pub(super) struct Preference(pub(super) cublasLtMatmulPreference_t);

impl Preference {
    /// `T` is `u64` for bytes of workspace, else `u32`.
    pub(super) fn set<T>(&self, attribute: PreferenceAttribute, value: T) -> std::result::Result<(), CublasError> {
        // SAFETY: the attribute has the size of the value, as the callers pass it.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by `Library::search`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
