//! Signals: a polite end, and what a program that runs for days does not end at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody wants the program to end.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<AtomicBool>);

impl Signals {
    /// From now on the first of SIGTERM, SIGINT and SIGUSR1 is noted, for work to be finished and saved; a second one ends the
    /// program at once. SIGUSR2 is noted too, and never ends it at once. A terminal that is closed (SIGHUP) ends nothing. A file that grows beyond what is allowed (SIGXFSZ) is
    /// an error of that write.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch() -> Result<Self> {
        let signals = Self::default();
        let register = |signal| {
            // In this order: the first one finds the flag down.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.0.clone())?;
            flag::register(signal, signals.0.clone())
        };
        register(SIGTERM).and_then(|_| register(SIGINT)).context("cannot catch signals")?;
        #[cfg(unix)]
        {
            use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ};
            register(SIGUSR1).context("cannot catch signals")?;
            // What a launcher hands on: the same wish may have come here as well, and is no second one.
            flag::register(SIGUSR2, signals.0.clone()).context("cannot catch signals")?;
            for ignored in [SIGHUP, SIGXFSZ] {
                flag::register(ignored, Arc::default()).context("cannot catch signals")?;
            }
        }
        Ok(signals)
    }

    /// Whether there was one.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
