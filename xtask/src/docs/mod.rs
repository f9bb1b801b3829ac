//! `cargo xtask docs`: whether links lead somewhere, the book has every page, every command on a page is one that is taken, and
//! is run here or marked with its machine. With `--run` it runs them.
//!
//! A block of commands in the book has a remark on the line above it, which readers do not see:
//!
//! - `<!-- tested -->`: `cargo xtask docs --run` runs it, in the order of the book, in one folder;
//! - `<!-- tested: numpy safetensors -->`: the same for Python that needs these modules;
//! - `<!-- machine: one NVIDIA H200 -->`: it is not run; what it takes. A remark of this kind that stands by itself holds for every
//!   block of its page without one of its own.

mod commands;
mod links;
mod markdown;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use markdown::Page;

/// Check the pages, and run their commands.
#[derive(Debug, clap::Args)]
pub struct DocsArgs {
    /// Run the commands that are marked as tested, too, in a folder of the workspace that is made anew.
    #[arg(long)]
    run: bool,
}

/// The order of the book.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Folders without pages of the project's own.
const PASSED_OVER: [&str; 4] = ["target", "runs", ".git", "shared"];

/// Checks all pages of the workspace at `root`: says what is wrong, a line each, and fails if anything is.
pub fn run<T: clap::Parser>(args: &DocsArgs, root: &Path) -> Result<()> {
    let mut pages = BTreeMap::new();
    read_all(root, Path::new(""), &mut pages)?;
    let mut wrong = links::check(root, &pages);
    wrong.extend(outside_of_the_book(&pages)?);
    let mut n_commands = 0;
    for (path, page) in &pages {
        let of_page = page.remarks.iter().any(|(_, remark)| remark.starts_with("machine: "));
        for block in page.blocks.iter().filter(|block| matches!(&*block.language, "console" | "sh" | "python")) {
            let marked = block
                .remark
                .as_deref()
                .map_or(of_page, |remark| walk::is_tested(remark) || remark.starts_with("machine: "));
            if path.starts_with("docs") && !marked {
                let line = block.line;
                wrong.push(format!(
                    "{}:{line}: neither `<!-- tested -->` nor `<!-- machine: ... -->` above it",
                    path.display()
                ));
            }
            if block.language == "python" {
                continue;
            }
            for words in commands::of(block) {
                n_commands += 1;
                if let Some(reason) = commands::refused::<T>(&words) {
                    wrong.push(format!("{}:{}: `{}`: {reason}", path.display(), block.line, words.join(" ")));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} lines are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let n_links: usize = pages.values().map(|page| page.links.len()).sum();
    println!("{} pages, {n_links} links, {n_commands} commands: all right", pages.len());
    if args.run {
        walk::run(root, &in_order(&pages)?)?;
    }
    Ok(())
}

/// Reads the Markdown files of a folder and below; hidden folders but `.github` have none.
fn read_all(root: &Path, folder: &Path, pages: &mut BTreeMap<PathBuf, Page>) -> Result<()> {
    let at = root.join(folder);
    for entry in std::fs::read_dir(&at).with_context(|| format!("listing {}", at.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = folder.join(&name);
        let text_name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let hidden = text_name.starts_with('.') && text_name != ".github";
            if !hidden && !PASSED_OVER.contains(&&*text_name) {
                read_all(root, &path, pages)?;
            }
        } else if text_name.ends_with(".md") {
            let text =
                std::fs::read_to_string(root.join(&path)).with_context(|| format!("reading {}", path.display()))?;
            pages.insert(path, markdown::read(&text));
        }
    }
    Ok(())
}

/// Pages of `docs` that the book's summary does not name: mdBook would leave them out without a word.
fn outside_of_the_book(pages: &BTreeMap<PathBuf, Page>) -> Result<Vec<String>> {
    let named: Vec<_> = in_order(pages)?.into_iter().map(|(path, _)| path).collect();
    let left =
        pages.keys().filter(|path| path.starts_with("docs") && *path != Path::new(SUMMARY) && !named.contains(path));
    Ok(left.map(|path| format!("{}: not in {SUMMARY}", path.display())).collect())
}

/// The pages of the book in its order.
fn in_order(pages: &BTreeMap<PathBuf, Page>) -> Result<Vec<(&PathBuf, &Page)>> {
    let summary = pages.get(Path::new(SUMMARY)).with_context(|| format!("{SUMMARY} is missing"))?;
    let named = summary.links.iter().map(|(_, target)| Path::new("docs").join(target));
    Ok(named.filter_map(|path| pages.get_key_value(&path)).collect())
}
