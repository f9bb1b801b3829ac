//! Ranks that are processes of their own.
