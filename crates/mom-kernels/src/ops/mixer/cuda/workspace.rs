//! Typed parts of one untyped workspace.

use crate::ops::mixer::params::OP;
use crate::runtime::{DeviceMut, Result};

/// Parts begin on a line of the cache; vectors and bulk copies need 16 bytes.
const ALIGNMENT: usize = 256;

/// Bytes of a part.
pub(super) fn bytes<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(ALIGNMENT)
}

/// Hands out the parts of a workspace one behind the other.
pub(super) struct Parts<'a>(pub DeviceMut<'a, u8>);

impl<'a> Parts<'a> {
    /// The next `len` elements; [`bytes`] of them are used.
    pub fn take<T>(self, len: usize) -> Result<(DeviceMut<'a, T>, Self)> {
        let (part, rest) = self.0.split_at(OP, bytes::<T>(len))?;
        Ok((part.cast(OP, len)?, Self(rest)))
    }
}
