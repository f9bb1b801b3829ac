//! Packs documents into sequences.
//!
//! Documents of a window that fit a sequence stay whole: an image is never torn from its text because a sequence was full.
//! Longer ones are cut ([`cut`]). Pieces are put together so that as few positions as possible stay empty ([`fill`]).

mod cut;
mod fill;
mod item;
mod layout;

pub(crate) use item::{Item, Piece, too_long};
pub(crate) use layout::{Layout, Span};

use crate::Result;
use crate::batch::Order;
use crate::mixture::{Documents, Draw, Form, Forms, Schedule};
use crate::rng::{Domain, Stream};
use crate::store::Record;

/// What sequences of a split are made by.
#[derive(Debug, Clone)]
pub(crate) struct Packer {
    pub schedule: Schedule,
    pub forms: Forms,
    pub order: Order,
    pub seqlen: usize,
}

/// The sequences of one window.
#[derive(Debug)]
pub(crate) struct Window {
    /// Its number.
    pub number: u64,
    pub items: Vec<Item>,
    /// Pieces of each sequence, in order; together at most `seqlen` positions.
    pub sequences: Vec<Vec<Piece>>,
    /// Documents that are longer than a sequence.
    pub n_cut: usize,
    /// Positions of all pieces.
    pub n_positions: u64,
}

impl Packer {
    /// Window `number`: a function of the documents, the seed and the number alone.
    pub fn window(&self, documents: &Documents, number: u64) -> Result<Window> {
        let draws = self.schedule.window(number);
        // File by file, so that none is opened twice.
        let mut places: Vec<(usize, usize, u64, usize)> = Vec::with_capacity(draws.len());
        for (index, draw) in draws.iter().enumerate() {
            let (unit, rank) = documents.sources[draw.source].locate(draw.document);
            places.push((draw.source, unit, rank, index));
        }
        places.sort_unstable();
        let mut items: Vec<Option<Item>> = draws.iter().map(|_| None).collect();
        for same in places.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (source, unit, ..) = same[0];
            let file = documents.sources[source].files.get(unit)?;
            for &(.., rank, index) in same {
                let record = file.record(rank)?;
                let form = (record.fixed == 0).then(|| self.form(&draws[index], &record));
                items[index] = Some(Item { record, form, source, unit });
            }
        }
        let items: Vec<Item> = items.into_iter().flatten().collect();
        let (mut full, mut pieces) = (Vec::new(), Vec::new());
        let (mut n_cut, mut n_positions) = (0, 0);
        for (index, item) in items.iter().enumerate() {
            let len = item.n_positions();
            n_positions += len;
            if len <= self.seqlen as u64 {
                pieces.push(Piece { item: index, offset: 0, len: len as usize });
                continue;
            }
            n_cut += 1;
            let layout = Layout::of(item, &documents.sources[item.source].files.get(item.unit)?)?;
            for (offset, len) in cut::pieces(&layout, self.seqlen)? {
                let piece = Piece { item: index, offset, len };
                if len == self.seqlen { full.push(vec![piece]) } else { pieces.push(piece) }
            }
        }
        let mut stream = Stream::new(self.seed(), Domain::Packing, number, 0);
        stream.shuffle(&mut pieces);
        let mut sequences = fill::sequences(pieces, self.seqlen, &mut stream);
        sequences.append(&mut full);
        stream.shuffle(&mut sequences);
        Ok(Window { number, items, sequences, n_cut, n_positions })
    }

    fn seed(&self) -> u64 {
        match self.order {
            Order::Shuffled { seed } => seed,
            Order::Fixed => 0,
        }
    }

    /// The form of a document in an epoch.
    fn form(&self, draw: &Draw, record: &Record) -> Form {
        let bit = |len: u32, id: u8| u8::from(len > 0) << id;
        let has = bit(record.text, 0) | bit(record.image, 1) | bit(record.speech, 2);
        let epoch = if self.order == Order::Fixed { u64::MAX } else { draw.epoch };
        // Sources apart, so that the first documents of two sources do not share their draws.
        let document = draw.document ^ ((draw.source as u64) << 48);
        self.forms.draw(has, &mut Stream::new(self.seed(), Domain::Form, epoch, document))
    }
}
