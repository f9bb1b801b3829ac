//! How ranks find each other: rank 0 listens, the others connect, and each proves that it knows the run's secret.
//!
//! Both sides send 32 random bytes, and answer the other's with a hash of them keyed by the secret (BLAKE3): nobody who lacks the secret
//! takes part, and nobody who only listened can repeat what was said. What follows is not encrypted.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// What a stranger sees first.
const HELLO: &[u8; 8] = b"mom-hub1";

/// Ports behind the first that rank 0 tries: launchers that give one for the ranks' use may hold it themselves (torchrun does).
const PORTS: u16 = 16;

/// A connection that says nothing for so long is none of ours.
const PATIENCE: Duration = Duration::from_secs(5);

/// What proves that a process belongs to a run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// From any text.
    pub fn of(text: &str) -> Self {
        Self(*blake3::hash(text.as_bytes()).as_bytes())
    }

    fn answer(&self, challenge: &[u8; 32], who: u8) -> [u8; 32] {
        let mut asked = challenge.to_vec();
        asked.push(who);
        *blake3::keyed_hash(&self.0, &asked).as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where and how ranks meet.
pub(crate) struct Meeting<'a> {
    pub rank: usize,
    pub size: usize,
    /// Of rank 0.
    pub host: &'a str,
    pub port: u16,
    /// Asked for again at every try: a file that rank 0 is about to write may not be there yet.
    pub secret: &'a dyn Fn() -> Result<Secret>,
    /// How long ranks wait for each other.
    pub patience: Duration,
    /// Without a sign of life, or of progress within a step, a rank has failed.
    pub timeout: Duration,
    /// Whether this process is a rank and nothing else: it is then ended where it does not end by itself.
    pub is_process: bool,
}

/// The connections of a rank: for exchanges, and those that are watched. Of rank 0 both in the order of the ranks.
pub(super) struct Met {
    pub links: Vec<TcpStream>,
    pub watched: Vec<TcpStream>,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Exchange = 0,
    Watch = 1,
}

impl Meeting<'_> {
    pub(super) fn meet(&self) -> Result<Met> {
        let deadline = Instant::now() + self.patience;
        if self.rank == 0 { self.listen(deadline) } else { self.connect(deadline) }
    }

    fn failed(&self, reason: &str) -> Error {
        Error::World { reason: format!("rank {} of {} at {}:{}: {reason}", self.rank, self.size, self.host, self.port) }
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        let first = self.port;
        (0..PORTS).filter_map(move |i| first.checked_add(i))
    }

    fn listen(&self, deadline: Instant) -> Result<Met> {
        let secret = (self.secret)()?;
        // Ranks of one host need no door to others.
        let is_local = matches!(self.host, "127.0.0.1" | "localhost" | "::1");
        let host = if is_local { self.host } else { "0.0.0.0" };
        let bound = self.ports().find_map(|port| TcpListener::bind((host, port)).ok());
        let listener = bound.ok_or_else(|| self.failed(&format!("none of {PORTS} ports from this one on is free")))?;
        listener.set_nonblocking(true).map_err(|error| self.failed(&error.to_string()))?;
        let mut met = BTreeMap::new();
        while met.len() < 2 * (self.size - 1) {
            match listener.accept() {
                // A stranger, or a rank of another run: it is told nothing.
                Ok((stream, _)) => {
                    if let Ok((rank, purpose, stream)) = self.welcome(stream, &secret) {
                        met.insert((purpose, rank), stream);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let is_missing = |rank: &usize| !met.contains_key(&(Use::Watch, *rank));
                    let missing: Vec<String> = (1..self.size).filter(is_missing).map(|rank| rank.to_string()).collect();
                    let secs = self.patience.as_secs();
                    return Err(self.failed(&format!("no word from rank {} within {secs} s", missing.join(", "))));
                }
                Err(error) => return Err(self.failed(&error.to_string())),
            }
        }
        let mut watched = met.split_off(&(Use::Watch, 0));
        Ok(Met { links: met.into_values().collect(), watched: std::mem::take(&mut watched).into_values().collect() })
    }

    /// Rank 0's side of a connection.
    fn welcome(&self, mut stream: TcpStream, secret: &Secret) -> io::Result<(usize, Use, TcpStream)> {
        prepare(&stream, Some(PATIENCE))?;
        let challenge: [u8; 32] = rand::random();
        stream.write_all(HELLO)?;
        stream.write_all(&challenge)?;
        let (mut answer, mut theirs, mut who) = ([0; 32], [0; 32], [0; 9]);
        stream.read_exact(&mut answer)?;
        stream.read_exact(&mut theirs)?;
        stream.read_exact(&mut who)?;
        if answer != secret.answer(&challenge, 1) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let rank = u64::from_le_bytes([who[0], who[1], who[2], who[3], who[4], who[5], who[6], who[7]]) as usize;
        let purpose = if who[8] == Use::Watch as u8 { Use::Watch } else { Use::Exchange };
        if rank == 0 || rank >= self.size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        stream.write_all(&secret.answer(&theirs, 0))?;
        prepare(&stream, None)?;
        Ok((rank, purpose, stream))
    }

    fn connect(&self, deadline: Instant) -> Result<Met> {
        let one = |purpose| {
            loop {
                let last = match self.try_connect(purpose) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => error,
                };
                if Instant::now() >= deadline {
                    return Err(self.failed(&format!("rank 0 was not found there: {last}")));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        Ok(Met { links: vec![one(Use::Exchange)?], watched: vec![one(Use::Watch)?] })
    }

    fn try_connect(&self, purpose: Use) -> Result<TcpStream, String> {
        let secret = (self.secret)().map_err(|error| error.to_string())?;
        let mut last = "no address".to_owned();
        for port in self.ports() {
            let addresses = (self.host, port).to_socket_addrs().map_err(|error| error.to_string())?;
            for address in addresses {
                match TcpStream::connect_timeout(&address, PATIENCE)
                    .and_then(|stream| self.greet(stream, &secret, purpose))
                {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = format!("{address}: {error}"),
                }
            }
        }
        Err(last)
    }

    /// Any other rank's side.
    fn greet(&self, mut stream: TcpStream, secret: &Secret, purpose: Use) -> io::Result<TcpStream> {
        prepare(&stream, Some(PATIENCE))?;
        let (mut hello, mut challenge, mut answer) = ([0; 8], [0; 32], [0; 32]);
        stream.read_exact(&mut hello)?;
        if hello != *HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "something else listens there"));
        }
        stream.read_exact(&mut challenge)?;
        let own: [u8; 32] = rand::random();
        let mut said = secret.answer(&challenge, 1).to_vec();
        said.extend_from_slice(&own);
        said.extend_from_slice(&(self.rank as u64).to_le_bytes());
        said.push(purpose as u8);
        stream.write_all(&said)?;
        stream.read_exact(&mut answer)?;
        if answer != secret.answer(&own, 0) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "rank 0 there belongs to another run"));
        }
        prepare(&stream, None)?;
        Ok(stream)
    }
}

fn prepare(stream: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
    // One that a listener gave may have its mode.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::hub::Hub;
    use std::thread;

    fn port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn meet(rank: usize, size: usize, port: u16, secret: &'static str, patience_millis: u64) -> Result<Hub> {
        Hub::meet(&Meeting {
            rank,
            size,
            host: "127.0.0.1",
            port,
            secret: &|| Ok(Secret::of(secret)),
            patience: Duration::from_millis(patience_millis),
            timeout: Duration::from_secs(1),
            is_process: false,
        })
    }

    #[test]
    fn who_lacks_the_secret_takes_no_part_and_takes_nobodys_place() {
        let port = port();
        let root = thread::spawn(move || meet(0, 2, port, "ours", 20_000));
        let message = meet(1, 2, port, "theirs", 300).unwrap_err().to_string();
        assert!(message.contains("rank 1 of 2") && message.contains("was not found there"), "{message}");
        // Noise costs nothing either.
        TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(&[7; 200]).unwrap();
        let ours = meet(1, 2, port, "ours", 20_000).unwrap();
        let root = root.join().unwrap().unwrap();
        let other = thread::spawn(move || {
            let all = ours.gather("a word", vec![1]).unwrap();
            ours.watch().over();
            all
        });
        assert_eq!(root.gather("a word", vec![0]).unwrap(), [vec![0], vec![1]]);
        root.watch().over();
        assert_eq!(other.join().unwrap(), [vec![0], vec![1]]);
    }

    /// Nobody is silent who waits for others to come, however much longer that is than a silence may be.
    #[test]
    fn a_rank_may_come_late() {
        let port = port();
        let start = |rank: usize, late: u64| {
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(late));
                let hub = meet(rank, 3, port, "ours", 20_000)?;
                let all = hub.gather("a word", vec![rank as u8])?;
                hub.watch().over();
                Ok::<_, Error>(all)
            })
        };
        let ranks = [start(0, 0), start(1, 0), start(2, 2500)];
        for rank in ranks {
            assert_eq!(rank.join().unwrap().unwrap(), [vec![0], vec![1], vec![2]]);
        }
    }
}
