//! A rank that fails.
