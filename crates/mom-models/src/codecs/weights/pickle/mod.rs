//! Python's pickles as plain data: no code of a file is ever run, and a file that asks for code is refused.
//!
//! candle reads PyTorch's pickles too, but takes what asks for code without a word, panics on damaged ones, and knows neither
//! joblib's arrays nor the newer protocols. Source: CPython's `Lib/pickletools.py`, which documents every operation.

mod calls;
mod machine;
mod objects;
mod value;

pub(in crate::codecs) use machine::{Fault, Kind, parse, parse_first};
pub(in crate::codecs) use value::{Array, Id, Pickle, Value};
