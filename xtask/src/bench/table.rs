//! The comparison for people.

use std::fmt::Write;

use super::comparison::{Comparison, Row, Spread};
use super::machine::Machine;
use super::session::Session;

/// The whole report; below the machine and the files, lines of at most 120 characters.
pub fn render(comparison: &Comparison, machine: &Machine, session: &Session) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(&mut text, comparison, machine, session);
    text
}

fn write_report(
    out: &mut String,
    comparison: &Comparison,
    machine: &Machine,
    session: &Session,
) -> std::fmt::Result {
    writeln!(out, "{}", machine.line(session.threads))?;
    writeln!(out, "model {}, rows {}", session.model.display(), session.rows.display())?;
    if session.quick {
        writeln!(out, "QUICK: few rows, run once; these numbers show that it runs, not how fast it is")?;
    }
    writeln!(out)?;
    write_row(out, ["", "ours", "PyTorch", "ratio", "floor", "aim"].map(str::to_owned))?;
    for row in comparison.rows.iter().filter(|row| row.ours.is_some()) {
        write_row(out, cells(row))?;
        if let Some(variant) = row.peer_name.filter(|_| row.key.ends_with("loop")) {
            writeln!(out, "{:<36} best of three: {variant}", "")?;
        }
    }
    writeln!(out)?;
    let memory: Vec<String> = comparison
        .rss
        .iter()
        .filter_map(|(key, bytes)| {
            Some(format!("{} {:.0} MiB", key.replace('_', " "), (*bytes)? / 1048576.0))
        })
        .collect();
    if !memory.is_empty() {
        writeln!(out, "peak resident memory: {}", memory.join(", "))?;
    }
    for (what, unit, spread) in [
        ("f32 multiply-adds", "GFLOP/s", comparison.fma_gflops),
        ("memory read", "GB/s", comparison.read_gb_per_s),
    ] {
        if let Some(spread) = spread {
            writeln!(out, "machine's limit meanwhile, {what}: {} {unit}", with_range(spread))?;
        }
    }
    if let Some(share) = comparison.fma_share {
        writeln!(
            out,
            "f32 training reaches {:.0} % of the multiply-add limit in its matrices",
            100.0 * share
        )?;
    }
    for (precision, tokens, spread) in &comparison.lengths {
        writeln!(out, "training {precision}, rows of {tokens} tokens: {} tokens/s", with_range(*spread))?;
    }
    if !session.with_torch {
        writeln!(out, "\nOnly this engine was measured. For PyTorch beside it (several GB, from PyPI):")?;
        writeln!(out, "    bench/setup-torch.sh DIR && cargo xtask bench --with-torch DIR")?;
    }
    Ok(())
}

fn cells(row: &Row) -> [String; 6] {
    let side = |spread: Option<Spread>| spread.map_or_else(|| "-".into(), with_range);
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
    let title = format!("{}, {}", row.title, row.unit);
    [title, side(row.ours), side(row.peer), ratio(row.ratio), ratio(row.floor), ratio(row.aim)]
}

fn write_row(out: &mut String, [title, ours, peer, ratio, floor, aim]: [String; 6]) -> std::fmt::Result {
    writeln!(out, "{title:<40} {ours:>22} {peer:>22} {ratio:>7} {floor:>7} {aim:>7}")
}

/// `median [min max]`, with three digits or more.
fn with_range(spread: Spread) -> String {
    let digits = if spread.median < 10.0 { 2 } else { usize::from(spread.median < 100.0) };
    format!("{:.digits$} [{:.digits$} {:.digits$}]", spread.median, spread.min, spread.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::comparison::tests::runs;
    use crate::bench::machine;

    #[test]
    fn every_line_has_both_sides_and_the_ratio() {
        let session = Session {
            runs: runs(),
            model: "model".into(),
            rows: "rows.csv".into(),
            threads: 2,
            with_torch: false,
            quick: false,
        };
        let comparison = Comparison::new(&session.runs);
        let text = render(&comparison, &machine::describe(&session.runs), &session);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        let words: Vec<&str> = line("train q,v f32 / SFTTrainer").split_whitespace().skip(6).collect();
        assert_eq!(words, ["250", "[200", "300]", "100", "[100", "100]", "2.50", "2.20", "3.20"], "{text}");
        assert!(line("start to first").contains("2.00 [2.00 2.00]"), "{text}");
        assert!(text.contains("best of three: peer loop, batch 4"), "{text}");
        assert!(text.contains("reaches 50 %") && text.contains("setup-torch.sh"), "{text}");
        assert!(!text.contains("generate"), "what was not run is not shown: {text}");
        assert!(text.lines().skip(3).all(|line| line.len() <= 120), "{text}");
    }
}
