//! What a reader sees: tables, plots, and the reading.

use super::*;

#[test]
fn tables_hold_mean_and_spread() {
    // Final losses of mom: 1.4, 1.5, 1.6 against 3; gains 0.53, 0.50, 0.47.
    let runs: Vec<RunResult> = [0, 1, 2]
        .into_iter()
        .flat_map(|seed| {
            let end = 1.4 + 0.1 * seed as f64;
            [run("dense", seed, line), run("mom", seed, move |step| 5.0 - (5.0 - end) / 100.0 * step)]
        })
        .collect();
    let (markdown, html) = rendered(&header(), &runs);
    // Student's t, two degrees of freedom: 4.3027 times 3.33 over the root of 3.
    let row = "| mom | 1.5000 ± 0.1000 | +50.0 ± 3.3 % | \\[+41.7, +58.3 %\\] | better |";
    assert!(markdown.contains(row), "no {row} in\n{markdown}");
    assert!(html.contains(
        "<td>1.5000 ±\u{a0}0.1000</td><td>+50.0 ±\u{a0}3.3\u{a0}%</td><td>[+41.7, +58.3\u{a0}%]</td><td>better</td>"
    ));
    assert!(markdown.contains("below in 3 of 3"));
    assert!(html.contains("6 of 6 runs done"));
    assert!(markdown.contains("42.50 % at 1.5B") && markdown.contains("65.40 % at 1.5B"));
}

/// Dense and Mixture-of-Mamba, two seeds without any noise.
fn two_seeds(mom: impl Fn(f64) -> f64 + Copy) -> Vec<RunResult> {
    [0, 1].into_iter().flat_map(|seed| [run("dense", seed, line), run("mom", seed, mom)]).collect()
}

#[test]
fn a_report_of_one_seed_says_so_wherever_a_figure_of_it_stands() {
    let null = |step| line(step + 0.2);
    for with_null in [false, true] {
        let mut runs = vec![run("dense", 0, line), run("mom", 0, |step| line(step + 5.0))];
        runs.extend(with_null.then(|| run("null", 0, null)));
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), &header(), &runs).unwrap();
        for path in written.iter().filter(|path| path.extension().is_some_and(|ending| ending == "svg")) {
            let svg = fs::read_to_string(path).unwrap();
            assert!(svg.contains("one seed"), "{}", path.display());
        }
        let [markdown, html] =
            ["report.md", "report.html"].map(|name| fs::read_to_string(dir.path().join(name)).unwrap());
        let results = markdown.lines().find(|line| line.starts_with("| Variant | Final loss")).unwrap();
        for column in
            ["Final loss (one seed)", "Gain over dense (one seed)", "first crossing (one seed)", "slope (one seed)"]
        {
            assert!(results.contains(column) && html.contains(column), "{results}");
        }
        let captions =
            markdown.lines().filter(|line| line.starts_with('*') && line.ends_with('*') && !line.starts_with("**"));
        assert!(captions.clone().count() >= 3 && captions.clone().all(|caption| caption.starts_with("*One seed. ")));
        assert!(html.matches("<figcaption>One seed. ").count() >= 3 && html.contains("<span>One seed</span>"));
        // The only verdict is that beside the null's own difference.
        assert!(!markdown.contains("| better |") && !markdown.contains("| not told apart from dense |"), "{markdown}");
        let told =
            if with_null { "| one seed: not told apart from dense by the null |" } else { "| one seed: no verdict |" };
        assert!(markdown.contains(told), "{markdown}");
        assert_eq!(
            markdown
                .contains("The null, dense from other initial weights, ends beside dense by (one seed): text +0.1 %"),
            with_null
        );
    }
}

#[test]
fn horizons_are_compared_from_end_to_end() {
    // Ends that fall as a power of the steps; MoM has each loss after 0.7 times as many.
    let law = |steps: f64| 4.0 * steps.powf(-0.1);
    let with_ends = |variant: &str, seed: u64, factor: f64| {
        let mut run = run(variant, seed, |step| if step == 100.0 { law(100.0 / factor) } else { line(step) });
        run.horizons = [25, 50]
            .map(|step| EvalPoint {
                step,
                loss: ["text", "image"].map(|name| (name.into(), law(step as f64 / factor))).into(),
                joint: law(step as f64 / factor),
                ..run.curve[3].clone()
            })
            .to_vec();
        run
    };
    let runs: Vec<RunResult> = [(0, 0.001), (1, -0.002), (2, 0.003)]
        .into_iter()
        .flat_map(|(seed, noise)| {
            [with_ends("dense", seed, 1.0), with_ends("null", seed, 1.0 + noise), with_ends("mom", seed, 0.7 - noise)]
        })
        .collect();
    let of_mom = text_record(&runs, "mom");
    let got = of_mom.relative_flops_horizons.unwrap();
    assert!((got - 0.699).abs() < 1e-9, "{got}");
    assert_eq!(text_record(&runs, "dense").relative_flops_horizons, Some(1.0));
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &header(), &runs).unwrap();
    let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
    assert!(markdown.contains("| Relative FLOPs, horizons | Seeds |"), "{markdown}");
    assert!(markdown.contains("| 69.9 ± 0.3 % \\[69.6, 70.3 %\\] | 3 |"), "{markdown}");
    assert!(markdown.contains(" By horizons: 69.9 % of dense's training FLOPs."), "{markdown}");
    assert!(written.iter().any(|path| path.ends_with("plots/chameleon-horizons-joint.svg")));
    let csv = fs::read_to_string(dir.path().join("horizons.csv")).unwrap();
    assert!(csv.starts_with("setting,variant,seed,steps,modality,val_loss\nchameleon,dense,0,25,text,"), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 9 * 3 * 3);
}

#[test]
fn bits_per_byte_stand_beside_text_alone() {
    let mut runs = two_seeds(|step| line(2.0 * step));
    assert!(!rendered(&header(), &runs).0.contains("| Bits per byte |"));
    for run in &mut runs {
        run.curve.last_mut().unwrap().bits_per_byte = Some(0.75);
    }
    let (markdown, _) = rendered(&header(), &runs);
    assert!(markdown.contains("| Variant | Final loss | Bits per byte | Gain over dense |"), "{markdown}");
    assert_eq!(markdown.matches("| 0.7500 ± 0.0000 |").count(), 2, "dense and mom, text alone");
    assert_eq!(text_record(&runs, "mom").bits_per_byte, Some(0.75));
    assert!(records(&runs).iter().all(|record| record.bits_per_byte.is_none() || record.modality == "text"));
}

#[test]
fn the_null_stands_in_every_table_and_plot_and_is_not_judged() {
    let runs: Vec<RunResult> = [0, 1, 2]
        .into_iter()
        .flat_map(|seed| {
            let noise = [0.3, -0.4, 0.1][seed as usize];
            [
                run("dense", seed, line),
                run("null", seed, move |step| line(step + noise)),
                run("mom", seed, move |step| line(step + 6.0 - noise)),
            ]
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &header(), &runs).unwrap();
    for path in written.iter().filter(|path| path.extension().is_some_and(|ending| ending == "svg")) {
        assert!(fs::read_to_string(path).unwrap().contains(">\nnull\n"), "{}", path.display());
    }
    let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
    assert_eq!(markdown.matches("\n| null | ").count(), 3 + 1, "text, image, joint; cost: {markdown}");
    assert!(markdown.contains("| the null |") && markdown.contains("| better |"), "{markdown}");
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("results.json")).unwrap()).unwrap();
    let of = |variant: &str| {
        let all = json["comparisons"].as_array().unwrap().iter();
        all.filter(|comparison| comparison["variant"] == variant).cloned().collect::<Vec<_>>()
    };
    assert_eq!((of("mom").len(), of("null").len(), of("dense").len()), (3, 3, 0));
    assert!(of("mom").iter().all(|comparison| comparison["verdict"] == "better" && comparison["n_seeds"] == 3));
    assert!(of("null").iter().all(|comparison| comparison["verdict"] == "null" && comparison["p_adjusted"].is_null()));
}

#[test]
fn the_reading_says_what_the_runs_show() {
    let better = two_seeds(|step| line(2.0 * step));
    let (markdown, html) = rendered(&header(), &better);
    assert!(markdown.contains(
        "Text: MoM ends 66.7 % below dense (± 0.0 points over 2 seeds; below in 2 of 2) and reaches dense's final loss \
         after 50.0 % of dense's training FLOPs (± 0.0). Verdict: better, 95 % interval of the gain \\[+66.7, +66.7 %\\]."
    ));
    assert!(html.contains("<li class=\"card better\">") && !markdown.to_lowercase().contains("one seed:"));

    let (markdown, html) = rendered(&header(), &two_seeds(|step| line(0.8 * step)));
    assert!(
        markdown
            .contains("Text: MoM ends 13.3 % above dense (± 0.0 points over 2 seeds; below in 0 of 2) and does not")
    );
    assert!(markdown.contains("Slope over the part of the second half that it matches: 125.0 %."));
    assert!(html.contains("<li class=\"card worse\">") && html.contains("not reached"));

    let diverged = [run("dense", 0, line), run("mom", 0, |_| f64::NAN), run("x", 0, |_| f64::NAN)];
    let (markdown, _) = rendered(&header(), &diverged);
    assert!(markdown.contains("Text: MoM diverged."));
    let row = "| mom | diverged | diverged | – | one seed: no verdict | not reached | too few matches | 1 |";
    assert!(markdown.contains(row), "{markdown}");
    assert!(markdown.contains("Diverged: x for text in 1 of 1 seeds"));

    let (markdown, _) = rendered(&header(), &[run("mom", 0, line)]);
    assert!(markdown.contains("No dense run is done") && markdown.contains("no dense run |"));
}

#[test]
fn learning_rates_have_a_table_and_what_is_at_the_edge_is_said_aloud() {
    let arm = |variant: &str, rates: &[(f64, [Trial; 2])]| {
        let mut arm = ArmRates::new("chameleon", "tiny", variant);
        for (rate, trials) in rates {
            trials.iter().zip(0..).for_each(|(&trial, seed)| arm.set(*rate, seed, trial));
        }
        arm
    };
    let joint = |a: f64, b: f64| [Trial::Joint(a), Trial::Joint(b)];
    let arms = [
        arm("x", &[(1e-3, [Trial::Diverged; 2]), (2e-3, [Trial::Diverged; 2])]),
        arm("mom", &[(1e-3, joint(2.0, 2.2)), (2e-3, joint(1.0, 1.2)), (4e-3, [Trial::Joint(0.5), Trial::Diverged])]),
        arm("dense", &[(1e-3, joint(3.0, 3.0)), (2e-3, joint(2.0, 2.0))]),
        arm("in", &[(1e-3, joint(3.0, 3.0)), (2e-3, [Trial::Joint(2.0), Trial::Undone])]),
    ];
    let runs = [run("dense", 0, line), run("mom", 0, line), run("in", 0, line)];
    let header = ReportHeader { missing: vec!["chameleon in lr 0.002 seed 1".into()], ..header() };
    let dir = tempfile::tempdir().unwrap();
    write_with(dir.path(), &header, &runs, &Beside { arms: arms.to_vec(), ..Beside::default() }).unwrap();
    let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
    for line in [
        "| Variant | 0.001 | 0.002 | 0.004 | Best |",
        "| dense | 3.0000 ± 0.0000 | 2.0000 ± 0.0000 (best) | – | 0.002; its best is at the edge: widen --learning-rates above 0.002 |",
        "| mom | 2.1000 ± 0.1414 | 1.1000 ± 0.1414 (best) | diverged in 1 of 2 seeds | 0.002 |",
        "| in | 3.0000 ± 0.0000 (best) | 2.0000 (1 of 2 seeds done) | – | 0.001 so far (1 of 2 rates done) |",
        "| x | diverged | diverged | – | none: it diverged at every rate |",
        "- Each variant at its best learning rate of those tried: dense 0.002, mom 0.002, in 0.001.",
        "- Learning rate of dense: its best is at the edge: widen --learning-rates above 0.002.",
        "- Learning rate of in: 0.001 so far (1 of 2 rates done).",
        "- Learning rate of x: none: it diverged at every rate.",
        "**17 of 18 runs done**",
    ] {
        assert!(markdown.contains(line), "no {line} in\n{markdown}");
    }
    assert!(!markdown.contains("Learning rate of mom"), "{markdown}");
    let html = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert_well_formed(&html);
    assert!(html.contains("<h3>Learning rates</h3>"));
    let csv = fs::read_to_string(dir.path().join("rates.csv")).unwrap();
    assert!(csv.starts_with("setting,scale,variant,learning_rate,seed,joint,best\n"), "{csv}");
    assert!(
        csv.contains("chameleon,tiny,mom,0.004,1,,false\n") && csv.contains("chameleon,tiny,mom,0.002,0,1,true\n"),
        "{csv}"
    );

    // Without a single good rate there is no comparison, and that is said.
    write_with(dir.path(), &header, &[], &Beside { arms: arms[..1].to_vec(), ..Beside::default() }).unwrap();
    let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
    assert!(markdown.contains("| x | diverged | diverged | none: it diverged at every rate |"), "{markdown}");
    assert!(!markdown.contains("One seed per variant"), "{markdown}");
}

#[test]
fn a_difference_within_the_spread_is_called_unclear() {
    let seeds = |leads: [f64; 2]| -> Vec<RunResult> {
        let pair = |seed: u64, lead: f64| [run("dense", seed, line), run("mom", seed, move |step| line(step + lead))];
        leads.into_iter().zip(0..).flat_map(|(lead, seed)| pair(seed, lead)).collect()
    };
    let unclear = "Text: MoM ends";
    let of = |leads| {
        let (markdown, html) = rendered(&header(), &seeds(leads));
        let told = markdown.lines().find(|line| line.contains(unclear)).unwrap().to_owned();
        (told, markdown, html)
    };
    let (told, markdown, html) = of([-3.0, 5.0]);
    assert!(told.contains("Verdict: not told apart from dense, 95 % interval"), "{told}");
    assert!(!told.contains("FLOPs") && !told.contains("Slope"), "what chance may have made saves nothing: {told}");
    assert!(markdown.contains(", not told apart |") && html.contains("<li class=\"card mixed\">"));
    let (told, ..) = of([4.99, 5.0]);
    assert!(told.contains("Verdict: better") && told.contains("FLOPs"), "{told}");
}

#[test]
fn a_dense_run_that_rises_at_its_end_is_pointed_out() {
    let rising = |step: f64| if step > 60.0 { line(60.0) + 0.01 * (step - 60.0) } else { line(step) };
    let warning = "dense's own smoothed curve first passes its final loss";
    assert!(rendered(&header(), &[run("dense", 0, rising), run("mom", 0, line)]).0.contains(warning));
    assert!(!rendered(&header(), &[run("dense", 0, line), run("mom", 0, line)]).0.contains(warning));
}

#[test]
fn parts_are_compared_on_the_seeds_that_both_have() {
    // On seed 0 mom gains more than x; mom's seed 1, without its x, is worse and must not count.
    let runs = [
        run("dense", 0, line),
        run("mom", 0, |step| line(1.4 * step)),
        run("x", 0, |step| line(1.2 * step)),
        run("dense", 1, line),
        run("mom", 1, |step| line(0.5 * step)),
    ];
    let (markdown, _) = rendered(&header(), &runs);
    let told = "the only part run, x, gains less than MoM (+13.3 % against +26.7 %; one seed)";
    assert!(markdown.contains(told), "{markdown}");
}

#[test]
fn a_seed_without_dense_is_not_a_failure_to_reach_it() {
    let runs = [run("dense", 0, line), run("mom", 0, |step| line(2.0 * step)), run("mom", 1, line)];
    let (markdown, html) = rendered(&header(), &runs);
    let row = "| +66.7 % | – | one seed: no verdict | 50.0 % | 50.0 % | 2 (1 with dense) |";
    assert!(markdown.contains(row), "{markdown}");
    assert!(html.contains("<li class=\"card mixed\">"));
}

#[test]
fn unfinished_sweeps_say_so() {
    let header = ReportHeader { missing: vec!["chameleon, dense, seed 1".into()], ..header() };
    let (markdown, html) = rendered(&header, &[run("dense", 0, line)]);
    for page in [markdown, html] {
        assert!(page.contains("1 of 2 runs done"));
        assert!(page.contains("Missing runs") && page.contains("chameleon, dense, seed 1"));
        assert!(page.contains("No run of Mixture-of-Mamba"));
    }
}

#[test]
fn no_runs_give_a_report_that_claims_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &header(), &[]).unwrap();
    assert_eq!(written.len(), 4);
    assert_eq!(read_results(&dir.path().join("results.json")).unwrap(), []);
    let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
    assert!(markdown.contains("No run is done yet.") && !markdown.contains("MoM ends"));
}

#[test]
fn pages_and_plots_are_well_formed_whatever_the_names() {
    let hostile = r#"<script>alert("1")</script> & 'q' | `x`"#;
    let header = ReportHeader {
        title: hostile.into(),
        command: hostile.into(),
        commit: Some(hostile.into()),
        machine: hostile.into(),
        device: hostile.into(),
        notes: vec![hostile.into()],
        missing: vec![hostile.into()],
        config: vec![(hostile.into(), hostile.into())],
        ..header()
    };
    let mut runs = Vec::new();
    for seed in [0, 1] {
        for variant in ["dense", "mom", hostile] {
            let mut run = run(variant, seed, |step| line(step * (1.0 + seed as f64)));
            (run.setting, run.scale) = (hostile.into(), hostile.into());
            run.modalities.push(ModalityInfo { name: hostile.into(), loss: hostile.into() });
            for point in &mut run.curve {
                point.loss.insert(hostile.into(), 1.0);
            }
            runs.push(run);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &header, &runs).unwrap();
    let html = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(!html.contains("<script"));
    for request in ["src=", "<link", "@import", "url("] {
        assert!(!html.contains(request), "{request} would fetch something");
    }
    assert_well_formed(&html);
    let plots: Vec<_> = written.iter().filter(|path| path.extension().is_some_and(|ext| ext == "svg")).collect();
    assert_eq!(plots.len(), 12, "three modalities and all of them together");
    for plot in plots {
        let svg = fs::read_to_string(plot).unwrap();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("<text ") && !svg.contains("NaN") && !svg.contains("inf"));
        assert_well_formed(&svg);
    }
    let markdown = fs::read_to_string(dir.path().join("report.md")).unwrap();
    // The command stands in a code block, as it is; nowhere else may markup get through.
    assert_eq!(markdown.matches("<script>").count(), 1);
    for link in markdown.split("](").skip(1) {
        let file = link.split(')').next().unwrap();
        assert!(dir.path().join(file).is_file(), "{file} is linked but absent");
    }
}

#[test]
fn several_scales_of_a_setting_do_not_share_files() {
    let small = |variant: &str| RunResult { scale: "small".into(), ..run(variant, 0, line) };
    let runs = [run("dense", 0, line), run("mom", 0, line), small("dense"), small("mom")];
    let dir = tempfile::tempdir().unwrap();
    let written = write(dir.path(), &header(), &runs).unwrap();
    let distinct: BTreeSet<_> = written.iter().collect();
    assert_eq!(distinct.len(), written.len());
    assert!(dir.path().join("plots/chameleon-small-curves-text.svg").is_file());
}

#[test]
fn broken_inputs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let twice = [run("dense", 0, line), run("dense", 0, line)];
    assert!(matches!(write(dir.path(), &header(), &twice), Err(ReportError::DuplicateRun { seed: 0, .. })));
    let mut unordered = run("dense", 0, line);
    unordered.curve.swap(3, 4);
    let error = write(dir.path(), &header(), &[unordered]).unwrap_err();
    assert_eq!(error.to_string(), "curve of chameleon/dense/0: expected ascending steps, got 30 after 40");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn a_file_that_cannot_be_replaced_is_named_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("results.json");
    fs::create_dir(&blocked).unwrap();
    let error = write(dir.path(), &header(), &[run("dense", 0, line)]).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot rename {}", blocked.display()));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write(&file, &header(), &[]).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot create {}", file.display())), "{error}");
}

#[test]
fn runs_survive_json_even_when_diverged() {
    let original = run("mom", 7, |step| if step > 50.0 { f64::INFINITY } else { line(step) });
    let text = serde_json::to_string(&original).unwrap();
    let back: RunResult = serde_json::from_str(&text).unwrap();
    assert!(back.curve.last().unwrap().loss["text"].is_nan());
    assert_eq!(back.curve[..6], original.curve[..6]);
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
    assert!(serde_json::from_str::<RunResult>(&text.replacen('{', "{\"more\":1,", 1)).is_err());
}

/// Every tag that opens closes, in order; quotes pair; every `&` starts an entity.
#[track_caller]
fn assert_well_formed(markup: &str) {
    const VOID: [&str; 2] = ["meta", "!doctype"];
    let mut open: Vec<&str> = Vec::new();
    for piece in markup.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default().trim_end_matches('/');
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closing </{name}>");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "quotes of <{tag}>");
        for entity in text.split('&').skip(1).chain(tag.split('&').skip(1)) {
            let name = entity.split(';').next().unwrap_or_default();
            assert!(["amp", "lt", "gt", "quot", "apos", "#39"].contains(&name), "&{name} is no entity");
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}
