//! What the benches share: seeded inputs, times that stand interference, and the floors that a machine allows.
//!
//! A bar is a ratio, and both of its sides are measured in turns in one run, so that a busy or slower machine changes
//! both. Times are the best of many: interference only ever adds.

pub mod floors;
pub mod mixer;

use std::time::{Duration, Instant};

use mom_kernels::{Error, ModalityPlan};

/// The shape that the bars are stated for: the mixer of d_model 256, 4 x 512 tokens, three modalities.
pub mod shape {
    /// Sequences.
    pub const BATCH: usize = 4;
    /// Positions of a sequence.
    pub const SEQLEN: usize = 512;
    /// Tokens.
    pub const N_ROWS: usize = BATCH * SEQLEN;
    /// Modalities.
    pub const N_MODALITIES: usize = 3;
    /// Features of the residual stream.
    pub const D_MODEL: usize = 256;
    /// Channels of conv and scan.
    pub const D_INNER: usize = 2 * D_MODEL;
    /// States of a channel.
    pub const D_STATE: usize = 16;
    /// Taps of the conv.
    pub const D_CONV: usize = 4;
    /// Features between x_proj and dt_proj.
    pub const DT_RANK: usize = D_MODEL / 16;
    /// Features of x_proj's output.
    pub const X_DBL: usize = DT_RANK + 2 * D_STATE;
}

/// Seeded values in [centre - spread, centre + spread) (SplitMix64).
pub fn values(seed: u64, n: usize, centre: f32, spread: f32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            centre + spread * ((z >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
        })
        .collect()
}

/// Spans of the modalities in turn, of lengths that differ: as documents of text, images and speech would come.
///
/// # Errors
/// None for the shapes of the benches.
pub fn spans(batch: usize, seqlen: usize, n_modalities: usize) -> Result<ModalityPlan, Error> {
    let lengths = [44, 64, 80, 30];
    let mut ids = Vec::with_capacity(batch * seqlen);
    let mut span = 0;
    while ids.len() < batch * seqlen {
        let end = (ids.len() + lengths[span % lengths.len()]).min(batch * seqlen);
        ids.resize(end, (span % n_modalities) as u8);
        span += 1;
    }
    ModalityPlan::new(batch, seqlen, n_modalities, &ids, None)
}

/// Best time of each function in seconds, run in turns for about `for_each` each and ten times at least.
pub fn best_secs<const N: usize>(for_each: Duration, mut functions: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    let begin = Instant::now();
    let mut n_runs = 0;
    while n_runs < 10 || begin.elapsed() < for_each * N as u32 {
        for (best, function) in best.iter_mut().zip(&mut functions) {
            let begin = Instant::now();
            function();
            *best = best.min(begin.elapsed().as_secs_f64());
        }
        n_runs += 1;
    }
    best
}

/// Prints a measured time beside what it is held against.
pub fn report(name: &str, secs: f64, against: &str, against_secs: f64, bar: f64) {
    let ratio = secs / against_secs;
    let verdict = if ratio <= bar { "met" } else { "MISSED" };
    println!(
        "{name}: {:.3} ms; {against}: {:.3} ms; ratio {ratio:.3}, bar {bar} {verdict}",
        secs * 1e3,
        against_secs * 1e3
    );
}
