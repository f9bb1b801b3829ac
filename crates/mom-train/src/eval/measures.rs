//! How near a text or a picture is to another.

use std::collections::HashMap;

/// Longest character n-gram of [`chrf`].
const LONGEST: usize = 6;
/// Weight of recall over precision in [`chrf`].
const BETA: f64 = 2.0;

/// The character n-gram F-score chrF2 of a text against a reference (Popovic 2015), from 0 to 1: precision and recall of
/// n-grams of 1 to 6 characters, white space left out, averaged over the lengths that either text has.
pub(super) fn chrf(text: &str, reference: &str) -> f64 {
    let [text, reference] = [text, reference].map(|t| t.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>());
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for n in 1..=LONGEST {
        let (of_text, of_reference) = (counts(&text, n), counts(&reference, n));
        let (n_text, n_reference) = (of_text.values().sum::<usize>(), of_reference.values().sum::<usize>());
        if n_text == 0 && n_reference == 0 {
            continue;
        }
        let both: usize = of_text.iter().map(|(gram, n)| (*n).min(of_reference.get(gram).copied().unwrap_or(0))).sum();
        precision += both as f64 / n_text.max(1) as f64;
        recall += both as f64 / n_reference.max(1) as f64;
        orders += 1.0;
    }
    if orders == 0.0 {
        return 1.0;
    }
    let (precision, recall) = (precision / orders, recall / orders);
    let sum = BETA * BETA * precision + recall;
    if sum > 0.0 { (1.0 + BETA * BETA) * precision * recall / sum } else { 0.0 }
}

fn counts(text: &[char], n: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    for gram in text.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// The share of other truths that are farther from what was drawn than its own, on average; those as far count half. Chance is
/// a half. `distance(i, j)`: from what was drawn for i to the truth of j. `None` of fewer than two.
pub(super) fn matched(n: usize, distance: impl Fn(usize, usize) -> f64) -> Option<f64> {
    let mut sum = 0.0;
    for i in 0..n {
        let own = distance(i, i);
        for j in (0..n).filter(|&j| j != i) {
            let other = distance(i, j);
            sum += if other > own { 1.0 } else { f64::from(u8::from(other == own)) / 2.0 };
        }
    }
    (n > 1).then(|| sum / (n * (n - 1)) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!((chrf("a red star", "a red star"), chrf("xyz", "abc"), chrf("", "")), (1.0, 0.0, 1.0));
        // 1-grams: 2 of 3 and 2 of 2; 2-grams: 1 of 2 and 1 of 1; 3-grams: 0 of 1 and none.
        let (p, r) = ((2.0 / 3.0 + 0.5) / 3.0, 2.0 / 3.0);
        assert!((chrf("abc", "ab") - 5.0 * p * r / (4.0 * p + r)).abs() < 1e-12);
        // Two drawn pictures that are their own truths, one that is another's.
        let points = [0.0, 1.0, 2.0];
        let drawn = [0.1, 1.1, 0.0];
        let got = matched(3, |i, j| f64::abs(drawn[i] - points[j])).unwrap();
        assert!((got - 4.0 / 6.0).abs() < 1e-12, "{got}");
        assert_eq!((matched(3, |_, _| 1.0), matched(1, |_, _| 1.0)), (Some(0.5), None));
    }
}
