//! The runs of a sweep, as far as they are known: a function of the options and of how runs ended so far.
//!
//! Which runs a bracket needs next, and at which rate an arm is compared, follow from the runs that ended. So the plan is made anew
//! whenever one ends; a sweep that is started again comes to the same plan from the folders, in the middle of a bracket too.

use mom_models::Setting;

use super::bracket::{self, Next, short};
use super::course::Course;
use super::options::Rates;
use super::rates::ArmRates;
use super::{Arm, Planned, Stage, SweepOptions};
use crate::Result;

impl SweepOptions {
    /// All runs in their order, as far as they are known before any has ended.
    ///
    /// # Errors
    /// An option out of range, an override that does not fit.
    pub fn plan(&self) -> Result<Vec<Planned>> {
        self.plan_after(&Course::default())
    }

    /// All runs in their order, as far as they are known after some have ended; those are among them.
    pub(super) fn plan_after(&self, course: &Course) -> Result<Vec<Planned>> {
        self.check()?;
        let mut plan = Plan { options: self, runs: Vec::new() };
        for &setting in &self.settings {
            let arms = self.variants.list();
            let null = (self.null && arms.contains(&Arm::Null.rated_as())).then_some(Arm::Null);
            match &self.rates {
                Rates::Own => {
                    for &seed in &self.seeds {
                        for &arm in arms.iter().chain(&null) {
                            plan.add(setting, arm, None, seed, Stage::Whole)?;
                        }
                    }
                }
                Rates::List(rates) => {
                    for &seed in &self.seeds {
                        for &arm in &arms {
                            for &rate in rates {
                                plan.add(setting, arm, Some(rate), seed, Stage::Listed)?;
                            }
                        }
                    }
                    if null.is_some() {
                        let chosen = rates_of(&course.arms(&plan.runs), setting, Arm::Null.rated_as())
                            .filter(|dense| dense.is_settled())
                            .map(|dense| dense.best().map_or(Next::Hopeless, Next::Chosen));
                        self.seeds
                            .iter()
                            .try_for_each(|&seed| plan.whole(setting, Arm::Null, chosen.as_ref(), seed))?;
                    }
                }
                Rates::Bracket | Rates::WholeBracket => {
                    let mut chosen = Vec::new();
                    for &arm in &arms {
                        chosen.push((arm, plan.bracket(setting, arm, course)?));
                    }
                    for &seed in &self.seeds {
                        for &arm in arms.iter().chain(&null) {
                            let next = chosen.iter().find(|(of, _)| *of == arm.rated_as()).map(|(_, next)| next);
                            plan.whole(setting, arm, next, seed)?;
                        }
                    }
                }
            }
        }
        Ok(plan.runs)
    }

    /// A run of an arm.
    pub(super) fn planned(
        &self,
        setting: Setting,
        arm: Arm,
        rate: Option<f64>,
        seed: u64,
        stage: Stage,
    ) -> Result<Planned> {
        let whole = self.run_config(setting, arm, rate, seed)?;
        let mut config = if stage == Stage::Short { short(&whole) } else { whole };
        if stage.is_on_trial() {
            // It may lose: it is asked when it is known to be compared, see `Course::unasked`.
            config.train.downstream = 0;
        }
        let rate_in_name = rate.map(|rate| format!("-lr{rate}")).unwrap_or_default();
        let of = match stage {
            Stage::Short => "-short",
            // No folder has this name.
            Stage::Pending => "-pending",
            Stage::Tried | Stage::Listed | Stage::Whole => "",
        };
        let name = format!("{setting}-{}-{arm}{rate_in_name}{of}-seed{seed}", config.model.scale);
        Ok(Planned { config, folder: self.runs().join(name), arm, rate, stage })
    }
}

fn rates_of(arms: &[ArmRates], setting: Setting, arm: Arm) -> Option<ArmRates> {
    let name = arm.to_string();
    arms.iter().find(|of| of.setting == setting.name() && of.variant == name).cloned()
}

/// A plan in the making.
struct Plan<'a> {
    options: &'a SweepOptions,
    runs: Vec<Planned>,
}

impl Plan<'_> {
    fn add(&mut self, setting: Setting, arm: Arm, rate: Option<f64>, seed: u64, stage: Stage) -> Result<()> {
        let next = self.options.planned(setting, arm, rate, seed, stage)?;
        // A name given twice is one run; the whole run of a bracket is that of its seed, too.
        if !self.runs.iter().any(|have| have.folder == next.folder) {
            self.runs.push(next);
        }
        Ok(())
    }

    /// A run that is compared, at the rate that was chosen.
    fn whole(&mut self, setting: Setting, arm: Arm, chosen: Option<&Next>, seed: u64) -> Result<()> {
        match chosen {
            Some(Next::Chosen(rate)) => self.add(setting, arm, Some(*rate), seed, Stage::Whole),
            Some(Next::Hopeless) => Ok(()),
            Some(Next::Try(_)) | None => self.add(setting, arm, None, seed, Stage::Pending),
        }
    }

    /// The runs of an arm's bracket: those that ended, and those that come next.
    fn bracket(&mut self, setting: Setting, arm: Arm, course: &Course) -> Result<Next> {
        // The first seed alone: a bracket finds the place of the best, not how good it is.
        let seed = self.options.seeds[0];
        let tried = course.arm(setting, arm).unwrap_or_else(|| ArmRates::new(setting, self.options.scale, arm));
        let middle = self.options.run_config(setting, arm, None, seed)?.optimizer.learning_rate;
        let next = bracket::next(&tried, middle);
        let mut rates: Vec<f64> = tried.rates().iter().map(|rate| rate.rate).collect();
        if let Next::Try(new) = &next {
            rates.extend(new.iter().filter(|&&rate| !tried.rates().iter().any(|have| have.rate == rate)));
        }
        rates.sort_by(f64::total_cmp);
        let stage = if self.options.rates == Rates::WholeBracket { Stage::Tried } else { Stage::Short };
        rates.into_iter().try_for_each(|rate| self.add(setting, arm, Some(rate), seed, stage))?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Variants;
    use super::*;
    use mom_models::Variant;

    fn rates(learning_rates: &[f64], overrides: &[&str]) -> Vec<(String, f64, f64)> {
        let options = SweepOptions {
            settings: vec![Setting::Chameleon],
            scale: mom_models::TINY,
            variants: Variants::List(vec![Arm::Variant(Variant::Mom)]),
            rates: if learning_rates.is_empty() { Rates::Own } else { Rates::List(learning_rates.to_vec()) },
            null: false,
            seeds: vec![0],
            overrides: overrides.iter().map(|&text| text.to_owned()).collect(),
            ..SweepOptions::default()
        };
        let plan = options.plan().unwrap();
        let of = |planned: &Planned| {
            let optimizer = &planned.config.optimizer;
            let name = planned.folder.file_name().unwrap().to_str().unwrap().to_owned();
            (name, optimizer.learning_rate, optimizer.final_learning_rate)
        };
        plan.iter().map(of).collect()
    }

    #[test]
    fn the_final_rate_keeps_its_share_of_every_rate_unless_it_is_given() {
        let name = |rate: &str| format!("chameleon-tiny-mom{rate}-seed0");
        assert_eq!(rates(&[], &[]), [(name(""), 2e-2, 4e-4)]);
        assert_eq!(rates(&[5e-3, 1e-2], &[]), [(name("-lr0.005"), 5e-3, 1e-4), (name("-lr0.01"), 1e-2, 2e-4)]);
        let given = rates(&[5e-3, 1e-2], &["optimizer.final_learning_rate=1e-3"]);
        assert_eq!(given.iter().map(|(.., last)| *last).collect::<Vec<_>>(), [1e-3, 1e-3]);
        let own = rates(&[], &["optimizer.learning_rate=1e-2"]);
        assert_eq!(own, [(name(""), 1e-2, 4e-4)]);
    }

    #[test]
    fn a_bracket_comes_first_and_the_null_has_the_rate_of_dense() {
        let options = SweepOptions {
            settings: vec![Setting::Chameleon],
            variants: Variants::Default,
            rates: Rates::Bracket,
            seeds: vec![4, 5],
            ..SweepOptions::default()
        };
        let names = |course: &Course| -> Vec<String> {
            options.plan_after(course).unwrap().iter().map(Planned::name).collect()
        };
        let mut course = Course::default();
        let before = names(&course);
        assert_eq!(before.len(), 2 * 3 + 2 * 3);
        assert_eq!(before[0], "chameleon dense lr 0.01 seed 4 (bracket)");
        assert_eq!(
            before[6..9],
            ["dense", "mom", "null"].map(|arm| format!("chameleon {arm} seed 4 (rate not chosen yet)"))
        );
        // Dense is best at the highest rate of three, then inside; mom in the middle at once.
        for (arm, losses) in [(Variant::Dense, &[3.0, 2.0, 1.0, 1.5][..]), (Variant::Mom, &[3.0, 2.0, 2.5])] {
            for (&loss, rate) in losses.iter().zip([1e-2, 2e-2, 4e-2, 8e-2]) {
                let run = options.planned(Setting::Chameleon, Arm::Variant(arm), Some(rate), 4, Stage::Short).unwrap();
                course.done.push((run, crate::ablate::tests::ended(loss)));
            }
        }
        let after = names(&course);
        assert_eq!(after.len(), 4 + 3 + 2 * 3);
        for expected in ["dense lr 0.04 seed 4", "mom lr 0.02 seed 4", "null lr 0.04 seed 5"] {
            assert!(after.contains(&format!("chameleon {expected}")), "{after:?}");
        }
        let plan = options.plan_after(&course).unwrap();
        let null = plan.iter().find(|planned| planned.arm == Arm::Null).unwrap();
        let dense = plan.iter().find(|planned| planned.stage == Stage::Whole).unwrap();
        assert!(null.config.train.seed == 4 && null.config.train.init_seed.is_some_and(|seed| seed != 4));
        let mut twin = null.config.clone();
        twin.train.init_seed = None;
        assert_eq!(twin, dense.config, "it differs from dense in nothing else");
    }

    #[test]
    fn the_best_run_of_a_whole_bracket_is_compared_with_the_other_seeds() {
        let options = SweepOptions {
            settings: vec![Setting::Chameleon],
            variants: Variants::List(vec![Arm::Variant(Variant::Dense)]),
            rates: Rates::WholeBracket,
            seeds: vec![4, 5],
            ..SweepOptions::default()
        };
        let mut course = Course::default();
        for (loss, rate) in [(3.0, 1e-2), (2.0, 2e-2), (2.5, 4e-2)] {
            let dense = Arm::Variant(Variant::Dense);
            let run = options.planned(Setting::Chameleon, dense, Some(rate), 4, Stage::Tried).unwrap();
            assert!(run.config.train.steps == options.steps, "it is as long as any");
            course.done.push((run, crate::ablate::tests::ended(loss)));
        }
        let plan = options.plan_after(&course).unwrap();
        let names: Vec<String> = plan.iter().map(Planned::name).collect();
        let expected = [
            "dense lr 0.01 seed 4 (bracket)",
            "dense lr 0.02 seed 4 (bracket)",
            "dense lr 0.04 seed 4 (bracket)",
            "null lr 0.02 seed 4",
            "dense lr 0.02 seed 5",
            "null lr 0.02 seed 5",
        ];
        assert_eq!(names, expected.map(|name| format!("chameleon {name}")));
        let arms = course.arms(&plan);
        assert_eq!(arms[0].bracket_steps, Some(options.steps));
        assert_eq!(course.compared(&arms).len(), 1, "that at the best rate alone");
    }

    #[test]
    fn runs_that_are_short_themselves_are_made_whole_to_find_a_rate() {
        assert_eq!(SweepOptions::default().rates, Rates::bracket(SweepOptions::default().steps));
        assert_eq!([2000, 2001].map(Rates::bracket), [Rates::WholeBracket, Rates::Bracket]);
    }

    #[test]
    fn a_short_run_has_the_shape_of_the_whole_one() {
        // Steps whose shares are whole numbers.
        let options = SweepOptions { settings: vec![Setting::Chameleon], steps: 400, ..SweepOptions::default() };
        let of =
            |stage| options.planned(Setting::Chameleon, Arm::Null.rated_as(), Some(5e-3), 0, stage).unwrap().config;
        let (short, whole) = (of(Stage::Short), of(Stage::Whole));
        let shape = |config: &crate::RunConfig| {
            let optimizer = &config.optimizer;
            let rate = |share: f64| {
                let steps = config.train.steps;
                crate::optim::learning_rate(optimizer, (share * steps as f64).round() as u64, steps)
            };
            [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0].map(rate)
        };
        assert!(short.train.steps * 4 == whole.train.steps && short.train.sample_every.is_none());
        for (short, whole) in shape(&short).into_iter().zip(shape(&whole)) {
            assert!((short / whole - 1.0).abs() < 1e-9, "{short} is not {whole}");
        }
    }
}
