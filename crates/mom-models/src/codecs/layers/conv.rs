//! Convolutions.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::codecs::network::Scope;

/// candle's convolutions on the CPU have no bf16; widened, they have.
fn wide_on_cpu(x: &Tensor, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if x.device().is_cpu() && matches!(x.dtype(), DType::BF16 | DType::F16) {
        return Ok(of(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?);
    }
    of(x)
}

/// A convolution over pictures. Parameters: `weight` (n_out, n_in, kernel, kernel), `bias` (n_out).
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    padding: usize,
    stride: usize,
}

impl Conv2d {
    pub fn new(n_in: usize, n_out: usize, kernel: usize, scope: &Scope<'_>) -> Result<Self> {
        let weight = scope.get("weight", &[n_out, n_in, kernel, kernel])?;
        let bias = scope.get("bias", &[n_out])?.reshape((1, n_out, 1, 1))?;
        Ok(Self { weight, bias, padding: kernel / 2, stride: 1 })
    }

    /// Of stride 2 over a picture that a row below and a column to the right were added to (of zeros).
    pub fn halving(n: usize, scope: &Scope<'_>) -> Result<Self> {
        Ok(Self { padding: 0, stride: 2, ..Self::new(n, n, 3, scope)? })
    }

    /// `(batch, n_in, height, width)` to `(batch, n_out, height / stride, width / stride)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n_out, n_in, kernel, _) = self.weight.dims4()?;
        let y = if kernel == 1 {
            // A product: no copy of each pixel's neighbourhood.
            let (batch, _, height, width) = x.dims4()?;
            let weight = self.weight.reshape((1, n_out, n_in))?.broadcast_as((batch, n_out, n_in))?.contiguous()?;
            let y = weight.matmul(&x.reshape((batch, n_in, height * width))?.contiguous()?)?;
            y.reshape((batch, n_out, height, width))?
        } else if self.stride == 2 {
            let padded = x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?.contiguous()?;
            self.conv(&padded)?
        } else {
            self.conv(&x.contiguous()?)?
        };
        Ok(y.broadcast_add(&self.bias)?)
    }

    fn conv(&self, x: &Tensor) -> Result<Tensor> {
        wide_on_cpu(x, |x| Ok(x.conv2d(&self.weight.to_dtype(x.dtype())?, self.padding, self.stride, 1, 1)?))
    }
}

/// A convolution over time without padding of its own. Parameters: `weight` (n_out, n_in / groups, kernel), and `bias`
/// (n_out) where it has one.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Conv1d {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
    pub stride: usize,
    pub dilation: usize,
    pub groups: usize,
}

impl Conv1d {
    /// Of stride 1, neither dilated nor grouped.
    pub fn new(n_in: usize, n_out: usize, kernel: usize, bias: bool, scope: &Scope<'_>) -> Result<Self> {
        let weight = scope.get("weight", &[n_out, n_in, kernel])?;
        let bias = if bias { Some(scope.get("bias", &[n_out])?) } else { None };
        Ok(Self { weight, bias, stride: 1, dilation: 1, groups: 1 })
    }

    /// Positions that one output depends on.
    pub fn reach(&self) -> usize {
        self.weight.dims().last().map_or(0, |&kernel| kernel.saturating_sub(1) * self.dilation + 1)
    }

    /// `(batch, n_in, n)` to `(batch, n_out, (n - reach) / stride + 1)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let y = wide_on_cpu(&x, |x| {
            Ok(x.conv1d(&self.weight.to_dtype(x.dtype())?, 0, self.stride, self.dilation, self.groups)?)
        })?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1))?)?,
            None => y,
        })
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
