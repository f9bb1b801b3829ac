//! Cuts an epoch of documents into sequences.
//!
//! Documents, in the order of the epoch, are laid end to end and cut every `seqlen` positions; what is cut off starts the
//! next sequence. An image of continuous patches (with its two markers) is never cut: where it does not fit, the sequence
//! is filled up with padding and the document goes on in the next one. The last sequence of an epoch is filled up with
//! padding too. Only where each sequence starts is kept (a document and an offset); positions are made when asked for.

use crate::batch::{NO_TARGET, Order};
use crate::documents::DocumentSet;
use crate::recipe::{Form, Part, Recipe};
use crate::rng::{Domain, Stream};
use crate::vocabulary::{Modality, Special};

/// The order of one epoch and where its sequences start.
pub(crate) struct EpochIndex {
    epoch: u64,
    permutation: Vec<u32>,
    /// Rank of the document in the permutation, and position within it.
    starts: Vec<(u32, u32)>,
}

/// A piece of a document that stands in one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub document: usize,
    pub form: Form,
    /// First position of the piece within the document.
    pub offset: usize,
    pub len: usize,
}

/// One position of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    Token(u32),
    /// A continuous patch, counted within its image.
    Patch(u32),
}

impl Element {
    /// First of every document.
    pub const BEGIN_DOCUMENT: Self = Self::Token(Special::BeginDocument.token());

    /// The token as a target, or [`NO_TARGET`] for a patch.
    pub fn target(self) -> u32 {
        match self {
            Self::Token(token) => token,
            Self::Patch(_) => NO_TARGET,
        }
    }
}

/// What packing needs to know of a document: its length and the part that must stay whole.
#[derive(Debug, Clone, Copy)]
struct Layout {
    len: usize,
    whole: Option<(usize, usize)>,
}

impl Layout {
    fn of(documents: &DocumentSet, document: usize, form: &Form, n_patches: usize) -> Self {
        let mut len = 1;
        let mut whole = None;
        for &part in form.parts() {
            let part_len = part_len(documents, document, part, n_patches);
            if part == Part::Patches {
                whole = Some((len, part_len));
            }
            len += part_len;
        }
        Self { len, whole }
    }

    /// Positions that go into a sequence with `room` positions left, from `offset` on; 0 if the next thing does not fit.
    fn take(&self, offset: usize, room: usize) -> usize {
        let rest = (self.len - offset).min(room);
        match self.whole {
            Some((start, len)) if offset < start + len && offset + room < start + len => rest.min(start - offset),
            _ => rest,
        }
    }
}

fn part_len(documents: &DocumentSet, document: usize, part: Part, n_patches: usize) -> usize {
    match part {
        Part::Caption => documents.text(document).len(),
        Part::ImageCodes => documents.image_codes(document).len() + 2,
        Part::Patches => n_patches + 2,
        Part::Speech => documents.speech_units(document).len() + 2,
    }
}

/// Lays out the documents of a set under a recipe.
pub(crate) struct Packer<'a> {
    pub documents: &'a DocumentSet,
    pub recipe: &'a Recipe,
    pub order: Order,
    pub seqlen: usize,
    pub n_patches: usize,
}

impl Packer<'_> {
    /// The form of a document in an epoch.
    fn form(&self, epoch: u64, document: usize) -> Form {
        let mut stream = match self.order {
            Order::Shuffled { seed } => Stream::new(seed, Domain::Form, epoch, document as u64),
            Order::Sequential => Stream::new(0, Domain::Form, u64::MAX, document as u64),
        };
        self.recipe.draw(&mut stream)
    }

    /// Orders and cuts an epoch: O(documents).
    pub fn index(&self, epoch: u64) -> EpochIndex {
        let mut permutation: Vec<u32> = (0..self.documents.len() as u32).collect();
        if let Order::Shuffled { seed } = self.order {
            Stream::new(seed, Domain::Permutation, epoch, 0).shuffle(&mut permutation);
        }
        let mut starts = Vec::new();
        let mut room = 0;
        for (rank, &document) in permutation.iter().enumerate() {
            let form = self.form(epoch, document as usize);
            let layout = Layout::of(self.documents, document as usize, &form, self.n_patches);
            let mut offset = 0;
            while offset < layout.len {
                let mut taken = layout.take(offset, room);
                if taken == 0 {
                    starts.push((rank as u32, offset as u32));
                    room = self.seqlen;
                    taken = layout.take(offset, room);
                }
                offset += taken;
                room -= taken;
            }
        }
        EpochIndex { epoch, permutation, starts }
    }

    /// The pieces of one sequence, in order; together at most `seqlen` positions.
    pub fn pieces(&self, index: &EpochIndex, sequence: usize) -> Vec<Piece> {
        let (rank, mut offset) = index.starts[sequence];
        let mut room = self.seqlen;
        let mut pieces = Vec::new();
        for &document in &index.permutation[rank as usize..] {
            let form = self.form(index.epoch, document as usize);
            let layout = Layout::of(self.documents, document as usize, &form, self.n_patches);
            // Twice at most: up to an image that just fits, or up to the end.
            let mut len = 0;
            while (offset as usize) + len < layout.len {
                match layout.take(offset as usize + len, room - len) {
                    0 => break,
                    taken => len += taken,
                }
            }
            if len > 0 {
                pieces.push(Piece { document: document as usize, form, offset: offset as usize, len });
                room -= len;
            }
            if (offset as usize) + len < layout.len || room == 0 {
                break;
            }
            offset = 0;
        }
        pieces
    }

    /// All positions of a document under a form.
    pub fn elements(&self, document: usize, form: &Form) -> Vec<Element> {
        let mut elements = vec![Element::BEGIN_DOCUMENT];
        for &part in form.parts() {
            let markers = part.markers();
            elements.extend(markers.map(|(begin, _)| Element::Token(begin.token())));
            match part {
                Part::Caption => extend(&mut elements, self.documents.text(document)),
                Part::ImageCodes => extend(&mut elements, self.documents.image_codes(document)),
                Part::Speech => extend(&mut elements, self.documents.speech_units(document)),
                Part::Patches => elements.extend((0..self.n_patches as u32).map(Element::Patch)),
            }
            elements.extend(markers.map(|(_, end)| Element::Token(end.token())));
        }
        elements
    }

    /// Modality of an element.
    pub fn modality(&self, element: Element) -> Modality {
        match element {
            Element::Token(token) => self.documents.vocabulary().modality_of_known(token),
            Element::Patch(_) => Modality::Image,
        }
    }
}

impl EpochIndex {
    /// The epoch this is the index of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of sequences.
    pub fn n_sequences(&self) -> usize {
        self.starts.len()
    }
}

fn extend(elements: &mut Vec<Element>, tokens: &[u32]) {
    elements.extend(tokens.iter().map(|&token| Element::Token(token)));
}
