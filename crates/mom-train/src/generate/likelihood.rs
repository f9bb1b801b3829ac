//! How likely texts are as what comes next in a document.

use mom_data::Modality;
use mom_models::decode::Continuation;

use super::draft::Draft;
use crate::Result;
use crate::error::require;

impl Draft<'_> {
    /// The log-likelihood, in nats, of each of some texts as what comes next: the sum over its tokens, of which there may be none. What
    /// ends a document has no part in it. What was given is read once, the texts go through the model together, and the document
    /// stays as it is.
    ///
    /// # Errors
    /// A code that is not there; a document that something was drawn for since anything was given; what the model reports.
    pub(crate) fn text_log_likelihoods(&mut self, texts: &[&[u32]]) -> Result<Vec<f64>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        // What is likely behind the last token is told by the pass that reads it, so that this one waits for the texts.
        let (last, modality) = match (self.tokens.pop(), self.modalities.pop()) {
            (Some(token), Some(modality)) => (token, modality),
            _ => return require(false, "document", "one that ends in what was given", "read").map(|()| Vec::new()),
        };
        self.read()?;
        self.tokens.push(last);
        self.modalities.push(modality);
        let vocabulary = self.tokenizers().vocabulary();
        let mut rows = Vec::new();
        for text in texts {
            let mut tokens = vec![last];
            for &code in *text {
                tokens.push(vocabulary.token(Modality::Text, code)?);
            }
            let mut modalities = vec![Modality::Text.id(); tokens.len()];
            modalities[0] = modality;
            rows.push((tokens, modalities));
        }
        let continuations: Vec<Continuation<'_>> =
            rows.iter().map(|(tokens, modality_ids)| Continuation { tokens, modality_ids }).collect();
        let copies = self.decoder.select(&vec![0; texts.len()])?;
        Ok(copies.log_likelihoods(&continuations)?)
    }
}
