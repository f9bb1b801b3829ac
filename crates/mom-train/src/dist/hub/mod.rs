//! The word of the ranks to each other: TCP connections from every rank to rank 0.
//!
//! A rank has two connections to rank 0. Over the first it takes part in *exchanges*, which all ranks enter in the same order: each
//! gives some bytes, rank 0 combines them, each gets its answer. Over the second it is watched: heartbeats, and the news that
//! somebody failed, which closes the first connections, so that nobody waits for what will not come.

mod rendezvous;
mod watch;
mod wire;

use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

pub(crate) use rendezvous::{Meeting, Secret};
pub(crate) use watch::{Patience, Watch};

use crate::{Error, Result};
use wire::Frame;

/// How long a broken connection waits for the news of who failed.
pub(super) const NEWS: Duration = Duration::from_secs(5);

/// The connections of one rank.
#[derive(Debug)]
pub(crate) struct Hub {
    rank: usize,
    size: usize,
    links: Mutex<Links>,
    watch: Watch,
}

/// Connections for exchanges.
#[derive(Debug)]
struct Links {
    /// Of rank 0: those to ranks 1 and up. Of any other rank: the one to rank 0.
    streams: Vec<TcpStream>,
    /// Exchanges so far: the same number on every rank.
    exchanges: u64,
}

impl Hub {
    /// Brings all ranks together, see [`Meeting`].
    ///
    /// # Errors
    /// Not all ranks came in time; a process that is none of them.
    pub fn meet(meeting: &Meeting<'_>) -> Result<Self> {
        let met = meeting.meet()?;
        let watch = Watch::begin(meeting, &met.links, met.watched)?;
        let links = Mutex::new(Links { streams: met.links, exchanges: 0 });
        Ok(Self { rank: meeting.rank, size: meeting.size, links, watch })
    }

    /// Its heartbeats.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// One exchange. Every rank calls it with the same `what`, in the same order. Rank 0 gets what all of them gave, in the order of
    /// the ranks, and `combine` gives the answer of each.
    ///
    /// # Errors
    /// [`Error::Rank`] where a rank failed or is at another place; those of `combine`.
    pub fn exchange(
        &self,
        what: &'static str,
        own: Vec<u8>,
        combine: impl FnOnce(Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>,
    ) -> Result<Vec<u8>> {
        let mut links = self.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let number = links.exchanges;
        links.exchanges += 1;
        let _waits = self.watch.waits();
        let frame = |payload| Frame { what: what.to_owned(), number, payload };
        let of_stream = |rank: usize, outcome: std::io::Result<Frame>| match outcome {
            Ok(got) if got.what == what && got.number == number => Ok(got.payload),
            Ok(got) => {
                let message =
                    format!("it is at \"{}\" ({}), rank {} at \"{what}\" ({number})", got.what, got.number, self.rank);
                Err(Error::Rank { rank, message })
            }
            Err(error) => Err(self.broken(rank, &error)),
        };
        if self.rank > 0 {
            let stream = &mut links.streams[0];
            frame(own).write(stream).map_err(|error| self.broken(0, &error))?;
            let answer = Frame::read(stream);
            return of_stream(0, answer);
        }
        let mut all = vec![own];
        for (index, stream) in links.streams.iter_mut().enumerate() {
            let got = Frame::read(stream);
            all.push(of_stream(index + 1, got)?);
        }
        let mut answers = combine(all)?.into_iter();
        let own = answers.next().unwrap_or_default();
        for (index, (stream, answer)) in links.streams.iter_mut().zip(answers).enumerate() {
            frame(answer).write(stream).map_err(|error| self.broken(index + 1, &error))?;
        }
        Ok(own)
    }

    /// What everybody gave, in the order of the ranks.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    pub fn gather(&self, what: &'static str, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let size = self.size;
        let all = self.exchange(what, own, |all| Ok(vec![wire::join(&all); size]))?;
        wire::split(&all, size)
            .ok_or_else(|| Error::Rank { rank: 0, message: format!("its answer to \"{what}\" is cut") })
    }

    /// Why a connection broke: the failure that is known, or will be in a moment.
    fn broken(&self, rank: usize, error: &std::io::Error) -> Error {
        match self.watch.failure_within(NEWS) {
            Some(failure) => failure.into(),
            None => Error::Rank { rank, message: format!("the connection to it broke: {error}") },
        }
    }
}
