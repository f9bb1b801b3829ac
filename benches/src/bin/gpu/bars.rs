//! The bars: what each operation must reach and what it should, and whether it does.

use serde::Serialize;

use crate::SHAPES;

/// The time that an operation may take.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// Milliseconds at S and L.
    Ms([f64; 2]),
    /// So many times what other operations take together in the same run, each by whoever is fastest.
    Times(f64, &'static [&'static str]),
    /// That of moving its bytes at this many TB/s.
    TbS(f64),
}

/// A bar: the sum of the operations named, at S and at L.
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
];

/// Peers that may not be installed: ms at S and L from a run on an H200 whose copy was 4.21 TB/s.
const MEASURED_BEFORE: &[(&str, [f64; 2])] =
    &[("causal_conv1d forward", [0.097, 0.135]), ("causal_conv1d backward", [0.257, 0.241])];

/// What a run knows about an operation at a shape.
pub struct Known {
    pub median_ms: f64,
    pub gbytes: f64,
}

/// A bar and a run.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub what: &'static str,
    pub shape: &'static str,
    pub ms: f64,
    /// Milliseconds; absent where what it is a multiple of was not measured.
    pub must_ms: Option<f64>,
    pub goal_ms: Option<f64>,
    /// Whether the limit is a multiple of a figure of another run.
    pub other_run: bool,
}

impl Verdict {
    pub fn misses(&self) -> bool {
        self.must_ms.is_some_and(|must| self.ms > must)
    }
}

/// Every bar whose operations were timed. `find` gives an operation's fastest time, own or a peer's.
pub fn verdicts(find: impl Fn(&str, &str) -> Option<Known>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for bar in BARS {
        for (at, shape) in SHAPES.iter().enumerate() {
            let of: Option<Vec<Known>> = bar.of.iter().map(|name| find(name, shape.name)).collect();
            let Some(of) = of else { continue };
            let (ms, gbytes) =
                of.iter().fold((0.0, 0.0), |(ms, gbytes), known| (ms + known.median_ms, gbytes + known.gbytes));
            let before = |name: &str| MEASURED_BEFORE.iter().find(|(peer, _)| *peer == name).map(|(_, ms)| ms[at]);
            let other = |name: &str| find(name, shape.name).map(|known| known.median_ms).or_else(|| before(name));
            let limit = |limit: &Limit| match limit {
                Limit::Ms(ms) => Some(ms[at]),
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
                ms,
                must_ms: limit(&bar.must),
                goal_ms: limit(&bar.goal),
                other_run,
            });
        }
    }
    verdicts
}
