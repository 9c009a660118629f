//! From runs to numbers: medians of each side, their ratios, and the machine's limits meanwhile.

use serde_json::Value;

use super::jobs::names;
use super::session::Run;

/// Several runs of one job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Number of runs.
    pub runs: usize,
}

impl Spread {
    /// `None` of no numbers.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let (min, max, half) = (*values.first()?, *values.last()?, values.len() / 2);
        let even = values.len().is_multiple_of(2);
        let median = if even { (values[half - 1] + values[half]) / 2.0 } else { values[half] };
        Some(Self { median, min, max, runs: values.len() })
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its key under `ratios` in JSON.
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub ours: Option<Spread>,
    /// The best of the peer's variants.
    pub peer: Option<Spread>,
    /// The name of that variant.
    pub peer_name: Option<&'static str>,
    /// How many times better we are, by medians.
    pub ratio: Option<f64>,
    /// The least ratio that is good enough.
    pub floor: Option<f64>,
    /// The ratio that is wanted, where there is one.
    pub aim: Option<f64>,
}

/// Everything that follows from the runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// Largest resident memory over all runs of a job, bytes; by key under `rss_bytes`.
    pub rss: Vec<(&'static str, Option<f64>)>,
    pub fma_gflops: Option<Spread>,
    pub read_gb_per_s: Option<Spread>,
    /// Share of the multiply-add limit that f32 training with q and v reaches in its frozen matrices.
    pub fma_share: Option<f64>,
    /// Training speed by row length: precision, tokens of a row, tokens/s.
    pub lengths: Vec<(&'static str, u64, Spread)>,
}

/// What a line compares: `(key, title, ours, peers, floor, aim)`, all by tokens a second.
type Line = (&'static str, &'static str, &'static str, &'static [&'static str], Option<f64>, Option<f64>);

/// The lines. Floors and aims are ratios.
const LINES: [Line; 9] = [
    ("train_f32_vs_sft", "train q,v f32 / SFTTrainer", names::TRAIN_F32, &[names::SFT], Some(2.2), Some(3.2)),
    (
        "train_int8_vs_sft",
        "train q,v int8 / SFTTrainer",
        names::TRAIN_INT8,
        &[names::SFT],
        Some(4.5),
        Some(8.0),
    ),
    ("train_f32_vs_loop", "train q,v f32 / best loop", names::TRAIN_F32, &names::LOOP, Some(1.3), Some(2.0)),
    (
        "train_all_linear_f32_vs_loop",
        "train all f32 / best loop",
        names::ALL_F32,
        &names::LOOP_ALL,
        Some(1.5),
        Some(2.5),
    ),
    (
        "train_all_linear_int8_vs_loop",
        "train all int8 / best loop",
        names::ALL_INT8,
        &names::LOOP_ALL,
        Some(3.0),
        Some(6.0),
    ),
    ("generate_f32_b1", "generate f32, batch 1", names::F32_B1, &[names::PEER_B1], Some(2.0), None),
    ("generate_f32_b16", "generate f32, batch 16", names::F32_B16, &[names::PEER_B16], Some(4.0), None),
    ("generate_b1", "generate int8, batch 1", names::INT8_B1, &[names::PEER_B1], Some(3.0), Some(6.0)),
    ("generate_b16", "generate int8, batch 16", names::INT8_B16, &[names::PEER_B16], Some(5.0), Some(10.0)),
];

impl Comparison {
    pub fn new(runs: &[Run]) -> Self {
        let mut rows: Vec<Row> = LINES.iter().map(|line| speed_row(runs, line)).collect();
        rows.push(startup_row(runs, "startup", "start to first micro-batch, f32", names::TRAIN_F32));
        rows.push(startup_row(runs, "startup_int8", "start to first micro-batch, int8", names::TRAIN_INT8));
        let fma_gflops = spread(runs, names::CEILINGS, "fma_gflops");
        Self {
            rows,
            rss: [
                ("train_f32", names::TRAIN_F32),
                ("train_int8", names::TRAIN_INT8),
                ("peer_sft", names::SFT),
            ]
            .map(|(key, name)| (key, spread(runs, name, "peak_rss_bytes").map(|spread| spread.max)))
            .to_vec(),
            fma_share: fma_share(runs, fma_gflops),
            fma_gflops,
            read_gb_per_s: spread(runs, names::CEILINGS, "read_gb_per_s"),
            lengths: [("f32", names::LENGTHS_F32), ("int8", names::LENGTHS_INT8)]
                .into_iter()
                .flat_map(|(precision, name)| {
                    lengths(runs, name).into_iter().map(move |(tokens, spread)| (precision, tokens, spread))
                })
                .collect(),
        }
    }
}

/// The lines of JSON that the runs of one job printed.
fn results<'a>(runs: &'a [Run], name: &'a str) -> impl Iterator<Item = &'a Value> {
    runs.iter().filter(move |run| run.name == name).filter_map(|run| run.result.as_ref().ok())
}

fn spread(runs: &[Run], name: &str, field: &str) -> Option<Spread> {
    Spread::of(results(runs, name).filter_map(|line| line[field].as_f64()).collect())
}

fn speed_row(runs: &[Run], &(key, title, ours, peers, floor, aim): &Line) -> Row {
    let ours = spread(runs, ours, "tokens_per_s");
    let best = peers
        .iter()
        .filter_map(|&name| Some((name, spread(runs, name, "tokens_per_s")?)))
        .max_by(|(_, a), (_, b)| a.median.total_cmp(&b.median));
    let peer = best.map(|(_, spread)| spread);
    let ratio = ours.zip(peer).map(|(ours, peer)| ours.median / peer.median);
    Row { key, title, unit: "tokens/s", ours, peer, peer_name: best.map(|(name, _)| name), ratio, floor, aim }
}

/// From the start of the process to its first micro-batch: less is better, so the ratio is the other way round.
fn startup_row(runs: &[Run], key: &'static str, title: &'static str, ours: &str) -> Row {
    let ours = spread(runs, ours, "startup_s");
    let peer = spread(runs, names::SFT, "startup_s");
    Row {
        key,
        title,
        unit: "s",
        ours,
        peer,
        peer_name: peer.map(|_| names::SFT),
        ratio: ours.zip(peer).map(|(ours, peer)| peer.median / ours.median),
        floor: Some(10.0),
        aim: None,
    }
}

/// A token that goes through a training step costs a multiplication and an addition for each weight of the frozen
/// matrices, forward and once more backward: there are no weight gradients. Tokens that rows share count once.
fn fma_share(runs: &[Run], limit: Option<Spread>) -> Option<f64> {
    let speed = spread(runs, names::TRAIN_F32, "tokens_per_s")?;
    let weights = spread(runs, names::TRAIN_F32, "matrix_parameters")?;
    let share = spread(runs, names::TRAIN_F32, "computed_tokens")?.median
        / spread(runs, names::TRAIN_F32, "tokens")?.median;
    Some(share * speed.median * 4.0 * weights.median / 1e9 / limit?.median)
}

/// Speed of each row length over all runs, shortest first.
fn lengths(runs: &[Run], name: &str) -> Vec<(u64, Spread)> {
    let mut found: Vec<(u64, Vec<f64>)> = Vec::new();
    for length in results(runs, name).filter_map(|line| line["lengths"].as_array()).flatten() {
        let (Some(tokens), Some(speed)) = (length["tokens"].as_u64(), length["tokens_per_s"].as_f64()) else {
            continue;
        };
        match found.iter_mut().find(|(known, _)| *known == tokens) {
            Some((_, speeds)) => speeds.push(speed),
            None => found.push((tokens, vec![speed])),
        }
    }
    found.sort_by_key(|(tokens, _)| *tokens);
    found.into_iter().filter_map(|(tokens, speeds)| Some((tokens, Spread::of(speeds)?))).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &'static str, line: Value) -> Run {
        Run { name, repetition: 1, result: Ok(line) }
    }

    /// Runs with round numbers.
    pub fn runs() -> Vec<Run> {
        let speed = |name, tokens_per_s: f64| run(name, json!({ "tokens_per_s": tokens_per_s }));
        let ours = |tokens_per_s: f64| {
            json!({ "tokens_per_s": tokens_per_s, "matrix_parameters": 100_000_000, "tokens": 100, "computed_tokens": 100, "startup_s": 2.0,
                    "peak_rss_bytes": 1000, "instruction_set": "avx2" })
        };
        vec![
            run(names::CEILINGS, json!({ "fma_gflops": 200.0, "read_gb_per_s": 20.0 })),
            run(names::TRAIN_F32, ours(200.0)),
            run(names::TRAIN_F32, ours(300.0)),
            run(names::TRAIN_F32, ours(250.0)),
            run(
                names::SFT,
                json!({ "tokens_per_s": 100.0, "startup_s": 10.0, "peak_rss_bytes": 4000,
                                    "versions": { "torch": "2" } }),
            ),
            speed(names::LOOP[0], 150.0),
            speed(names::LOOP[1], 120.0),
            speed(names::LOOP[2], 125.0),
            Run { name: names::TRAIN_INT8, repetition: 1, result: Err("not there".into()) },
            run(names::LENGTHS_F32, json!({ "lengths": [{ "tokens": 64, "tokens_per_s": 90.0 }] })),
        ]
    }

    fn row(comparison: &Comparison, key: &str) -> Row {
        comparison.rows.iter().find(|row| row.key == key).unwrap().clone()
    }

    #[test]
    fn medians_with_their_spread() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![f64::NAN]), None);
        let odd = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.runs), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
    }

    #[test]
    fn ratios_are_of_medians_and_against_the_best_variant() {
        let comparison = Comparison::new(&runs());
        assert_eq!(row(&comparison, "train_f32_vs_sft").ratio, Some(2.5));
        let looped = row(&comparison, "train_f32_vs_loop");
        assert_eq!(looped.ratio, Some(250.0 / 150.0));
        assert_eq!(looped.peer_name, Some(names::LOOP[0]));
        assert_eq!(row(&comparison, "startup").ratio, Some(5.0), "less time is better");
        assert_eq!(row(&comparison, "train_int8_vs_sft").ratio, None, "a failed run has no ratio");
        assert_eq!(comparison.fma_share, Some(250.0 * 4.0 * 0.1 / 200.0));
        assert_eq!(comparison.rss[2], ("peer_sft", Some(4000.0)));
        assert_eq!(comparison.lengths.len(), 1);
    }
}
