//! Documents that a trained model goes on with: text, pictures and speech are given, and each of them is drawn.

mod draft;
mod draw;
mod generator;
mod likelihood;
mod prompt;

pub use draft::Draft;
pub use draw::draw;
pub use generator::{GenerateOptions, Generator, Part};
pub use prompt::{PromptPart, read_prompts};
