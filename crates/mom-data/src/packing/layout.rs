//! Where the parts of a document stand among its positions.

use super::item::{Item, order_of};
use crate::readers::PartOrder;
use crate::store::{StoredPart, UnitFile};
use crate::{Modality, Result};

/// The parts of a document in the order in which they are read.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Positions, begin-of-document included.
    pub len: usize,
    pub spans: Vec<Span>,
}

/// The positions of one part, its markers included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub start: usize,
    pub len: usize,
    pub part: StoredPart,
}

impl Span {
    /// One past the last position.
    pub fn end(&self) -> usize {
        self.start + self.len
    }

    /// Whether it has markers.
    pub fn is_marked(&self) -> bool {
        self.part.modality() != Modality::Text
    }

    /// Whether it is an image of continuous patches.
    pub fn is_continuous(&self) -> bool {
        self.part.is_continuous()
    }

    #[cfg(test)]
    pub fn test(start: usize, len: usize, marked: bool, continuous: bool) -> Self {
        Self { start, len, part: StoredPart::test(len, marked, continuous) }
    }
}

impl Layout {
    /// The layout of a document, from its head on disk.
    pub fn of(item: &Item, file: &UnitFile) -> Result<Self> {
        Ok(Self::of_parts(item, file.parts(&item.record)?))
    }

    /// The layout of a document whose parts are known.
    pub fn of_parts(item: &Item, parts: Vec<StoredPart>) -> Self {
        let ordered: Vec<StoredPart> = match (&item.form, order_of(&item.record)) {
            (Some(form), PartOrder::Free) => {
                let of = |&modality: &Modality| parts.iter().find(|part| part.modality() == modality).copied();
                form.parts().iter().filter_map(of).collect()
            }
            _ => parts,
        };
        let mut len = 1;
        let spans = ordered.into_iter().map(|part| {
            let marked = if part.modality() == Modality::Text { 0 } else { 2 };
            let span = Span { start: len, len: part.n_positions + marked, part };
            len = span.end();
            span
        });
        let spans: Vec<Span> = spans.collect();
        Self { len, spans }
    }
}
