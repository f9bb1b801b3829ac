//! Convolutions.

use candle_core::{DType, Tensor};
#[cfg(feature = "cuda")]
use mom_kernels::cuda::unfold;

use super::map::Map;
use crate::Result;
use crate::codecs::network::Scope;

/// candle's convolutions on the CPU have no bf16; widened, they have.
fn wide_on_cpu(x: &Tensor, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.device().is_cpu() && matches!(x.dtype(), DType::BF16 | DType::F16) {
        return Ok(of(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?);
    }
    of(x)
}

/// A kernel and its bias, as the device of a map takes them.
#[derive(Debug, Clone)]
enum Kernel {
    /// (n_out, n_in / groups, height, width), and (n_out).
    First { weight: Tensor, bias: Option<Tensor> },
    #[cfg(feature = "cuda")]
    Last(super::gpu::Kernel),
}

/// A convolution over maps.
#[derive(Debug, Clone)]
struct Convolution {
    kernel: Kernel,
    /// (height, width)
    size: [usize; 2],
    stride: usize,
    dilation: usize,
    groups: usize,
}

impl Convolution {
    /// `weight`: (n_out, n_in / groups, height, width), `bias`: (n_out).
    fn new(weight: Tensor, bias: Option<Tensor>, groups: usize) -> Result<Self> {
        let (_, _, height, width) = weight.dims4()?;
        #[cfg(feature = "cuda")]
        let kernel = if weight.device().is_cuda() {
            Kernel::Last(super::gpu::Kernel::new(&weight, bias.as_ref(), groups)?)
        } else {
            Kernel::First { weight, bias }
        };
        #[cfg(not(feature = "cuda"))]
        let kernel = Kernel::First { weight, bias };
        Ok(Self { kernel, size: [height, width], stride: 1, dilation: 1, groups })
    }

    /// `residual` and the convolution of `x` with zeros above and below, left and right.
    fn forward(&self, x: &Map, vertical: [usize; 2], horizontal: [usize; 2], residual: Option<&Map>) -> Result<Map> {
        let (weight, bias) = match &self.kernel {
            Kernel::First { weight, bias } => (weight, bias),
            #[cfg(feature = "cuda")]
            Kernel::Last(kernel) => {
                let [batch, channels, height, width] = x.dims()?;
                let of = unfold::Convolution::new([batch, height, width], channels / self.groups, self.size)
                    .with_zeros(vertical, horizontal)
                    .with_stride(self.stride)
                    .with_dilation(self.dilation);
                return super::gpu::convolve(x, of, kernel, residual);
            }
        };
        let is_product = self.size == [1, 1] && self.stride == 1 && self.groups == 1;
        let y = if is_product && vertical == [0; 2] && horizontal == [0; 2] {
            // A product: no copy of each pixel's neighbourhood.
            let ([batch, n_in, height, width], n_out) = (x.dims()?, weight.dim(0)?);
            let weight = weight.reshape((1, n_out, n_in))?.broadcast_as((batch, n_out, n_in))?.contiguous()?;
            weight
                .matmul(&x.values().reshape((batch, n_in, height * width))?)?
                .reshape((batch, n_out, height, width))?
        } else {
            let x = x.values().pad_with_zeros(2, vertical[0], vertical[1])?;
            let x = x.pad_with_zeros(3, horizontal[0], horizontal[1])?.contiguous()?;
            wide_on_cpu(&x, |x| self.on_cpu(x, &weight.to_dtype(x.dtype())?))?
        };
        let y = match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?)?,
            None => y,
        };
        let y = x.with_values(y);
        residual.map_or(Ok(y.clone()), |residual| residual.plus(&y))
    }

    /// candle's, over sound by its convolution over time.
    fn on_cpu(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let Self { stride, dilation, groups, .. } = *self;
        if self.size[0] > 1 {
            return Ok(x.conv2d(weight, 0, stride, dilation, groups)?);
        }
        let y = x.squeeze(2)?.conv1d(&weight.squeeze(2)?, 0, stride, dilation, groups)?;
        Ok(y.unsqueeze(2)?)
    }
}

/// A convolution over pictures. Parameters: `weight` (n_out, n_in, kernel, kernel), `bias` (n_out).
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Conv2d {
    of: Convolution,
    /// Zeros before and behind, in both directions.
    zeros: [usize; 2],
}

impl Conv2d {
    pub fn new(n_in: usize, n_out: usize, kernel: usize, scope: &Scope<'_>) -> Result<Self> {
        let weight = scope.get("weight", &[n_out, n_in, kernel, kernel])?;
        let of = Convolution::new(weight, Some(scope.get("bias", &[n_out])?), 1)?;
        Ok(Self { of, zeros: [kernel / 2; 2] })
    }

    /// Of stride 2 over a picture that a row below and a column to the right were added to (of zeros).
    pub fn halving(n: usize, scope: &Scope<'_>) -> Result<Self> {
        let Self { of, .. } = Self::new(n, n, 3, scope)?;
        Ok(Self { of: Convolution { stride: 2, ..of }, zeros: [0, 1] })
    }

    /// `(batch, n_in, height, width)` to `(batch, n_out, height / stride, width / stride)`.
    pub fn forward(&self, x: &Map) -> Result<Map> {
        self.of.forward(x, self.zeros, self.zeros, None)
    }

    /// The same, added to `residual`.
    pub fn forward_add(&self, x: &Map, residual: &Map) -> Result<Map> {
        self.of.forward(x, self.zeros, self.zeros, Some(residual))
    }
}

/// A convolution over time. Parameters: `weight` (n_out, n_in / groups, kernel), and `bias` (n_out) where it has one.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Conv1d(Convolution);

impl Conv1d {
    /// Of stride 1, neither dilated nor grouped.
    pub fn new(n_in: usize, n_out: usize, kernel: usize, bias: bool, scope: &Scope<'_>) -> Result<Self> {
        let weight = scope.get("weight", &[n_out, n_in, kernel])?;
        let bias = if bias { Some(scope.get("bias", &[n_out])?) } else { None };
        Self::from_weight(&weight, bias, 1)
    }

    /// Of stride 1, over groups of channels.
    pub fn from_weight(weight: &Tensor, bias: Option<Tensor>, groups: usize) -> Result<Self> {
        Ok(Self(Convolution::new(weight.unsqueeze(2)?, bias, groups)?))
    }

    pub fn with_stride(self, stride: usize) -> Self {
        Self(Convolution { stride, ..self.0 })
    }

    pub fn with_dilation(self, dilation: usize) -> Self {
        Self(Convolution { dilation, ..self.0 })
    }

    pub const fn stride(&self) -> usize {
        self.0.stride
    }

    /// Positions that one output depends on.
    pub fn reach(&self) -> usize {
        self.0.size[1].saturating_sub(1) * self.0.dilation + 1
    }

    /// `(batch, n_in, n)` with zeros before and behind it to `(batch, n_out, (before + n + behind - reach) / stride + 1)`.
    pub fn forward(&self, x: &Map, zeros: [usize; 2]) -> Result<Map> {
        self.0.forward(x, [0; 2], zeros, None)
    }

    /// The same, added to `residual`.
    pub fn forward_add(&self, x: &Map, zeros: [usize; 2], residual: &Map) -> Result<Map> {
        self.0.forward(x, [0; 2], zeros, Some(residual))
    }
}

/// A transposed convolution over time whose kernel is twice its stride, with the last `stride` outputs dropped: the block of
/// outputs at a position depends on this position and on the one before.
///
/// Parameters: `weight` (n_in, n_out, 2 stride), or (channels, 1, 2 stride) where each channel has its own; `bias` (n_out)
/// where it has one.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Transposed1d {
    /// (stride * n_out, 2 * n_in), rows by output and then by place in the block; columns: this position, the one before.
    /// Of single channels: (1, channels, 1, stride) for each of the two.
    kind: Kind,
    bias: Option<Tensor>,
    stride: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Dense(Tensor),
    Channels { here: Tensor, before: Tensor },
}

impl Transposed1d {
    pub fn new(n_in: usize, n_out: usize, stride: usize, scope: &Scope<'_>) -> Result<Self> {
        let weight = scope.get("weight", &[n_in, n_out, 2 * stride])?;
        let half = |i: usize| -> Result<Tensor> {
            Ok(weight.narrow(2, i * stride, stride)?.permute((1, 2, 0))?.reshape((n_out * stride, n_in))?)
        };
        let kind = Kind::Dense(Tensor::cat(&[half(0)?, half(1)?], 1)?);
        Ok(Self { kind, bias: Some(scope.get("bias", &[n_out])?.reshape((1, n_out, 1))?), stride })
    }

    /// Each channel alone, without bias.
    pub fn of_channels(n: usize, stride: usize, scope: &Scope<'_>) -> Result<Self> {
        let weight = scope.get("weight", &[n, 1, 2 * stride])?;
        let half = |i: usize| -> Result<Tensor> {
            Ok(weight.narrow(2, i * stride, stride)?.contiguous()?.reshape((1, n, 1, stride))?)
        };
        Ok(Self { kind: Kind::Channels { here: half(0)?, before: half(1)? }, bias: None, stride })
    }

    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// `(batch, n_in, n)` to `(batch, n_out, n * stride)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, n_in, n) = x.dims3()?;
        let before = x.pad_with_zeros(2, 1, 0)?.narrow(2, 0, n)?;
        let y = match &self.kind {
            Kind::Dense(weight) => {
                let both = Tensor::cat(&[x, &before], 1)?.contiguous()?;
                let rows = weight.dim(0)?;
                let weight = weight.unsqueeze(0)?.broadcast_as((batch, rows, 2 * n_in))?.contiguous()?;
                let blocks = weight.matmul(&both)?.reshape((batch, rows / self.stride, self.stride, n))?;
                blocks.transpose(2, 3)?.contiguous()?.reshape((batch, rows / self.stride, n * self.stride))?
            }
            Kind::Channels { here, before: weight } => {
                let column = |x: &Tensor| x.contiguous()?.reshape((batch, n_in, n, 1));
                let y = (column(x)?.broadcast_mul(here)? + column(&before)?.broadcast_mul(weight)?)?;
                y.reshape((batch, n_in, n * self.stride))?
            }
        };
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}
