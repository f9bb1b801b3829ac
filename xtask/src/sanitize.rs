//! `cargo xtask sanitize`: compute-sanitizer over tests that together launch every family of kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::wheels::run;

/// Tests by the binary that they are in: small ones, since kernels run a hundred times slower under the tools.
const TESTS: &[(&str, &[&str])] = &[
    ("cuda_adamw", &["three_steps", "a_captured_graph_reads_the_record_again"]),
    ("cuda_attention", &["a_few_tiles", "rotations"]),
    ("cuda_causal_conv1d", &["every_option"]),
    (
        "cuda_context",
        &[
            "a_block_over_three_chunks",
            "a_state_goes_through_chunks_in_either_order",
            "what_a_chunk_leaves_agrees_with_the_host",
        ],
    ),
    ("cuda_cross_entropy", &["a_few_odd_rows", "sums_of_groups", "gradients_are_scaled_by_a_factor_on_the_device"]),
    ("cuda_elementwise", &["elementwise_operations_are_plain_loops"]),
    ("cuda_embedding", &["ids_out_of_range_are_told_and_count_as_none", "a_few_odd_rows"]),
    ("cuda_group_norm", &["gradients_agree_with_f64", "norms_agree_with_f64", "norms_of_rows_agree_with_f64"]),
    ("cuda_grouped_gemm", &["shapes::every_kernel", "shapes::no_rows_at_all"]),
    ("cuda_mixer", &["one_modality_is_a_dense_block"]),
    ("cuda_mixer_step", &["every_kernel"]),
    ("cuda_multi_copy", &["every_byte_is_copied_and_none_beside_it"]),
    ("cuda_plan", &["sort_is_the_hosts", "sums_of_columns", "sums_of_columns_of_equal_groups"]),
    ("cuda_rms_norm", &["few_rows"]),
    (
        "cuda_selective_scan",
        &[
            "chunks::a_pass_that_is_given_what_chunks_leave_is_the_pass",
            "sizes::every_option",
            "sizes::grids_between_two_kernels",
            "steps::steps_are_the_sequence",
        ],
    ),
    ("cuda_unfold", &["windows_are_those_of_a_plain_loop"]),
    ("cuda_weight_average", &["averages_are_those_of_a_plain_loop"]),
];

const TOOLS: [&str; 3] = ["memcheck", "racecheck", "initcheck"];

/// Run compute-sanitizer over the GPU kernels.
#[derive(Debug, clap::Args)]
pub struct SanitizeArgs {
    /// Tools to run.
    #[arg(long, value_delimiter = ',', default_values = TOOLS, value_parser = TOOLS)]
    tools: Vec<String>,
    /// Test binaries that are built already, in this folder, by the names of the tests; else they are built here.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Print the commands instead of running them: for a machine with a GPU and without Rust.
    #[arg(long)]
    script: bool,
}

/// Runs the command in the workspace at `root`.
pub fn run_all(args: &SanitizeArgs, root: &Path) -> Result<()> {
    let binaries = match &args.binaries {
        Some(folder) => TESTS.iter().map(|(name, _)| ((*name).to_owned(), folder.join(name))).collect(),
        None => build(root)?,
    };
    for &(name, tests) in TESTS {
        let binary = binaries.get(name).with_context(|| format!("{name} was not built"))?;
        let list = ["--list", "--exact"];
        if args.script {
            let (binary, list, n_tests) = (binary.display(), [tests, &list].concat().join(" "), tests.len());
            println!("[ $({binary} {list} | grep -c ': test$') = {n_tests} ] || echo \"FAILED names of {name}\"");
            continue;
        }
        // A name that no test has selects nothing, and a run of nothing passes.
        let absent = absent(tests, &run(Command::new(binary).args(tests).args(list))?);
        ensure!(absent.is_empty(), "{name} has no test {}", absent.join(", "));
    }
    let mut failed = Vec::new();
    for (tool, (name, tests)) in args.tools.iter().flat_map(|tool| TESTS.iter().map(move |test| (tool, test))) {
        let binary = binaries.get(*name).with_context(|| format!("{name} was not built"))?;
        let mut command = Command::new("compute-sanitizer");
        command.args(["--tool", tool, "--error-exitcode", "86"]).arg(binary).args(*tests);
        command.args(["--exact", "--test-threads", "1"]).env("MOM_REQUIRE_GPU", "1");
        if args.script {
            let words = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
            println!("MOM_REQUIRE_GPU=1 compute-sanitizer {} || echo \"FAILED {tool} {name}\"", words.join(" "));
            continue;
        }
        println!("== {tool} {name}: {}", tests.join(", "));
        let status = command.status().context("starting compute-sanitizer, which is part of the CUDA toolkit")?;
        if !status.success() {
            failed.push(format!("{tool} {name}"));
        }
    }
    ensure!(failed.is_empty(), "not clean: {}", failed.join(", "));
    Ok(())
}

/// Those of `tests` that are not in what a test binary lists.
fn absent<'a>(tests: &[&'a str], listing: &str) -> Vec<&'a str> {
    let listed: BTreeSet<&str> = listing.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    tests.iter().copied().filter(|test| !listed.contains(test)).collect()
}

/// The test binaries by name, built here.
fn build(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--release", "--no-run", "--package", "mom-kernels", "--features", "cuda,f16"]);
    cargo.args(["--test", "cuda_*"]).current_dir(root);
    let text = run(&mut cargo)?;
    let mut binaries = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("Executable tests/")) {
        let Some((source, path)) = line.split_once(" (") else { bail!("cargo says {line}") };
        // A test is a file, or a folder with its `main.rs`.
        let name = source.trim_end_matches("/main.rs").trim_end_matches(".rs").to_owned();
        binaries.insert(name, root.join(path.trim_end_matches(')')));
    }
    Ok(binaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that launch no kernel that the others do not: launches in a captured graph, and refusals of memory that does not fit.
    const ELSEWHERE: [&str; 2] = ["cuda_graph", "cuda_memory"];

    #[test]
    fn every_file_of_tests_on_a_gpu_is_in_the_list() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/mom-kernels/tests");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names = files.map(|file| file.trim_end_matches(".rs").to_owned());
        let there: BTreeSet<String> =
            names.filter(|name| name.starts_with("cuda_") && name != "cuda_support").collect();
        let listed = TESTS.iter().map(|(name, _)| *name).chain(ELSEWHERE).map(str::to_owned).collect();
        assert_eq!(there, listed);
    }

    #[test]
    fn a_name_of_no_test_is_told() {
        let listing = "sizes::every_option: test\nsizes::few: benchmark\nsizes::more: test\n\n2 tests, 1 benchmark\n";
        assert!(absent(&["sizes::every_option", "sizes::more"], listing).is_empty());
        assert_eq!(absent(&["every_option", "sizes::more", "sizes::few"], listing), ["every_option", "sizes::few"]);
        assert_eq!(absent(&["a"], "0 tests, 0 benchmarks\n"), ["a"]);
    }
}
