//! The bars: what each operation must reach and what it should, and whether it does.

use serde::Serialize;

use crate::SHAPES;

/// What an operation may take: time, or memory.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// Milliseconds at S and L.
    Ms([f64; 2]),
    /// So many times what other operations take together in the same run, each by whoever is fastest.
    Times(f64, &'static [&'static str]),
    /// That of moving its bytes at this many TB/s.
    TbS(f64),
    /// Memory at S and L.
    MiB([f64; 2]),
}

/// A bar on the sum of what is named, at S and at L.
struct Bar {
    what: &'static str,
    of: &'static [&'static str],
    must: Limit,
    goal: Limit,
}

/// Operations that are held against others of the same run: factors of `must` and of `goal`.
const fn against(
    what: &'static str,
    of: &'static [&'static str],
    (must, goal): (f64, f64),
    other: &'static [&'static str],
) -> Bar {
    Bar { what, of, must: Limit::Times(must, other), goal: Limit::Times(goal, other) }
}

const WIDE: (f64, f64) = (1.05, 1.0);
const NARROW: (f64, f64) = (1.10, 0.8);

/// The absolute figures are for an H200.
const BARS: &[Bar] = &[
    Bar { what: "scan forward", of: &["scan forward"], must: Limit::Ms([0.42, 0.52]), goal: Limit::Ms([0.27, 0.38]) },
    Bar { what: "scan backward", of: &["scan backward"], must: Limit::Ms([1.35, 1.9]), goal: Limit::Ms([0.9, 1.25]) },
    Bar {
        what: "conv forward",
        of: &["conv forward"],
        must: Limit::Times(1.0, &["causal_conv1d forward"]),
        goal: Limit::TbS(3.4),
    },
    Bar {
        what: "conv backward",
        of: &["conv backward"],
        must: Limit::Times(1.0, &["causal_conv1d backward"]),
        goal: Limit::TbS(3.4),
    },
    against("in_proj forward", &["grouped in_proj forward"], WIDE, &["dense in_proj forward"]),
    against("in_proj input gradient", &["grouped in_proj backward input"], WIDE, &["dense in_proj backward input"]),
    against(
        "in_proj weight gradient",
        &["grouped in_proj backward weights"],
        WIDE,
        &["dense in_proj backward weights"],
    ),
    against("out_proj forward", &["grouped out_proj forward"], WIDE, &["dense out_proj forward"]),
    against("out_proj input gradient", &["grouped out_proj backward input"], WIDE, &["dense out_proj backward input"]),
    against(
        "out_proj weight gradient",
        &["grouped out_proj backward weights"],
        WIDE,
        &["dense out_proj backward weights"],
    ),
    against(
        "x_proj + dt_proj forward",
        &["grouped x_proj forward", "grouped dt_proj forward"],
        NARROW,
        &["dense x_proj forward", "dense dt_proj forward"],
    ),
    against(
        "x_proj + dt_proj input gradient",
        &["grouped x_proj backward input", "grouped dt_proj backward input"],
        NARROW,
        &["dense x_proj backward input", "dense dt_proj backward input"],
    ),
    against(
        "x_proj + dt_proj weight gradient",
        &["grouped x_proj backward weights", "grouped dt_proj backward weights"],
        NARROW,
        &["dense x_proj backward weights", "dense dt_proj backward weights"],
    ),
    Bar {
        what: "block, K = 3, both directions",
        of: &["block forward + backward"],
        must: Limit::Ms([4.5, 7.6]),
        goal: Limit::Ms([3.1, 5.5]),
    },
    against(
        "routing: block, K = 3 over K = 1",
        &["block forward + backward"],
        (1.05, 1.02),
        &["block K = 1 forward + backward"],
    ),
    Bar {
        what: "block, K = 3, peak memory",
        of: &["block peak memory"],
        must: Limit::MiB([1212.0, 1558.0]),
        goal: Limit::MiB([606.0, 779.0]),
    },
];

/// Peers that may not be installed: ms at S and L from a run on an H200 whose copy was 4.21 TB/s.
const MEASURED_BEFORE: &[(&str, [f64; 2])] =
    &[("causal_conv1d forward", [0.097, 0.135]), ("causal_conv1d backward", [0.257, 0.241])];

/// What a run knows about an operation at a shape.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Milliseconds, or MiB.
    pub value: f64,
    /// What it must move.
    pub gbytes: f64,
}

/// A bar and a run.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub what: &'static str,
    pub shape: &'static str,
    /// `ms` or `MiB`.
    pub unit: &'static str,
    pub value: f64,
    /// Absent where what it is a multiple of was not measured.
    pub must: Option<f64>,
    pub goal: Option<f64>,
    /// Whether the limit is a multiple of a figure of another run.
    pub other_run: bool,
}

impl Verdict {
    pub fn misses(&self) -> bool {
        self.must.is_some_and(|must| self.value > must)
    }
}

/// Every bar whose operations were measured. `find` gives an operation's fastest time, own or a peer's, or its memory.
pub fn verdicts(find: impl Fn(&str, &str) -> Option<Known>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for bar in BARS {
        for (at, shape) in SHAPES.iter().enumerate() {
            let of: Option<Vec<Known>> = bar.of.iter().map(|name| find(name, shape.name)).collect();
            let Some(of) = of else { continue };
            let (value, gbytes) =
                of.iter().fold((0.0, 0.0), |(value, gbytes), known| (value + known.value, gbytes + known.gbytes));
            let before = |name: &str| MEASURED_BEFORE.iter().find(|(peer, _)| *peer == name).map(|(_, ms)| ms[at]);
            let other = |name: &str| find(name, shape.name).map(|known| known.value).or_else(|| before(name));
            let limit = |limit: &Limit| match limit {
                Limit::Ms(all) | Limit::MiB(all) => Some(all[at]),
                Limit::Times(factor, names) => {
                    names.iter().map(|name| other(name)).sum::<Option<f64>>().map(|ms| factor * ms)
                }
                Limit::TbS(tb_s) => Some(gbytes / tb_s),
            };
            let other_run =
                matches!(bar.must, Limit::Times(_, names) if names.iter().any(|name| find(name, shape.name).is_none()));
            verdicts.push(Verdict {
                what: bar.what,
                shape: shape.name,
                unit: if matches!(bar.must, Limit::MiB(_)) { "MiB" } else { "ms" },
                value,
                must: limit(&bar.must),
                goal: limit(&bar.goal),
                other_run,
            });
        }
    }
    verdicts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at_s(known: &[(&str, f64)]) -> Vec<Verdict> {
        verdicts(|name, shape| {
            let value = known.iter().find(|(known, _)| *known == name && shape == "S")?.1;
            Some(Known { value, gbytes: 0.34 })
        })
    }

    #[test]
    fn milliseconds_and_memory_are_held_against_the_table() {
        let [scan, memory] = &at_s(&[("scan forward", 0.41), ("block peak memory", 1213.0)])[..] else { panic!() };
        assert_eq!(
            (scan.what, scan.shape, scan.unit, scan.must, scan.goal),
            ("scan forward", "S", "ms", Some(0.42), Some(0.27))
        );
        assert!(!scan.misses());
        assert_eq!((memory.unit, memory.must, memory.goal), ("MiB", Some(1212.0), Some(606.0)));
        assert!(memory.misses());
    }

    #[test]
    fn a_multiple_needs_all_that_it_is_a_multiple_of() {
        let mut known =
            vec![("grouped x_proj forward", 0.3), ("grouped dt_proj forward", 0.2), ("dense x_proj forward", 0.25)];
        let [bar] = &at_s(&known)[..] else { panic!() };
        assert!(bar.must.is_none() && bar.goal.is_none() && !bar.misses());
        known.push(("dense dt_proj forward", 0.15));
        let [bar] = &at_s(&known)[..] else { panic!() };
        assert_eq!((bar.value, bar.other_run), (0.5, false));
        assert!((bar.must.unwrap() - 0.44).abs() < 1e-12 && (bar.goal.unwrap() - 0.32).abs() < 1e-12 && bar.misses());
    }

    #[test]
    fn a_peer_that_is_not_installed_is_taken_from_the_table_and_said_so() {
        let [bar] = &at_s(&[("conv forward", 0.08)])[..] else { panic!() };
        assert_eq!((bar.must, bar.other_run), (Some(0.097), true));
        assert!((bar.goal.unwrap() - 0.1).abs() < 1e-12, "0.34 GB at 3.4 TB/s");
        let [bar] = &at_s(&[("conv forward", 0.08), ("causal_conv1d forward", 0.07)])[..] else { panic!() };
        assert_eq!((bar.must, bar.other_run), (Some(0.07), false));
        assert!(bar.misses());
    }
}
