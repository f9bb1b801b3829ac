//! A document on its way into sequences.

use crate::mixture::Form;
use crate::readers::PartOrder;
use crate::store::Record;
use crate::{DataError, Modality};

/// A document of a window.
#[derive(Debug)]
pub(crate) struct Item {
    pub record: Record,
    /// `None`: all parts in their own order.
    pub form: Option<Form>,
    /// Index of its source, and of its file there. Not the file itself: a window would keep more open than a process may.
    pub source: usize,
    pub unit: usize,
}

impl Item {
    /// Positions of the document in its form.
    pub fn n_positions(&self) -> u64 {
        match &self.form {
            None => self.record.n_positions(),
            Some(form) => {
                let part = |&modality: &Modality| {
                    u64::from(self.record.len_of(modality)) + if modality == Modality::Text { 0 } else { 2 }
                };
                1 + form.parts().iter().map(part).sum::<u64>()
            }
        }
    }
}

/// A piece of a document that stands in one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Index in the window's items.
    pub item: usize,
    /// First position within the document.
    pub offset: usize,
    pub len: usize,
}

/// Fails where an image of continuous patches cannot stand in a sequence.
pub(crate) fn too_long(n_positions: usize, seqlen: usize) -> DataError {
    DataError::ImageTooLong { n_positions, seqlen }
}

/// Whether a record's parts have an order of their own.
pub(super) fn order_of(record: &Record) -> PartOrder {
    if record.fixed == 0 { PartOrder::Free } else { PartOrder::Fixed }
}
