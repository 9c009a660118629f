//! The comparison for programs, with every run as it was.

use serde_json::{Map, Value, json};

use super::comparison::{Comparison, Row, Spread};
use super::machine::Machine;
use super::session::Session;

/// `ratios`, `rss_bytes`, `fma_share`, `ceilings`, `machine`, `rows` and `runs`; what was not measured is null.
pub fn value(comparison: &Comparison, machine: &Machine, session: &Session) -> Value {
    let ratios: Map<String, Value> =
        comparison.rows.iter().map(|row| (row.key.to_owned(), json!(row.ratio))).collect();
    let rss: Map<String, Value> = comparison
        .rss
        .iter()
        .map(|(key, bytes)| ((*key).to_owned(), json!(bytes.map(|bytes| bytes as u64))))
        .collect();
    let lengths: Vec<Value> = comparison
        .lengths
        .iter()
        .map(|(precision, tokens, speed)| {
            json!({ "precision": precision, "tokens": tokens, "tokens_per_s": spread(Some(*speed)) })
        })
        .collect();
    let runs: Vec<Value> = session
        .runs
        .iter()
        .map(|run| match &run.result {
            Ok(line) => json!({ "name": run.name, "repetition": run.repetition, "result": line }),
            Err(error) => json!({ "name": run.name, "repetition": run.repetition, "error": error }),
        })
        .collect();
    json!({
        "machine": machine.json(),
        "threads": session.threads,
        "quick": session.quick,
        "ratios": ratios,
        "rss_bytes": rss,
        "fma_share": comparison.fma_share,
        "ceilings": {
            "fma_gflops": spread(comparison.fma_gflops),
            "read_gb_per_s": spread(comparison.read_gb_per_s),
        },
        "rows": comparison.rows.iter().map(row).collect::<Vec<_>>(),
        "lengths": lengths,
        "runs": runs,
    })
}

fn row(row: &Row) -> Value {
    json!({
        "key": row.key,
        "title": row.title,
        "unit": row.unit,
        "ours": spread(row.ours),
        "peer": spread(row.peer),
        "peer_name": row.peer_name,
        "ratio": row.ratio,
        "floor": row.floor,
        "aim": row.aim,
    })
}

fn spread(spread: Option<Spread>) -> Value {
    spread.map_or(
        Value::Null,
        |Spread { median, min, max, runs }| json!({ "median": median, "min": min, "max": max, "runs": runs }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::comparison::tests::runs;
    use crate::bench::machine;

    #[test]
    fn every_key_is_there_whatever_was_measured() {
        for runs in [Vec::new(), runs()] {
            let count = runs.len();
            let session = Session {
                runs,
                model: "model".into(),
                rows: "rows.csv".into(),
                threads: 2,
                with_torch: true,
                quick: false,
            };
            let comparison = Comparison::new(&session.runs);
            let value = value(&comparison, &machine::describe(&session.runs), &session);
            let keys =
                |name: &str| -> Vec<String> { value[name].as_object().unwrap().keys().cloned().collect() };
            assert_eq!(
                keys("ratios"),
                [
                    "train_f32_vs_sft",
                    "train_int8_vs_sft",
                    "train_f32_vs_loop",
                    "train_all_linear_f32_vs_loop",
                    "train_all_linear_int8_vs_loop",
                    "generate_f32_b1",
                    "generate_f32_b16",
                    "generate_b1",
                    "generate_b16",
                    "startup",
                    "startup_int8",
                ]
            );
            assert_eq!(keys("rss_bytes"), ["train_f32", "train_int8", "peer_sft"]);
            assert_eq!(keys("ceilings"), ["fma_gflops", "read_gb_per_s"]);
            assert!(value.get("fma_share").is_some() && value["machine"]["cpu"].is_string());
            assert_eq!(value["runs"].as_array().unwrap().len(), count);
        }
    }
}
