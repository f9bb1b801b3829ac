//! What Rust passes to a kernel is what the kernel takes: every field of every struct, by name, type and place, of the Rust
//! source and of the header that the kernels are compiled with.
//!
//! Offsets of both are asserted where they are compiled; this says that what lies there is the same thing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Pairs of a Rust struct and its C one.
type Pairs = [(&'static str, &'static str)];

/// Header, Rust source, and their structs.
const STRUCTS: &[(&str, &str, &Pairs)] = &[
    ("adamw", "adamw/abi.rs", &[("Raw", "AdamW"), ("RawSquares", "Squares"), ("RawTotal", "NormTotal")]),
    ("attention", "attention/cuda/abi.rs", &[("RawForward", "AttentionForward"), ("RawBackward", "AttentionBackward")]),
    ("causal_conv1d", "causal_conv1d/cuda/abi.rs", &[("RawForward", "ConvForward"), ("RawBackward", "ConvBackward")]),
    ("column_sums", "column_sums.rs", &[("Raw", "ColumnSums")]),
    (
        "cross_entropy",
        "cross_entropy/cuda/abi.rs",
        &[("Raw", "CrossEntropy"), ("RawSums", "GroupSums"), ("RawTotal", "Total"), ("RawScaling", "Scaling")],
    ),
    (
        "elementwise",
        "elementwise/abi.rs",
        &[
            ("RawCombine", "Combine"),
            ("RawSilu", "Silu"),
            ("RawAddNoise", "AddNoise"),
            ("RawSquaredError", "SquaredError"),
        ],
    ),
    (
        "embedding",
        "embedding/abi.rs",
        &[("RawForward", "EmbeddingForward"), ("RawSort", "EmbeddingSort"), ("RawBackward", "EmbeddingBackward")],
    ),
    (
        "grouped_gemm",
        "grouped_gemm/cuda/abi.rs",
        &[
            ("RawMGrouped", "MGrouped"),
            ("RawKGrouped", "KGrouped"),
            ("RawKGroupedSum", "KGroupedSum"),
            ("RawMGrouped90", "MGrouped90"),
            ("RawKGrouped90", "KGrouped90"),
        ],
    ),
    ("mixer", "mixer/cuda/decays.rs", &[("Raw", "Decays")]),
    (
        "mixer_step",
        "mixer/cuda/step/abi.rs",
        &[("RawIn", "StepIn"), ("RawScan", "StepScan"), ("RawProduct", "StepProduct")],
    ),
    ("modality_plan", "plan/cuda/abi.rs", &[("RawPlan", "Plan")]),
    (
        "rms_norm",
        "rms_norm/cuda/abi.rs",
        &[("RawForward", "NormForward"), ("RawBackward", "NormBackward"), ("RawWeight", "NormWeight")],
    ),
    ("group_norm", "group_norm/mod.rs", &[("Raw", "GroupNorm")]),
    ("group_norm", "group_norm/backward.rs", &[("RawBackward", "GroupNormBackward")]),
    ("group_norm", "group_norm/layer.rs", &[("RawLayer", "LayerNorm")]),
    ("multi_copy", "multi_copy.rs", &[("Raw", "Copies")]),
    ("rotary_embedding", "rotary_embedding/cuda/abi.rs", &[("RawRotary", "Rotary")]),
    (
        "selective_scan",
        "selective_scan/cuda/abi.rs",
        &[
            ("RawChunks", "ScanChunks"),
            ("RawFold", "ScanFold"),
            ("RawForward", "ScanForward"),
            ("RawBackward", "ScanBackward"),
            ("RawSums", "ScanSums"),
            ("RawStep", "ScanStep"),
        ],
    ),
    ("unfold", "unfold.rs", &[("Raw", "Unfold")]),
    ("weight_average", "weight_average.rs", &[("Raw", "Averages")]),
];

/// A field without fields: its name in small letters, its type, how many.
type Leaf = (String, String, usize);

/// Fields of structs by name, in order, perhaps of structs themselves.
type Structs = BTreeMap<String, Vec<Leaf>>;

/// The fields of a struct, those of structs in it in their place.
fn leaves(structs: &Structs, name: &str) -> Vec<Leaf> {
    let fields = structs.get(name).unwrap_or_else(|| panic!("no struct {name}"));
    let nested = |(field, kind, n): &Leaf| match structs.get(kind) {
        Some(_) => (0..*n).flat_map(|_| leaves(structs, kind)).collect(),
        None => vec![(field.clone(), kind.clone(), *n)],
    };
    fields.iter().flat_map(nested).collect()
}

/// The number of an array: digits, or a constant.
fn count(text: &str, constants: &BTreeMap<String, usize>) -> usize {
    text.parse().unwrap_or_else(|_| *constants.get(text).unwrap_or_else(|| panic!("no constant {text}")))
}

/// Constants `NAME = number` behind one of these words.
fn constants(text: &str, words: &[&str]) -> BTreeMap<String, usize> {
    let lines = text.lines().filter(|line| words.iter().any(|word| line.trim_start().contains(word)));
    let parts = lines.flat_map(|line| line.split(['=', ',', ';', ' ', ':']).filter(|part| !part.is_empty()));
    let parts: Vec<_> = parts.collect();
    let pairs = parts.windows(2).filter(|pair| pair[0].chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    let named = pairs.filter_map(|pair| Some((pair[0].to_owned(), pair[1].parse().ok()?)));
    let typed = parts.windows(3).filter(|three| three[1] == "usize");
    named.chain(typed.filter_map(|three| Some((three[0].to_owned(), three[2].parse().ok()?)))).collect()
}

/// The structs of a header: pointers are 64 bits, whatever they point to.
fn of_header(text: &str) -> Structs {
    let constants = constants(text, &["constexpr int"]);
    let plain: String = text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
    let mut structs = Structs::new();
    for (head, rest) in plain.match_indices("struct ").map(|(at, _)| plain[at + 7..].split_once('{').unwrap()) {
        let name = head.trim().rsplit(' ').next().unwrap().to_owned();
        let mut fields = Vec::new();
        for statement in rest.split_once('}').unwrap().0.split(';').map(str::trim).filter(|text| !text.is_empty()) {
            let statement = statement.trim_start_matches("const ").replace("cuda::std::", "");
            let (kind, declared) = statement.split_once([' ', '*']).unwrap();
            let pointers = statement[kind.len()..].contains('*');
            for field in declared.split(',') {
                let (name, n) = match field.split_once('[') {
                    Some((name, n)) => (name, count(n.trim_end_matches(']').trim(), &constants)),
                    None => (field, 1),
                };
                let kind = match kind {
                    _ if pointers => "u64",
                    "uint64_t" => "u64",
                    "int64_t" => "i64",
                    "uint32_t" => "u32",
                    "float" => "f32",
                    "double" => "f64",
                    other => other,
                };
                fields.push((name.replace('*', "").trim().to_lowercase(), kind.to_owned(), n));
            }
        }
        structs.insert(name, fields);
    }
    structs
}

/// The `#[repr(C)]` structs of a Rust source.
fn of_rust(text: &str) -> Structs {
    let constants = constants(text, &["const "]);
    let mut structs = Structs::new();
    for part in text.split("#[repr(C)]").skip(1) {
        let (head, rest) = part.split_once('{').unwrap();
        let name = head.trim().rsplit(' ').next().unwrap().to_owned();
        let mut fields = Vec::new();
        for line in rest.split_once("\n}").unwrap().0.lines().map(str::trim) {
            let line = line.trim_start_matches("pub ").trim_end_matches(',');
            let Some((name, kind)) = line.split_once(": ").filter(|_| !line.starts_with("//")) else { continue };
            let (kind, n) = match kind.trim_matches(['[', ']']).split_once("; ") {
                Some((kind, n)) => (kind, count(n, &constants)),
                None => (kind, 1),
            };
            fields.push((name.to_lowercase(), kind.to_owned(), n));
        }
        structs.insert(name, fields);
    }
    structs
}

#[test]
fn every_struct_is_what_its_kernel_takes() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (header, source, pairs) in STRUCTS {
        let read = |path: std::path::PathBuf| fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let mut c = of_header(&read(crate_folder.join("kernels/include").join(format!("{header}.h"))));
        let rust = of_rust(&read(crate_folder.join("src/ops").join(source)));
        // A tensor map is opaque to both.
        c.remove("TensorMap");
        for (ours, theirs) in *pairs {
            let want = leaves(&c, theirs);
            let mut got = leaves(&rust, ours);
            // What C leaves out at the end of a struct on more than 8 bytes.
            got.retain(|(name, ..)| name != "padding");
            assert_eq!(got, want, "{source}: {ours}, and {theirs} of {header}.h");
            assert!(!got.is_empty());
        }
        let compared: Vec<_> = pairs.iter().map(|(ours, _)| *ours).collect();
        let part_of_another =
            |name: &String| rust.values().flatten().any(|(_, kind, _)| kind == name) || name == "StepRecord";
        let forgotten: Vec<_> =
            rust.keys().filter(|name| !compared.contains(&name.as_str()) && !part_of_another(name)).collect();
        assert!(forgotten.is_empty(), "{source}: {forgotten:?} are compared with nothing");
    }
}

#[test]
fn swapped_neighbours_of_one_type_are_seen() {
    let header = "constexpr int MAX = 3, OTHER = 2;\nstruct Part { float x, y; };\nstruct A {\n    const void *a, *b; // rows\n    \
                  cuda::std::uint32_t n, m;\n    void* to[MAX];\n    Part part;\n};\n";
    let rust = |b: &str| {
        format!(
            "pub(super) const MAX: usize = 3;\n#[repr(C)]\nstruct Part {{\n    x: f32,\n    y: f32,\n}}\n#[repr(C)]\nstruct Raw \
             {{\n    pub a: u64,\n    pub b: u64,\n    {b}\n    pub to: [u64; MAX],\n    pub part: Part,\n}}\n"
        )
    };
    let want = leaves(&of_header(header), "A");
    assert_eq!(leaves(&of_rust(&rust("pub n: u32,\n    pub m: u32,")), "Raw"), want);
    assert_ne!(leaves(&of_rust(&rust("pub m: u32,\n    pub n: u32,")), "Raw"), want);
    assert_ne!(leaves(&of_rust(&rust("pub n: u32,\n    pub m: i64,")), "Raw"), want);
}
