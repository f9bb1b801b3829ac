//! Linear warm-up, then a cosine down to the final rate.

use crate::config::OptimizerSection;

/// Learning rate of a step in 1..=n_steps.
///
/// Rises linearly to `learning_rate` over the warm-up, then follows half a cosine and reaches `final_learning_rate` at the
/// last step.
pub fn learning_rate(optimizer: &OptimizerSection, step: u64, n_steps: u64) -> f64 {
    let OptimizerSection { learning_rate, final_learning_rate, warmup_steps, .. } = *optimizer;
    if step < warmup_steps {
        return learning_rate * step as f64 / warmup_steps as f64;
    }
    let span = n_steps.saturating_sub(warmup_steps).max(1);
    let progress = (step - warmup_steps) as f64 / span as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
    final_learning_rate + (learning_rate - final_learning_rate) * cosine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_falls_to_the_final_rate() {
        let optimizer =
            OptimizerSection { learning_rate: 1.0, final_learning_rate: 0.1, warmup_steps: 10, ..Default::default() };
        let rate = |step| learning_rate(&optimizer, step, 110);
        assert!((rate(1) - 0.1).abs() < 1e-12 && (rate(5) - 0.5).abs() < 1e-12 && (rate(10) - 1.0).abs() < 1e-12);
        assert!((rate(60) - 0.55).abs() < 1e-12 && (rate(110) - 0.1).abs() < 1e-12);
        assert!((10..110).all(|step| rate(step + 1) < rate(step)));
        let none = OptimizerSection { warmup_steps: 0, ..optimizer };
        assert!(learning_rate(&none, 1, 1) <= 1.0);
    }
}
