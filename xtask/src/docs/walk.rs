//! Runs what pages tell readers to type, as they would: in the order of the book, in one folder, by a shell.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::markdown::{Block, Page};

/// What pages call a reader's own data, and what stands there here: the shards that the first page writes.
const OWN_DATA: (&str, &str) = ("PATH", "data/scenes");

/// Whether a remark says that its block is run.
pub fn is_tested(remark: &str) -> bool {
    remark == "tested" || remark.starts_with("tested: ")
}

/// Runs the tested blocks of the pages.
pub fn run(root: &Path, pages: &[(&PathBuf, &Page)]) -> Result<()> {
    let folder = root.join("target/docs");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // Pages name files as they are called from the project's own folder, in which a walk must leave nothing.
    #[cfg(unix)]
    std::os::unix::fs::symlink(root.join("crates"), folder.join("crates")).context("linking crates")?;
    let mut n_run = 0;
    for (path, page) in pages {
        for block in &page.blocks {
            let Some(remark) = block.remark.as_deref().filter(|remark| is_tested(remark)) else { continue };
            let place = format!("{}:{}", path.display(), block.line);
            let modules = remark.strip_prefix("tested: ").unwrap_or("sys");
            if block.language == "python" && !imports(modules) {
                println!("SKIPPED: {place}: no python3 with {modules}");
                continue;
            }
            let began = Instant::now();
            run_block(&folder, block).with_context(|| place.clone())?;
            println!("{place}: {:.1} s", began.elapsed().as_secs_f64());
            n_run += 1;
        }
    }
    println!("{n_run} blocks run");
    ensure!(n_run > 0, "no block is marked as tested");
    Ok(())
}

fn run_block(folder: &Path, block: &Block) -> Result<()> {
    let (mut program, text) = match &*block.language {
        "console" | "sh" => {
            let mut bash = Command::new("bash");
            bash.args(["-euo", "pipefail", "-s"]);
            (bash, with_data(&block.text))
        }
        "python" => {
            let mut python = Command::new("python3");
            python.arg("-");
            (python, block.text.clone())
        }
        other => bail!("a tested block in {other}: only console, sh and python are run"),
    };
    // What is run reads no input: it would read the commands behind it.
    let text = if block.language == "python" { text } else { format!("{{\n{text}\n}} </dev/null\n") };
    // What they print matters only where they fail.
    program.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().with_context(|| format!("starting {program:?}"))?;
    child.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let printed = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    ensure!(output.status.success(), "ended with {}:\n{text}\n{printed}", output.status);
    Ok(())
}

/// The commands with the data of the walk in place of a reader's own.
fn with_data(text: &str) -> String {
    let (name, data) = OWN_DATA;
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let whole = !inside(before.chars().next_back()) && !inside(after.chars().next());
        out.push_str(before);
        out.push_str(if whole { data } else { name });
        rest = after;
    }
    out + rest
}

/// Whether python3 has these modules, named with blanks between.
fn imports(modules: &str) -> bool {
    let names = modules.split_whitespace().collect::<Vec<_>>().join(", ");
    let mut python = Command::new("python3");
    python.args(["-c", &format!("import {names}")]).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_s_data_are_replaced_where_they_stand_alone() {
        assert_eq!(
            with_data("a data.shards=PATH PATHS $MY_PATH\nPATH"),
            "a data.shards=data/scenes PATHS $MY_PATH\ndata/scenes"
        );
    }

    #[test]
    fn blocks_run_in_a_folder_and_failures_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let block = |text: &str| Block { language: "console".to_owned(), text: text.to_owned(), ..Block::default() };
        run_block(folder.path(), &block("echo x >a\ncat\ntest -s a")).unwrap();
        assert!(folder.path().join("a").exists());
        let told = run_block(folder.path(), &block("echo why >&2\nfalse\ntrue")).unwrap_err().to_string();
        assert!(told.contains("ended with") && told.ends_with("why\n"), "{told}");
        assert!(run_block(folder.path(), &Block { language: "rust".to_owned(), ..Block::default() }).is_err());
        assert!(is_tested("tested") && is_tested("tested: numpy") && !is_tested("machine: tested"));
    }
}
