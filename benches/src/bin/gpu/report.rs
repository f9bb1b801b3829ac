//! The tables at the end of a run, and the same as JSON.

use serde::Serialize;

use crate::LARGE;
use crate::bars::{Known, Verdict, verdicts};
use crate::machine::Machine;
use crate::peers::Peers;
use crate::timing::Findings;

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    commit: String,
    #[serde(flatten)]
    findings: Findings,
    bars: Vec<Verdict>,
    peers: Option<Peers>,
    ratios: Vec<Ratio>,
}

/// A time of this project over a peer's.
#[derive(Debug, Serialize)]
struct Ratio {
    name: String,
    shape: String,
    ms: f64,
    peer: String,
    peer_ms: f64,
    ratio: f64,
}

impl Report {
    pub fn new(mut machine: Machine, commit: String, findings: Findings, peers: Option<Peers>) -> Self {
        let peer_results = || peers.iter().flat_map(|peers| &peers.results);
        let own = |name: &str, shape: &str| findings.results.iter().find(|t| t.name == name && t.shape == shape);
        let bars = verdicts(|name, shape| {
            let own = own(name, shape).map(|t| Known { value: t.median_ms, gbytes: t.gbytes });
            let peer = peer_results().find(|peer| peer.name == name && peer.shape == shape);
            let peer = peer.map(|peer| Known { value: peer.median_ms, gbytes: 0.0 });
            let memory = findings.memory.iter().find(|m| m.name == name && m.shape == shape);
            let memory = memory.map(|memory| Known { value: memory.mib, gbytes: 0.0 });
            own.into_iter().chain(peer).chain(memory).min_by(|a, b| a.value.total_cmp(&b.value))
        });
        let ratios = peer_results()
            .filter_map(|peer| {
                let own = own(&peer.of, &peer.shape)?;
                Some(Ratio {
                    name: own.name.clone(),
                    shape: own.shape.clone(),
                    ms: own.median_ms,
                    peer: peer.name.clone(),
                    peer_ms: peer.median_ms,
                    ratio: own.median_ms / peer.median_ms,
                })
            })
            .collect();
        // Where the library is inside of PyTorch alone. The grouped product of the same rows is as much work.
        let dense = peer_results().filter(|peer| peer.name == "dense in_proj forward" && peer.shape == LARGE.name);
        let by_peer = dense.filter_map(|peer| Some(own(&peer.of, &peer.shape)?.gflop / peer.median_ms));
        machine.product_tflop_s = machine.product_tflop_s.or(by_peer.max_by(f64::total_cmp));
        Self { machine, commit, bars, ratios, findings, peers }
    }

    /// What was outside of its tolerance or could not run.
    pub fn failures(&self) -> &[String] {
        &self.findings.failures
    }

    pub fn misses_a_bar(&self) -> bool {
        self.bars.iter().any(Verdict::misses)
    }

    pub fn print(&self) {
        let machine = &self.machine;
        println!("\n{}, driver {}, commit {}", machine.card, machine.driver, self.commit);
        let product =
            machine.product_tflop_s.map_or("not measured".to_owned(), |product| format!("{product:.0} TFLOP/s"));
        println!("ceilings: copy {:.2} TB/s, dense in_proj {product}", machine.copy_tb_s);
        self.print_results();
        self.print_ratios();
        self.print_bars();
        let n = self.findings.checks.len();
        match self.failures() {
            [] => println!("\n{n} comparisons with the reference, all within their limits"),
            failures => println!("\n{n} comparisons with the reference; FAILED:\n  {}", failures.join("\n  ")),
        }
    }

    fn print_results(&self) {
        println!(
            "\n{:44} {:10} {:>9} {:>20} {:>7} {:>6} {:>8} {:>8}",
            "operation", "shape", "ms", "[10 %, 90 %]", "GB/s", "copy", "TFLOP/s", "product"
        );
        for t in &self.findings.results {
            let copy = percent(Some(t.gb_s / 1e3 / self.machine.copy_tb_s).filter(|share| *share > 0.0));
            // A scan's multiply-adds are not a product's.
            let is_product = ["grouped", "dense", "product", "block"].iter().any(|kind| t.name.starts_with(kind));
            let product =
                percent(self.machine.product_tflop_s.filter(|_| is_product).map(|product| t.tflop_s / product));
            println!(
                "{:44} {:10} {:9.4} {:>20} {:>7} {copy:>6} {:>8} {product:>8}",
                t.name,
                t.shape,
                t.median_ms,
                format!("[{:.4}, {:.4}]", t.p10_ms, t.p90_ms),
                figure(t.gb_s, 0),
                figure(t.tflop_s, 1)
            );
        }
        for memory in &self.findings.memory {
            println!("{:44} {:10} {:5.0} MiB", memory.name, memory.shape, memory.mib);
        }
    }

    fn print_ratios(&self) {
        let Some(peers) = &self.peers else { return };
        println!(
            "\npeers: {}\n{:36} {:6} {:>9}  {:50} {:>9} {:>6}",
            peers.software, "ours", "shape", "ms", "peer", "ms", "ratio"
        );
        for r in &self.ratios {
            println!("{:36} {:6} {:9.4}  {:50} {:9.4} {:6.2}", r.name, r.shape, r.ms, r.peer, r.peer_ms, r.ratio);
        }
        let compared = |name: &str, shape: &str| self.ratios.iter().any(|r| r.peer == name && r.shape == shape);
        for peer in peers.results.iter().filter(|peer| !compared(&peer.name, &peer.shape)) {
            println!("{:36} {:6} {:>9}  {:50} {:9.4}", "", peer.shape, "", peer.name, peer.median_ms);
        }
        for peer in &peers.absent {
            println!("absent: {} {}: {}", peer.name, peer.shape, peer.why);
        }
    }

    fn print_bars(&self) {
        if self.bars.is_empty() {
            return;
        }
        println!("\n{:34} {:5} {:>13} {:>16} {:>16}", "bar", "shape", "measured", "must", "goal");
        for bar in &self.bars {
            let figure = |value: f64| if bar.unit == "ms" { format!("{value:.4}") } else { format!("{value:.0}") };
            let verdict = |limit: Option<f64>| match limit {
                Some(limit) if bar.value <= limit => format!("{} met   ", figure(limit)),
                Some(limit) => format!("{} MISSED", figure(limit)),
                None => "not measured".to_owned(),
            };
            let note = if bar.other_run && bar.must.is_some() { "  (peer from another run)" } else { "" };
            println!(
                "{:34} {:5} {:>9} {:3} {:>16} {:>16}{note}",
                bar.what,
                bar.shape,
                figure(bar.value),
                bar.unit,
                verdict(bar.must),
                verdict(bar.goal)
            );
        }
    }
}

/// Nothing where nothing was counted.
fn figure(value: f64, decimals: usize) -> String {
    if value > 0.0 { format!("{value:.decimals$}") } else { String::new() }
}

fn percent(share: Option<f64>) -> String {
    share.map_or(String::new(), |share| format!("{:.0} %", 100.0 * share))
}
