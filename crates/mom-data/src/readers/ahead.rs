//! Reads units ahead, in a thread, while what was read is decoded.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};

use super::{Outcome, Part, Picture, Reader, Sound};
use crate::Result;

/// Outcomes that are decoded together, at most.
const CHUNK: usize = 256;
/// Bytes of media that are held for them, about.
const CHUNK_BYTES: usize = 32 << 20;
/// Chunks that wait.
const AHEAD: usize = 2;

/// What comes out of a unit.
pub(crate) enum Chunk {
    /// Outcomes, in order.
    Outcomes(Vec<Outcome>),
    /// The unit of this index is over, as it should or not.
    End(usize, Result<()>),
}

/// Reads units in this order and hands their chunks to `work`, until it breaks or fails. `limit` ends a unit after so many
/// samples.
pub(crate) fn read_units<T>(
    reader: &dyn Reader,
    units: &[usize],
    limit: usize,
    work: impl FnOnce(Receiver<Chunk>) -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (to, from) = sync_channel(AHEAD);
        scope.spawn(move || {
            for &unit in units {
                let mut chunk = Vec::new();
                let (mut bytes, mut n) = (0, 0);
                let mut gone = false;
                let end = reader.read(unit, &mut |outcome| {
                    bytes += len_bytes(&outcome);
                    n += usize::from(!matches!(outcome, Outcome::Ignored { .. }));
                    chunk.push(outcome);
                    if chunk.len() >= CHUNK || bytes >= CHUNK_BYTES {
                        bytes = 0;
                        gone = to.send(Chunk::Outcomes(std::mem::take(&mut chunk))).is_err();
                    }
                    if gone || n >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                // Nobody listens any more: the work is done, or has failed.
                if gone || to.send(Chunk::Outcomes(chunk)).is_err() || to.send(Chunk::End(unit, end)).is_err() {
                    return;
                }
            }
        });
        work(from)
    })
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
