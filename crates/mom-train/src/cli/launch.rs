//! Starts the ranks of a run on this machine (`train --gpus N`), and ends with them.

use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mom_train::dist;

use super::Ended;
use super::output::aside;
use super::signals::Signals;

/// Where one rank has ended badly, the others end by themselves within this time, or are ended.
const PATIENCE: Duration = Duration::from_secs(30);

const PERIOD: Duration = Duration::from_millis(50);

/// A process, and how it ended.
struct Rank {
    child: Child,
    status: Option<ExitStatus>,
}

/// Starts this program `n` times, with the same arguments, and waits for all of them. A signal that asks this process to end is handed on.
///
/// # Errors
/// A process that cannot be started; one that ended badly.
pub fn launch(n: usize) -> Result<Ended> {
    let signals = Signals::catch()?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let port = free_port()?;
    let secret = dist::new_secret();
    let mut ranks = Ranks(Vec::new());
    for rank in 0..n {
        let mut command = Command::new(&program);
        command
            .args(arguments(std::env::args().skip(1)))
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("WORLD_SIZE", n.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env(dist::SECRET_VARIABLE, &secret)
            .env(dist::PARENT_VARIABLE, std::process::id().to_string());
        let child = command.spawn().with_context(|| format!("cannot start rank {rank}"))?;
        ranks.0.push(Rank { child, status: None });
    }
    let (mut was_told, mut deadline) = (false, None);
    while ranks.0.iter().any(|rank| rank.status.is_none()) {
        for rank in ranks.0.iter_mut().filter(|rank| rank.status.is_none()) {
            rank.status = rank.child.try_wait().context("cannot wait for a rank")?;
        }
        let failed = ranks.0.iter().any(|rank| rank.status.is_some_and(|status| !is_well(status)));
        if failed && Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + PATIENCE) {
            aside("error: a rank ended badly, and others did not end after it: they are killed");
            ranks.kill();
        }
        if signals.raised() && !was_told {
            was_told = true;
            ranks.terminate();
        }
        thread::sleep(PERIOD);
    }
    let bad =
        ranks.0.iter().enumerate().find_map(|(rank, it)| Some((rank, it.status.filter(|status| !is_well(*status))?)));
    if let Some((rank, status)) = bad {
        bail!("rank {rank} ended with {status}");
    }
    let stopped = ranks
        .0
        .iter()
        .any(|rank| rank.status.and_then(|status| status.code()) == Some(i32::from(Ended::Stopped.status())));
    Ok(if stopped { Ended::Stopped } else { Ended::Done })
}

fn is_well(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(i32::from(Ended::Stopped.status()))
}

/// The arguments of a rank: all but `--gpus`.
fn arguments(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = all.peekable();
    let mut kept = Vec::new();
    while let Some(argument) = all.next() {
        match argument.as_str() {
            "--gpus" => drop(all.next()),
            text if text.starts_with("--gpus=") => {}
            _ => kept.push(argument),
        }
    }
    kept
}

/// A port that is free now. Rank 0 tries those behind it too.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr().context("no port is free")?.port())
}

/// The processes; none outlives this.
struct Ranks(Vec<Rank>);

impl Ranks {
    fn kill(&mut self) {
        for rank in self.0.iter_mut().filter(|rank| rank.status.is_none()) {
            // Who has ended meanwhile needs it no more.
            let _ = rank.child.kill();
        }
    }

    /// Hands the wish to end on: by a signal that is no second one where the first reached the ranks too, as from a terminal.
    #[cfg(unix)]
    fn terminate(&mut self) {
        for rank in self.0.iter().filter(|rank| rank.status.is_none()) {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_child(&rank.child),
                rustix::process::Signal::USR2,
            );
        }
    }

    #[cfg(not(unix))]
    fn terminate(&mut self) {
        self.kill();
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.kill();
        self.0.iter_mut().for_each(|rank| drop(rank.child.wait()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_gets_all_arguments_but_the_number_of_ranks() {
        let given = ["train", "--gpus", "3", "--out", "a", "--gpus=4", "train.steps=2"];
        let kept = arguments(given.into_iter().map(str::to_owned));
        assert_eq!(kept, ["train", "--out", "a", "train.steps=2"]);
    }
}
