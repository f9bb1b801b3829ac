//! Ranks that are threads of the test.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use mom_train::dist::{Place, World};
use mom_train::run::{Observer, RunFolder, train_in_world};
use mom_train::telemetry::RunResult;
use mom_train::{Prepared, Result, RunConfig, Trainer};

/// A port that was free a moment ago.
pub fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What each of `size` ranks gives.
pub fn ranks<T: Send>(size: usize, folder: &Path, config: &RunConfig, run: impl Fn(Arc<World>) -> T + Sync) -> Vec<T> {
    let port = port();
    thread::scope(|scope| {
        let start = |rank| {
            let (run, place) = (&run, Place { rank, size, local_rank: rank, port, ..Place::alone() });
            scope.spawn(move || run(Arc::new(World::join_thread(place, folder, &config.train.dist).unwrap())))
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Losses of every step, of a world of so many ranks; the same on each of them.
pub fn curve(size: usize, config: &RunConfig, prepared: &Prepared) -> Vec<(f64, f64)> {
    let folder = tempfile::tempdir().unwrap();
    let all = ranks(size, folder.path(), config, |world| {
        let mut trainer = Trainer::in_world(config, prepared, world.clone()).unwrap();
        let steps = 0..config.train.steps;
        let curve: Vec<(f64, f64)> = steps
            .map(|_| {
                let report = trainer.step().unwrap();
                (report.loss, report.grad_norm)
            })
            .collect();
        world.settle(Ok(curve)).unwrap()
    });
    assert!(all.iter().all(|curve| *curve == all[0]), "every rank has the same losses");
    all[0].clone()
}

/// A run in a folder, by so many ranks: the outcome of each. `observer` gives that of a rank.
pub fn train<O: Observer>(
    size: usize,
    config: &RunConfig,
    folder: &Path,
    prepared: &Prepared,
    observer: impl Fn(usize) -> O + Sync,
) -> Vec<Result<RunResult>> {
    ranks(size, folder, config, |world| {
        let run = || {
            let folder = world.root_first("the run's folder", || {
                if world.is_root() { RunFolder::open(folder, config) } else { RunFolder::beside_root(folder, config) }
            })?;
            train_in_world(&folder, config, prepared, &mut observer(world.rank()), &world)
        };
        let outcome = run();
        world.settle(outcome)
    })
}
