//! Dense products by cuBLASLt.
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! y = alpha op(a) op(b) + beta y          op: the matrix itself or its transpose; all row-major
//! ```
//!
//! [`Gpu::load_library`] loads it; without that nothing here is used. Inputs are bf16, f16 or f32, sums f32 (no TF32),
//! the output of the inputs' type or f32. Two calls give the same bits.
//!
//! ```
//! use mom_kernels::cuda::{Gpu, library::{Factor, matmul}};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! // Nor need the library be there.
//! let Ok(_) = gpu.load_library() else { return Ok(()) };
//! let (a, b) = (gpu.upload(&[1.0f32, 2.0])?, gpu.upload(&[10.0f32, 100.0])?);
//! let mut y = gpu.zeros::<f32>(1)?;
//! // A row times a column.
//! let (row, column) = (gpu.rows(&a, 2)?, gpu.rows(&b, 1)?);
//! matmul(&gpu, 1.0, Factor::plain(&row), Factor::plain(&column), 0.0, gpu.rows_mut(&mut y, 1)?, None)?;
//! assert_eq!(gpu.download(&y)?, [210.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::expect_size;
use crate::runtime::cublaslt::{RawAddend, RawFactor, RawOutput, RawProduct, RawWorkspace, WORKSPACE_ALIGNMENT};
use crate::runtime::{CudaError, DeviceElement, DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Result};

pub use crate::runtime::cublaslt::{Library, RECOMMENDED_WORKSPACE_BYTES};

const OP: &str = "matmul";

/// A factor of a product: a matrix or its transpose.
#[derive(Debug)]
pub struct Factor<'r, 'a, T> {
    rows: &'r DeviceRows<'a, T>,
    transposed: bool,
}

impl<'r, 'a, T> Factor<'r, 'a, T> {
    /// The matrix itself.
    pub fn plain(rows: &'r DeviceRows<'a, T>) -> Self {
        Self { rows, transposed: false }
    }

    /// Its transpose.
    pub fn transposed(rows: &'r DeviceRows<'a, T>) -> Self {
        Self { rows, transposed: true }
    }

    fn shape(&self) -> (usize, usize) {
        let (rows, columns) = (self.rows.n_rows(), self.rows.width());
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }

    fn raw(&self, gpu: &Gpu) -> Result<RawFactor> {
        Ok(RawFactor { at: self.rows.address(gpu)?, stride: self.rows.stride(), transposed: self.transposed })
    }
}

/// `y = alpha op(a) op(b) + beta y`.
///
/// * `a`: `(m, k)` and `b`: `(k, n)` behind their [`Factor`]; `y`: `(m, n)`, of their type or f32. Rows may be strided.
/// * With `beta` 0, `y` is overwritten, whatever it held.
/// * `workspace`: any number of bytes, whose contents mean nothing before and after. A sum that is long for a small output
///   is cut where its parts fit there ([`RECOMMENDED_WORKSPACE_BYTES`] are always enough to try), without it where they fit
///   4 MiB.
///
/// # Errors
/// The library is not loaded ([`Gpu::load_library`]), sizes that disagree, no `k`, an output of another 16-bit type, a
/// workspace that does not begin on 16 bytes, a product that the library refuses.
pub fn matmul<T: DeviceElement, O: DeviceElement>(
    gpu: &Gpu,
    alpha: f32,
    a: Factor<'_, '_, T>,
    b: Factor<'_, '_, T>,
    beta: f32,
    y: DeviceRowsMut<'_, O>,
    workspace: Option<DeviceMut<'_, u8>>,
) -> Result<()> {
    let ((m, k), (b_k, n)) = (a.shape(), b.shape());
    expect_size(OP, "b", "rows", k, b_k)?;
    y.expect(OP, "y", m, n)?;
    let to = RawOutput { at: y.address(gpu)?, stride: y.stride(), dtype: O::DTYPE };
    let (a, b) = (a.raw(gpu)?, b.raw(gpu)?);
    let workspace = match workspace {
        Some(memory) => Some(RawWorkspace { at: memory.address(gpu)?, bytes: memory.len() }),
        None => None,
    };
    if let Some(RawWorkspace { at, .. }) = workspace {
        expect_size(OP, "workspace", "bytes off 16", 0, (at % WORKSPACE_ALIGNMENT) as usize)?;
    }
    let product =
        RawProduct { dtype: T::DTYPE, m, n, k, a, b, y: to, addend: None, bias: None, alpha, beta, workspace };
    let library = gpu.library().ok_or(CudaError::LibraryNotLoaded)?;
    // SAFETY: the shapes of the three views were checked against each other; y and the workspace are borrowed exclusively.
    unsafe { library.product(gpu, &product) }
}

/// `y = x weight^T + bias + residual`, in one pass over each.
///
/// * `x`: `(n_rows, in_features)`, `weight`: `(out_features, in_features)`, `bias`: `(out_features)`.
/// * `y`: `(n_rows, out_features)`, overwritten, and `residual` of the same shape. Rows may be strided.
///
/// # Errors
/// As [`matmul`].
pub fn linear<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    weight: &DeviceRows<'_, T>,
    bias: Option<&DeviceRef<'_, T>>,
    residual: Option<&DeviceRows<'_, T>>,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let (m, k, n) = (x.n_rows(), x.width(), weight.n_rows());
    expect_size(OP, "weight", "columns", k, weight.width())?;
    y.expect(OP, "y", m, n)?;
    if let Some(bias) = bias {
        expect_size(OP, "bias", "elements", n, bias.len())?;
    }
    if let Some(residual) = residual {
        residual.expect(OP, "residual", m, n)?;
    }
    let residual = residual.map(|rows| Ok::<_, CudaError>(RawAddend { at: rows.address(gpu)?, stride: rows.stride() }));
    let addend = residual.transpose()?;
    let product = RawProduct {
        dtype: T::DTYPE,
        m,
        n,
        k,
        a: Factor::plain(x).raw(gpu)?,
        b: Factor::transposed(weight).raw(gpu)?,
        y: RawOutput { at: y.address(gpu)?, stride: y.stride(), dtype: T::DTYPE },
        addend,
        bias: bias.map(|bias| bias.address(gpu)).transpose()?,
        alpha: 1.0,
        beta: if addend.is_some() { 1.0 } else { 0.0 },
        workspace: None,
    };
    let library = gpu.library().ok_or(CudaError::LibraryNotLoaded)?;
    // SAFETY: the shapes of all views were checked against each other; y is borrowed exclusively.
    unsafe { library.product(gpu, &product) }
}
