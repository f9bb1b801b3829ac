//! Progress on a terminal; a line for each run where there is none.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use mom_train::ablate::{Planned, SweepObserver};
use mom_train::run::{Observer, Pace};
use mom_train::telemetry::RunResult;
use mom_train::{Error, Result};

use super::Ended;
use super::output::aside;
use super::signals::Signals;

/// A bar for the work at hand.
#[derive(Debug)]
pub struct Terminal {
    signals: Signals,
    interactive: bool,
    bar: Option<ProgressBar>,
    preparing: String,
    title: String,
    losses: String,
    /// Steps of the run at hand, and how fast it is.
    steps: u64,
    speed: String,
}

impl Terminal {
    /// Bars go to the standard error, and only to a terminal. Work ends where `signals` say so.
    pub fn new(signals: Signals) -> Self {
        Self {
            signals,
            interactive: std::io::stderr().is_terminal(),
            bar: None,
            preparing: String::new(),
            title: String::new(),
            losses: String::new(),
            steps: 0,
            speed: String::new(),
        }
    }

    /// Takes the bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn start(&mut self, total: u64, template: &str) {
        self.clear();
        if self.interactive {
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            self.bar = Some(bar);
        }
    }

    /// Whether a single run tells its validations and checkpoints in lines: where there is no terminal. Of a sweep each run has
    /// its line.
    fn logs(&self) -> bool {
        !self.interactive && self.title.is_empty()
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => aside(text),
        }
    }
}

impl Observer for Terminal {
    fn started(&mut self, from_step: u64, steps: u64) {
        self.preparing.clear();
        self.steps = steps;
        self.start(steps, "{prefix} [{bar:30}] {pos}/{len}  {msg}  {eta} left");
        if let Some(bar) = &self.bar {
            bar.set_prefix(self.title.clone());
            bar.set_position(from_step);
            bar.reset_eta();
        }
        if from_step > 0 {
            self.line(&format!("{}going on from step {from_step}", if self.title.is_empty() { "" } else { "  " }));
        }
        self.losses.clear();
    }

    fn stepped(&mut self, step: u64, loss: f64, pace: &Pace) {
        let mfu = pace.mfu.map(|mfu| format!(", MFU {:.1} %", 100.0 * mfu)).unwrap_or_default();
        self.speed = format!("{:.1} k tokens/s{mfu}", pace.tokens_per_sec / 1e3);
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(format!("loss {loss:.3}{}  {}", self.losses, self.speed));
        }
    }

    fn goes_on(&mut self) -> bool {
        !self.signals.raised()
    }

    fn validated(&mut self, step: u64, losses: &BTreeMap<String, f64>) {
        let parts: Vec<String> = losses.iter().map(|(name, loss)| format!("{name} {loss:.3}")).collect();
        self.losses = format!("  [{}]", parts.join(", "));
        if self.logs() {
            aside(&format!("step {step} of {}: validation {}; {}", self.steps, parts.join(", "), self.speed));
        }
    }

    fn saved(&mut self, step: u64) {
        if self.logs() {
            aside(&format!("step {step} of {}: checkpoint", self.steps));
        }
    }

    fn sampled(&mut self, step: u64, folder: &Path) {
        if self.logs() {
            aside(&format!("step {step} of {}: samples in {}", self.steps, folder.display()));
        }
    }

    fn note(&mut self, text: &str) {
        self.line(text);
    }
}

impl SweepObserver for Terminal {
    fn preparing(&mut self, what: &str, done: u64, total: u64) {
        if self.signals.raised() {
            // What is done is on the disk, piece by piece.
            self.clear();
            aside(&format!("stopped by a signal while {what}; the same command goes on from there"));
            std::process::exit(Ended::Stopped.status().into());
        }
        if self.preparing != what {
            self.preparing = what.to_owned();
            let style =
                if total > 0 { "{prefix} [{bar:30}] {percent} %  {eta} left" } else { "{prefix} {pos}  {elapsed}" };
            self.start(total, style);
            if !self.interactive {
                self.line(what);
            }
            if let Some(bar) = &self.bar {
                bar.set_prefix(what.to_owned());
                // Work that goes on under other words.
                bar.set_position(done);
                bar.reset_eta();
            }
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        if total > 0 && done >= total {
            self.clear();
        }
    }

    fn run_started(&mut self, index: usize, total: usize, planned: &Planned) {
        self.clear();
        self.title = format!("[{}/{total}] {}", index + 1, planned.name());
    }

    fn run_ended(&mut self, _planned: &Planned, outcome: &Result<RunResult, Error>) {
        self.clear();
        match outcome {
            Ok(result) => {
                let last = result.curve.last().map(|point| &point.loss);
                let losses: Vec<String> =
                    last.into_iter().flatten().map(|(name, loss)| format!("{name} {loss:.4}")).collect();
                aside(&format!("{}: {} in {}", self.title, losses.join(", "), duration(result.wall_secs)));
            }
            // It did not begin.
            Err(Error::Stopped { step: 0 }) => {}
            Err(error) => aside(&format!("{}: {error}", self.title)),
        }
    }
}

/// Seconds for people.
pub fn duration(secs: f64) -> String {
    match secs {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), s % 60.0),
        s => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), s % 3600.0 / 60.0),
    }
}
