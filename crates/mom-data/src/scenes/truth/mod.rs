//! What scenes show and captions say, as facts that can be compared: the way back from a document to its scene.
//!
//! ```text
//! facts  <-  caption (text -> facts),  picture (pixels -> facts)
//!   ^----   judge (what of some facts is right by others),  origin (document -> scene)
//! spoken  <-  speech (units -> words)
//! ```
//!
//! Five [`Attribute`]s are told: how many objects a group has, their colour, their shape, where groups are seen from one
//! another, and the background. Sizes, surfaces, places in the picture and the grain of a background are read over.

mod caption;
mod facts;
mod judge;
mod origin;
mod picture;
mod speech;
mod spoken;

pub use caption::{CaptionReading, read_caption};
pub use facts::{Attribute, BackgroundFacts, Facts, GroupFacts, RelationFact};
pub use judge::{Judged, Tally, judge};
pub use origin::Origin;
pub use picture::read_picture;
pub use speech::Recogniser;
pub use spoken::{edits, spoken_words};
