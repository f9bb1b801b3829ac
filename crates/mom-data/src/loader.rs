//! Hands out batches of packed sequences, without end.
//!
//! Sequences form one endless stream: those of window 0, then those of window 1, and so on. A batch is the next `batch` of
//! them. A [`Position`] names the next sequence; seeking to it packs that window anew (a pure function of the seed) and goes
//! on as if there had been no interruption. The next window is packed by a thread while this one is handed out.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::batch::{Batch, NO_TARGET, Order, Position, Share};
use crate::error::require;
use crate::mixture::{Documents, Forms, Schedule};
use crate::packing::{Item, Layout, Packer, Piece, Span, Window, too_long};
use crate::store::{PartKind, UnitFile, tokens};
use crate::{DataError, ImageNeed, Modality, Result, Special, pixels};

/// Documents up to this many bytes are read whole, and their checksum is compared; of longer ones that were cut a piece is
/// read at a time, so that the work stays linear in their length.
const WHOLE_BYTES: u32 = 1 << 18;

/// An endless stream of batches over the documents of one split.
pub struct Loader {
    documents: Arc<Documents>,
    packer: Arc<Packer>,
    batch: usize,
    share: Share,
    window: Window,
    sequence: usize,
    next: Option<JoinHandle<Result<Window>>>,
    /// One window and no more.
    once: bool,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("n_documents", &self.documents.len())
            .field("packer", &self.packer)
            .field("batch", &self.batch)
            .field("share", &self.share)
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

impl Loader {
    /// A loader at the start of the stream.
    ///
    /// # Errors
    /// [`DataError::Config`] for a size of zero or invalid forms; [`DataError::ImageTooLong`] if an image of continuous
    /// patches with its two markers is longer than `seqlen`; [`DataError::Tokens`] for a store that is damaged.
    pub fn new(documents: Arc<Documents>, forms: Forms, batch: usize, seqlen: usize, order: Order) -> Result<Self> {
        let schedule = Schedule::endless(&documents, order, seqlen);
        Self::with(documents, forms, (batch, seqlen), order, schedule, false)
    }

    /// A loader of one pass over the documents, each once, at most some thousand of them, in the shares of their sources:
    /// for validation. Batches end with [`Self::next_batch_of_pass`]'s `None`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn pass(documents: Arc<Documents>, forms: Forms, batch: usize, seqlen: usize) -> Result<Self> {
        let schedule = Schedule::once(&documents, Order::Fixed, seqlen);
        Self::with(documents, forms, (batch, seqlen), Order::Fixed, schedule, true)
    }

    fn with(
        documents: Arc<Documents>,
        forms: Forms,
        (batch, seqlen): (usize, usize),
        order: Order,
        schedule: Schedule,
        once: bool,
    ) -> Result<Self> {
        forms.validate()?;
        require(batch > 0, "batch", "at least 1", batch)?;
        require(seqlen > 0, "seqlen", "at least 1", seqlen)?;
        let fits = batch.checked_mul(seqlen).is_some_and(|n| u32::try_from(n).is_ok_and(|n| n < NO_TARGET));
        require(fits, "batch * seqlen", "below 2^32 - 1", format!("{batch} * {seqlen}"))?;
        require(!documents.is_empty(), "documents", "at least 1", 0)?;
        if documents.needs().image == ImageNeed::Patches {
            let shape = documents.patches;
            let n_positions = shape.image_size.checked_div(shape.patch).map_or(0, |side| side * side + 2);
            if n_positions > seqlen {
                return Err(too_long(n_positions, seqlen));
            }
        }
        let packer = Arc::new(Packer { schedule, forms, order, seqlen });
        let window = packer.window(&documents, 0)?;
        let mut loader = Self { documents, packer, batch, share: Share::WHOLE, window, sequence: 0, next: None, once };
        loader.pass_empty_windows()?;
        Ok(loader)
    }

    /// Hands out the sequences of one rank of several: of every `of * batch` sequences of the stream those from
    /// `rank * batch` on. The sequences of all ranks together do not depend on their number, nor does a [`Position`].
    ///
    /// # Errors
    /// [`DataError::Config`] for a rank that is not below the number of ranks.
    pub fn shared(mut self, share: Share) -> Result<Self> {
        require(share.rank < share.of, "rank", &format!("below {}", share.of), share.rank)?;
        self.share = share;
        Ok(self)
    }

    /// The next `batch` sequences of this rank's share.
    ///
    /// # Errors
    /// [`DataError::Io`] and [`DataError::Tokens`] for a store that cannot be read or is damaged.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let mut batch = Batch::padding(self.batch, self.packer.seqlen, self.documents.patch_dim());
        self.advance(self.share.rank * self.batch)?;
        for b in 0..self.batch {
            self.fill(&mut batch, b)?;
            self.advance(1)?;
        }
        self.advance((self.share.of - self.share.rank - 1) * self.batch)?;
        Ok(batch)
    }

    /// The next batch of a [`Self::pass`], `None` behind its end; the last one may end in sequences of padding.
    ///
    /// # Errors
    /// As [`Self::next_batch`].
    pub fn next_batch_of_pass(&mut self) -> Result<Option<Batch>> {
        if self.sequence >= self.window.sequences.len() {
            return Ok(None);
        }
        let mut batch = Batch::padding(self.batch, self.packer.seqlen, self.documents.patch_dim());
        for b in 0..self.batch {
            if self.sequence < self.window.sequences.len() {
                self.fill(&mut batch, b)?;
                self.sequence += 1;
            } else {
                batch.document_starts[b * self.packer.seqlen] = true;
            }
        }
        Ok(Some(batch))
    }

    /// Keys of the documents in the next batch, as `source:key`, each once: what [`Self::next_batch`] would give. The loader goes
    /// on behind it.
    ///
    /// # Errors
    /// As [`Self::next_batch`].
    pub fn next_keys(&mut self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        self.advance(self.share.rank * self.batch)?;
        for _ in 0..self.batch {
            for piece in &self.window.sequences[self.sequence] {
                let item = &self.window.items[piece.item];
                let source = &self.documents.sources[item.source];
                let key = format!("{}:{}", source.name, source.files.get(item.unit)?.key(&item.record)?);
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            self.advance(1)?;
        }
        self.advance((self.share.of - self.share.rank - 1) * self.batch)?;
        Ok(keys)
    }

    /// Passes over `n_sequences` sequences without making them.
    ///
    /// # Errors
    /// As [`Self::next_batch`].
    pub fn skip(&mut self, n_sequences: usize) -> Result<()> {
        self.advance(n_sequences)
    }

    /// The next sequence to be handed out.
    pub fn position(&self) -> Position {
        Position { window: self.window.number, sequence: self.sequence as u64 }
    }

    /// Goes to a position, so that the next batch is the one that followed it.
    ///
    /// # Errors
    /// [`DataError::Position`] if the window has no such sequence; the loader then stays where it was.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let other = position.window != self.window.number;
        let window = if other { Some(self.packer.window(&self.documents, position.window)?) } else { None };
        let n_sequences = window.as_ref().unwrap_or(&self.window).sequences.len();
        match usize::try_from(position.sequence) {
            Ok(sequence) if sequence < n_sequences => {
                if let Some(window) = window {
                    self.window = window;
                    self.next = None;
                }
                self.sequence = sequence;
                Ok(())
            }
            _ => Err(DataError::Position { window: position.window, sequence: position.sequence, n_sequences }),
        }
    }

    /// Sequences of the current window: the one [`Self::position`] lies in. All of a [`Self::pass`].
    pub fn n_sequences(&self) -> usize {
        self.window.sequences.len()
    }

    /// Share of the current window's positions that stay empty.
    pub fn padding(&self) -> f64 {
        1.0 - self.window.n_positions as f64 / (self.window.sequences.len() * self.packer.seqlen).max(1) as f64
    }

    /// Documents of the current window that are longer than a sequence, and were cut.
    pub fn n_cut(&self) -> usize {
        self.window.n_cut
    }

    /// Sequences in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.packer.seqlen
    }

    /// The documents that are read.
    pub fn documents(&self) -> &Arc<Documents> {
        &self.documents
    }

    /// Goes `n` sequences ahead; the end of a window is the start of the next.
    fn advance(&mut self, n: usize) -> Result<()> {
        let mut left = n;
        while left > 0 {
            let step = left.min(self.window.sequences.len() - self.sequence);
            self.sequence += step;
            left -= step;
            if self.sequence == self.window.sequences.len() {
                if self.once {
                    return Ok(());
                }
                self.next_window()?;
                self.pass_empty_windows()?;
            } else if self.next.is_none() && !self.once && 2 * self.sequence >= self.window.sequences.len() {
                self.prefetch();
            }
        }
        Ok(())
    }

    fn pass_empty_windows(&mut self) -> Result<()> {
        while self.window.sequences.is_empty() && !self.once {
            self.next_window()?;
        }
        Ok(())
    }

    fn next_window(&mut self) -> Result<()> {
        let number = self.window.number + 1;
        let made = match self.next.take().map(JoinHandle::join) {
            Some(Ok(window)) => Some(window?),
            // A thread that was stopped by a panic has told why; the same work here tells it again.
            Some(Err(_)) | None => None,
        };
        self.window = match made {
            Some(window) => window,
            None => self.packer.window(&self.documents, number)?,
        };
        self.sequence = 0;
        Ok(())
    }

    /// Begins to pack the next window. Where no thread can be had, it is packed when its turn comes.
    fn prefetch(&mut self) {
        let (packer, documents, number) = (self.packer.clone(), self.documents.clone(), self.window.number + 1);
        let builder = std::thread::Builder::new().name("packing".to_owned());
        self.next = builder.spawn(move || packer.window(&documents, number)).ok();
    }

    /// Writes the current sequence into row `b` of a batch of padding.
    fn fill(&self, batch: &mut Batch, b: usize) -> Result<()> {
        let seqlen = self.packer.seqlen;
        let (row, mut t) = (b * seqlen, 0);
        for piece in &self.window.sequences[self.sequence] {
            batch.document_starts[row + t] = true;
            let item = &self.window.items[piece.item];
            self.write(batch, row + t, item, piece)?;
            t += piece.len;
        }
        if t < seqlen {
            batch.document_starts[row + t] = true;
        }
        Ok(())
    }

    /// Writes a piece of a document to the positions from `p` on.
    fn write(&self, batch: &mut Batch, p: usize, item: &Item, piece: &Piece) -> Result<()> {
        let at_once = item.record.len_bytes <= WHOLE_BYTES || piece.len as u64 == item.n_positions();
        let file = self.documents.sources[item.source].files.get(item.unit)?;
        let whole = if at_once { Some(file.whole(&item.record)?) } else { None };
        let parts = match &whole {
            Some(bytes) => file.parts_of(&item.record, bytes)?,
            None => file.parts(&item.record)?,
        };
        let layout = Layout::of_parts(item, parts);
        let mut row = Row { batch, p, first: piece.offset, last: piece.offset + piece.len };
        if layout.len as u64 != item.n_positions() {
            return Err(file.damaged(&item.record));
        }
        row.token(0, Special::BeginDocument.token(), Modality::Text);
        for span in &layout.spans {
            // One position behind the piece too: it is the last one's target.
            if span.end() > row.first && span.start <= row.last {
                self.write_span(&mut row, (item, &file), span, whole.as_deref())?;
            }
        }
        // A document ends where the next one would begin.
        row.token(layout.len, Special::BeginDocument.token(), Modality::Text);
        Ok(())
    }

    fn write_span(
        &self,
        row: &mut Row<'_>,
        (item, file): (&Item, &UnitFile),
        span: &Span,
        whole: Option<&[u8]>,
    ) -> Result<()> {
        let part = &span.part;
        let (before, markers) = match part.modality() {
            Modality::Text => (0, None),
            Modality::Image => (1, Some((Special::BeginImage, Special::EndImage))),
            Modality::Speech => (1, Some((Special::BeginSpeech, Special::EndSpeech))),
        };
        if let Some((begin, end)) = markers {
            row.token(span.start, begin.token(), Modality::Text);
            row.token(span.end() - 1, end.token(), Modality::Text);
        }
        let start = span.start + before;
        let first = row.first.saturating_sub(start).min(part.n_positions);
        let last = (row.last + 1).saturating_sub(start).min(part.n_positions);
        if first >= last {
            return Ok(());
        }
        // Patches of the next piece's image are no targets, and an image is never cut.
        if part.is_continuous() && start >= row.last {
            return Ok(());
        }
        let read;
        let bytes = match whole {
            Some(bytes) => file.values_of(&item.record, bytes, part, first, last)?,
            None => {
                read = file.values(&item.record, part, first, last)?;
                &read
            }
        };
        match part.kind {
            PartKind::Tokens(modality) => {
                for (at, code) in (start + first..).zip(tokens(part, bytes)) {
                    row.token(at, self.documents.vocabulary().token(modality, code)?, modality);
                }
            }
            PartKind::Pixels => {
                let shape = self.documents.patches;
                pixels::to_patches(bytes, shape.image_size, shape.patch, &mut row.batch.patches)?;
                row.image(start, part.n_positions);
            }
            PartKind::Patches => {
                let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                row.batch.patches.extend(values);
                row.image(start, part.n_positions);
            }
        }
        Ok(())
    }
}

/// Positions `first..last` of a document, on their way to the positions of a batch from `p` on.
struct Row<'a> {
    batch: &'a mut Batch,
    p: usize,
    first: usize,
    last: usize,
}

impl Row<'_> {
    /// Writes a token at a position of the document, and as the target of the position before it.
    fn token(&mut self, at: usize, token: u32, modality: Modality) {
        if (self.first..self.last).contains(&at) {
            let p = self.p + at - self.first;
            self.batch.tokens[p] = token;
            self.batch.modality_ids[p] = modality.id();
        }
        // Where the position before is a patch, its target is taken back by `image`.
        if at > self.first && at <= self.last {
            let p = self.p + at - 1 - self.first;
            self.batch.targets[p] = token;
            self.batch.target_modality_ids[p] = modality.id();
        }
    }

    /// An image of continuous patches from a position on; their values are written already.
    fn image(&mut self, at: usize, n_patches: usize) {
        let image = self.batch.n_images() as u32;
        for p in (self.p + at - self.first..).take(n_patches) {
            self.batch.modality_ids[p] = Modality::Image.id();
            self.batch.targets[p] = NO_TARGET;
            self.batch.target_modality_ids[p] = 0;
            self.batch.patch_positions.push(p as u32);
            self.batch.patch_images.push(image);
        }
    }
}
