//! Shapes and element types that do not fit are refused by name, by the kernels and by the library.

use mom_kernels::Error;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::library::{Factor, matmul};
use mom_kernels::cuda::{CudaError, grouped_gemm as device};

use crate::cuda_support::*;
use crate::problem::{OnDevice, Problem, case};

#[test]
fn refusals() {
    let Some(gpu) = gpu("refusals") else { return };
    let p = Problem::new::<bf16>(&case(&[5, 6], 16, 24), 8);
    let d = OnDevice::<bf16>::new(&gpu, &p);
    let mut y = poisoned::<bf16>(&gpu, 11 * 24);
    let shape = |result: Result<(), CudaError>, arg: &str| match result {
        Err(CudaError::Argument(Error::Shape { op: "grouped_gemm", arg: got, .. })) => assert_eq!(got, arg),
        other => panic!("{other:?}"),
    };
    let weights = d.weights(&gpu, &p);
    let offsets = d.plan.modality_offsets(&gpu);
    let x = gpu.rows(&d.x, 16).unwrap();
    let narrow = x.clone().columns(0, 8).unwrap();
    shape(device::forward(&gpu, &offsets, &narrow, &weights, gpu.rows_mut(&mut y, 24).unwrap()), "x");
    shape(device::forward(&gpu, &offsets, &x, &weights, gpu.rows_mut(&mut y, 12).unwrap()), "y");
    let three = vec![gpu.read(&d.weights[0]); 3];
    let three = device::GroupedWeights::new(16, 24, three, None).unwrap();
    shape(device::forward(&gpu, &offsets, &x, &three, gpu.rows_mut(&mut y, 24).unwrap()), "weights");
    let weight = vec![gpu.read(&d.weights[0])];
    shape(device::GroupedWeights::new(16, 25, weight, None).map(drop), "weight");
}

#[test]
fn library_refusals() {
    let Some(gpu) = gpu("library_refusals") else { return };
    let (a, b) = (upload::<bf16>(&gpu, &[1.0; 32]), upload::<bf16>(&gpu, &[1.0; 32]));
    let (a, b) = (gpu.rows(&a, 8).unwrap(), gpu.rows(&b, 4).unwrap());
    let mut y = poisoned::<f16>(&gpu, 16);
    let product = |y: &mut CudaSlice<f16>, width| {
        matmul(&gpu, 1.0, Factor::plain(&a), Factor::plain(&b), 0.0, gpu.rows_mut(y, width).unwrap(), None)
    };
    assert_eq!(product(&mut y, 4), Err(CudaError::LibraryNotLoaded));
    gpu.load_library().unwrap();
    assert!(matches!(product(&mut y, 4), Err(CudaError::Dtype { arg: "y", expected: "bf16", got: "f16", .. })));
    assert!(matches!(product(&mut y, 8), Err(CudaError::Argument(Error::Shape { arg: "y", .. }))));
    let product =
        matmul(&gpu, 1.0, Factor::plain(&a), Factor::transposed(&b), 0.0, gpu.rows_mut(&mut y, 4).unwrap(), None);
    assert!(matches!(product, Err(CudaError::Argument(Error::Shape { arg: "b", .. }))));
}
