//! Links and paths that lead somewhere.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::markdown::Page;

/// What is wrong with the links of all pages, whose paths are relative to `root`: a line each.
pub fn check(root: &Path, pages: &BTreeMap<PathBuf, Page>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, page) in pages {
        for (line, target) in &page.links {
            if let Err(reason) = follow(root, pages, path, target) {
                wrong.push(format!("{}:{line}: [..]({target}) {reason}", path.display()));
            }
        }
        for (line, code) in &page.code {
            let named = ["crates/", "kernels/", "xtask/", "benches/", "docs/", ".ci/", ".github/"]
                .iter()
                .any(|top| code.starts_with(top));
            if named && !code.contains(['<', '*', '{', ' ', '\n']) && !root.join(code).exists() {
                wrong.push(format!("{}:{line}: there is no `{code}`", path.display()));
            }
        }
    }
    wrong
}

fn follow(root: &Path, pages: &BTreeMap<PathBuf, Page>, from: &Path, target: &str) -> Result<(), String> {
    if ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
        return Ok(());
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() {
        from.to_owned()
    } else {
        plain(&from.parent().unwrap_or(Path::new("")).join(file)).ok_or("leaves the project")?
    };
    if !root.join(&path).exists() {
        return Err("leads to no file".to_owned());
    }
    if from.starts_with("docs") && !path.starts_with("docs") {
        return Err("leaves the book: name the file in `code` instead".to_owned());
    }
    match anchor {
        Some(anchor) if !pages.get(&path).is_some_and(|page| page.anchors.iter().any(|known| known == anchor)) => {
            Err(format!("leads to no heading of {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A path without `.` and `..`; none if it climbs out of where it begins.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            part => out.push(part),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::markdown;
    use super::*;

    #[test]
    fn dead_links_anchors_and_paths_are_told_with_their_line() {
        let root = tempfile::tempdir().unwrap();
        let texts = [
            ("docs/a.md", "[b](b.md#there) [b](lab/../b.md) [x](https://x.org/y) [self](#a)\n# A\n"),
            (
                "docs/b.md",
                "# There\n\n[a](c.md) [a](a.md#nowhere) [out](../README.md) [far](../../x) `docs/c.md` `docs/<any>.md`\n",
            ),
            ("README.md", "[b](docs/b.md#there)\n"),
        ];
        std::fs::create_dir(root.path().join("docs")).unwrap();
        let mut pages = BTreeMap::new();
        for (path, text) in texts {
            std::fs::write(root.path().join(path), text).unwrap();
            pages.insert(PathBuf::from(path), markdown::read(text));
        }
        let want = [
            "docs/b.md:3: [..](c.md) leads to no file",
            "docs/b.md:3: [..](a.md#nowhere) leads to no heading of docs/a.md",
            "docs/b.md:3: [..](../README.md) leaves the book: name the file in `code` instead",
            "docs/b.md:3: [..](../../x) leaves the project",
            "docs/b.md:3: there is no `docs/c.md`",
        ];
        assert_eq!(check(root.path(), &pages), want);
    }
}
