//! Runs that are in a sweep's folder from before: a second call with other variants, or other rates, adds to the comparison.

use std::collections::BTreeSet;
use std::path::Path;

use mom_models::{Scale, Setting};

use super::course::Course;
use super::options::Rates;
use super::{Arm, Planned, Stage, SweepOptions, Variants};
use crate::Result;

impl SweepOptions {
    /// How the runs of the plan ended, as far as folders tell.
    ///
    /// # Errors
    /// A folder of another run; an option out of range.
    pub(super) fn ended(&self) -> Result<Course> {
        self.replay(|planned| planned.end())
    }

    /// Goes through the plan as it grows by what `end` tells of its runs.
    fn replay(&self, end: impl Fn(&Planned) -> Result<Option<super::planned::End>>) -> Result<Course> {
        let mut course = Course::default();
        loop {
            let mut is_news = false;
            for planned in self.plan_after(&course)? {
                if !course.knows(&planned)
                    && let Some(end) = end(&planned)?
                {
                    course.add(planned, end);
                    is_news = true;
                }
            }
            if !is_news {
                return Ok(course);
            }
        }
    }

    /// Runs that are not in the plan but ended here before with the same options. A rate of a list has a part in the comparison if
    /// the runs of all seeds have ended.
    pub(super) fn finished_siblings(&self, plan: &[Planned]) -> Course {
        let arms_of_plan: BTreeSet<String> = plan.iter().map(|planned| planned.arm.to_string()).collect();
        let n_seeds = self.seeds.iter().collect::<BTreeSet<_>>().len();
        let mut course = Course::default();
        for setting in plan.iter().map(|planned| planned.config.model.setting).collect::<BTreeSet<_>>() {
            let names = names_in(&self.runs());
            let found = arms_in(&names, setting, self.scale);
            // What does not fit is another sweep's, and no part of this report.
            let fits = |arm: Arm, rate| self.run_config(setting, arm, rate, self.seeds[0]).is_ok();
            let mut arms: Vec<Arm> = found.iter().map(|arm| arm.rated_as()).collect();
            arms.extend(plan.iter().map(|planned| planned.arm.rated_as()));
            let mut seen = BTreeSet::new();
            arms.retain(|&arm| seen.insert(arm.to_string()) && fits(arm, None));
            let rates = match &self.rates {
                Rates::List(given) => {
                    let mut rates = rates_in(&names, given);
                    rates.retain(|&rate| arms.iter().all(|&arm| fits(arm, Some(rate))));
                    Rates::List(rates)
                }
                other => other.clone(),
            };
            let options = Self { settings: vec![setting], variants: Variants::List(arms), rates, ..self.clone() };
            let Ok(of_setting) = options.replay(|planned| Ok(planned.end().unwrap_or_default())) else { continue };
            let is_new = |planned: &Planned| !plan.iter().any(|have| have.folder == planned.folder);
            // The arms of a bracket are known to the plan itself.
            let is_other = |planned: &Planned| {
                is_new(planned) && (planned.stage == Stage::Listed || !arms_of_plan.contains(&planned.arm.to_string()))
            };
            let is_whole = |planned: &Planned| {
                let same =
                    |of: &&Planned| of.arm == planned.arm && of.rate == planned.rate && of.stage == planned.stage;
                planned.stage != Stage::Listed || of_setting.ended().filter(same).count() == n_seeds
            };
            let kept = |planned: &Planned| is_other(planned) && is_whole(planned);
            course.done.extend(of_setting.done.iter().filter(|(planned, _)| kept(planned)).cloned());
            course.diverged.extend(of_setting.diverged.iter().filter(|planned| kept(planned)).cloned());
        }
        course
    }
}

/// Names of the folders of runs.
fn names_in(runs: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(runs).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The arms of a setting and scale that folders of runs are named by.
fn arms_in(names: &[String], setting: Setting, scale: Scale) -> Vec<Arm> {
    let prefix = format!("{setting}-{scale}-");
    let of_name = |name: &String| {
        let (arm, _) = name.strip_prefix(&prefix)?.rsplit_once("-seed")?;
        let arm = arm.strip_suffix("-short").unwrap_or(arm);
        arm.rsplit_once("-lr").map_or(arm, |(arm, _)| arm).parse::<Arm>().ok()
    };
    let mut arms: Vec<Arm> = Vec::new();
    for arm in names.iter().filter_map(of_name) {
        if !arms.contains(&arm) {
            arms.push(arm);
        }
    }
    arms
}

/// The given rates, and those that folders of whole runs are named by.
fn rates_in(names: &[String], given: &[f64]) -> Vec<f64> {
    let of_name = |name: &String| -> Option<f64> {
        let (arm, _) = name.rsplit_once("-seed")?;
        arm.rsplit_once("-lr")?.1.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
    };
    let mut rates = given.to_vec();
    rates.extend(names.iter().filter_map(of_name));
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_and_rates_are_read_from_the_names_of_folders() {
        let names = [
            "chameleon-tiny-mom-lr0.004-seed0",
            "chameleon-tiny-in+x-seed0",
            "chameleon-tiny-out-lr0.008-short-seed0",
            "chameleon-tiny-null-lr0.004-seed1",
            "chameleon-nano-x-seed0",
            "transfusion-tiny-dt-seed0",
            "chameleon-tiny-nonsense-seed0",
            "a-lrx-seed1",
            "a-lr-1-seed0",
        ]
        .map(str::to_owned);
        let arms: Vec<String> =
            arms_in(&names, Setting::Chameleon, mom_models::TINY).iter().map(Arm::to_string).collect();
        assert_eq!(arms, ["mom", "in+x", "out", "null"]);
        assert_eq!(rates_in(&names, &[2e-3, 4e-3]), [2e-3, 4e-3], "not those of short runs");
        assert_eq!(rates_in(&names, &[8e-3]), [4e-3, 8e-3]);
        assert!(names_in(Path::new("/nowhere")).is_empty());
    }
}
