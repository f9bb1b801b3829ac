//! Who lives, who moves, and who failed.
//!
//! Every rank sends a heartbeat over a connection of its own, from a thread of its own: how long ago it last made progress, and
//! whether it waits for others. Rank 0 looks at all of them. A rank that ends without a word, that is silent, or that stands still
//! within a step while it waits for nobody, has failed; so has one that says so. Rank 0 tells everybody, and on every rank the
//! connections for exchanges are closed and the alarms ring (NCCL's collectives are aborted), so that nobody waits.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::rendezvous::Meeting;
use super::wire::Frame;
use crate::{Error, Result};

/// How long a process that is told of a failure may take to end by itself: a checkpoint may be on its way to the disk.
const GRACE: Duration = Duration::from_secs(10);

/// How long a rank may do what it does without a word of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Patience {
    /// A part of a step: as long as the configuration says.
    Step,
    /// What may take longer, such as reading data or loading kernels: forty times as long.
    Beside,
    /// What takes as long as it takes, such as questions about many documents. That it lives its heartbeats tell.
    Open,
}

impl Patience {
    fn limit(self, timeout: Duration) -> Option<Duration> {
        match self {
            Self::Step => Some(timeout),
            Self::Beside => Some(timeout * 40),
            Self::Open => None,
        }
    }
}

/// A rank that failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub rank: usize,
    pub message: String,
}

impl From<Failure> for Error {
    fn from(Failure { rank, message }: Failure) -> Self {
        Self::Rank { rank, message }
    }
}

/// What a heartbeat says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Beat {
    /// Since the last progress.
    still_secs: f64,
    /// Whether it waits for other ranks.
    waits: bool,
    patience: Patience,
    doing: String,
}

/// What a rank does.
#[derive(Debug)]
struct Doing {
    since: Instant,
    what: &'static str,
    patience: Patience,
}

type Alarm = Box<dyn Fn() + Send>;

struct Shared {
    rank: usize,
    timeout: Duration,
    is_process: bool,
    failure: Mutex<Option<Failure>>,
    failed: Condvar,
    links: Vec<TcpStream>,
    watched: Mutex<Vec<TcpStream>>,
    alarms: Mutex<Vec<Alarm>>,
    doing: Mutex<Doing>,
    waits: AtomicUsize,
    /// The run is over on every rank.
    is_over: AtomicBool,
    /// The last beat of each rank.
    beats: Mutex<Vec<Option<Beat>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("rank", &self.rank).field("failure", &self.failure).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The watch of one rank.
#[derive(Debug)]
pub(crate) struct Watch(Arc<Shared>);

/// Waiting for others, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Waits<'a>(&'a Shared);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waits.fetch_sub(1, Ordering::Relaxed);
        lock(&self.0.doing).since = Instant::now();
    }
}

impl Watch {
    /// Begins to watch. `links` are the connections that a failure closes, `watched` those of heartbeats: of rank 0 to ranks 1 and up.
    pub(super) fn begin(meeting: &Meeting<'_>, links: &[TcpStream], watched: Vec<TcpStream>) -> Result<Self> {
        let system = |error: io::Error| Error::World { reason: format!("cannot watch the ranks: {error}") };
        let clones = |streams: &[TcpStream]| streams.iter().map(TcpStream::try_clone).collect::<io::Result<Vec<_>>>();
        let shared = Arc::new(Shared {
            rank: meeting.rank,
            timeout: meeting.timeout,
            is_process: meeting.is_process,
            failure: Mutex::default(),
            failed: Condvar::new(),
            links: clones(links).map_err(system)?,
            watched: Mutex::new(clones(&watched).map_err(system)?),
            alarms: Mutex::default(),
            doing: Mutex::new(Doing { since: Instant::now(), what: "the start", patience: Patience::Beside }),
            waits: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            beats: Mutex::new(vec![None; meeting.size]),
        });
        for (index, stream) in watched.into_iter().enumerate() {
            let rank = if meeting.rank == 0 { index + 1 } else { 0 };
            // Rank 0 may still wait for others to come, and has nobody to tell that it lives.
            let first = if meeting.rank == 0 { meeting.timeout } else { meeting.timeout.max(meeting.patience) };
            stream.set_read_timeout(Some(first)).map_err(system)?;
            // One who reads nothing does not keep the news from others.
            stream.set_write_timeout(Some(meeting.timeout)).map_err(system)?;
            let shared = shared.clone();
            spawn("rank-listener", move || shared.listen(rank, stream)).map_err(system)?;
        }
        let beating = shared.clone();
        spawn("rank-heartbeat", move || beating.beat()).map_err(system)?;
        Ok(Self(shared))
    }

    /// The failure that ends the run, if there was one.
    pub fn failure(&self) -> Option<Failure> {
        lock(&self.0.failure).clone()
    }

    /// The same; waits for it for so long.
    pub fn failure_within(&self, patience: Duration) -> Option<Failure> {
        let guard = lock(&self.0.failure);
        let waited = self.0.failed.wait_timeout_while(guard, patience, |failure| failure.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// This rank failed: tells all others.
    pub fn fail(&self, message: String) {
        self.0.fail(Failure { rank: self.0.rank, message });
    }

    /// Rings where a rank fails, on a thread of the watch.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the hub's own connections need none"))]
    pub fn on_failure(&self, alarm: impl Fn() + Send + 'static) {
        lock(&self.0.alarms).push(Box::new(alarm));
    }

    /// This rank moves; what it does now has a patience.
    pub fn progress(&self, what: &'static str, patience: Patience) {
        *lock(&self.0.doing) = Doing { since: Instant::now(), what, patience };
    }

    /// From now on it waits for others.
    pub fn waits(&self) -> Waits<'_> {
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        Waits(&self.0)
    }

    /// The run is over on every rank: those that leave from now on have not failed.
    pub fn over(&self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.send(&frame("bye", &()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.0.is_over.load(Ordering::Acquire) {
            self.fail("it ended before the run did".to_owned());
        }
        // The threads' own names of the connections are woken by this.
        self.0.is_over.store(true, Ordering::Release);
        lock(&self.0.watched).iter().for_each(|stream| drop(stream.shutdown(Shutdown::Write)));
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

fn frame(what: &str, payload: &impl Serialize) -> Frame {
    Frame { what: what.to_owned(), number: 0, payload: serde_json::to_vec(payload).unwrap_or_default() }
}

impl Shared {
    /// Sends to everybody it watches. Who cannot be reached is found missing by its listener.
    fn send(&self, frame: &Frame) {
        lock(&self.watched).iter_mut().for_each(|stream| drop(frame.write(stream)));
    }

    fn fail(&self, failure: Failure) {
        {
            let mut known = lock(&self.failure);
            if known.is_some() || self.is_over.load(Ordering::Acquire) {
                return;
            }
            // Before this process' own threads learn of it, and end it.
            if self.rank == 0 || self.rank == failure.rank {
                self.send(&frame("failed", &failure));
            }
            *known = Some(failure.clone());
            self.failed.notify_all();
        }
        self.links.iter().for_each(|link| drop(link.shutdown(Shutdown::Both)));
        // Before the alarms: one that finds no end does not keep the process.
        if self.is_process {
            let message = format!("error: {}; ended {} s later", Error::from(failure), GRACE.as_secs());
            // Without a thread the launcher ends the process.
            let _ = spawn("rank-end", move || {
                thread::sleep(GRACE);
                let _ = io::Write::write_all(&mut io::stderr(), format!("{message}\n").as_bytes());
                std::process::exit(1);
            });
        }
        lock(&self.alarms).iter().for_each(|alarm| alarm());
    }

    fn listen(&self, rank: usize, mut stream: TcpStream) {
        loop {
            let got = Frame::read(&mut stream);
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let frame = match got {
                Ok(frame) => frame,
                Err(error) => {
                    let silent = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    let message = if silent {
                        format!("no sign of life for {:.0} s", self.timeout.as_secs_f64())
                    } else {
                        "it ended without a word (killed, or its host is gone)".to_owned()
                    };
                    return self.fail(Failure { rank, message });
                }
            };
            // A connection that takes no limit keeps the longer one.
            let _ = stream.set_read_timeout(Some(self.timeout));
            match frame.what.as_str() {
                "beat" => {
                    if let Ok(beat) = serde_json::from_slice(&frame.payload) {
                        lock(&self.beats)[rank] = Some(beat);
                    }
                }
                "failed" => {
                    let unread =
                        |_| Failure { rank, message: "it failed, and its message could not be read".to_owned() };
                    return self.fail(serde_json::from_slice(&frame.payload).unwrap_or_else(unread));
                }
                _ => return,
            }
        }
    }

    fn own(&self) -> Beat {
        let doing = lock(&self.doing);
        Beat {
            still_secs: doing.since.elapsed().as_secs_f64(),
            waits: self.waits.load(Ordering::Relaxed) > 0,
            patience: doing.patience,
            doing: doing.what.to_owned(),
        }
    }

    /// Sends heartbeats, and on rank 0 looks at all of them, until the run is over.
    fn beat(&self) {
        let period = (self.timeout / 10).min(Duration::from_secs(1));
        while !self.is_over.load(Ordering::Acquire) && lock(&self.failure).is_none() {
            let own = self.own();
            self.send(&frame("beat", &own));
            if self.rank == 0 {
                let beats = {
                    let mut beats = lock(&self.beats);
                    beats[0] = Some(own);
                    beats.clone()
                };
                if let Some(failure) = stands_still(&beats, self.timeout) {
                    self.fail(failure);
                }
            }
            thread::sleep(period);
        }
    }
}

/// The rank that stands still, by the heartbeats of all.
fn stands_still(beats: &[Option<Beat>], timeout: Duration) -> Option<Failure> {
    let is_late = |beat: &Beat| beat.patience.limit(timeout).is_some_and(|limit| beat.still_secs > limit.as_secs_f64());
    let alone = |(rank, beat): (usize, &Option<Beat>)| {
        let beat = beat.as_ref().filter(|beat| !beat.waits && is_late(beat))?;
        let message = format!("no progress for {:.0} s in {}", beat.still_secs, beat.doing);
        Some(Failure { rank, message })
    };
    if let Some(failure) = beats.iter().enumerate().find_map(alone) {
        return Some(failure);
    }
    // Who waits is not to blame, unless all do.
    let all_late = beats.iter().all(|beat| beat.as_ref().is_some_and(|beat| beat.waits && is_late(beat)));
    let first = beats.first().and_then(Option::as_ref).filter(|_| all_late)?;
    let message = format!("all ranks wait for each other, rank 0 for {:.0} s in {}", first.still_secs, first.doing);
    Some(Failure { rank: 0, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_not_to_blame_unless_all_do() {
        let at = |still_secs, waits, patience| Some(Beat { still_secs, waits, patience, doing: "a step".to_owned() });
        let beat =
            |still_secs, waits, in_step| at(still_secs, waits, if in_step { Patience::Step } else { Patience::Beside });
        let timeout = Duration::from_secs(10);
        let found = |beats: &[Option<Beat>]| stands_still(beats, timeout).map(|failure| failure.rank);
        assert_eq!(found(&[beat(50.0, true, true), beat(11.0, false, true), beat(9.0, false, true)]), Some(1));
        assert_eq!(found(&[beat(50.0, true, true), beat(9.0, false, true)]), None);
        assert_eq!(found(&[beat(50.0, true, true), beat(11.0, false, false)]), None, "no step");
        assert_eq!(found(&[beat(50.0, true, true), beat(50.0, true, true)]), Some(0));
        assert_eq!(found(&[beat(50.0, true, true), None]), None, "nothing is known of it yet");
        assert_eq!(
            found(&[at(1e6, false, Patience::Open), beat(1e6, true, true)]),
            None,
            "it takes as long as it takes"
        );
    }
}
