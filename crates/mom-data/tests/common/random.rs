//! Random numbers for tests that damage files: a seed gives the same damage everywhere, so that a failure can be repeated.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part")]

/// A seeded stream of numbers.
pub struct Random(pub u64);

impl Random {
    /// A number below `n`; 0 where there is none.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

/// How many damaged files a test makes: `MOM_MUTATIONS`, or 300.
pub fn n_mutations() -> usize {
    std::env::var("MOM_MUTATIONS").map_or(300, |n| n.parse().unwrap())
}
