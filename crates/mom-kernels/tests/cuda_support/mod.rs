//! What the GPU tests share: a device or a loud skip, random and poisoned memory, errors against f64.
#![allow(dead_code, clippy::unwrap_used, clippy::explicit_write)] // each test binary uses a part of it

use std::io::Write as _;
use std::sync::Arc;

use mom_kernels::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use mom_kernels::cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream};
use mom_kernels::cuda::half::{bf16, f16};
use mom_kernels::cuda::{CudaError, DeviceElement, Dtype, Gpu};

/// The first GPU; where there is none, says so on stderr. Any other failure is a failure of the test.
pub fn gpu(test: &str) -> Option<Gpu> {
    match Gpu::new(0) {
        Ok(gpu) => Some(pretending(gpu)),
        Err(error @ (CudaError::NoDriver { .. } | CudaError::NoDevice { .. })) => {
            skip(test, &error);
            assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A stream with the kernels, as [`gpu`] has them.
pub fn with_stream(stream: Arc<CudaStream>) -> Gpu {
    pretending(Gpu::with_stream(stream).unwrap())
}

/// With `MOM_PRETEND=8.9` every test takes the kernels that a card of compute capability 8.9 would.
fn pretending(gpu: Gpu) -> Gpu {
    let Ok(capability) = std::env::var("MOM_PRETEND") else { return gpu };
    let (major, minor) = capability.split_once('.').unwrap();
    gpu.pretending((major.parse().unwrap(), minor.parse().unwrap())).unwrap()
}

/// A second [`Gpu`], whose stream is its own: the driver captures no default stream.
pub fn on_a_stream_of_its_own(gpu: &Gpu) -> Gpu {
    let context = gpu.stream().context().clone();
    // SAFETY: a test uses the new stream alone. Events recorded outside of a capture may not be waited for inside.
    unsafe { context.disable_event_tracking() };
    with_stream(context.new_stream().unwrap())
}

/// What `run` launches, as a graph, once all before it is done.
pub fn captured(gpu: &Gpu, run: impl FnOnce() -> Result<(), CudaError>) -> CudaGraph {
    gpu.stream().synchronize().unwrap();
    gpu.stream().begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let result = run();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = gpu.stream().end_capture(flags).unwrap().unwrap();
    result.unwrap();
    graph
}

/// Says that a test did not run, past the capture of a test's output.
pub fn skip(test: &str, why: &dyn std::fmt::Display) {
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").unwrap();
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn normals(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| scale * self.normal()).collect()
    }
}

/// An element type of the device, to and from f64.
pub trait TestElement: DeviceElement + PartialEq + std::fmt::Debug {
    fn round(x: f64) -> Self;
    fn wide(self) -> f64;
    const NAN: Self;
}

impl TestElement for f32 {
    fn round(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    const NAN: Self = f32::NAN;
}
impl TestElement for bf16 {
    fn round(x: f64) -> Self {
        bf16::from_f32(x as f32) // half's from_f64 drops bits before it rounds
    }
    fn wide(self) -> f64 {
        self.to_f64()
    }
    const NAN: Self = bf16::NAN;
}
impl TestElement for f16 {
    fn round(x: f64) -> Self {
        f16::from_f32(x as f32)
    }
    fn wide(self) -> f64 {
        self.to_f64()
    }
    const NAN: Self = f16::NAN;
}

/// Rounds to the element type and back: the values that the device sees.
pub fn rounded<T: TestElement>(x: &[f64]) -> Vec<f64> {
    x.iter().map(|&x| T::round(x).wide()).collect()
}

pub fn upload<T: TestElement>(gpu: &Gpu, x: &[f64]) -> CudaSlice<T> {
    let mut x: Vec<T> = x.iter().map(|&x| T::round(x)).collect();
    if x.is_empty() {
        x.push(T::NAN); // an empty allocation is an error to the driver
    }
    gpu.upload(&x).unwrap()
}

pub fn poisoned<T: TestElement>(gpu: &Gpu, len: usize) -> CudaSlice<T> {
    gpu.upload(&vec![T::NAN; len.max(1)]).unwrap()
}

pub fn download<T: TestElement>(gpu: &Gpu, x: &CudaSlice<T>) -> Vec<f64> {
    gpu.download(x).unwrap().into_iter().map(T::wide).collect()
}

/// |got - want| / |want|; a value that is not finite is an error without end.
pub fn relative(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    if got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    let norm: f64 = want.iter().map(|w| w * w).sum();
    if norm == 0.0 { error.sqrt() } else { (error / norm).sqrt() }
}

/// Collects comparisons; [`Report::finish`] fails with all that are out of bounds.
pub struct Report {
    name: String,
    failures: Vec<String>,
}

impl Report {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), failures: Vec::new() }
    }

    /// An output of the element type. f32: within `bound`. Else within twice the error of `naive`, the f32 evaluation
    /// rounded to the type.
    pub fn output<T: TestElement>(&mut self, what: &str, got: &[f64], want: &[f64], naive: &[f64], bound: f64) {
        let limit = match T::DTYPE {
            Dtype::F32 => bound,
            Dtype::Bf16 | Dtype::F16 => 2.0 * relative(&rounded::<T>(naive), want) + bound / 10.0,
        };
        self.within(what, got, want, limit);
    }

    pub fn within(&mut self, what: &str, got: &[f64], want: &[f64], limit: f64) {
        let error = relative(got, want);
        let ok = error <= limit;
        println!("{:44} {what:20} error {error:.2e} limit {limit:.2e}{}", self.name, if ok { "" } else { "  FAILED" });
        if !ok {
            let worst = got.iter().zip(want).enumerate().max_by(|(_, a), (_, b)| {
                let distance = |(g, w): &(&f64, &f64)| if g.is_finite() { (**g - **w).abs() } else { f64::INFINITY };
                distance(a).total_cmp(&distance(b))
            });
            self.failures.push(format!("{what}: error {error:.2e} over {limit:.2e}, worst at {worst:?}"));
        }
    }

    pub fn finish(self) {
        assert!(self.failures.is_empty(), "{}:\n  {}", self.name, self.failures.join("\n  "));
    }
}
