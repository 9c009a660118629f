//! Ten test questions, chosen by the run's seed, with every model's answer.

use std::collections::BTreeSet;

use consilium_core::SeededRng;

use super::ReportInput;
use super::html::{esc, model_name, section};
use crate::prediction::{Prediction, exact_match};

/// Questions shown in all.
const SAMPLES: usize = 10;

/// Two questions for each of five sites; more for fewer sites, so that there are ten where the rows suffice.
pub(super) fn questions(input: &ReportInput) -> String {
    let chosen = choose(input);
    if chosen.is_empty() {
        return String::new();
    }
    let cards: String = chosen.iter().map(|(site, id)| question(&input.predictions, site, id)).collect();
    let lead = format!(
        "Drawn from the test rows by the run's seed ({}), not picked by hand. A tick marks an answer equal to the reference \
         apart from case and spacing.",
        input.summary.seed
    );
    section("samples", "Sample answers", &lead, &cards)
}

/// `(site, id)` of the questions shown: a function of seed and ids only.
fn choose(input: &ReportInput) -> Vec<(String, String)> {
    let seed = input.summary.seed;
    let mut sites: Vec<&str> = input.summary.sites.iter().map(|site| site.name.as_str()).collect();
    if sites.len() > SAMPLES {
        SeededRng::derive(seed, 0, "", "report sites").shuffle(&mut sites);
        sites.truncate(SAMPLES);
    }
    let per_site = (SAMPLES / sites.len().max(1)).max(1);
    sites
        .into_iter()
        .flat_map(|site| {
            let of_site = input.predictions.iter().filter(|p| p.site == site);
            let mut ids: Vec<&str> =
                of_site.map(|p| p.id.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
            SeededRng::derive(seed, 0, site, "report samples").shuffle(&mut ids);
            ids.into_iter().take(per_site).map(|id| (site.to_owned(), id.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

fn question(predictions: &[Prediction], site: &str, id: &str) -> String {
    let own = format!("local-{site}");
    let rank = |p: &Prediction| match p.model.as_str() {
        "base" => 0,
        model if model == own => 1,
        "federated" => 2,
        "pooled" => 3,
        _ => 4,
    };
    let mut answers: Vec<&Prediction> = predictions.iter().filter(|p| p.site == site && p.id == id).collect();
    answers.sort_by_key(|p| rank(p));
    let Some(first) = answers.first() else { return String::new() };
    let main: String = answers.iter().filter(|p| rank(p) < 4).map(|p| answer(p)).collect();
    let others: String = answers.iter().filter(|p| rank(p) == 4).map(|p| answer(p)).collect();
    let others = if others.is_empty() {
        others
    } else {
        format!(
            "<details><summary>The other hospitals' models</summary>\n<dl class=\"answers\">{others}</dl></details>\n"
        )
    };
    let category = if first.category == site || first.category.is_empty() {
        String::new()
    } else {
        format!(" · {}", esc(&first.category))
    };
    format!(
        "<article class=\"panel sample\">\n<p class=\"eyebrow\">{site}{category}</p>\n<h3>{question}</h3>\n\
         <dl class=\"answers\"><div class=\"reference\"><dt>reference</dt><dd>{reference}</dd></div>\n{main}</dl>\n{others}</article>\n",
        site = esc(site),
        question = esc(&first.question),
        reference = esc(&first.reference),
    )
}

fn answer(p: &Prediction) -> String {
    let (name, class) = model_name(&p.model);
    let right = if exact_match(&p.prediction, &p.reference) {
        " <span class=\"tick\" title=\"equal to the reference\">✓</span>"
    } else {
        ""
    };
    let cut = if p.hit_limit { " <span class=\"cut\">cut off by the length limit</span>" } else { "" };
    let text = if p.prediction.trim().is_empty() {
        "<i>no answer</i>".to_owned()
    } else {
        esc(p.prediction.trim()).to_string()
    };
    format!(
        "<div><dt><span class=\"key {class}\">{}</span></dt><dd>{text}{right}{cut}</dd></div>\n",
        esc(&name)
    )
}
