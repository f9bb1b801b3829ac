//! Files of a folder with checksums over all of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::files::{self, At, FileError};
use crate::{Error, Result};

const CHECKSUMS: &str = "checksums.json";

/// Length and checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seal {
    bytes: u64,
    /// CRC-32C of its contents, in hexadecimal.
    crc32c: String,
}

impl Seal {
    fn new(bytes: u64, crc: u32) -> Self {
        Self { bytes, crc32c: format!("{crc:08x}") }
    }

    /// Fails for another checksum.
    fn expect(&self, name: &str, crc: u32) -> Result<(), Broken> {
        let now = Self::new(self.bytes, crc);
        if now == *self {
            return Ok(());
        }
        Err(Broken::Damaged(format!("{name} has the checksum {}, expected {}", now.crc32c, self.crc32c)))
    }
}

/// Writes files into a new folder, with the modes that the user's mask gives, and their checksums behind them.
#[derive(Debug)]
pub(crate) struct Sealing<'a> {
    folder: &'a Path,
    seals: BTreeMap<String, Seal>,
}

impl<'a> Sealing<'a> {
    /// Begins with an empty folder.
    pub fn new(folder: &'a Path) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).at("remove", folder)?;
        }
        files::create_folder(folder)?;
        Ok(Self::beside(folder, BTreeMap::new()))
    }

    /// Goes on with a folder that others write to as well: `seals` are those of their files, as far as they are known.
    pub fn beside(folder: &'a Path, seals: BTreeMap<String, Seal>) -> Self {
        Self { folder, seals }
    }

    /// The checksums of what was written, for whoever finishes the folder.
    pub fn into_seals(self) -> BTreeMap<String, Seal> {
        self.seals
    }

    /// Writes a file and waits until it is on the disk.
    pub fn write(&mut self, name: &str, contents: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let path = self.folder.join(name);
        let file = File::create(&path).at("create", &path)?;
        let mut summed = Summed { file: BufWriter::with_capacity(1 << 20, file), bytes: 0, crc: 0 };
        contents(&mut summed).and_then(|()| summed.file.flush()).at("write", &path)?;
        summed.file.get_ref().sync_all().at("write", &path)?;
        self.seals.insert(name.to_owned(), Seal::new(summed.bytes, summed.crc));
        Ok(())
    }

    /// Writes f32 tensors, given by name, shape and values, as safetensors.
    pub fn tensors(&mut self, name: &str, tensors: &[(String, &[usize], &[f32])]) -> Result<()> {
        let content = |reason: String| Error::Content { path: self.folder.join(name), reason };
        let header = header_of(tensors).map_err(content)?;
        self.write(name, |to| {
            to.write_all(&header)?;
            for (.., values) in tensors {
                write_floats(to, values)?;
            }
            Ok(())
        })
    }

    /// Writes the checksums, and waits until all names are on the disk.
    pub fn finish(self) -> Result<()> {
        files::write_json(&self.folder.join(CHECKSUMS), &self.seals)?;
        Ok(files::sync_folder(self.folder)?)
    }
}

/// What stands before the values of a file: the length of the table, and the table.
fn header_of(tensors: &[(String, &[usize], &[f32])]) -> Result<Vec<u8>, String> {
    let mut at = 0;
    let info = tensors.iter().map(|(name, shape, values)| {
        let start = at;
        at += size_of_val(*values);
        let (shape, data_offsets) = (shape.to_vec(), (start, at));
        (name.clone(), TensorInfo { dtype: Dtype::F32, shape, data_offsets })
    });
    let table = Metadata::new(None, info.collect()).map_err(|error| error.to_string())?;
    let mut table = serde_json::to_vec(&table).map_err(|error| error.to_string())?;
    // The values begin at a multiple of eight.
    table.resize(table.len().next_multiple_of(8), b' ');
    Ok([&(table.len() as u64).to_le_bytes()[..], &table].concat())
}

/// The file that [`Sealing::tensors`] writes, in memory.
pub(super) fn safetensors_bytes(tensors: &[(String, &[usize], &[f32])]) -> Result<Vec<u8>, String> {
    let mut bytes = header_of(tensors)?;
    for (.., values) in tensors {
        write_floats(&mut bytes, values).map_err(|error| error.to_string())?;
    }
    Ok(bytes)
}

fn write_floats(to: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    // In pieces that a cache holds: they are summed, then copied.
    for values in values.chunks(1 << 18) {
        if cfg!(target_endian = "little") {
            to.write_all(bytemuck::cast_slice(values))?;
        } else {
            to.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        }
    }
    Ok(())
}

struct Summed {
    file: BufWriter<File>,
    bytes: u64,
    crc: u32,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.bytes += n as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Why a folder cannot be read: it is damaged, or the system refuses.
#[derive(Debug)]
pub(crate) enum Broken {
    /// A file is missing, or not what was written.
    Damaged(String),
    /// A file is there and cannot be read.
    File(FileError),
}

/// How large files are looked at before they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// By checksums: each is read through.
    Sums,
    /// By lengths alone, of files that another rank has just read through.
    Lengths,
}

/// A folder that was written by [`Sealing`].
#[derive(Debug)]
pub(crate) struct Sealed<'a> {
    folder: &'a Path,
    seals: BTreeMap<String, Seal>,
}

impl<'a> Sealed<'a> {
    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.seals.contains_key(name)
    }

    /// Reads the checksums.
    pub fn open(folder: &'a Path) -> Result<Self, Broken> {
        let bytes = read(folder, CHECKSUMS)?;
        let seals = serde_json::from_slice(&bytes)
            .map_err(|error| Broken::Damaged(format!("{CHECKSUMS} cannot be read: {error}")))?;
        Ok(Self { folder, seals })
    }

    /// A file, if it is what was written.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Broken> {
        let damaged = |what: String| Err(Broken::Damaged(format!("{name} {what}")));
        let Some(seal) = self.seals.get(name) else { return damaged(format!("is not in {CHECKSUMS}")) };
        let bytes = read(self.folder, name)?;
        if bytes.len() as u64 != seal.bytes {
            return damaged(format!("has {} bytes, expected {}", bytes.len(), seal.bytes));
        }
        seal.expect(name, crc32c::crc32c(&bytes))?;
        Ok(bytes)
    }

    /// A file that is what was written, at its beginning, and its bytes: it is not in memory, and was read through where sums are asked for.
    pub fn open_whole(&self, name: &str, check: Check) -> Result<(File, u64), Broken> {
        let Some(seal) = self.seals.get(name) else {
            return Err(Broken::Damaged(format!("{name} is not in {CHECKSUMS}")));
        };
        let path = self.folder.join(name);
        let refused = |error| unread(name, path.clone(), error);
        let mut file = File::open(&path).map_err(refused)?;
        let length = file.metadata().map_err(refused)?.len();
        if length != seal.bytes {
            return Err(Broken::Damaged(format!("{name} has {length} bytes, expected {}", seal.bytes)));
        }
        if check == Check::Lengths {
            return Ok((file, length));
        }
        let (bytes, crc) = sum_of(&mut file).map_err(refused)?;
        if bytes != seal.bytes {
            return Err(Broken::Damaged(format!("{name} has {bytes} bytes, expected {}", seal.bytes)));
        }
        seal.expect(name, crc)?;
        file.seek(SeekFrom::Start(0)).map_err(refused)?;
        Ok((file, bytes))
    }
}

/// Reads through what is left of a file, without keeping it: its bytes, and their checksum.
fn sum_of(file: &mut impl Read) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc) = (0, 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, crc)),
            Ok(n) => {
                bytes += n as u64;
                crc = crc32c::crc32c_append(crc, &buffer[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Broken> {
    let path = folder.join(name);
    fs::read(&path).map_err(|error| unread(name, path, error))
}

fn unread(name: &str, path: PathBuf, error: io::Error) -> Broken {
    match error.kind() {
        io::ErrorKind::NotFound => Broken::Damaged(format!("{name} is missing")),
        _ => Broken::File(FileError { action: "read", path, source: error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_and_every_flipped_bit_is_seen() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("sealed");
        let mut sealing = Sealing::new(&folder).unwrap();
        sealing.write("a.txt", |to| to.write_all(b"some text")).unwrap();
        let (values, shape) = ([1.0, -2.5, f32::MIN_POSITIVE], [3]);
        sealing
            .tensors("b.safetensors", &[("x".to_owned(), &shape[..], &values[..]), ("none".into(), &[0], &[])])
            .unwrap();
        sealing.finish().unwrap();
        let sealed = Sealed::open(&folder).unwrap();
        assert_eq!(sealed.read("a.txt").unwrap(), b"some text");
        let bytes = sealed.read("b.safetensors").unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("x").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&values));
        assert_eq!(tensors.tensor("none").unwrap().shape(), [0]);
        for name in ["a.txt", "b.safetensors"] {
            let good = fs::read(folder.join(name)).unwrap();
            for bit in (0..8 * good.len()).step_by(3) {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                fs::write(folder.join(name), bad).unwrap();
                let (read, opened) = (sealed.read(name).map(drop), sealed.open_whole(name, Check::Sums).map(drop));
                for outcome in [read, opened] {
                    assert!(matches!(outcome, Err(Broken::Damaged(_))), "{name}, bit {bit}");
                }
            }
            fs::write(folder.join(name), &good[..good.len() - 1]).unwrap();
            assert!(matches!(sealed.read(name), Err(Broken::Damaged(_))));
            for check in [Check::Sums, Check::Lengths] {
                assert!(matches!(sealed.open_whole(name, check), Err(Broken::Damaged(_))));
            }
            fs::remove_file(folder.join(name)).unwrap();
            assert!(matches!(sealed.read(name), Err(Broken::Damaged(what)) if what.contains("missing")));
            assert!(
                matches!(sealed.open_whole(name, Check::Sums), Err(Broken::Damaged(what)) if what.contains("missing"))
            );
        }
        fs::write(folder.join(CHECKSUMS), "{").unwrap();
        assert!(matches!(Sealed::open(&folder), Err(Broken::Damaged(_))));
    }
}
