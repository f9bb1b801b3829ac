//! Many copies in a launch: every byte at its place, whatever the lengths and how both ends lie, and none beside it.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::cudarc::driver::DevicePtr;
use mom_kernels::cuda::multi_copy::{Transfer, multi_copy};

/// Between two stretches that are written: bytes that stay.
const GAP: usize = 48;

#[test]
fn every_byte_is_copied_and_none_beside_it() {
    let Some(gpu) = gpu("every_byte_is_copied_and_none_beside_it") else { return };
    let lens = [0, 1, 2, 15, 16, 17, 4096, 32_767, 32_768, 32_769, 100_001];
    let source: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut copies, mut want) = (Vec::new(), Vec::new());
    let from = gpu.stream().clone_htod(&source).unwrap();
    let from_at = DevicePtr::device_ptr(&from, gpu.stream()).0;
    // Three hundred, more than two launches take: off vectors by none, two, one, eight bytes on either side; some of them zeros.
    for i in 0..300 {
        let len = lens[i % lens.len()];
        let start = 64 * i + [0, 2, 1, 8, 0][i % 5];
        let to = want.len() + GAP + (want.len() + GAP).next_multiple_of(16) - (want.len() + GAP) + [0, 2, 3, 0][i % 4];
        want.resize(to, 9);
        let is_zero = i % 7 == 3;
        want.extend(source[start..start + len].iter().map(|&byte| if is_zero { 0 } else { byte }));
        copies.push((if is_zero { None } else { Some(start) }, to, len));
    }
    want.resize(want.len() + GAP, 9);
    let to = gpu.stream().clone_htod(&vec![9u8; want.len()]).unwrap();
    let to_at = DevicePtr::device_ptr(&to, gpu.stream()).0;
    let copies: Vec<Transfer> = copies
        .into_iter()
        .map(|(from, to, len)| match from {
            Some(from) => Transfer::new(from_at + from as u64, to_at + to as u64, len),
            None => Transfer::zeros(to_at + to as u64, len),
        })
        .collect();
    // SAFETY: all of them lie in the two slices, those that are written apart from each other.
    unsafe { multi_copy(&gpu, &copies).unwrap() };
    let got = gpu.stream().clone_dtoh(&to).unwrap();
    let first = got.iter().zip(&want).position(|(got, want)| got != want);
    assert!(first.is_none(), "byte {first:?} differs");
}
