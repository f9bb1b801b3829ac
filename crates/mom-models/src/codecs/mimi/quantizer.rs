//! Residual vector quantization: the nearest row of a codebook, then of what it leaves over.
//!
//! Source: Zeghidour et al. 2021 (arXiv 2107.03312), section III-C; split as in Moshi (arXiv 2410.00037), section 3.3.2: the
//! semantic codebook and the acoustic ones start from the same latent.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::codecs::layers::{Linear, Nearest};
use crate::codecs::network::Scope;

/// Least use of a row that a sum is divided by.
const LEAST_USE: f32 = 1e-5;

/// Codebooks that refine each other, in a space of their own.
#[derive(Debug)]
pub(super) struct Residual {
    input_proj: Linear,
    books: Vec<Nearest>,
    output_proj: Linear,
}

impl Residual {
    pub fn new(n: usize, scope: &Scope<'_>) -> Result<Self> {
        let n_books = scope.count("layers.");
        let dim = scope.side("input_proj.weight", 0, 3)?;
        let linear = |name: &str, n_in: usize, n_out: usize| -> Result<Linear> {
            let weight = scope.get_f32(&format!("{name}.weight"), &[n_out, n_in, 1])?;
            Linear::from_weight(weight.reshape((n_out, n_in))?)
        };
        let book = |i: usize| -> Result<Nearest> {
            let scope = scope.pp("layers").pp(i).pp("codebook");
            let n_codes = scope.side("embed_sum", 0, 2)?;
            let sums = scope.get_f32("embed_sum", &[n_codes, dim])?;
            let uses = scope.get_f32("cluster_usage", &[n_codes])?;
            scope.pass_over("initialized");
            Nearest::new(sums.broadcast_div(&uses.maximum(LEAST_USE)?.reshape((n_codes, 1))?)?)
        };
        Ok(Self {
            input_proj: linear("input_proj", n, dim)?,
            books: (0..n_books).map(book).collect::<Result<_>>()?,
            output_proj: linear("output_proj", dim, n)?,
        })
    }

    pub fn n_books(&self) -> usize {
        self.books.len()
    }

    /// Codes of the smallest codebook.
    pub fn n_codes(&self) -> usize {
        self.books.iter().map(Nearest::n_rows).min().unwrap_or(0)
    }

    /// `x` (n, channels) to the codes of the first `n_books` codebooks, each (n) u32.
    pub fn encode(&self, x: &Tensor, n_books: usize) -> Result<Vec<Tensor>> {
        let mut rest = self.input_proj.forward(&x.to_dtype(DType::F32)?)?;
        let mut codes = Vec::with_capacity(n_books);
        for book in self.books.iter().take(n_books) {
            let nearest = book.codes(&rest)?;
            rest = (rest - book.rows(&nearest)?)?;
            codes.push(nearest);
        }
        Ok(codes)
    }

    /// Codes of the first codebooks, each (n) u32, to (n, channels) f32; none of no codebook.
    pub fn decode(&self, codes: &[Tensor]) -> Result<Option<Tensor>> {
        let mut sum: Option<Tensor> = None;
        for (book, codes) in self.books.iter().zip(codes) {
            let rows = book.rows(codes)?;
            sum = Some(match sum {
                Some(sum) => (sum + rows)?,
                None => rows,
            });
        }
        sum.map(|sum| self.output_proj.forward(&sum)).transpose()
    }
}
