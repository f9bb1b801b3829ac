//! Golden files: what the publishers' own code computes with small random weights. `README.md` beside them says how they were
//! made; never edit or regenerate one.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

/// Relative error that f32 on the CPU may have: the references reach 7e-6, the mildest mistake makes 8e-5.
pub const TOLERANCE: f64 = 2e-5;

/// The folder named by `MOM_GOLDEN_CODECS`, by default the project's own choice of the files.
pub fn folder() -> PathBuf {
    match std::env::var_os("MOM_GOLDEN_CODECS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/codecs"),
    }
}

/// Whether a file is left out of the package that these sources come from, which would be too large with it; said past the test
/// harness, which would swallow a print.
pub fn is_left_out(name: &str) -> bool {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_left_out =
        own.join("Cargo.toml.orig").exists() && !own.join(format!("tests/golden/codecs/{name}.safetensors")).exists();
    if is_left_out {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED {name}: it is not part of this package").unwrap();
    }
    is_left_out
}

/// A tensor's bytes as they are in a file.
#[derive(Debug, Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub struct Golden {
    pub name: String,
    pub kind: String,
    pub config: Json,
    /// `weights.*`, without that word.
    pub weights: HashMap<String, Stored>,
    rest: HashMap<String, Stored>,
    /// The largest error of each comparison.
    pub errors: std::cell::RefCell<Vec<(String, f64)>>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone().unwrap();
        let (mut weights, mut rest) = (HashMap::new(), HashMap::new());
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let stored = Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
            match name.strip_prefix("weights.") {
                Some(name) => weights.insert(name.to_owned(), stored),
                None => rest.insert(name, stored),
            };
        }
        Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            kind: metadata["kind"].clone(),
            config: serde_json::from_str(&metadata["config"]).unwrap(),
            weights,
            rest,
            errors: Default::default(),
        }
    }

    /// One of the project's own files.
    pub fn own(name: &str) -> Self {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/codecs/{name}.safetensors")))
    }

    fn stored(&self, name: &str) -> &Stored {
        self.rest.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.rest.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.stored(name).shape
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.stored(name).bytes
    }

    pub fn f32(&self, name: &str) -> Tensor {
        let stored = self.stored(name);
        let values: Vec<f32> = stored.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        Tensor::from_vec(values, &stored.shape[..], &Device::Cpu).unwrap()
    }

    pub fn samples(&self, name: &str) -> Vec<f32> {
        self.f32(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn codes(&self, name: &str) -> Vec<u32> {
        self.stored(name).bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as u32).collect()
    }

    pub fn code_tensor(&self, name: &str) -> Tensor {
        Tensor::from_vec(self.codes(name), self.shape(name), &Device::Cpu).unwrap()
    }

    /// Compares floats, and notes how far off they are.
    pub fn within(&self, got: &Tensor, name: &str, tolerance: f64) {
        let want = self.f32(name);
        assert_eq!(got.elem_count(), want.elem_count(), "{}: {name}: {:?}, {:?}", self.name, got.shape(), want.shape());
        let error = relative(got, &want);
        self.errors.borrow_mut().push((name.to_owned(), error));
        assert!(error < tolerance, "{}: {name} is off by {error:.2e}", self.name);
    }

    pub fn equal(&self, got: &[u32], name: &str) {
        let want = self.codes(name);
        let wrong = got.iter().zip(&want).filter(|(got, want)| got != want).count();
        assert!(got.len() == want.len() && wrong == 0, "{}: {name}: {wrong} of {} differ", self.name, want.len());
    }
}

/// `|got - want| / |want|`
pub fn relative(got: &Tensor, want: &Tensor) -> f64 {
    let flat = |tensor: &Tensor| {
        tensor
            .to_device(&Device::Cpu)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
    };
    let (got, want) = (flat(got), flat(want));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
}
