//! Three documents of different lengths packed into one sequence, through the selective scan without padding or mask: each comes
//! out as it does alone.
//!
//! `cargo run --release -p mom-kernels --example packed_documents`: less than a second.

use mom_kernels::selective_scan::{self, ScanInputs, ScanOutputs};
use mom_kernels::{Rows, RowsMut, SequenceLayout};

const D_INNER: usize = 64;
const D_STATE: usize = 16;

/// What a scan reads at each position.
struct Activations {
    /// `(positions, D_INNER)`.
    u: Vec<f32>,
    /// `(positions, D_INNER)`: the step size, before softplus.
    dt: Vec<f32>,
    /// `(positions, 2 * D_STATE)`: B and C side by side, as a projection leaves them.
    bc: Vec<f32>,
}

fn main() -> Result<(), mom_kernels::Error> {
    let lengths = [70, 1, 185];
    let n_positions = lengths.iter().sum();
    let activations = Activations {
        u: wave(n_positions * D_INNER, 0.7),
        dt: wave(n_positions * D_INNER, 1.3),
        bc: wave(n_positions * 2 * D_STATE, 2.1),
    };
    // Usually negative, so that a state decays: -1, -2, ... for the states of each channel.
    let a: Vec<f32> = (0..D_INNER * D_STATE).map(|i| -((i % D_STATE + 1) as f32)).collect();

    // Where a document begins, the state begins at zero: that is all that a packed sequence needs.
    let mut starts = vec![false; n_positions];
    let mut first = 0;
    for length in lengths {
        starts[first] = true;
        first += length;
    }
    let packed = scan(&activations, &a, 0..n_positions, Some(&starts))?;

    let mut first = 0;
    for length in lengths {
        let alone = scan(&activations, &a, first..first + length, None)?;
        let inside = &packed[first * D_INNER..][..alone.len()];
        let difference = alone.iter().zip(inside).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        println!("document of {length:3} positions: packed and alone differ by {difference:e} at most");
        assert!(difference < 1e-5);
        first += length;
    }
    // Without the borders the second document would go on from the state of the first one.
    let unmarked = scan(&activations, &a, 0..n_positions, None)?;
    assert!(packed[..70 * D_INNER] == unmarked[..70 * D_INNER] && packed != unmarked);
    Ok(())
}

/// The scan over some of the positions, as one sequence: `(positions, D_INNER)`.
fn scan(
    activations: &Activations,
    a: &[f32],
    positions: std::ops::Range<usize>,
    document_starts: Option<&[bool]>,
) -> Result<Vec<f32>, mom_kernels::Error> {
    let part = |values: &'_ [f32], width: usize| values[positions.start * width..positions.end * width].to_vec();
    let (u, dt) = (part(&activations.u, D_INNER), part(&activations.dt, D_INNER));
    let bc = part(&activations.bc, 2 * D_STATE);
    // Columns of wider rows are arguments without a copy.
    let bc = Rows::new("bc", &bc, 2 * D_STATE)?;
    let (b, c) = (bc.columns(0, D_STATE)?, bc.columns(D_STATE, D_STATE)?);
    let layout = SequenceLayout::contiguous(1, positions.len(), document_starts)?;
    let inputs = ScanInputs::new(layout, Rows::new("u", &u, D_INNER)?, Rows::new("dt", &dt, D_INNER)?, a, b, c);
    let mut out = vec![0.0; u.len()];
    selective_scan::forward(&inputs, ScanOutputs::new(RowsMut::new("out", &mut out, D_INNER)?))?;
    Ok(out)
}

/// Values between -1 and 1 that look random.
fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}
