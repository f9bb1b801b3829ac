//! Where matrices lie in device memory, and how one lies to another.

/// Addresses of a matrix: rows of `width_bytes`, `stride_bytes` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub start: u64,
    pub n_rows: u64,
    pub width_bytes: u64,
    pub stride_bytes: u64,
}

/// How two matrices lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// No byte in common.
    None,
    /// Every element of one is the same element of the other.
    Same,
    /// Anything else. Of rows with different strides whose ranges cross, this is said without a closer look.
    Partial,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.n_rows == 0 || self.width_bytes == 0
    }

    fn end(&self) -> u64 {
        self.start + (self.n_rows - 1) * self.stride_bytes + self.width_bytes
    }

    pub fn overlap(&self, other: &Self) -> Overlap {
        let (low, high) = if self.start <= other.start { (self, other) } else { (other, self) };
        if low.is_empty() || high.is_empty() || low.end() <= high.start {
            return Overlap::None;
        }
        if low == high {
            return Overlap::Same;
        }
        // Columns of one matrix of wider rows: `high` starts `column` bytes behind the start of a row of `low`.
        let column = (high.start - low.start) % low.stride_bytes;
        let are_columns = low.stride_bytes == high.stride_bytes
            && column >= low.width_bytes
            && column + high.width_bytes <= low.stride_bytes;
        if are_columns { Overlap::None } else { Overlap::Partial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `width` elements from `column` on of a matrix of 8 rows of 10 elements of 2 bytes.
    fn columns(column: u64, width: u64) -> Place {
        Place { start: 1000 + 2 * column, n_rows: 8, width_bytes: 2 * width, stride_bytes: 20 }
    }

    /// Whether an element of one has a byte of an element of the other, by looking at each.
    fn by_bytes(a: &Place, b: &Place) -> bool {
        let bytes = |p: &Place| -> Vec<u64> {
            (0..p.n_rows).flat_map(|r| (0..p.width_bytes).map(move |c| p.start + r * p.stride_bytes + c)).collect()
        };
        let of_b = bytes(b);
        bytes(a).iter().any(|byte| of_b.contains(byte))
    }

    #[test]
    fn columns_of_one_matrix() {
        for (a, b) in (0..10).flat_map(|a| (0..10).map(move |b| (a, b))) {
            for (wa, wb) in (1..=10 - a).flat_map(|wa| (1..=10 - b).map(move |wb| (wa, wb))) {
                let (p, q) = (columns(a, wa), columns(b, wb));
                let want = match (p == q, by_bytes(&p, &q)) {
                    (true, _) => Overlap::Same,
                    (false, true) => Overlap::Partial,
                    (false, false) => Overlap::None,
                };
                assert_eq!((p.overlap(&q), q.overlap(&p)), (want, want), "columns {a}..+{wa} and {b}..+{wb}");
            }
        }
    }

    #[test]
    fn rows_that_are_moved_or_fewer() {
        let p = columns(0, 10);
        let below = Place { start: p.end(), ..p };
        assert_eq!((p.overlap(&below), below.overlap(&p)), (Overlap::None, Overlap::None));
        for moved in 1..p.end() - p.start {
            let q = Place { start: p.start + moved, ..p };
            assert_eq!((p.overlap(&q), q.overlap(&p)), (Overlap::Partial, Overlap::Partial), "moved by {moved} bytes");
        }
        assert_eq!(p.overlap(&Place { n_rows: 7, ..p }), Overlap::Partial);
        assert_eq!(p.overlap(&Place { n_rows: 0, ..p }), Overlap::None);
        // The same memory as rows of another width.
        assert_eq!(p.overlap(&Place { n_rows: 4, width_bytes: 40, stride_bytes: 40, ..p }), Overlap::Partial);
    }
}
