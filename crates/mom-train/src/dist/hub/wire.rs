//! Messages as bytes.
//!
//! A frame is the length of its name (1 byte), the name, a number (8 bytes), the length of the payload (8 bytes), and the payload;
//! numbers are little-endian.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// The longest payload that is believed: what is said to be longer comes from something else than a rank.
const LONGEST: u64 = 1 << 36;

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// What it is about.
    pub what: String,
    /// Its place in the order of such messages.
    pub number: u64,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Sends it.
    pub fn write(&self, to: &mut TcpStream) -> io::Result<()> {
        let name = self.what.as_bytes();
        let length = u8::try_from(name.len()).map_err(|_| io::Error::other("the name is too long"))?;
        let mut head = vec![length];
        head.extend_from_slice(name);
        head.extend_from_slice(&self.number.to_le_bytes());
        head.extend_from_slice(&(self.payload.len() as u64).to_le_bytes());
        // Small ones in one packet.
        if self.payload.len() <= 1 << 12 {
            head.extend_from_slice(&self.payload);
            return to.write_all(&head);
        }
        to.write_all(&head)?;
        to.write_all(&self.payload)
    }

    /// Waits for one.
    pub fn read(from: &mut TcpStream) -> io::Result<Self> {
        let mut length = [0];
        from.read_exact(&mut length)?;
        let mut name = vec![0; usize::from(length[0])];
        from.read_exact(&mut name)?;
        let what = String::from_utf8(name).map_err(|_| invalid("a name that is no text"))?;
        let mut word = [0; 8];
        from.read_exact(&mut word)?;
        let number = u64::from_le_bytes(word);
        from.read_exact(&mut word)?;
        let length = u64::from_le_bytes(word);
        if length > LONGEST {
            return Err(invalid("a message longer than any"));
        }
        let mut payload = Vec::new();
        // Memory is taken as bytes come, not as they are promised.
        from.take(length).read_to_end(&mut payload)?;
        if payload.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { what, number, payload })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Several payloads as one: each behind its length.
pub(super) fn join(all: &[Vec<u8>]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(all.iter().map(|bytes| bytes.len() + 8).sum());
    for bytes in all {
        joined.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        joined.extend_from_slice(bytes);
    }
    joined
}

/// The payloads that [`join`] made one of; `None` where they are not `n`.
pub(super) fn split(joined: &[u8], n: usize) -> Option<Vec<Vec<u8>>> {
    let mut rest = joined;
    let mut all = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let bytes = behind.get(..length)?;
        all.push(bytes.to_vec());
        rest = &behind[length..];
    }
    (rest.is_empty() && all.len() == n).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_is_sent_arrives_and_what_is_cut_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut there = listener.accept().unwrap().0;
        let frames = [0, 5, 100_000].map(|n| Frame { what: "counts".into(), number: n, payload: vec![7; n as usize] });
        let sender = std::thread::spawn(move || {
            frames.iter().for_each(|frame| frame.write(&mut here).unwrap());
            // A message that ends in the middle.
            here.write_all(&[3, b'a', b'b']).unwrap();
            frames
        });
        let got = [0; 3].map(|_| Frame::read(&mut there).unwrap());
        assert_eq!(got, sender.join().unwrap());
        assert!(Frame::read(&mut there).is_err());
    }

    #[test]
    fn payloads_are_joined_and_split() {
        let all = vec![vec![1, 2], vec![], vec![3]];
        assert_eq!(split(&join(&all), 3), Some(all.clone()));
        assert_eq!(split(&join(&all), 2), None);
        let joined = join(&all);
        assert_eq!(split(&joined[..joined.len() - 1], 3), None);
    }
}
