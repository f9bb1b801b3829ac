//! Events, a cold cache, medians; and the card's own ceilings, measured in the same run.

use std::fmt::Write as _;

use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::cudarc::driver::sys::CUevent_flags;
use mom_kernels::cuda::{CudaError, Gpu, Result as GpuResult};

use crate::Error;

pub struct Bench<'a> {
    pub gpu: &'a Gpu,
    only: Option<String>,
    reps: usize,
    /// Larger than the second-level cache.
    flush: CudaSlice<u8>,
    copy_tb_s: f64,
    records: Vec<Record>,
}

struct Record {
    name: String,
    shape: String,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    gbytes: f64,
    gflop: f64,
}

impl<'a> Bench<'a> {
    pub fn new(gpu: &'a Gpu, only: Option<String>, reps: usize) -> Result<Self, Error> {
        let context = gpu.stream().context();
        println!("{}: {} multiprocessors, {} repetitions", context.name()?, gpu.n_multiprocessors(), reps);
        Ok(Self { gpu, only, reps, flush: gpu.zeros(256 << 20)?, copy_tb_s: 0.0, records: Vec::new() })
    }

    /// Whether an operation is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }

    /// Device copy, read plus written.
    pub fn ceilings(&mut self) -> Result<(), Error> {
        let gpu = self.gpu;
        let bytes = 2usize << 30;
        let (from, mut to) = (gpu.zeros::<u8>(bytes)?, gpu.zeros::<u8>(bytes)?);
        let ms = self.time("copy", "2 GiB", 2.0 * bytes as f64, 0.0, || {
            let copied = gpu.stream().memcpy_dtod(&from, &mut to);
            copied.map_err(|source| CudaError::Driver { what: "copying on the device", source })
        })?;
        self.copy_tb_s = 2.0 * bytes as f64 / ms / 1e9;
        Ok(())
    }

    /// Times one call, prints and keeps it; the median in milliseconds.
    pub fn time(
        &mut self,
        name: &str,
        shape: &str,
        bytes: f64,
        flop: f64,
        mut call: impl FnMut() -> GpuResult<()>,
    ) -> Result<f64, Error> {
        let stream = self.gpu.stream();
        for _ in 0..5 {
            call()?;
        }
        let mut times = Vec::with_capacity(self.reps);
        for _ in 0..self.reps {
            stream.memset_zeros(&mut self.flush)?;
            let begin = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
            call()?;
            let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
            times.push(f64::from(begin.elapsed_ms(&end)?));
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let record = Record {
            name: name.into(),
            shape: shape.into(),
            median_ms: at(0.5),
            p10_ms: at(0.1),
            p90_ms: at(0.9),
            gbytes: bytes / 1e9,
            gflop: flop / 1e9,
        };
        let (tb_s, tflops) = (record.gbytes / record.median_ms, record.gflop / record.median_ms);
        let share = if self.copy_tb_s > 0.0 {
            format!(" ({:.0} % of copy)", 100.0 * tb_s / self.copy_tb_s)
        } else {
            String::new()
        };
        println!(
            "{name:34} {shape:12} {:8.4} ms  [{:.4}, {:.4}]  {tb_s:6.3} TB/s{share}  {tflops:7.1} TFLOP/s",
            record.median_ms, record.p10_ms, record.p90_ms
        );
        let median = record.median_ms;
        self.records.push(record);
        Ok(median)
    }

    /// Everything measured.
    pub fn json(&self) -> String {
        let mut text = format!("{{\n  \"copy_tb_s\": {:.4},\n  \"results\": [\n", self.copy_tb_s);
        for (i, r) in self.records.iter().enumerate() {
            let comma = if i + 1 == self.records.len() { "" } else { "," };
            let _ = writeln!(
                text,
                "    {{\"name\": \"{}\", \"shape\": \"{}\", \"median_ms\": {:.5}, \"p10_ms\": {:.5}, \"p90_ms\": {:.5}, \
                 \"gbytes\": {:.5}, \"gflop\": {:.5}}}{comma}",
                r.name, r.shape, r.median_ms, r.p10_ms, r.p90_ms, r.gbytes, r.gflop
            );
        }
        text + "  ]\n}\n"
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

/// Fails loudly where an error is above its limit: a fast wrong kernel is not timed.
pub fn expect(what: &str, error: f64, limit: f64) -> Result<(), Error> {
    println!("  check {what:30} error {error:.2e} (limit {limit:.0e})");
    if error <= limit { Ok(()) } else { Err(format!("{what}: error {error:.2e} is over {limit:.0e}").into()) }
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
