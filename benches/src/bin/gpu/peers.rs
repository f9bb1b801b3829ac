//! What others offer for the same work: `peers.py`, run by this machine's python3 after the kernels, in the same call.

use std::process::Command;

use mom_kernels::ModalityPlan;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Arguments, Error, SHAPES, rest, scan, vocabulary};

const SCRIPT: &str = include_str!("peers.py");

/// What the script found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peers {
    /// Versions.
    pub software: String,
    pub results: Vec<Peer>,
    pub absent: Vec<Absent>,
}

/// One operation of a peer, timed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// The operation of this project with the same work.
    pub of: String,
    pub name: String,
    pub shape: String,
    pub median_ms: f64,
    pub p10_ms: f64,
    pub p90_ms: f64,
}

/// One that could not run here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Absent {
    pub name: String,
    pub shape: String,
    pub why: String,
}

/// Times the peers; a machine without PyTorch has one absent peer.
pub fn run(arguments: &Arguments) -> Peers {
    ask(arguments).unwrap_or_else(|error| {
        let absent = Absent { name: "PyTorch".into(), shape: "all".into(), why: error.to_string() };
        Peers { software: "none".into(), results: Vec::new(), absent: vec![absent] }
    })
}

fn ask(arguments: &Arguments) -> Result<Peers, Error> {
    let mut shapes = Vec::new();
    for shape in SHAPES {
        let ids = scan::modality_ids(shape.n_rows(), 3);
        let plan = ModalityPlan::new(shape.batch, shape.seqlen, 3, &ids, None)?;
        let offsets = plan.modality_offsets();
        let counts: Vec<usize> = (0..offsets.n_modalities()).map(|modality| offsets.rows(modality).len()).collect();
        shapes.push(json!({
            "name": shape.name, "batch": shape.batch, "seqlen": shape.seqlen, "d_model": shape.d_model,
            "d_inner": shape.d_inner(), "dt_rank": shape.dt_rank(), "counts": counts,
        }));
    }
    let config = json!({
        "reps": arguments.reps, "only": arguments.only, "d_state": scan::D_STATE, "vocabulary": vocabulary::VOCABULARY,
        "optimiser": {"n_tensors": rest::N_TENSORS, "len": rest::TENSOR_LEN}, "shapes": shapes,
    });
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &config.to_string()]).env("CUDA_VISIBLE_DEVICES", arguments.device.to_string());
    let output = python.output().map_err(|error| format!("python3 cannot be run: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("python3: {}", text.trim().lines().last().unwrap_or("no message")).into());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("the answer of python3: {error}").into())
}
