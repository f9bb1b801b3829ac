//! How fast external tokenizers encode a source, in words.

use std::time::{Duration, Instant};

use super::external::Done;

/// Time from one word of the pace to the next: a log of a night's work stays short.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The work at a source, and how fast it is.
pub(super) struct Pace {
    name: String,
    /// What is being done, in words.
    pub what: String,
    since: Instant,
    told: Instant,
    pictures: usize,
    sound_secs: f64,
}

impl Pace {
    pub fn new(name: String) -> Self {
        let now = Instant::now();
        let what = format!("tokenising {name}");
        Self { name, what, since: now, told: now, pictures: 0, sound_secs: 0.0 }
    }

    /// Counts what was encoded; the words change every now and then.
    pub fn add(&mut self, done: &Done) {
        self.pictures += done.pictures;
        self.sound_secs += done.sound_secs;
        if self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            self.what = self.words(self.since.elapsed().as_secs_f64());
        }
    }

    fn words(&self, secs: f64) -> String {
        let mut parts = vec![format!("tokenising {}", self.name)];
        if self.pictures > 0 {
            parts.push(format!("{} pictures ({:.1} a second)", self.pictures, self.pictures as f64 / secs));
        }
        if self.sound_secs > 0.0 {
            parts.push(format!("{:.0} s of sound ({:.1} a second)", self.sound_secs, self.sound_secs / secs));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_counts_pictures_and_seconds_of_sound() {
        let mut pace = Pace::new("pairs".to_owned());
        pace.add(&Done { pictures: 16, sound_secs: 0.0 });
        pace.add(&Done { pictures: 14, sound_secs: 90.0 });
        assert_eq!(pace.what, "tokenising pairs");
        assert_eq!(pace.words(4.0), "tokenising pairs, 30 pictures (7.5 a second), 90 s of sound (22.5 a second)");
    }
}
