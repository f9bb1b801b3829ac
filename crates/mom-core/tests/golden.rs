//! The published code's values: outputs and gradients of every file in a folder, in f64 and in f32.
//!
//! The folder is the one named by `MOM_GOLDEN`, or the project's own copy. See its README for what the files hold.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use common::relative_error;
use mom_core::ops::{SelectiveScan, selective_scan};
use mom_core::{Init, MixerConfig, MixtureOfMamba, ModalityPlan, Plan, Projection, SharedDtBias, Untied, to_rows};
use mom_kernels::selective_scan::{DeltaActivation, ScanInputs, ScanOutputs, forward};
use mom_kernels::{Rows, RowsMut};

/// Largest relative error of outputs and of gradients.
fn tolerances(dtype: DType) -> (f64, f64) {
    if dtype == DType::F64 { (1e-10, 1e-10) } else { (1e-5, 1e-4) }
}

struct Case {
    name: String,
    metadata: HashMap<String, String>,
    tensors: HashMap<String, Tensor>,
    failures: Vec<String>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            metadata: header.metadata().clone().unwrap(),
            tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap(),
            failures: Vec::new(),
        }
    }

    fn number(&self, key: &str) -> usize {
        self.metadata[key].parse().unwrap()
    }

    fn tensor(&self, name: &str, dtype: DType) -> Tensor {
        self.tensors[name].to_dtype(dtype).unwrap()
    }

    fn expect(&mut self, dtype: DType, name: &str, got: &Tensor, tolerance: f64) {
        let error = relative_error(got, &self.tensors[name]);
        // `relative_error` refuses what is not finite.
        if error > tolerance {
            self.failures.push(format!("{} {dtype:?} {name}: {error:.2e} > {tolerance:.0e}", self.name));
        }
    }

    fn run(&mut self) {
        for dtype in [DType::F64, DType::F32] {
            match self.metadata["kind"].as_str() {
                "selective_scan" => self.run_scan(dtype),
                "mom_block" | "dense_block" => self.run_block(dtype),
                other => panic!("{}: unknown kind {other}", self.name),
            }
        }
    }

    fn run_block(&mut self, dtype: DType) {
        let (tolerance, gradient_tolerance) = tolerances(dtype);
        let split = &self.metadata["split"];
        let untied: Untied = if split.is_empty() { Untied::NONE } else { split.replace(',', "+").parse().unwrap() };
        let d_model = self.number("d_model");
        let config = MixerConfig {
            n_modalities: self.number("n_modalities"),
            untied,
            expand: self.number("d_inner") / d_model,
            d_state: self.number("d_state"),
            d_conv: self.number("d_conv"),
            dt_rank: Some(self.number("dt_rank")),
            bias: self.metadata["bias"] == "true",
            conv_bias: self.metadata["conv_bias"] == "true",
            // The published code drops the bias of a shared dt_proj; a file without it is from there.
            shared_dt_bias: if self.tensors.contains_key("param.dt_proj.bias") || untied.dt_proj {
                SharedDtBias::Applied
            } else {
                SharedDtBias::Dropped
            },
            ..MixerConfig::new(d_model)
        };
        let variables: HashMap<String, Var> = self
            .tensors
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("param.")?.to_owned(), value)))
            .map(|(name, value)| (name, Var::from_tensor(&value.to_dtype(dtype).unwrap()).unwrap()))
            .collect();
        let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let vb = VarBuilder::from_tensors(tensors, dtype, &Device::Cpu);
        let mixer = MixtureOfMamba::new(&config, &Init::seeded(0), vb).unwrap();

        let x = Var::from_tensor(&self.tensor("hidden_states", dtype)).unwrap();
        let (batch, seqlen, _) = x.dims3().unwrap();
        let ids: Vec<u8> = match self.tensors.get("modality_ids") {
            Some(ids) => ids.flatten_all().unwrap().to_vec1::<i64>().unwrap().iter().map(|&id| id as u8).collect(),
            None => vec![0; batch * seqlen],
        };
        let plan = Plan::from(ModalityPlan::new(batch, seqlen, config.n_modalities, &ids, None).unwrap());
        let output = mixer.forward_positions(&x, &plan).unwrap();
        self.expect(dtype, "output", &output, tolerance);
        let loss = (output * self.tensor("grad_output", dtype)).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let mut checked = 0;
        let names: Vec<String> = self.tensors.keys().filter(|name| name.starts_with("grad.")).cloned().collect();
        for name in names {
            let of = name.strip_prefix("grad.").unwrap();
            let variable = if of == "hidden_states" { &x } else { &variables[of] };
            self.expect(dtype, &name, gradients.get(variable).unwrap(), gradient_tolerance);
            checked += 1;
        }
        // A shared dt_proj has a bias (zero) and no gradient for it: the published code does not apply it.
        let without = usize::from(
            !untied.dt_proj && self.tensors.contains_key("modality_ids") && config.has_bias(Projection::Dt),
        );
        assert_eq!(checked, variables.len() + 1 - without, "{}: gradients of all parameters and the input", self.name);
    }

    /// The files have time last; rows here are (batch, seqlen) with one modality.
    fn run_scan(&mut self, dtype: DType) {
        let (tolerance, gradient_tolerance) = tolerances(dtype);
        let to_time_major = |t: &Tensor| t.transpose(1, 2).unwrap().contiguous().unwrap();
        let (batch, d_inner, seqlen) = self.tensors["u"].dims3().unwrap();
        let plan = Plan::from(ModalityPlan::dense(batch, seqlen, None).unwrap());
        let variables: HashMap<&str, Var> = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"]
            .into_iter()
            .filter(|name| self.tensors.contains_key(*name))
            .map(|name| (name, Var::from_tensor(&self.tensor(name, dtype)).unwrap()))
            .collect();
        let rows = |name: &str| to_rows(&to_time_major(&variables[name]), &plan).unwrap();
        let inputs = SelectiveScan {
            u: rows("u"),
            dt: rows("delta"),
            dt_bias: variables.get("delta_bias").map(|bias| bias.unsqueeze(0).unwrap()),
            a: variables["A"].as_tensor().clone(),
            b: rows("B"),
            c: rows("C"),
            d_skip: variables.get("D").map(|d| d.as_tensor().clone()),
            z: variables.contains_key("z").then(|| rows("z")),
            delta_activation: if self.metadata["delta_softplus"] == "true" {
                DeltaActivation::Softplus
            } else {
                DeltaActivation::Identity
            },
        };
        self.last_state(dtype, &inputs, &plan, tolerance);
        let out = selective_scan(inputs, &plan).unwrap();
        let output = out.reshape((batch, seqlen, d_inner)).unwrap().transpose(1, 2).unwrap();
        self.expect(dtype, "output", &output, tolerance);
        let loss = (output * self.tensor("grad_output", dtype)).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        for (name, variable) in &variables {
            let gradient = gradients.get(variable).unwrap().clone();
            self.expect(dtype, &format!("grad.{name}"), &gradient, gradient_tolerance);
        }
        let stored = self.tensors.keys().filter(|name| name.starts_with("grad.")).count();
        assert_eq!(stored, variables.len(), "{}: every stored gradient is compared", self.name);
    }

    fn last_state(&mut self, dtype: DType, inputs: &SelectiveScan, plan: &ModalityPlan, tolerance: f64) {
        let wide = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        let want = &self.tensors["last_state"];
        let (batch, d_inner, d_state) = want.dims3().unwrap();
        macro_rules! last_state_as {
            ($t:ty) => {{
                let narrow = |t: &Tensor| wide(t).into_iter().map(|v| v as $t).collect::<Vec<_>>();
                let optional = |t: &Option<Tensor>| t.as_ref().map(narrow);
                let (u, dt, a) = (narrow(&inputs.u), narrow(&inputs.dt), narrow(&inputs.a));
                let (b, c) = (narrow(&inputs.b), narrow(&inputs.c));
                let (bias, d_skip) = (optional(&inputs.dt_bias), optional(&inputs.d_skip));
                let offsets = mom_core::ModalityOffsets::single(plan.n_rows());
                let scan = ScanInputs::new(
                    plan.layout(),
                    Rows::new("u", &u, d_inner).unwrap(),
                    Rows::new("dt", &dt, d_inner).unwrap(),
                    &a,
                    Rows::new("b", &b, d_state).unwrap(),
                    Rows::new("c", &c, d_state).unwrap(),
                )
                .with_dt_bias(bias.as_deref().map(|bias| mom_kernels::selective_scan::DtBias::new(bias, &offsets)))
                .with_delta_activation(inputs.delta_activation)
                .with_d_skip(d_skip.as_deref());
                let mut out = vec![<$t>::NAN; u.len()];
                let mut state = vec![<$t>::NAN; batch * d_inner * d_state];
                let out = RowsMut::new("out", &mut out, d_inner).unwrap();
                forward(&scan, ScanOutputs::new(out).with_last_state(&mut state[..])).unwrap();
                Tensor::from_vec(state, (batch, d_inner, d_state), &Device::Cpu).unwrap()
            }};
        }
        let got = if dtype == DType::F64 { last_state_as!(f64) } else { last_state_as!(f32) };
        self.expect(dtype, "last_state", &got, tolerance);
    }
}

fn folder() -> PathBuf {
    match std::env::var_os("MOM_GOLDEN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// Runs every file of a folder; the error says what went wrong.
fn run_folder(folder: &Path) -> Result<usize, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    if files.is_empty() {
        return Err(format!("no golden file (*.safetensors) in {}", folder.display()));
    }
    let mut failures = Vec::new();
    for file in &files {
        let mut case = Case::read(file);
        case.run();
        failures.append(&mut case.failures);
    }
    if failures.is_empty() { Ok(files.len()) } else { Err(failures.join("\n")) }
}

#[test]
fn every_golden_file_is_met_in_f64_and_f32() {
    let folder = folder();
    match run_folder(&folder) {
        // Past the test harness, which would swallow a print.
        Ok(n) if std::env::var_os("MOM_GOLDEN").is_none() && n != 33 => panic!("{n} golden files, the project has 33"),
        Ok(n) => writeln!(std::io::stderr(), "{n} golden files of {} met in f64 and f32", folder.display()).unwrap(),
        Err(message) => panic!("{message}"),
    }
}

#[test]
fn a_folder_without_golden_files_fails() {
    let empty = std::env::temp_dir().join(format!("mom-golden-empty-{}", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    assert!(run_folder(&empty).unwrap_err().contains("no golden file"));
    std::fs::remove_dir(&empty).unwrap();
    assert!(run_folder(&empty).unwrap_err().contains("cannot read"));
}

#[test]
fn a_changed_value_fails() {
    let path = folder().join("mom_block_len1.safetensors");
    if !path.exists() {
        return;
    }
    let mut case = Case::read(&path);
    let moved = case.tensors["output"].affine(1.0 + 1e-4, 0.0).unwrap();
    case.tensors.insert("output".to_owned(), moved);
    case.run();
    assert_eq!(case.failures.len(), 2, "{:?}", case.failures);
}
