//! What a run asks of the other ranks.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::hub::{Hub, Meeting, NEWS, Patience, Secret};
use super::order::Order;
use super::{Chunks, Pieces, Place};
use crate::config::DistSection;
use crate::files::{self, At};
use crate::{Error, Result, RunConfig};

/// How long a rank that failed stays for its last word to be read.
const LINGER: Duration = Duration::from_millis(500);

/// Beside a run's other files: what a process must know to be one of its ranks.
const SECRET: &str = ".ranks-secret";

/// The variable that the secret may come by instead.
pub const SECRET_VARIABLE: &str = "MOM_RANKS_SECRET";

/// The variable by which a launcher names itself: a rank whose launcher is gone ends.
pub const PARENT_VARIABLE: &str = "MOM_RANKS_PARENT";

/// The ranks of a run, as one of them sees them. A run of one process is a world of one rank, which asks nobody.
#[derive(Debug)]
pub struct World {
    place: Place,
    hub: Option<Hub>,
    /// Whether what the ranks do together has come to its end.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "NCCL's groups end in two ways"))]
    is_done: AtomicBool,
    order: Order,
}

impl World {
    /// One rank.
    pub fn alone() -> Self {
        Self { place: Place::alone(), hub: None, is_done: AtomicBool::new(false), order: Order::default() }
    }

    /// Meets the other ranks of a run. `folder` is the run's, which all of them can read: rank 0 leaves a secret there, unless the
    /// variable `MOM_RANKS_SECRET` has one. Waits as long as `dist` says.
    ///
    /// # Errors
    /// [`Error::World`]: a rank that does not come, no free port; a file that cannot be written or read.
    pub fn join(place: Place, folder: &Path, dist: &DistSection) -> Result<Self> {
        end_with_launcher();
        Self::meet(place, folder, dist, true)
    }

    /// As [`Self::join`], for ranks that are threads of one process.
    ///
    /// # Errors
    /// As there.
    pub fn join_thread(place: Place, folder: &Path, dist: &DistSection) -> Result<Self> {
        Self::meet(place, folder, dist, false)
    }

    fn meet(place: Place, folder: &Path, dist: &DistSection, is_process: bool) -> Result<Self> {
        if place.size == 1 {
            return Ok(Self { place, hub: None, is_done: AtomicBool::new(false), order: Order::default() });
        }
        let path = folder.join(SECRET);
        let of_job = |text: &str| Secret::of(&format!("{text} {} {}", place.job, place.size));
        if place.is_root() && std::env::var_os(SECRET_VARIABLE).is_none() {
            files::create_folder(folder)?;
            write_secret(&path)?;
        }
        let secret = || match std::env::var(SECRET_VARIABLE) {
            Ok(text) => Ok(of_job(&text)),
            Err(_) => Ok(of_job(&std::fs::read_to_string(&path).at("read", &path)?)),
        };
        let meeting = Meeting {
            rank: place.rank,
            size: place.size,
            host: &place.host,
            port: place.port,
            secret: &secret,
            patience: Duration::from_secs(dist.start_secs),
            timeout: Duration::from_secs(dist.timeout_secs),
            is_process,
        };
        let hub = Hub::meet(&meeting)?;
        Ok(Self { hub: Some(hub), place, is_done: AtomicBool::new(false), order: Order::default() })
    }

    /// Which rank this is.
    pub fn rank(&self) -> usize {
        self.place.rank
    }

    /// Ranks of the run.
    pub fn size(&self) -> usize {
        self.place.size
    }

    /// Whether this is rank 0, which alone writes what belongs to the run as a whole.
    pub fn is_root(&self) -> bool {
        self.place.is_root()
    }

    /// Whether there are others.
    pub fn is_shared(&self) -> bool {
        self.hub.is_some()
    }

    /// From now on this process computes on the GPU of its rank: that of the rank's number on its host, or the only one that it is shown.
    pub fn pick_gpu(&self) {
        crate::config::pick_gpu(self.place.local_rank);
    }

    /// Tells that this rank moves, in what may take its time.
    pub fn moves(&self, what: &'static str) {
        self.progress(what, Patience::Beside);
    }

    /// Refuses a step that so many ranks cannot share out evenly.
    ///
    /// # Errors
    /// [`Error::Config`], with the sequences of a step, or the chunks of a sequence.
    pub fn check_step(config: &RunConfig, size: usize) -> Result<()> {
        Self::share(config, 0, size).map(drop)
    }

    fn share(config: &RunConfig, rank: usize, size: usize) -> Result<Pieces> {
        let context = config.train.dist.context;
        Chunks::check(size, context)?;
        // The ranks that have chunks of the same sequences are one in this.
        Pieces::of(rank / context, size / context, config.data.batch, config.train.accumulate)
    }

    /// What this rank has of every step.
    ///
    /// # Errors
    /// A step that cannot be shared out evenly.
    pub(crate) fn pieces(&self, config: &RunConfig) -> Result<Pieces> {
        Self::share(config, self.rank(), self.size())
    }

    /// Tells what this rank does now, and how long that may take.
    pub(crate) fn progress(&self, what: &'static str, patience: Patience) {
        if let Some(hub) = &self.hub {
            hub.watch().progress(what, patience);
        }
    }

    /// Runs what waits for other ranks on a device.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "a host waits in the hub alone"))]
    pub(crate) fn waiting<T>(&self, run: impl FnOnce() -> T) -> T {
        let _waits = self.hub.as_ref().map(|hub| hub.watch().waits());
        run()
    }

    /// The failure that ends the run, if a rank failed.
    ///
    /// # Errors
    /// That failure.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "an exchange fails by itself"))]
    pub(crate) fn check(&self) -> Result<()> {
        self.hub.as_ref().and_then(|hub| hub.watch().failure()).map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// The failure that ends the run, for somebody who has seen a sign of it: waits for its word for a moment.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "an exchange fails by itself"))]
    pub(crate) fn news(&self) -> Option<Error> {
        self.hub.as_ref()?.watch().failure_within(NEWS).map(Error::from)
    }

    /// Rings on a thread of its own where a rank fails.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the hub's own connections need no alarm"))]
    pub(crate) fn on_failure(&self, alarm: impl Fn() + Send + 'static) {
        if let Some(hub) = &self.hub {
            hub.watch().on_failure(alarm);
        }
    }

    pub(super) fn exchange(
        &self,
        what: &'static str,
        own: Vec<u8>,
        combine: impl FnOnce(Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>>,
    ) -> Result<Vec<u8>> {
        match &self.hub {
            Some(hub) => hub.exchange(what, own, combine),
            None => Ok(combine(vec![own])?.pop().unwrap_or_default()),
        }
    }

    /// What every rank says, in their order. All call it with the same `what`.
    ///
    /// # Errors
    /// [`Error::Rank`] where a rank failed.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, what: &'static str, own: T) -> Result<Vec<T>> {
        let Some(hub) = &self.hub else { return Ok(vec![own]) };
        let unread = |error: serde_json::Error| Error::World { reason: format!("\"{what}\" of a rank: {error}") };
        let all = hub.gather(what, serde_json::to_vec(&own).map_err(unread)?)?;
        all.iter().map(|bytes| serde_json::from_slice(bytes).map_err(unread)).collect()
    }

    /// In which order this rank launches what it exchanges on its device.
    pub(crate) fn order(&self) -> &Order {
        &self.order
    }

    /// Rank 0 first, then all others: for what the first makes and the others find made. An error of one is the error of all.
    ///
    /// # Errors
    /// Those of `run`, on any rank.
    pub fn root_first<T>(&self, what: &'static str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.is_shared() {
            return run();
        }
        self.progress(what, Patience::Beside);
        if self.is_root() {
            let outcome = run();
            self.agree(what, outcome)
        } else {
            self.agree(what, Ok(()))?;
            run()
        }
    }

    /// An outcome that all ranks have at once: where one has an error, all have.
    ///
    /// # Errors
    /// The own error, or that of another rank as [`Error::Rank`].
    pub(crate) fn agree<T>(&self, what: &'static str, outcome: Result<T>) -> Result<T> {
        if !self.is_shared() {
            return outcome;
        }
        let own = outcome.as_ref().err().map(ToString::to_string);
        let all = self.gather(what, own)?;
        let value = outcome?;
        match all.into_iter().enumerate().find_map(|(rank, message)| Some((rank, message?))) {
            Some((rank, message)) => Err(Error::Rank { rank, message }),
            None => Ok(value),
        }
    }

    /// Refuses ranks that differ in something that must be one for all; `name` says what it is.
    ///
    /// # Errors
    /// [`Error::World`] with both values.
    pub fn same(&self, name: &'static str, own: String) -> Result<()> {
        let all = self.gather(name, own)?;
        let Some(first) = all.first() else { return Ok(()) };
        match all.iter().enumerate().find(|(_, value)| *value != first) {
            Some((rank, value)) => {
                let reason = format!("ranks differ in {name}: rank 0 has {first}, rank {rank} has {value}");
                Err(Error::World { reason })
            }
            None => Ok(()),
        }
    }

    /// Whether any rank says yes.
    ///
    /// # Errors
    /// [`Error::Rank`] where a rank failed.
    pub(crate) fn any(&self, what: &'static str, own: bool) -> Result<bool> {
        Ok(self.gather(what, own)?.contains(&true))
    }

    /// What the ranks do together ends with this outcome, before anything of it is let go: an error that is this rank's alone is told at once,
    /// so that nobody waits for it meanwhile.
    ///
    /// # Errors
    /// That of the outcome.
    pub(crate) fn ends<T>(&self, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) | Err(Error::Stopped { .. }) => self.is_done.store(true, Ordering::Relaxed),
            Err(error) => {
                if let Some(hub) = &self.hub {
                    hub.watch().fail(error.to_string());
                }
            }
        }
        outcome
    }

    /// Whether it has ended well.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "NCCL's groups end in two ways"))]
    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Relaxed)
    }

    /// The end of a run, or of a rank: where the outcome is an error that other ranks do not know, they are told, and end with it.
    ///
    /// # Errors
    /// That of the outcome; where this rank only broke because another one had failed, that one's.
    pub fn settle<T>(&self, outcome: Result<T>) -> Result<T> {
        let Some(hub) = &self.hub else { return outcome };
        match outcome {
            Ok(value) => {
                self.progress("the end", Patience::Beside);
                self.gather("the end", true)?;
                hub.watch().over();
                Ok(value)
            }
            // All ranks have it, or know of it.
            Err(error @ Error::Stopped { .. }) => {
                self.gather("the end", true)?;
                hub.watch().over();
                Err(error)
            }
            Err(error) => {
                let known = hub.watch().failure().filter(|failure| failure.rank != self.rank());
                hub.watch().fail(error.to_string());
                // A connection that is closed before all that came by it was read may take what was just sent with it.
                std::thread::sleep(LINGER);
                Err(known.map_or(error, Into::into))
            }
        }
    }
}

/// A new secret, as text.
pub fn new_secret() -> String {
    let words: [u64; 4] = rand::random();
    words.iter().map(|word| format!("{word:016x}")).collect()
}

/// Leaves a new secret in a file that the user alone can read.
fn write_secret(path: &Path) -> Result<()> {
    let partial = path.with_extension("partial");
    let _ = std::fs::remove_file(&partial);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&partial).at("create", &partial)?;
    std::io::Write::write_all(&mut file, new_secret().as_bytes()).at("write", &partial)?;
    std::fs::rename(&partial, path).at("rename", path)?;
    Ok(())
}

/// Asks the system to end this process with the launcher that started it, where there is one that says so.
fn end_with_launcher() {
    #[cfg(target_os = "linux")]
    if let Some(parent) = std::env::var(PARENT_VARIABLE).ok().and_then(|text| text.parse::<u32>().ok()) {
        // Where the system refuses, a launcher that is killed leaves its ranks behind.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
        if std::os::unix::process::parent_id() != parent {
            std::process::exit(1);
        }
    }
}
