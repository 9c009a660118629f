//! The verdict as plain text for a terminal, at most 100 columns wide.

use std::fmt::Write;

use crate::verdict::{ALL, Verdict, VerdictRow};
use crate::words::{Outcome, counted, headline, method, recovered, resolution, signed, value};

/// How the table is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// Colour the marks with ANSI escapes.
    pub color: bool,
    /// Draw with ASCII characters only.
    pub ascii: bool,
}

/// Columns between the site's name and the mark: heading and least width.
const COLUMNS: [(&str, usize); 7] = [
    ("n", 1),
    ("base", 5),
    ("local", 5),
    ("federated", 9),
    ("pooled", 6),
    ("change", 6),
    ("95 % interval", 13),
];

/// Columns of the widest mark.
const MARK_WIDTH: usize = 11;

/// Columns of the terminal: names are shortened and sentences folded to fit.
const WIDTH: usize = 100;

/// Draws the verdict: the answer in a sentence, the table with a mark on every site, what can't be told, and how
/// the intervals were made. Ends with a line break.
pub fn render_table(verdict: &Verdict, options: &TableOptions) -> String {
    let paint = Paint(*options);
    let rows: Vec<(&VerdictRow, [String; 7])> = verdict.rows.iter().map(|row| (row, cells(row))).collect();
    let widths = Widths::of(&rows);
    let mut out = String::new();

    let headings = COLUMNS.map(|(heading, _)| heading.to_owned());
    let rule = paint.dim(&paint.plain(&"─".repeat(widths.total())));
    let _ = writeln!(out, "{}\n", paint.bold(&folded(&headline(verdict))));
    let _ = writeln!(out, "{}\n{rule}", paint.dim(&widths.line("site", &headings)));
    for (row, cells) in &rows {
        if row.site == ALL && rows.len() > 1 {
            let _ = writeln!(out, "{rule}");
        }
        let text = paint.plain(&widths.line(&row.site, cells));
        let text = if row.site == ALL { paint.bold(&text) } else { text };
        let _ = writeln!(out, "{text}  {}", paint.outcome(Outcome::of(row)));
    }
    out.push('\n');
    for sentence in sentences(verdict) {
        let _ = writeln!(out, "{}", folded(&paint.plain(&sentence)));
    }
    out
}

/// What is said below the table.
fn sentences(verdict: &Verdict) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(worst) = &verdict.worst_site {
        let sites = verdict.sites().count();
        sentences.push(format!(
            "Worst site: {}, {} [{}, {}]. {} of {} worse off.",
            worst.site,
            signed(worst.difference),
            signed(worst.ci95[0]),
            signed(worst.ci95[1]),
            verdict.sites_worse_off,
            counted(sites, "site"),
        ));
    }
    sentences.extend(recovered(verdict));
    sentences.extend(verdict.rows.iter().filter(|row| row.spans_zero).map(resolution));
    sentences.push(format!("Change is federated - local. {}", method(verdict)));
    sentences
}

fn cells(row: &VerdictRow) -> [String; 7] {
    [
        row.questions.to_string(),
        value(row.base),
        value(row.local),
        value(row.federated),
        row.pooled.map_or_else(|| "-".into(), value),
        signed(row.difference),
        format!("{} {}", signed(row.ci95[0]), signed(row.ci95[1])),
    ]
}

/// Columns of the site's name and of each cell.
struct Widths {
    site: usize,
    cells: [usize; 7],
}

impl Widths {
    fn of(rows: &[(&VerdictRow, [String; 7])]) -> Self {
        let mut cells = COLUMNS.map(|(_, least)| least);
        for (_, texts) in rows {
            for (width, text) in cells.iter_mut().zip(texts) {
                *width = text.len().max(*width);
            }
        }
        let longest = rows.iter().map(|(row, _)| row.site.chars().count()).max().unwrap_or(0);
        let mut widths = Self { site: 0, cells };
        widths.site = longest.clamp(4, WIDTH.saturating_sub(widths.total()).max(4));
        widths
    }

    fn total(&self) -> usize {
        self.site + self.cells.iter().map(|width| width + 2).sum::<usize>() + 2 + MARK_WIDTH
    }

    fn line(&self, site: &str, cells: &[String; 7]) -> String {
        let mut out = format!("{:<1$}", shorten(site, self.site), self.site);
        for (text, width) in cells.iter().zip(self.cells) {
            let _ = write!(out, "  {text:>width$}");
        }
        out
    }
}

fn shorten(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width - 1).chain(['…']).collect()
}

/// Breaks `sentence` at spaces; continuation lines are indented.
fn folded(sentence: &str) -> String {
    let mut out = String::with_capacity(sentence.len() + 8);
    let mut column = 0;
    for word in sentence.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push_str("\n  ");
            column = 2;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

struct Paint(TableOptions);

impl Paint {
    fn outcome(&self, outcome: Outcome) -> String {
        let words = match outcome {
            Outcome::Better => "better",
            Outcome::Worse => "WORSE OFF",
            Outcome::Unclear => "unclear",
        };
        let text = self.plain(&format!("{} {words}", outcome.mark()));
        match outcome {
            Outcome::Better => self.style("32", &text),
            Outcome::Worse => self.style("1;31", &text),
            Outcome::Unclear => self.dim(&text),
        }
    }

    fn bold(&self, text: &str) -> String {
        self.style("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.style("2", text)
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.0.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Replaces our own marks and lines where only ASCII can be shown; names of sites stay what they are.
    fn plain(&self, text: &str) -> String {
        if !self.0.ascii {
            return text.to_owned();
        }
        text.replace('─', "-").replace('▲', "+").replace('▼', "!").replace('○', "?").replace('…', "~")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Bootstrap;
    use crate::verdict::{Recovered, WorstSite};

    fn row(site: &str, scores: [f64; 4], difference: f64, ci95: [f64; 2]) -> VerdictRow {
        let [base, local, federated, pooled] = scores;
        VerdictRow {
            site: site.into(),
            questions: if site == ALL { 300 } else { 100 },
            base,
            local,
            federated,
            pooled: Some(pooled),
            difference,
            ci95,
            worse_off: ci95[1] < 0.0,
            better_off: ci95[0] > 0.0,
            spans_zero: ci95[0] <= 0.0 && ci95[1] >= 0.0,
            smallest_visible: 0.051,
        }
    }

    fn example() -> Verdict {
        Verdict {
            rows: vec![
                row("Harbour clinic", [0.323, 0.482, 0.431, 0.62], -0.051, [-0.087, -0.014]),
                row(
                    "St. Agatha's hospital for rare diseases",
                    [0.405, 0.417, 0.57, 0.66],
                    0.153,
                    [0.118, 0.189],
                ),
                row("Südklinik", [0.203, 0.256, 0.259, 0.301], 0.003, [-0.031, 0.04]),
                row(ALL, [0.31, 0.367, 0.427, 0.53], 0.06, [0.041, 0.08]),
            ],
            worst_site: Some(WorstSite {
                site: "Harbour clinic".into(),
                difference: -0.051,
                ci95: [-0.087, -0.014],
            }),
            sites_worse_off: 1,
            recovered: Some(Recovered { share: 0.368, ci95: [0.26, 0.48] }),
            bootstrap: Bootstrap { resamples: 10_000, seed: 42 },
            ..Verdict::default()
        }
    }

    #[test]
    fn the_table_as_it_looks() {
        insta::assert_snapshot!(render_table(&example(), &TableOptions::default()));
    }

    #[test]
    fn every_line_fits_into_100_columns() {
        for line in render_table(&example(), &TableOptions::default()).lines() {
            assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        }
    }

    #[test]
    fn colour_adds_escapes_only_and_ascii_leaves_nothing_else() {
        let plain = render_table(&example(), &TableOptions::default());
        let colored = render_table(&example(), &TableOptions { color: true, ascii: false });
        let mut stripped = String::new();
        let mut rest = colored.as_str();
        while let Some(at) = rest.find('\u{1b}') {
            stripped.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        stripped.push_str(rest);
        assert_eq!(stripped, plain);
        let ascii = render_table(&example(), &TableOptions { color: false, ascii: true });
        assert!(ascii.replace("Südklinik", "").is_ascii(), "{ascii}");
    }

    #[test]
    fn a_missing_pooled_model_is_a_dash_and_no_sentence() {
        let mut verdict = example();
        verdict.rows.iter_mut().for_each(|row| row.pooled = None);
        verdict.recovered = None;
        let text = render_table(&verdict, &TableOptions::default());
        assert!(text.contains("       -  ") && !text.contains("pooling"), "{text}");
    }
}
