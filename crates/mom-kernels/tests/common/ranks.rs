//! Ranks that are threads of a test, each with a chunk of the same sequences.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use mom_kernels::mixer::Context;
use mom_kernels::{Error, Result};

/// Longer than any exchange takes where all ranks come to it.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Said {
    /// What each rank has said of the exchange in hand.
    own: Vec<Option<Vec<f64>>>,
    /// What all said in the last one, and how many have yet to read it.
    all: Vec<f64>,
    unread: usize,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Rank {
    index: usize,
    n_chunks: usize,
    said: Arc<(Mutex<Said>, Condvar)>,
}

impl Context for Rank {
    fn index(&self) -> usize {
        self.index
    }

    fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    fn gather(&self, own: &[f64]) -> Result<Vec<f64>> {
        let late = || Error::Exchange { reason: "a rank does not come".to_owned() };
        let (said, turn) = &*self.said;
        let waits = |said, until: fn(&mut Said) -> bool| match turn.wait_timeout_while(said, PATIENCE, until) {
            Ok((said, timeout)) if !timeout.timed_out() => Ok(said),
            _ => Err(late()),
        };
        let mut said = waits(said.lock().unwrap(), |said| said.unread > 0)?;
        said.own[self.index] = Some(own.to_vec());
        if said.own.iter().all(Option::is_some) {
            said.all = said.own.iter_mut().filter_map(Option::take).flatten().collect();
            said.unread = self.n_chunks;
            turn.notify_all();
        }
        let mut said = waits(said, |said| said.unread == 0)?;
        said.unread -= 1;
        turn.notify_all();
        Ok(said.all.clone())
    }
}

/// What each of `n` ranks gives.
pub fn ranks<R: Send>(n: usize, run: impl Fn(Rank) -> R + Sync) -> Vec<R> {
    let said = Said { own: vec![None; n], ..Said::default() };
    let said = Arc::new((Mutex::new(said), Condvar::new()));
    thread::scope(|scope| {
        let start = |index| {
            let (run, rank) = (&run, Rank { index, n_chunks: n, said: said.clone() });
            scope.spawn(move || run(rank))
        };
        let threads: Vec<_> = (0..n).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
