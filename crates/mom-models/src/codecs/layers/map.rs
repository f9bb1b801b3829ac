//! Values of pictures or sound, as their device computes with them.

use candle_core::Tensor;

use crate::Result;

/// Channels over pixels, or over time: sound is a picture of one row.
///
/// Channels come first on a processor, `(batch, channels, height, width)`, as candle's convolutions take them. On a GPU they lie side by
/// side, `(batch, height, width, channels)`: a convolution there is a product of rows.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Map {
    /// Contiguous.
    values: Tensor,
    is_sound: bool,
}

impl Map {
    /// Of pictures `(batch, channels, height, width)` or sound `(batch, channels, n)`.
    pub fn new(x: &Tensor) -> Result<Self> {
        let is_sound = x.rank() == 3;
        let x = if is_sound { x.unsqueeze(2)? } else { x.clone() };
        let x = if is_last(&x) { x.permute((0, 2, 3, 1))? } else { x };
        Ok(Self { values: x.contiguous()?, is_sound })
    }

    /// Of sound `(batch, n, channels)`.
    pub fn of_rows(x: &Tensor) -> Result<Self> {
        let values = if is_last(x) { x.unsqueeze(1)? } else { x.transpose(1, 2)?.unsqueeze(2)? };
        Ok(Self { values: values.contiguous()?, is_sound: true })
    }

    /// As [`Self::new`] takes it.
    pub fn channels_first(&self) -> Result<Tensor> {
        let x = if self.is_last() { self.values.permute((0, 3, 1, 2))?.contiguous()? } else { self.values.clone() };
        Ok(if self.is_sound { x.squeeze(2)? } else { x })
    }

    /// Whether channels lie side by side.
    pub fn is_last(&self) -> bool {
        is_last(&self.values)
    }

    /// In the order of the device.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Others, in the order of the device.
    pub fn with_values(&self, values: Tensor) -> Self {
        Self { values, is_sound: self.is_sound }
    }

    /// Batch, channels, height and width.
    pub fn dims(&self) -> Result<[usize; 4]> {
        let (batch, a, b, c) = self.values.dims4()?;
        Ok(if self.is_last() { [batch, c, a, b] } else { [batch, a, b, c] })
    }

    /// Values of `(batch, channels, n)` sound or pictures' pixels, `(batch, positions, channels)`.
    pub fn rows(&self) -> Result<Tensor> {
        let [batch, channels, height, width] = self.dims()?;
        if self.is_last() {
            return Ok(self.values.reshape((batch, height * width, channels))?);
        }
        Ok(self.values.reshape((batch, channels, height * width))?.transpose(1, 2)?.contiguous()?)
    }

    /// Others of the same sides: `(batch, positions, channels)`.
    pub fn with_rows(&self, rows: &Tensor) -> Result<Self> {
        let ([batch, _, height, width], channels) = (self.dims()?, rows.dim(2)?);
        let values = if self.is_last() {
            rows.reshape((batch, height, width, channels))?
        } else {
            rows.transpose(1, 2)?.contiguous()?.reshape((batch, channels, height, width))?
        };
        Ok(self.with_values(values))
    }

    /// Each value on its own.
    pub fn each(&self, of: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>) -> Result<Self> {
        Ok(self.with_values(of(&self.values)?))
    }

    /// The sum of two of one shape.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        self.each(|values| values + &other.values)
    }

    /// Every pixel four times.
    pub fn doubled(&self) -> Result<Self> {
        let [batch, channels, height, width] = self.dims()?;
        if !self.is_last() {
            return self.each(|values| values.upsample_nearest2d(2 * height, 2 * width));
        }
        let pixels = self.values.reshape((batch * height, 1, width, 1, channels))?;
        let pixels = pixels.broadcast_as((batch * height, 2, width, 2, channels))?.contiguous()?;
        Ok(self.with_values(pixels.reshape((batch, 2 * height, 2 * width, channels))?))
    }
}

fn is_last(x: &Tensor) -> bool {
    cfg!(feature = "cuda") && x.device().is_cuda()
}
