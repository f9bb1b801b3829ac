//! Samples over seeds, and how numbers are printed.

/// One value per seed, of the runs that have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// The values, in order of seed.
    pub(super) values: Vec<f64>,
    /// Runs that could have had a value.
    pub(super) n_runs: usize,
}

impl Sample {
    /// Collects the values there are.
    pub(super) fn of(values: impl IntoIterator<Item = Option<f64>>) -> Self {
        let all: Vec<Option<f64>> = values.into_iter().collect();
        Self { n_runs: all.len(), values: all.into_iter().flatten().collect() }
    }

    /// The mean; `None` without values.
    pub(super) fn mean(&self) -> Option<f64> {
        (!self.values.is_empty()).then(|| self.values.iter().sum::<f64>() / self.values.len() as f64)
    }

    /// The sample standard deviation (n - 1); `None` with fewer than two values.
    pub(super) fn spread(&self) -> Option<f64> {
        let mean = self.mean().filter(|_| self.values.len() > 1)?;
        let squares: f64 = self.values.iter().map(|value| (value - mean).powi(2)).sum();
        Some((squares / (self.values.len() - 1) as f64).sqrt())
    }

    /// "mean ± spread unit", with "(2 of 3)" where some seeds have no value; `absent` without values.
    pub(super) fn show(&self, absent: &str, quantity: Quantity) -> String {
        let Some(mean) = self.mean() else { return absent.to_owned() };
        let (size, unit) = quantity.unit(mean);
        let spread = self.spread().map(|spread| format!(" ± {}", quantity.digits(spread / size))).unwrap_or_default();
        let share = if self.values.len() < self.n_runs {
            format!(" ({} of {})", self.values.len(), self.n_runs)
        } else {
            String::new()
        };
        format!("{}{spread}{unit}{share}", quantity.number(mean / size))
    }
}

/// What a number is, and so how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// A loss: four decimals.
    Loss,
    /// A fraction, in percent with one decimal.
    Percent,
    /// A fraction, in percent with one decimal and its sign.
    Gain,
    /// What lies between two fractions, in percentage points with one decimal and its sign.
    Points,
    /// A mean number of things: two decimals.
    Mean,
    /// What lies between two such means, with its sign.
    MeanDifference,
    /// A factor: two decimals.
    Factor,
    /// A whole number, in groups of three digits.
    Whole,
    /// A large count: 169.8 M, 37.1 k.
    Count,
    /// A size in binary units.
    Bytes,
    /// Seconds.
    Secs,
}

impl Quantity {
    /// The number with its unit.
    pub(super) fn show(self, value: f64) -> String {
        let (size, unit) = self.unit(value);
        format!("{}{unit}", self.number(value / size))
    }

    /// A spread in the unit of such numbers, which is left out: "0.4" beside 5.1 %.
    pub(super) fn spread(self, value: f64) -> String {
        self.digits(value / self.unit(value).0)
    }

    /// The unit for a value of this size, and what it stands for.
    pub(super) fn unit(self, value: f64) -> (f64, &'static str) {
        const COUNTS: [(f64, &str); 5] = [(1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
        const SIZES: [(f64, &str); 3] = [(1_073_741_824.0, " GiB"), (1_048_576.0, " MiB"), (1024.0, " KiB")];
        let largest = |units: &[(f64, &'static str)], one: (f64, &'static str)| {
            units.iter().copied().find(|(size, _)| value.abs() >= *size).unwrap_or(one)
        };
        match self {
            Quantity::Loss | Quantity::Whole | Quantity::Mean | Quantity::MeanDifference => (1.0, ""),
            Quantity::Percent | Quantity::Gain => (0.01, " %"),
            Quantity::Points => (0.01, " points"),
            Quantity::Factor => (1.0, " ×"),
            Quantity::Secs => (1.0, " s"),
            Quantity::Count => largest(&COUNTS, (1.0, "")),
            Quantity::Bytes => largest(&SIZES, (1.0, " B")),
        }
    }

    /// The digits of a number in its unit, with the sign that such numbers carry.
    fn number(self, value: f64) -> String {
        let digits = self.digits(value);
        let is_signed = matches!(self, Quantity::Gain | Quantity::Points | Quantity::MeanDifference);
        // What prints as zero has no sign.
        let is_zero = digits.chars().all(|digit| "0.".contains(digit));
        if is_signed && value > 0.0 && !is_zero { format!("+{digits}") } else { digits }
    }

    fn digits(self, value: f64) -> String {
        let decimals = match self {
            Quantity::Loss => 4,
            Quantity::Percent | Quantity::Gain | Quantity::Points => 1,
            Quantity::Factor | Quantity::Mean | Quantity::MeanDifference => 2,
            Quantity::Whole => return thousands(value.round() as u64),
            Quantity::Secs if value >= 1000.0 => return thousands(value.round() as u64),
            Quantity::Secs => 1,
            Quantity::Count | Quantity::Bytes if value < 10.0 && value.fract() != 0.0 => 2,
            Quantity::Count | Quantity::Bytes => usize::from(value.fract() != 0.0),
        };
        let digits = format!("{value:.decimals$}");
        match digits.strip_prefix('-') {
            Some(digits) if digits.chars().all(|digit| "0.".contains(digit)) => digits.to_owned(),
            Some(digits) => format!("−{digits}"),
            None => digits,
        }
    }
}

/// An integer in groups of three digits.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// "a", "a and b", "a, b and c".
pub(super) fn list(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

/// A time as "2025-01-31 09:05 UTC".
pub(super) fn utc(unix_secs: u64) -> String {
    let time = i64::try_from(unix_secs).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    time.map_or_else(|| "at an unknown time".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_spread() {
        let sample = Sample::of([Some(1.0), Some(2.0), None, Some(6.0)]);
        assert_eq!(sample.mean(), Some(3.0));
        assert_eq!(sample.spread(), Some(7.0_f64.sqrt()));
        assert_eq!(sample.show("none", Quantity::Loss), "3.0000 ± 2.6458 (3 of 4)");
        assert_eq!(Sample::of([Some(0.5)]).show("none", Quantity::Percent), "50.0 %");
        assert_eq!(Sample::of([Some(0.0), Some(0.02)]).show("none", Quantity::Gain), "+1.0 ± 1.4 %");
        assert_eq!(Sample::of([Some(2.5e6), Some(2.5e6)]).show("none", Quantity::Count), "2.50 ± 0 M");
        assert_eq!(Sample::of([Some(0.5)]).spread(), None);
        assert_eq!(Sample::of([None, None]).show("none", Quantity::Percent), "none");
    }

    #[test]
    fn printing() {
        assert_eq!(Quantity::Gain.show(0.0512), "+5.1 %");
        assert_eq!(Quantity::Gain.show(-0.0512), "−5.1 %");
        assert_eq!(Quantity::Gain.show(-0.0001), "0.0 %");
        assert_eq!(Quantity::Gain.show(0.0001), "0.0 %");
        assert_eq!(Quantity::Gain.spread(0.0044), "0.4");
        assert_eq!(Quantity::Points.show(0.283), "+28.3 points");
        assert_eq!(Quantity::Points.show(-0.0001), "0.0 points");
        assert_eq!(Quantity::Mean.show(3.256), "3.26");
        assert_eq!(Quantity::MeanDifference.show(0.5), "+0.50");
        assert_eq!(Quantity::MeanDifference.show(0.001), "0.00");
        assert_eq!(Quantity::Percent.show(0.3476), "34.8 %");
        assert_eq!(Quantity::Count.show(169_800_000.0), "169.8 M");
        assert_eq!(Quantity::Count.show(2_665_100_000.0), "2.67 G");
        assert_eq!(Quantity::Count.show(12.0), "12");
        assert_eq!(Quantity::Bytes.show(1.5 * 1_048_576.0), "1.50 MiB");
        assert_eq!(Quantity::Whole.show(1_234_567.0), "1,234,567");
        assert_eq!(Quantity::Secs.show(61.25), "61.2 s");
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }

    #[test]
    fn calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_738_314_300), "2025-01-31 09:05 UTC");
        assert_eq!(utc(13_574_563_200), "2400-02-29 00:00 UTC");
    }
}
