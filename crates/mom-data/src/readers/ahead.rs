//! Reads units ahead, in a thread, while what was read is decoded.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};

use super::{Outcome, Part, Picture, Reader, Sound};
use crate::Result;

/// Outcomes that are decoded together, at most. They may come from several units: small ones would leave threads idle.
const LOAD: usize = 256;
/// Bytes of media that are held for them, about.
const LOAD_BYTES: usize = 32 << 20;
/// Loads that wait.
const AHEAD: usize = 2;
/// Units that may end in a load.
const ENDS: usize = 64;

/// What comes out of a unit.
pub(crate) enum Chunk {
    /// Outcomes, in order.
    Outcomes(Vec<Outcome>),
    /// The unit of this index is over, as it should or not.
    End(usize, Result<()>),
}

/// Reads units in this order and hands what comes out of them to `work`, several chunks at a time, until it breaks or fails.
/// `limit` ends a unit after so many samples.
pub(crate) fn read_units<T>(
    reader: &dyn Reader,
    units: &[usize],
    limit: usize,
    work: impl FnOnce(Receiver<Vec<Chunk>>) -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (to, from) = sync_channel(AHEAD);
        scope.spawn(move || {
            let mut load = Load::default();
            for &unit in units {
                let mut n = 0;
                let mut gone = false;
                let end = reader.read(unit, &mut |outcome| {
                    n += usize::from(!matches!(outcome, Outcome::Ignored { .. }));
                    load.push(outcome);
                    if load.is_full() {
                        gone = to.send(load.take()).is_err();
                    }
                    if gone || n >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                load.end(unit, end);
                // Nobody listens any more: the work is done, or has failed.
                // Who wants only some of each unit may want nothing of the next one.
                let full = load.n_ends >= ENDS || limit < usize::MAX;
                if gone || (full && to.send(load.take()).is_err()) {
                    return;
                }
            }
            // The same holds for the last one.
            let _ = to.send(load.take());
        });
        work(from)
    })
}

/// What is handed over at a time.
#[derive(Default)]
struct Load {
    chunks: Vec<Chunk>,
    /// Those of the unit at hand.
    outcomes: Vec<Outcome>,
    n_outcomes: usize,
    n_ends: usize,
    bytes: usize,
}

impl Load {
    fn push(&mut self, outcome: Outcome) {
        self.bytes += len_bytes(&outcome);
        self.n_outcomes += 1;
        self.outcomes.push(outcome);
    }

    fn is_full(&self) -> bool {
        self.n_outcomes >= LOAD || self.bytes >= LOAD_BYTES
    }

    fn end(&mut self, unit: usize, ended: Result<()>) {
        self.close();
        self.n_ends += 1;
        self.chunks.push(Chunk::End(unit, ended));
    }

    fn close(&mut self) {
        if !self.outcomes.is_empty() {
            self.chunks.push(Chunk::Outcomes(std::mem::take(&mut self.outcomes)));
        }
    }

    fn take(&mut self) -> Vec<Chunk> {
        self.close();
        std::mem::take(self).chunks
    }
}

fn len_bytes(outcome: &Outcome) -> usize {
    let Outcome::Sample(sample) = outcome else { return 0 };
    let part = |part: &Part| match part {
        Part::Text(text) => text.len(),
        Part::Image(Picture::File { bytes, .. }) | Part::Audio(Sound::File { bytes, .. }) => bytes.len(),
        Part::Image(Picture::Pixels(image)) => image.pixels.len(),
        Part::Audio(Sound::Wave { values, .. }) => 4 * values.len(),
        Part::Codes { values, .. } => 4 * values.len(),
        Part::Latents { values, .. } => 4 * values.len(),
    };
    sample.parts.iter().map(part).sum()
}
