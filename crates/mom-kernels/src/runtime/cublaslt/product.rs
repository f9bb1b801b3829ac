//! A product as it is launched, and the shape that its algorithm is chosen by.

use cudarc::cublaslt::sys::cudaDataType;

use crate::runtime::element::Dtype;
use crate::runtime::error::Result;
use crate::runtime::stream::Stream;
use crate::runtime::view::DeviceMut;

/// Device memory that an algorithm may use where the caller has none for it. Only sums that are cut need any: docs/kernels.md
/// has what a block's products ask for.
pub(super) const WORKSPACE_BYTES: usize = 4 << 20;

/// Where the workspace of a caller must begin.
pub(crate) const WORKSPACE_ALIGNMENT: u64 = 16;

/// Whether the library has products of `input` with this output.
pub(crate) fn has_output(input: Dtype, output: Dtype) -> bool {
    output == input || output == Dtype::F32
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RawFactor {
    pub at: u64,
    pub stride: usize,
    pub transposed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct RawOutput {
    pub at: u64,
    pub stride: usize,
    pub dtype: Dtype,
}

/// A matrix of the output's size and type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawAddend {
    pub at: u64,
    pub stride: usize,
}

/// Memory of the caller's, on 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawWorkspace {
    pub at: u64,
    pub bytes: usize,
}

impl RawWorkspace {
    /// Memory that would do better than the library's own; nothing else is worth a caller's.
    pub fn larger(on: &Stream, memory: &DeviceMut<'_, f32>) -> Result<Option<Self>> {
        let (at, bytes) = (memory.address(on)?, memory.len() * size_of::<f32>());
        Ok((bytes > WORKSPACE_BYTES && at.is_multiple_of(WORKSPACE_ALIGNMENT)).then_some(Self { at, bytes }))
    }
}

/// `y = alpha a b + beta addend + bias`: `a` `(m, k)`, `b` `(k, n)`, `y` and the addend `(m, n)`; without an addend it is `y`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawProduct {
    pub dtype: Dtype,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: RawFactor,
    pub b: RawFactor,
    pub y: RawOutput,
    pub addend: Option<RawAddend>,
    /// Address of `(n)`, of the output's type, added to every row.
    pub bias: Option<u64>,
    pub alpha: f32,
    pub beta: f32,
    /// For this product alone; without it, that of its lane.
    pub workspace: Option<RawWorkspace>,
}

impl RawProduct {
    pub(super) fn addend(&self) -> RawAddend {
        self.addend.unwrap_or(RawAddend { at: self.y.at, stride: self.y.stride })
    }
}

/// What an algorithm is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) input: cudaDataType,
    pub(super) output: cudaDataType,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a_transposed: bool,
    pub(super) b_transposed: bool,
    /// Of a, b, y and the addend.
    pub(super) strides: [usize; 4],
    pub(super) alignments: [u32; 4],
    pub(super) workspace_bytes: usize,
    pub(super) has_bias: bool,
}

impl Shape {
    pub(super) fn new(p: &RawProduct) -> Self {
        let addend = p.addend();
        // Where a bias does not begin as y does, an algorithm must take both.
        let least = |at: u64| p.bias.map_or(at, |bias| at | bias);
        Self {
            input: data_type(p.dtype),
            output: data_type(p.y.dtype),
            m: p.m,
            n: p.n,
            k: p.k,
            a_transposed: p.a.transposed,
            b_transposed: p.b.transposed,
            strides: [p.a.stride, p.b.stride, p.y.stride, addend.stride],
            alignments: [p.a.at, p.b.at, least(p.y.at), addend.at].map(|at| 1 << at.trailing_zeros().min(8)),
            workspace_bytes: p.workspace.map_or(WORKSPACE_BYTES, |workspace| workspace.bytes),
            has_bias: p.bias.is_some(),
        }
    }

    /// The shape whose algorithm serves this one too: counts of rows that change from batch to batch fall into few
    /// classes. Only a size that no stride holds may grow.
    pub(super) fn class(mut self) -> Self {
        let class = |rows: usize| rows.next_multiple_of((rows.next_power_of_two() / 16).max(64));
        if !self.a_transposed {
            self.m = class(self.m);
        } else if !self.b_transposed {
            self.k = class(self.k);
        }
        self
    }
}

pub(super) fn data_type(dtype: Dtype) -> cudaDataType {
    match dtype {
        Dtype::Bf16 => cudaDataType::CUDA_R_16BF,
        Dtype::F16 => cudaDataType::CUDA_R_16F,
        Dtype::F32 => cudaDataType::CUDA_R_32F,
    }
}
