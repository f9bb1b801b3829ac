//! The scan's backward pass against finite differences of its forward pass, in f64: how a gradient of any operation here can be
//! checked, and how forward and backward fit together.
//!
//! `cargo run --release -p mom-kernels --example gradient_check`: less than a second.

use mom_kernels::selective_scan::{self, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs, saved_states_len};
use mom_kernels::{Rows, RowsMut, SequenceLayout};

const BATCH: usize = 2;
const SEQLEN: usize = 21;
const D_INNER: usize = 5;
const D_STATE: usize = 4;
const N_ROWS: usize = BATCH * SEQLEN;

/// Names of the inputs, in the order in which this program keeps them.
const NAMES: [&str; 5] = ["u", "dt", "a", "b", "c"];

fn main() -> Result<(), mom_kernels::Error> {
    let inputs = [
        wave(N_ROWS * D_INNER, 0.7),
        wave(N_ROWS * D_INNER, 1.3),
        wave(D_INNER * D_STATE, 0.9).iter().map(|x| x - 1.5).collect(),
        wave(N_ROWS * D_STATE, 2.1),
        wave(N_ROWS * D_STATE, 2.9),
    ];
    // The loss is a weighted sum of the outputs, so that its gradient with respect to them is these weights.
    let grad_out = wave(N_ROWS * D_INNER, 1.7);
    let loss = |inputs: &[Vec<f64>; 5]| -> Result<f64, mom_kernels::Error> {
        let (out, _) = forward(inputs)?;
        Ok(out.iter().zip(&grad_out).map(|(out, weight)| out * weight).sum())
    };

    let (_, saved_states) = forward(&inputs)?;
    let grads = backward(&inputs, &saved_states, &grad_out)?;
    let step = 1e-5;
    for (input, name) in NAMES.iter().enumerate() {
        let mut largest: f64 = 0.0;
        for element in 0..inputs[input].len() {
            let mut moved = inputs.clone();
            moved[input][element] += step;
            let above = loss(&moved)?;
            moved[input][element] -= 2.0 * step;
            let below = loss(&moved)?;
            let difference = (above - below) / (2.0 * step);
            largest = largest.max((grads[input][element] - difference).abs() / (1.0 + difference.abs()));
        }
        println!("grad_{name}: {:3} elements, off by {largest:.1e} at most", inputs[input].len());
        assert!(largest < 1e-7);
    }
    Ok(())
}

fn scan(inputs: &[Vec<f64>; 5]) -> Result<ScanInputs<'_, f64>, mom_kernels::Error> {
    let [u, dt, a, b, c] = inputs;
    let layout = SequenceLayout::contiguous(BATCH, SEQLEN, None)?;
    let (u, dt) = (Rows::new("u", u, D_INNER)?, Rows::new("dt", dt, D_INNER)?);
    Ok(ScanInputs::new(layout, u, dt, a, Rows::new("b", b, D_STATE)?, Rows::new("c", c, D_STATE)?))
}

/// The outputs, and the states that the backward pass begins its own work from.
fn forward(inputs: &[Vec<f64>; 5]) -> Result<(Vec<f64>, Vec<f64>), mom_kernels::Error> {
    let mut out = vec![0.0; N_ROWS * D_INNER];
    let mut saved_states = vec![0.0; saved_states_len(BATCH, SEQLEN, D_INNER, D_STATE)];
    let outputs = ScanOutputs::new(RowsMut::new("out", &mut out, D_INNER)?).with_saved_states(&mut saved_states[..]);
    selective_scan::forward(&scan(inputs)?, outputs)?;
    Ok((out, saved_states))
}

/// The gradient of each input.
fn backward(
    inputs: &[Vec<f64>; 5],
    saved_states: &[f64],
    grad_out: &[f64],
) -> Result<[Vec<f64>; 5], mom_kernels::Error> {
    // Every element is overwritten: NaN would show one that is not.
    let mut grads = inputs.clone().map(|input| vec![f64::NAN; input.len()]);
    let [u, dt, a, b, c] = &mut grads;
    let outgoing = ScanGrads::new(
        RowsMut::new("grad_u", u, D_INNER)?,
        RowsMut::new("grad_dt", dt, D_INNER)?,
        &mut a[..],
        RowsMut::new("grad_b", b, D_STATE)?,
        RowsMut::new("grad_c", c, D_STATE)?,
    );
    let incoming = ScanOutputGrads::new(Rows::new("grad_out", grad_out, D_INNER)?);
    selective_scan::backward(&scan(inputs)?, saved_states, &incoming, outgoing)?;
    Ok(grads)
}

/// Values between -1 and 1 that look random.
fn wave(len: usize, step: f64) -> Vec<f64> {
    (0..len).map(|i| (i as f64 * step).sin()).collect()
}
