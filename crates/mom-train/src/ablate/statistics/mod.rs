//! How much of a difference is chance: intervals and verdicts, as pure functions of numbers.
//!
//! Every figure of a variant is compared with the dense run of the *same seed*, which saw the same documents in the same order: the
//! differences have less noise than the losses. What noise is left is estimated from two sources together:
//!
//! * the spread of the variant's own differences over the seeds (n − 1 degrees of freedom for n seeds);
//! * the *null arm*: dense again on the same data, from other initial weights. It is equal to dense, so that each of its differences
//!   is nothing but noise (one degree of freedom a seed, since its mean is known).
//!
//! The larger of the variant's own variance and of the pooled one is taken, so that a variant that is noisier than dense does not
//! profit from the null's calm. The 95 % interval is Student's t with the degrees of freedom of both sources; with one seed it stands
//! on the null alone (one degree of freedom), and is as wide as that deserves.
//!
//! A [`Verdict`] looks at all comparisons of a report together. Of 20 equal arms one would look better or worse at 95 %; so Holm's
//! method makes 5 % the chance that *any* comparison of a report is told apart where all are equal. A comparison is told apart only if
//! its interval, too, lies beyond dense and beyond the null's mean.

mod estimate;
mod horizons;
mod verdict;

pub use estimate::{Estimate, Interval, LEVEL};
pub use horizons::steps_to_reach;
pub use verdict::{Verdict, adjusted, verdicts};
