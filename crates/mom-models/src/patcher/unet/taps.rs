//! Which positions of a picture a 3 x 3 convolution reads, as tables: at the same size, at half of it, at twice.

use candle_core::{Device, Tensor};
use mom_core::to_device;

use crate::Result;

/// Positions that one output of a 3 x 3 convolution reads.
pub(crate) const N_TAPS: usize = 9;

/// Stands for a position outside of the picture, whose value is zero. candle's `index_select` reads it so, too.
pub(crate) const OUTSIDE: u32 = u32::MAX;

/// What a convolution does to the size of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resizing {
    /// Nothing.
    Same,
    /// A stride of two.
    Halving,
    /// Every position four times, before it.
    Doubling,
}

/// The tables of a convolution over square pictures of one size, the same for every picture.
#[derive(Debug, Clone)]
pub(crate) struct Taps {
    /// What it does to their size.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a GPU's kernels ask"))]
    pub resizing: Resizing,
    /// Positions of a picture before.
    pub n_in: usize,
    /// Positions of a picture behind.
    pub n_out: usize,
    /// `(n_out, 9)`: what each output reads, row-major over the 3 x 3.
    pub reads: Vec<u32>,
    /// `(n_in, fan)`: by which of `reads` each input is read, ascending, then [`OUTSIDE`].
    pub read_by: Vec<u32>,
    /// Most outputs that read one input.
    pub fan: usize,
    /// Both tables on a device; absent on the CPU.
    on_device: Option<[Tensor; 2]>,
    /// The taps from the last to the first, on the device of the pictures: the way back has them in this order.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a GPU's kernels ask"))]
    pub back: Tensor,
}

impl Taps {
    /// Of stride 1 over `side` x `side` positions, with zeros around them.
    pub fn same(side: usize, device: &Device) -> Result<Self> {
        let read = |out: usize, tap: usize| (out + tap).checked_sub(1).filter(|&at| at < side);
        Self::new(Resizing::Same, (side, side), read, device)
    }

    /// Of stride 2 from `2 side` to `side`, with zeros before the first position.
    pub fn halving(side: usize, device: &Device) -> Result<Self> {
        let read = |out: usize, tap: usize| (2 * out + tap).checked_sub(1).filter(|&at| at < 2 * side);
        Self::new(Resizing::Halving, (2 * side, side), read, device)
    }

    /// Of stride 1 over `2 side` x `2 side` positions, each the nearest one of `side` x `side`.
    pub fn doubling(side: usize, device: &Device) -> Result<Self> {
        let read = |out: usize, tap: usize| (out + tap).checked_sub(1).filter(|&at| at < 2 * side).map(|at| at / 2);
        Self::new(Resizing::Doubling, (side, 2 * side), read, device)
    }

    /// `read(out, tap)` is the row (or column) that tap 0..3 of a row (or column) reads, where it is inside.
    fn new(
        resizing: Resizing,
        (side_in, side_out): (usize, usize),
        read: impl Fn(usize, usize) -> Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        let (n_in, n_out) = (side_in * side_in, side_out * side_out);
        let mut reads = Vec::with_capacity(n_out * N_TAPS);
        for (y, x) in (0..n_out).map(|out| (out / side_out, out % side_out)) {
            for (of_y, of_x) in (0..N_TAPS).map(|tap| (tap / 3, tap % 3)) {
                let at = read(y, of_y).zip(read(x, of_x)).map(|(y, x)| (y * side_in + x) as u32);
                reads.push(at.unwrap_or(OUTSIDE));
            }
        }
        let mut counts = vec![0; n_in];
        for &at in reads.iter().filter(|&&at| at != OUTSIDE) {
            counts[at as usize] += 1;
        }
        let fan = counts.iter().copied().max().unwrap_or(0);
        let mut read_by = vec![OUTSIDE; n_in * fan];
        counts.fill(0);
        for (slot, &at) in reads.iter().enumerate().filter(|&(_, &at)| at != OUTSIDE) {
            let at = at as usize;
            read_by[at * fan + counts[at]] = slot as u32;
            counts[at] += 1;
        }
        let on_device = if device.is_cpu() {
            None
        } else {
            Some([to_device(&reads, reads.len(), device)?, to_device(&read_by, read_by.len(), device)?])
        };
        let back = to_device(&std::array::from_fn::<u32, N_TAPS, _>(|tap| (N_TAPS - 1 - tap) as u32), N_TAPS, device)?;
        Ok(Self { resizing, n_in, n_out, reads, read_by, fan, on_device, back })
    }

    /// `reads` and `read_by`, each one-dimensional, where the tensors are.
    pub fn tensors(&self, device: &Device) -> Result<[Tensor; 2]> {
        match &self.on_device {
            Some(tensors) => Ok(tensors.clone()),
            None => Ok([
                to_device(&self.reads, self.reads.len(), device)?,
                to_device(&self.read_by, self.read_by.len(), device)?,
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_both_ways() {
        for taps in [Taps::same(3, &Device::Cpu), Taps::halving(2, &Device::Cpu), Taps::doubling(2, &Device::Cpu)] {
            let taps = taps.unwrap();
            let mut slots: Vec<u32> = taps.read_by.iter().copied().filter(|&slot| slot != OUTSIDE).collect();
            for (at, slots) in taps.read_by.chunks(taps.fan).enumerate() {
                assert!(slots.iter().all(|&slot| slot == OUTSIDE || taps.reads[slot as usize] == at as u32));
            }
            slots.sort_unstable();
            let inside = |slot: &u32| taps.reads[*slot as usize] != OUTSIDE;
            let want: Vec<u32> = (0..taps.reads.len() as u32).filter(inside).collect();
            assert_eq!(slots, want, "every read, once");
        }
        // The middle of a picture reads itself and all around it; a corner has five places outside.
        let same = Taps::same(3, &Device::Cpu).unwrap();
        assert_eq!(same.reads[4 * N_TAPS..5 * N_TAPS], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(same.reads[..N_TAPS].iter().filter(|&&at| at == OUTSIDE).count(), 5);
        let halving = Taps::halving(2, &Device::Cpu).unwrap();
        assert_eq!(halving.reads[3 * N_TAPS..], [5, 6, 7, 9, 10, 11, 13, 14, 15]);
        let doubling = Taps::doubling(2, &Device::Cpu).unwrap();
        assert_eq!((doubling.n_in, doubling.n_out), (4, 16));
        assert_eq!(doubling.reads[5 * N_TAPS..6 * N_TAPS], [0, 0, 1, 0, 0, 1, 2, 2, 3]);
    }
}
