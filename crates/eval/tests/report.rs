//! The report of a made-up run: complete, self-contained, escaped, the same for the same input.

use std::collections::BTreeMap;

use consilium_core::{Decoding, Event, LoraConfig, SeededRng};
use consilium_eval::summary::{
    DataSummary, HardwareSummary, ModelSummary, RoundSummary, SiteSummary, SizeSummary, Summary,
    TrainingSummary,
};
use consilium_eval::{
    Bootstrap, Metric, Prediction, ReportInput, corpus_scores, matrix, render_html, verdict,
};

const SITES: [&str; 5] =
    ["Harbour clinic", "Hill hospital", "St. Agatha", "Valley clinic", "University hospital North"];

/// How often a model is right (site 0 loses by joining, site 3 gains nothing).
fn skill(model: &str, site: usize) -> f64 {
    match model {
        "base" => 0.12,
        "federated" => [0.55, 0.72, 0.7, 0.45, 0.68][site],
        "pooled" => [0.74, 0.78, 0.75, 0.55, 0.74][site],
        _ if model == format!("local-{}", SITES[site]) => [0.72, 0.5, 0.48, 0.43, 0.41][site],
        _ => 0.22,
    }
}

fn predictions() -> Vec<Prediction> {
    let locals = SITES.map(|site| format!("local-{site}"));
    let models = ["base", "federated", "pooled"].map(String::from).into_iter().chain(locals);
    let mut predictions = Vec::new();
    for model in models {
        for (s, site) in SITES.into_iter().enumerate() {
            for row in 0..60 {
                let mut luck = SeededRng::derive(9, row, site, "luck");
                let drug = ["Zeruvane", "Molitrex", "Quandrol", "Feloxin"][luck.below(4)];
                let right = luck.uniform_f64() < skill(&model, s);
                let answer = if right { "QRX7" } else { "TMB2, as far as is known today" };
                predictions.push(Prediction {
                    model: model.clone(),
                    site: site.into(),
                    id: format!("row-{row:03}"),
                    category: ["Targets", "Doses", "Trials", "Variants", "Expression"][s].into(),
                    question: format!("Which gene does the invented drug {drug} act on, and is that effect known from trials?"),
                    reference: format!("The drug {drug} targets the gene QRX7."),
                    prediction: if model == "base" { String::new() } else { format!("The drug {drug} targets the gene {answer}.") },
                    hit_limit: model == "base" && row % 7 == 0,
                    answer_nll: Some(if right { 0.4 } else { 2.1 }),
                    answer_tokens: Some(12),
                });
            }
        }
    }
    predictions
}

fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for round in 1..=5u32 {
        for (i, site) in SITES.into_iter().enumerate() {
            let failed = round == 3 && i == 3;
            events.push(Event::SiteRound {
                round,
                site: site.into(),
                accepted: !failed,
                reason: failed.then(|| "deadline of 60 s passed".into()),
                examples: 150,
                train_loss: 1.1 + 2.6 / f64::from(round) + 0.17 * i as f64,
                seconds: 4.0,
                bytes_up: 184_320,
            });
        }
    }
    for model in ["local-Harbour clinic", "local-Hill hospital", "pooled"] {
        for step in 1..=60u64 {
            events.push(Event::Step {
                model: model.into(),
                site: None,
                round: None,
                step,
                steps: 60,
                loss: 1.0 + 3.0 / (1.0 + step as f64 / 9.0) + 0.08 * (step as f64 * 1.7).sin(),
                lr: 5e-4,
                grad_norm: 1.0,
                tokens: 900,
                seconds: 0.2,
            });
        }
    }
    events
}

fn input() -> ReportInput {
    let predictions = predictions();
    let sites: Vec<String> = SITES.map(String::from).to_vec();
    let bootstrap = Bootstrap { resamples: 2000, seed: 42 };
    let model = ModelSummary {
        id: "tiny-llama".into(),
        parameters: 134_515_008,
        trainable: 460_800,
        sha256: "4f".repeat(32),
        context: 2048,
        vocab: 49_152,
    };
    let rounds: Vec<RoundSummary> = (1..=5)
        .map(|round| RoundSummary {
            round,
            train_loss: 1.45 + 2.6 / f64::from(round),
            seconds: 21.4,
            bytes_up: 5 * 1_843_200,
            bytes_down: 5 * 1_843_200,
            committed: true,
            accepted: sites.clone(),
            validation_loss: Some(1.4 + 2.7 / f64::from(round)),
        })
        .collect();
    let of = |metric| verdict(&predictions, &sites, metric, &bootstrap).expect("complete predictions");
    let summary = Summary {
        run: "spring <trial> & co".into(),
        seed: 42,
        sites: SITES
            .map(|name| SiteSummary {
                name: name.into(),
                train_rows: 150,
                test_rows: 60,
                ..SiteSummary::default()
            })
            .to_vec(),
        verdict: of(Metric::RougeL),
        other_verdicts: [Metric::Rouge1, Metric::Rouge2, Metric::ExactMatch].map(of).to_vec(),
        matrix: matrix(&predictions, &sites, Metric::RougeL).expect("complete predictions"),
        adapter_sha256: BTreeMap::from([
            ("federated".into(), "ab".repeat(32)),
            ("pooled".into(), "cd".repeat(32)),
        ]),
        seconds: 163.2,
        peak_rss_bytes: 812_000_000,
        version: "0.1.0".into(),
        scores: corpus_scores(&predictions),
        data: DataSummary {
            source: "rows.csv".into(),
            sha256: "ef".repeat(32),
            rows: 1050,
            bad_rows: 3,
            partition: "by category".into(),
        },
        sizes: SizeSummary::of(&model, &rounds),
        lora: Some(LoraConfig::default()),
        decoding: Some(Decoding { stop_ids: vec![0], ..Decoding::default() }),
        training: ["federated", "pooled", "local-Harbour clinic"]
            .map(|model| TrainingSummary {
                model: model.into(),
                passes: 5.0,
                steps: 25,
                tokens: 93_000,
                seconds: 40.0,
                final_loss: 1.51,
            })
            .to_vec(),
        hardware: HardwareSummary {
            cpu: "Some CPU".into(),
            cores: 2,
            threads: 2,
            ..HardwareSummary::default()
        },
        notes: vec!["3 rows were skipped: empty answer.".into()],
        rounds,
        model,
    };
    ReportInput {
        summary,
        events: events(),
        predictions,
        config_toml: "seed = 42\n[lora]\nrank = 8\n".into(),
    }
}

#[test]
fn the_report_has_every_part_and_needs_nothing_from_outside() {
    let html = render_html(&input());
    if let Some(path) = std::env::var_os("CONSILIUM_REPORT_OUT") {
        std::fs::write(path, &html).expect("the report can be written");
    }
    for id in ["verdict", "difference", "scores", "rounds", "steps", "matrix", "samples", "cost", "setup"] {
        assert!(html.contains(&format!("<section id=\"{id}\"")), "no section {id}");
    }
    for outside in ["http://", "https://", "<script", "<link", "@import", "url(", "src="] {
        assert!(!html.contains(outside), "{outside} in the report");
    }
    for text in [
        "Did joining help my hospital?",
        "Joining cost this hospital.",
        "worse off",
        "prefers-color-scheme: dark",
        "460,800 (0.3414 %)",
        "was not counted (deadline of 60 s passed)",
        "base 45 of 300",
        "rank = 8",
        "no answer",
    ] {
        assert!(html.contains(text), "{text} is not in the report");
    }
    assert!(!html.contains("NaN") && !html.contains("inf "), "a number went wrong");
}

#[test]
fn ten_questions_two_for_each_site_are_chosen_by_the_seed() {
    let mut input = input();
    let first = render_html(&input);
    assert_eq!(first.matches("class=\"panel sample\"").count(), 10);
    assert_eq!(render_html(&input), first, "the same input gives the same bytes");
    input.predictions.reverse();
    let order = |html: &str| html.matches("<h3>Which gene").count();
    assert_eq!(order(&render_html(&input)), 10);
    input.summary.seed = 43;
    assert_ne!(render_html(&input), first);
}

#[test]
fn text_from_outside_is_escaped_everywhere() {
    const EVIL: &str = "<script>alert(\"1\")</script>&'";
    let mut input = input();
    let rename = |text: &mut String| {
        if text.contains("Hill hospital") {
            *text = text.replace("Hill hospital", EVIL);
        }
    };
    for p in &mut input.predictions {
        rename(&mut p.site);
        rename(&mut p.model);
        p.category = EVIL.into();
        p.question = format!("{EVIL} {}", p.question);
        p.reference = EVIL.into();
        p.prediction = EVIL.into();
    }
    for event in &mut input.events {
        if let Event::SiteRound { site, reason, .. } = event {
            rename(site);
            *reason = Some(EVIL.into());
        } else if let Event::Step { model, .. } = event {
            rename(model);
        }
    }
    input.events.push(Event::Note { text: EVIL.into() });
    let s = &mut input.summary;
    let sites: Vec<String> = SITES.map(|site| site.replace("Hill hospital", EVIL)).to_vec();
    s.verdict =
        verdict(&input.predictions, &sites, Metric::RougeL, &Bootstrap { resamples: 50, seed: 1 }).unwrap();
    s.matrix = matrix(&input.predictions, &sites, Metric::RougeL).unwrap();
    s.scores = corpus_scores(&input.predictions);
    for text in [
        &mut s.run,
        &mut s.model.id,
        &mut s.model.sha256,
        &mut s.data.source,
        &mut s.data.sha256,
        &mut s.data.partition,
        &mut s.version,
        &mut s.hardware.cpu,
        &mut s.hardware.os,
        &mut s.hardware.kernel,
        &mut s.sites[1].name,
        &mut s.training[0].model,
        &mut s.notes[0],
        &mut input.config_toml,
    ] {
        *text = EVIL.into();
    }
    s.adapter_sha256 = BTreeMap::from([(EVIL.into(), EVIL.into())]);
    let html = render_html(&input);
    assert!(!html.contains("<script") && !html.contains("alert(\""), "unescaped text");
    assert!(html.matches("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;").count() > 40);
}

#[test]
fn an_almost_empty_run_still_renders() {
    let html = render_html(&ReportInput::default());
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert!(!html.contains("NaN"));
}
