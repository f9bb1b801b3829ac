//! Where a tensor lies in a file, and how its numbers are stored.

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use crate::Result;

/// A tensor's place.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Index of the file.
    pub file: usize,
    /// First byte of the tensor in it.
    pub offset: u64,
    /// None: a type that no weights have.
    pub stored: Option<Stored>,
    pub shape: Vec<usize>,
    /// Elements from one to the next along each axis; none: row-major.
    pub stride: Option<Vec<usize>>,
}

/// An element type in a file, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
}

/// The elements that a tensor reaches over, from its first to its last; none if that is too large to be counted.
pub(super) fn extent(shape: &[usize], stride: Option<&[usize]>) -> Option<usize> {
    let Some(stride) = stride else {
        return shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    };
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().zip(stride).try_fold(1usize, |n, (&side, &step)| n.checked_add((side - 1).checked_mul(step)?))
}

impl Entry {
    /// Bytes from the first to the last element. Whoever makes an entry has checked that they lie in the file.
    pub fn len_bytes(&self, stored: Stored) -> usize {
        extent(&self.shape, self.stride.as_deref()).unwrap_or(0) * stored.size_bytes()
    }

    /// The bytes in row-major order.
    pub fn contiguous(&self, bytes: Vec<u8>, stored: Stored) -> Vec<u8> {
        let Some(stride) = &self.stride else { return bytes };
        let size = stored.size_bytes();
        let n: usize = self.shape.iter().product();
        let mut out = Vec::with_capacity(n * size);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..n {
            let at: usize = index.iter().zip(stride).map(|(&i, &step)| i * step).sum();
            out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        out
    }
}

impl Stored {
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// The tensor of row-major bytes on the CPU: f32 and f64 as they are, everything else as f32, which holds what weights
    /// hold in it.
    pub fn tensor(self, bytes: Vec<u8>, shape: &[usize]) -> Result<Tensor> {
        fn each<const N: usize, T>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.as_chunks::<N>().0.iter().map(|&chunk| of(chunk)).collect()
        }
        let cpu = &Device::Cpu;
        let values: Vec<f32> = match self {
            Self::F64 => return Ok(Tensor::from_vec(each(&bytes, f64::from_le_bytes), shape, cpu)?),
            Self::F32 => each(&bytes, f32::from_le_bytes),
            Self::F16 => each(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::I64 => each(&bytes, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each(&bytes, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each(&bytes, |b| i16::from_le_bytes(b).into()),
            Self::I8 => each(&bytes, |b| i8::from_le_bytes(b).into()),
            Self::U8 => each(&bytes, |[b]| b.into()),
        };
        Ok(Tensor::from_vec(values, shape, cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_followed() {
        let entry = Entry { file: 0, offset: 0, stored: Some(Stored::U8), shape: vec![2, 3], stride: Some(vec![1, 2]) };
        assert_eq!(entry.len_bytes(Stored::U8), 6);
        assert_eq!(entry.contiguous((0..6).collect(), Stored::U8), [0, 2, 4, 1, 3, 5]);
        assert_eq!(extent(&[usize::MAX, 2], None), None);
        assert_eq!(extent(&[0, 2], Some(&[1, usize::MAX])), Some(0));
    }
}
