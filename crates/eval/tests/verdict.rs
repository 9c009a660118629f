//! The verdict and the matrix on small made-up runs whose answer can be worked out by hand.

use consilium_eval::{
    Bootstrap, EvalError, Judgement, Metric, Prediction, judge, matrix, site_verdict, verdict,
};

const SITES: [&str; 2] = ["north", "south"];
const ROWS: usize = 20;

fn sites() -> Vec<String> {
    SITES.map(String::from).to_vec()
}

fn bootstrap() -> Bootstrap {
    Bootstrap { resamples: 2000, seed: 11 }
}

/// Every model on every row; `right(model, site, row)` says whether the answer is right (score 1) or wrong (0).
fn run(models: &[&str], right: impl Fn(&str, &str, usize) -> bool) -> Vec<Prediction> {
    let mut predictions = Vec::new();
    for model in models {
        for site in SITES {
            for row in 0..ROWS {
                predictions.push(Prediction {
                    model: (*model).into(),
                    site: site.into(),
                    id: format!("q{row:02}"),
                    category: format!("{site} matters"),
                    question: format!("Question {row}?"),
                    reference: "alpha".into(),
                    prediction: if right(model, site, row) { "alpha" } else { "omega" }.into(),
                    answer_nll: Some(if right(model, site, row) { 0.5 } else { 1.5 }),
                    answer_tokens: Some(2),
                    ..Prediction::default()
                });
            }
        }
    }
    predictions
}

const MODELS: [&str; 5] = ["base", "local-north", "local-south", "federated", "pooled"];

/// Joining lifts the south from .5 to .75 and costs the north .9 -> .6; abroad each local model knows nothing.
fn uneven(model: &str, site: &str, row: usize) -> bool {
    match (model, site) {
        ("local-north", "north") => row < 18,
        ("local-south", "south") => row < 10,
        ("federated", "north") => row < 12,
        ("federated", "south") => row < 15,
        ("pooled", _) => row < 19,
        _ => false,
    }
}

#[test]
fn rows_differences_and_worst_site_follow_their_definitions() {
    let verdict = verdict(&run(&MODELS, uneven), &sites(), Metric::RougeL, &bootstrap()).unwrap();
    let names: Vec<&str> = verdict.rows.iter().map(|row| row.site.as_str()).collect();
    assert_eq!(names, ["north", "south", "all"]);
    let [north, south, all] = &verdict.rows[..] else { panic!("three rows") };

    assert_eq!((north.base, north.local, north.federated, north.pooled), (0.0, 0.9, 0.6, Some(0.95)));
    assert!((north.difference + 0.3).abs() < 1e-12);
    assert!(north.worse_off && !north.better_off && north.ci95[1] < 0.0, "{north:?}");
    assert!(south.better_off && !south.worse_off && south.ci95[0] > 0.0, "{south:?}");

    // local of row all: the north's model knows 18 of 40 rows, the south's 10 of 40.
    assert!((all.local - (18.0 / 40.0 + 10.0 / 40.0) / 2.0).abs() < 1e-12, "{all:?}");
    assert!((all.federated - 27.0 / 40.0).abs() < 1e-12);
    assert_eq!((all.questions, north.questions), (40, 20));

    let worst = verdict.worst_site.as_ref().unwrap();
    assert_eq!((worst.site.as_str(), verdict.sites_worse_off), ("north", 1));
    let recovered = verdict.recovered.unwrap();
    assert!((recovered.share - (0.675 - 0.35) / (0.95 - 0.35)).abs() < 1e-12, "{recovered:?}");
    assert!(recovered.ci95[0] < recovered.share && recovered.share < recovered.ci95[1]);
}

#[test]
fn no_share_is_shown_where_pooling_brings_nothing() {
    let same = |model: &str, _: &str, row: usize| model != "base" && row < 10;
    let judged = verdict(&run(&MODELS, same), &sites(), Metric::RougeL, &bootstrap()).unwrap();
    assert_eq!(judged.recovered, None);
    assert!(judged.rows.iter().all(|row| row.spans_zero && !row.worse_off && row.difference == 0.0));
    let without = &MODELS[..4];
    let judged = verdict(&run(without, uneven), &sites(), Metric::RougeL, &bootstrap()).unwrap();
    assert_eq!((judged.recovered, judged.rows[0].pooled), (None, None), "a federation that cannot pool");
}

#[test]
fn lower_likelihood_loss_is_better_and_the_sign_stays_federated_minus_local() {
    let verdict = verdict(&run(&MODELS, uneven), &sites(), Metric::AnswerNll, &bootstrap()).unwrap();
    let [north, south, _] = &verdict.rows[..] else { panic!("three rows") };
    assert!(north.difference > 0.0 && north.worse_off && !north.better_off);
    assert!(south.difference < 0.0 && south.better_off);
    assert_eq!(verdict.worst_site.unwrap().site, "north");
    assert!(verdict.recovered.is_some());
}

#[test]
fn the_same_bytes_for_the_same_seed_whatever_the_order_of_the_lines() {
    let mut predictions = run(&MODELS, uneven);
    let json = |predictions: &[Prediction], seed| {
        let bootstrap = Bootstrap { resamples: 500, seed };
        serde_json::to_string(&verdict(predictions, &sites(), Metric::RougeL, &bootstrap).unwrap()).unwrap()
    };
    let first = json(&predictions, 1);
    predictions.reverse();
    assert_eq!(json(&predictions, 1), first);
    assert_ne!(json(&predictions, 2), first);
}

#[test]
fn what_is_missing_is_named_by_model_site_and_id() {
    let check = |predictions: &[Prediction]| {
        verdict(predictions, &sites(), Metric::RougeL, &bootstrap()).unwrap_err().to_string()
    };
    let whole = run(&MODELS, uneven);
    let gap: Vec<Prediction> = whole
        .iter()
        .filter(|p| !(p.model == "local-south" && p.site == "north" && p.id == "q07"))
        .cloned()
        .collect();
    let error = check(&gap);
    assert!(
        error.contains("local-south") && error.contains("q07") && error.contains("site north"),
        "{error}"
    );

    let error = check(&run(&["base", "local-north", "federated"], uneven));
    assert!(error.contains("no predictions of model local-south") && error.contains("q00"), "{error}");

    let mut twice = whole.clone();
    twice.push(whole[3].clone());
    assert!(check(&twice).contains("two predictions for row q03 of site north"));

    let mut stranger = whole.clone();
    stranger[0].site = "east".into();
    assert!(check(&stranger).contains("site east, which is not among the sites of the run (north, south)"));

    let mut other = whole.clone();
    other[45].reference = "beta".into();
    assert!(check(&other).contains("another reference"));

    let north_only: Vec<Prediction> = whole.iter().filter(|p| p.site == "north").cloned().collect();
    assert!(check(&north_only).contains("site south has no test rows"));

    let mut unmeasured = whole.clone();
    unmeasured[2].answer_nll = None;
    let error = verdict(&unmeasured, &sites(), Metric::AnswerNll, &bootstrap()).unwrap_err();
    assert_eq!(
        error,
        EvalError::NoValue {
            metric: "answer_nll",
            model: "base".into(),
            site: "north".into(),
            id: "q02".into()
        }
    );
    assert_eq!(verdict(&whole, &[], Metric::RougeL, &bootstrap()), Err(EvalError::NoSites));
}

#[test]
fn a_site_alone_gets_the_row_that_it_gets_among_all() {
    let whole = run(&MODELS, uneven);
    let among = verdict(&whole, &sites(), Metric::RougeL, &bootstrap()).unwrap();
    let own: Vec<Prediction> = whole
        .iter()
        .filter(|p| p.site == "south" && ["base", "local-south", "federated"].contains(&p.model.as_str()))
        .cloned()
        .collect();
    let alone = site_verdict(&own, "south", Metric::RougeL, &bootstrap()).unwrap();
    assert_eq!(alone.rows.len(), 1);
    assert_eq!(alone.rows[0].pooled, None);
    assert_eq!(
        consilium_eval::VerdictRow { pooled: among.rows[1].pooled, ..alone.rows[0].clone() },
        among.rows[1]
    );
    assert!(alone.all().is_none() && alone.recovered.is_none() && alone.worst_site.is_none());
    let error = site_verdict(&own[..5], "south", Metric::RougeL, &bootstrap()).unwrap_err().to_string();
    assert!(error.contains("federated") || error.contains("local-south"), "{error}");
    assert!(site_verdict(&whole, "south", Metric::RougeL, &bootstrap()).is_err(), "rows of another site");
}

#[test]
fn one_question_is_never_called_worse_off() {
    let predictions: Vec<Prediction> = run(&MODELS, |model, _, _| model.starts_with("local"))
        .into_iter()
        .filter(|p| p.id == "q00")
        .collect();
    let judged = verdict(&predictions, &sites(), Metric::RougeL, &bootstrap()).unwrap();
    let north = &judged.rows[0];
    assert_eq!(
        (north.questions, north.difference, north.worse_off, north.spans_zero),
        (1, -1.0, false, true)
    );
}

#[test]
fn the_matrix_has_the_model_of_site_i_on_the_rows_of_site_j() {
    let predictions = run(&MODELS, uneven);
    let matrix = matrix(&predictions, &sites(), Metric::ExactMatch).unwrap();
    assert_eq!(matrix.values, [[0.9, 0.0], [0.0, 0.5]]);
    assert_eq!((matrix.federated, matrix.base), (vec![0.6, 0.75], vec![0.0, 0.0]));
    assert_eq!(matrix.pooled, Some(vec![0.95, 0.95]));
}

#[test]
fn the_json_has_the_promised_names() {
    let verdict = verdict(&run(&MODELS, uneven), &sites(), Metric::RougeL, &bootstrap()).unwrap();
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["metric"], "rougeL");
    let row = json["rows"][0].as_object().unwrap();
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "site",
            "questions",
            "base",
            "local",
            "federated",
            "pooled",
            "difference",
            "ci95",
            "worse_off",
            "better_off",
            "spans_zero",
            "smallest_visible"
        ]
    );
    assert_eq!(row["ci95"].as_array().unwrap().len(), 2);
    assert_eq!(row["worse_off"], true);
    assert_eq!(json["rows"][2]["site"], "all");
    let again: consilium_eval::Verdict = serde_json::from_value(json).unwrap();
    assert_eq!(again, verdict);
}

#[test]
fn a_judgement_holds_every_metric_that_all_rows_have() {
    let mut predictions = run(&MODELS, uneven);
    let judged = judge(&predictions, &sites(), &bootstrap()).unwrap();
    let others = |judged: &Judgement| judged.other_verdicts.iter().map(|v| v.metric).collect::<Vec<_>>();
    assert_eq!(others(&judged), [Metric::Rouge1, Metric::Rouge2, Metric::ExactMatch, Metric::AnswerNll]);
    assert_eq!(judged.matrix.values, matrix(&predictions, &sites(), Metric::RougeL).unwrap().values);
    assert_eq!(judged.events().len(), MODELS.len() * 3 * 5, "models x (sites and all) x metrics");
    predictions[0].answer_nll = None;
    let judged = judge(&predictions, &sites(), &bootstrap()).unwrap();
    assert!(!others(&judged).contains(&Metric::AnswerNll));
}
