//! What the results of a folder stand for beside their configurations: its sources, by name and contents.

use std::path::Path;

use mom_data::SourceConfig;
use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::files::{self, At};
use crate::{Error, Result};

/// Raised whenever the same configuration and data would train another model.
const FORMAT_VERSION: u32 = 3;
const IDENTITY: &str = "identity.json";

/// What the results of a folder stand for beside their configurations.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format_version: u32,
    /// Name and contents of each source: names and sizes of its files, as a hash in hexadecimal.
    sources: Vec<(String, String)>,
}

/// Refuses a folder to write to that lies in a source: what is written there would be taken for data at the next start.
///
/// # Errors
/// Such a folder, with the source.
pub(crate) fn outside_of_sources(sources: &[SourceConfig], folder: &Path) -> Result<()> {
    let folder = std::path::absolute(folder).at("find", folder)?;
    for source in sources {
        let Some(path) = &source.path else { continue };
        let inside = std::path::absolute(path).is_ok_and(|path| folder.starts_with(path));
        let expected = format!("outside of the source {}, {}", source.name(), path.display());
        require(!inside, "the folder to write to", &expected, folder.display())?;
    }
    Ok(())
}

/// Makes sure that `folder` was made with these sources, or that it is new. Sources that are gone are not compared: their
/// tokens are what is left.
///
/// # Errors
/// A folder that cannot be listed; [`Error::OtherData`] for a folder of other sources or another version of this crate.
pub(crate) fn same_sources(sources: &[SourceConfig], folder: &Path) -> Result<()> {
    let (now, path) = (Identity::of(sources)?, folder.join(IDENTITY));
    if path.is_file() {
        return now.is_of(&path);
    }
    files::create_folder(folder)?;
    files::write_json(&path, &now)
}

/// As [`same_sources`], writing nothing: a folder that does not say what it was made with is taken as it is.
///
/// # Errors
/// As there.
pub(crate) fn unchanged_sources(sources: &[SourceConfig], folder: &Path) -> Result<()> {
    let path = folder.join(IDENTITY);
    if path.is_file() { Identity::of(sources)?.is_of(&path) } else { Ok(()) }
}

impl Identity {
    fn of(sources: &[SourceConfig]) -> Result<Self> {
        let mut now = Self { format_version: FORMAT_VERSION, sources: Vec::new() };
        for source in sources {
            let contents = source.contents()?;
            now.sources.push((source.name(), contents.map_or_else(|| "?".to_owned(), |hash| format!("{hash:016x}"))));
        }
        Ok(now)
    }

    /// Whether it is what a file says.
    fn is_of(&self, path: &Path) -> Result<()> {
        let text = std::fs::read(path).at("read", path)?;
        let content = |reason: String| Error::Content { path: path.into(), reason };
        let other = |what: String| Error::OtherData { path: path.into(), what };
        let version = serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| content(error.to_string()))?;
        let version = version.get("format_version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version != u64::from(FORMAT_VERSION) {
            return Err(other(format!("its format is {version}, this version's is {FORMAT_VERSION}")));
        }
        let then: Self = serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
        let names = |identity: &Self| identity.sources.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if names(&then) != names(self) {
            return Err(other(format!("its sources are {}, now {}", names(&then).join(", "), names(self).join(", "))));
        }
        let mut both = then.sources.iter().zip(&self.sources);
        match both.find(|(then, now)| then.1 != now.1 && now.1 != "?" && then.1 != "?") {
            Some((_, (name, _))) => {
                Err(other(format!("the files of the source {name} are not those that it began with")))
            }
            None => Ok(()),
        }
    }
}
