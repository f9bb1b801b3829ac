//! Words of a caption that are spoken, and how far rows of words are from each other.

/// The words of a caption, without its punctuation.
pub fn spoken_words(caption: &str) -> Vec<&str> {
    caption.split([' ', ',', '.']).filter(|word| !word.is_empty()).collect()
}

/// Insertions, deletions and replacements that make one row of the other (Levenshtein): of words over the number of those that were to be
/// said, a word error rate.
pub fn edits<T: Eq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(edits(&["a", "red", "star"], &["a", "star"]), 1);
        assert_eq!((edits(b"kitten", b"sitting"), edits::<u8>(b"", b"abc"), edits::<u8>(b"", b"")), (3, 3, 0));
        assert_eq!(spoken_words("a red star, which is here."), ["a", "red", "star", "which", "is", "here"]);
        assert!(spoken_words(" ,.").is_empty());
    }
}
