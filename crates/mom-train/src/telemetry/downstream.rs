//! What a model tells of the truth of documents.

use serde::{Deserialize, Serialize};

/// What a model came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downstream {
    /// Documents of each kind that were asked for; how many there were is in each figure.
    pub documents: usize,
    /// Task by task.
    pub figures: Vec<Figure>,
    /// What could not be asked, and why.
    pub notes: Vec<String>,
}

/// Measures that stand for their task: they are judged where models are compared, the others show what they are made of.
pub const HEADLINES: [&str; 4] = ["all", "likelihood", "pmi", WORD_ERROR_RATE];
/// The one measure of which less is better.
pub const WORD_ERROR_RATE: &str = "word_error_rate";

/// One figure of a model. More is better, but of [`WORD_ERROR_RATE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What was asked: `image-to-text`, `text-by-image`, ...
    pub task: String,
    /// `count`, `colour`, `shape`, `relation`, `background`: the share of the facts about it that are right; `all`: of all
    /// facts together; `facts`: facts a document; `whole`: the share of captions that are sentences about scenes from their first word
    /// to their last; `likelihood`, `pmi`: the share of documents whose own text is picked; `word_error_rate`: words left out, put in or
    /// replaced, over the words that were to be said.
    pub measure: String,
    /// The figure.
    pub value: f64,
    /// Documents that the model was asked about: fewer than were asked for where the data have no more, or where of some no truth is
    /// known. Results of before it was written down have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<usize>,
    /// Facts or words that it is a share of, or documents.
    pub n: usize,
    /// The same of the documents' own text or picture, by the same reader: what a perfect model would come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<f64>,
    /// The same where each is taken for the next document's: what a model comes to that does not look at what it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
}
