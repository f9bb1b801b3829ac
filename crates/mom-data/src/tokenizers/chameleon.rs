//! Image codes that are tokens of the text tokenizer, by their names, as in Chameleon's `text_tokenizer.json`.
//!
//! Code n is the token `IMGIMG`, the decimal digits of n as letters (A for 0 to J for 9, no leading zeros), `Z`: code 25 is
//! `IMGIMGCFZ`. In the published vocabulary its id is n + 4. Source: `chameleon/inference/vocab.py` of
//! facebookresearch/chameleon.

use super::TextTokenizer;
use crate::{DataError, Result};

/// The name of an image code.
fn name_of(code: u32) -> String {
    let letters: String = code.to_string().bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
    format!("IMGIMG{letters}Z")
}

impl TextTokenizer {
    /// The id of the first of `n` image codes, whose ids follow each other; `None` if this tokenizer has no names for image codes,
    /// or there are none.
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`] for a code without a name, or a name whose id is out of order.
    pub(super) fn first_image_code(&self, n: u32) -> Result<Option<u32>> {
        let Some(first) = self.id_of(&name_of(0)).filter(|_| n > 0) else { return Ok(None) };
        for code in 1..n {
            let (name, expected) = (name_of(code), first.saturating_add(code));
            let got = self.id_of(&name);
            if got != Some(expected) {
                let got = got.map_or("there is no such token".to_owned(), |id| format!("its id is {id}"));
                let reason = format!(
                    "image code {code} is the token {name}, expected with the id {expected} ({} has {first}), but {got}: the \
                     model has {n} image codes",
                    name_of(0)
                );
                return Err(DataError::TextTokenizer { path: None, reason });
            }
        }
        Ok(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_spell_the_digits() {
        let names = [0, 7, 25, 8191].map(name_of);
        assert_eq!(names, ["IMGIMGAZ", "IMGIMGHZ", "IMGIMGCFZ", "IMGIMGIBJBZ"]);
    }
}
