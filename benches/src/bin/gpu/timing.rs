//! Events, a cold cache, medians; and the comparison that comes before them.

use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use mom_kernels::cuda::Gpu;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::cudarc::driver::sys::CUevent_flags;
use serde::Serialize;

use crate::Error;

/// Before an operation is timed: what ran before has made the card warm, and it lowers its clock for that within some tens of
/// milliseconds, which would be counted against whichever operation comes late.
const PAUSE: Duration = Duration::from_millis(100);

/// A run: what is asked for, and what came out so far.
pub struct Bench<'a> {
    pub gpu: &'a Gpu,
    only: Vec<String>,
    reps: usize,
    /// Larger than the second-level cache.
    flush: CudaSlice<u8>,
    timings: Vec<Timing>,
    memory: Vec<Memory>,
    failures: Vec<String>,
}

/// One operation at one shape, timed.
#[derive(Debug, Clone, Serialize)]
pub struct Timing {
    pub name: String,
    pub shape: String,
    pub median_ms: f64,
    pub p10_ms: f64,
    pub p90_ms: f64,
    /// The fewest bytes that it must move.
    pub gbytes: f64,
    pub gflop: f64,
    /// Of the median.
    pub gb_s: f64,
    pub tflop_s: f64,
}

/// What an operation held on the device at once, its arguments too.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    pub name: String,
    pub shape: String,
    pub mib: f64,
}

/// A comparison with the reference.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub what: String,
    pub error: f64,
    pub limit: f64,
}

/// Everything that a run found.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    pub repetitions: usize,
    pub failures: Vec<String>,
    pub checks: Vec<Check>,
    pub results: Vec<Timing>,
    pub memory: Vec<Memory>,
}

/// Comparisons of this run: they are made where there is a `Gpu` and no `Bench`.
static CHECKS: Mutex<Vec<Check>> = Mutex::new(Vec::new());

impl<'a> Bench<'a> {
    pub fn new(gpu: &'a Gpu, only: Vec<String>, reps: usize) -> Result<Self, Error> {
        let name = gpu.stream().context().name()?;
        println!("{name}: {} multiprocessors, {reps} repetitions", gpu.n_multiprocessors());
        let flush = gpu.zeros(256 << 20)?;
        Ok(Self { gpu, only, reps, flush, timings: Vec::new(), memory: Vec::new(), failures: Vec::new() })
    }

    /// Timed repetitions of an operation.
    pub fn reps(&self) -> usize {
        self.reps
    }

    /// Whether an operation is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// Runs the checks and timings of an operation; where one fails, the rest of that operation is left out.
    pub fn attempt(&mut self, what: &str, run: impl FnOnce(&mut Self) -> Result<(), Error>) {
        if let Err(error) = run(self) {
            println!("FAILED {what}: {error}");
            self.failures.push(format!("{what}: {error}"));
        }
    }

    /// Times one call, prints and keeps it; the median in milliseconds. `bytes` are the fewest that it must move.
    pub fn time<E: Into<Error>>(
        &mut self,
        name: &str,
        shape: &str,
        bytes: f64,
        flop: f64,
        mut call: impl FnMut() -> Result<(), E>,
    ) -> Result<f64, Error> {
        let stream = self.gpu.stream();
        let mut call = || call().map_err(Into::into);
        stream.synchronize()?;
        sleep(PAUSE);
        for _ in 0..5 {
            call()?;
        }
        let mut events = Vec::with_capacity(self.reps);
        for _ in 0..self.reps {
            stream.memset_zeros(&mut self.flush)?;
            let begin = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
            call()?;
            events.push((begin, stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?));
        }
        let mut times = Vec::with_capacity(self.reps);
        for (begin, end) in events {
            times.push(f64::from(begin.elapsed_ms(&end)?));
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let timing = Timing {
            name: name.into(),
            shape: shape.into(),
            median_ms: at(0.5),
            p10_ms: at(0.1),
            p90_ms: at(0.9),
            gbytes: bytes / 1e9,
            gflop: flop / 1e9,
            gb_s: bytes / at(0.5) / 1e6,
            tflop_s: flop / at(0.5) / 1e9,
        };
        println!("  timed {name:44} {shape:10} {:8.4} ms", timing.median_ms);
        let median = timing.median_ms;
        self.timings.push(timing);
        Ok(median)
    }

    /// Keeps what an operation held on the device.
    pub fn holds(&mut self, name: &str, shape: &str, bytes: u64) {
        self.memory.push(Memory { name: name.into(), shape: shape.into(), mib: bytes as f64 / f64::from(1 << 20) });
    }

    /// Everything that was found.
    pub fn finish(self) -> Findings {
        let checks = std::mem::take(&mut *CHECKS.lock().unwrap_or_else(PoisonError::into_inner));
        Findings { repetitions: self.reps, failures: self.failures, checks, results: self.timings, memory: self.memory }
    }
}

/// |got - want| / |want|; without end if a value is not finite.
pub fn relative(got: impl IntoIterator<Item = f64>, want: &[f64]) -> f64 {
    let (mut error, mut norm, mut n) = (0.0, 0.0, 0);
    for (got, &want) in got.into_iter().zip(want) {
        error += (got - want) * (got - want);
        norm += want * want;
        n += 1;
    }
    assert_eq!(n, want.len(), "an output has fewer elements than its reference");
    if error.is_finite() { (error / norm).sqrt() } else { f64::INFINITY }
}

/// Keeps an error, and fails where it is above its limit: a fast wrong kernel is not timed.
pub fn expect(what: &str, error: f64, limit: f64) -> Result<(), Error> {
    println!("  check {what:44} error {error:.2e} (limit {limit:.1e})");
    let check = Check { what: what.to_owned(), error, limit };
    CHECKS.lock().unwrap_or_else(PoisonError::into_inner).push(check);
    if error <= limit { Ok(()) } else { Err(format!("{what}: error {error:.2e} is over {limit:.1e}").into()) }
}

/// Values that look random, the same on every run: uniform in -1..1, times `scale`.
pub fn noise(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            scale * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        })
        .collect()
}
