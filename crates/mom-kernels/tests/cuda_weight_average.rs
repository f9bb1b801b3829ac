//! Averages of weights on the GPU: the bits of a plain loop, for odd lengths and more tensors than a launch takes.
#![allow(clippy::unwrap_used)]

mod cuda_support;

use cuda_support::*;
use mom_kernels::cuda::weight_average::{Average, weight_average};

#[test]
fn averages_are_those_of_a_plain_loop() {
    let Some(gpu) = gpu("averages_are_those_of_a_plain_loop") else { return };
    let mut r = Random(5);
    let lens: Vec<usize> = (0..200).map(|i| [0, 1, 3, 4, 4095, 4096, 4097, 9001][i % 8] + i / 40).collect();
    let mut draw = |len: usize| r.normals(len, 1.0).iter().map(|&x| x as f32).collect::<Vec<_>>();
    let mut averages: Vec<Vec<f32>> = lens.iter().map(|&len| draw(len)).collect();
    let weights: Vec<Vec<f32>> = lens.iter().map(|&len| draw(len)).collect();
    // One element behind each, which stays as it is.
    let of = |values: &[f32]| gpu.upload(&[values, &[7.0]].concat()).unwrap();
    let mut on_device: Vec<_> = averages.iter().map(|values| of(values)).collect();
    let weights_on_device: Vec<_> = weights.iter().map(|values| of(values)).collect();
    for share in [0.125, 1e-3, 1.0, 0.0] {
        let pairs = on_device.iter_mut().zip(&weights_on_device).zip(&lens);
        let mut tensors: Vec<Average<'_>> = pairs
            .map(|((average, weight), &len)| {
                Average::new(
                    gpu.write(average).first("average", len).unwrap(),
                    gpu.read(weight).first("weight", len).unwrap(),
                )
            })
            .collect();
        weight_average(&gpu, &mut tensors, share).unwrap();
        drop(tensors);
        for (average, weight) in averages.iter_mut().zip(&weights) {
            average.iter_mut().zip(weight).for_each(|(average, weight)| *average += share * (weight - *average));
        }
        for (got, want) in on_device.iter().zip(&averages) {
            assert!(gpu.download(got).unwrap() == [&want[..], &[7.0]].concat(), "share {share}");
        }
    }
    let (mut short, long) = (gpu.zeros(3).unwrap(), gpu.zeros(4).unwrap());
    let tensor = Average::new(gpu.write(&mut short), gpu.read(&long));
    assert!(weight_average(&gpu, &mut [tensor], 0.5).unwrap_err().to_string().contains("weight"));
}
