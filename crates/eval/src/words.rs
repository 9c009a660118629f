//! The verdict in words and numbers for people, shared by the terminal table and the HTML report.

use crate::prediction::Metric;
use crate::verdict::{Verdict, VerdictRow};

/// What joining did to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole interval is on the better side of zero.
    Better,
    /// The whole interval is on the worse side of zero.
    Worse,
    /// The interval contains zero.
    Unclear,
}

impl Outcome {
    pub fn of(row: &VerdictRow) -> Self {
        match (row.worse_off, row.better_off) {
            (true, _) => Outcome::Worse,
            (_, true) => Outcome::Better,
            _ => Outcome::Unclear,
        }
    }

    pub fn mark(self) -> &'static str {
        match self {
            Outcome::Better => "▲",
            Outcome::Worse => "▼",
            Outcome::Unclear => "○",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Outcome::Better => "better off",
            Outcome::Worse => "worse off",
            Outcome::Unclear => "can't tell",
        }
    }
}

/// Three decimals, enough for intervals a few hundredths wide. Never `-0.000`.
pub(crate) fn value(x: f64) -> String {
    let text = format!("{x:.3}");
    if text == "-0.000" { "0.000".into() } else { text }
}

/// [`value`] with its sign.
pub(crate) fn signed(x: f64) -> String {
    let text = value(x);
    if text.starts_with('-') || text == "0.000" { text } else { format!("+{text}") }
}

/// A whole percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Thousands apart, `10,000` for example.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 site`, `2 sites`.
pub(crate) fn counted(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {one}s", grouped(n as u64)) }
}

/// The answer over all sites in one sentence.
pub(crate) fn headline(verdict: &Verdict) -> String {
    let of = |outcome| -> Vec<&str> {
        verdict.sites().filter(|row| Outcome::of(row) == outcome).map(|row| row.site.as_str()).collect()
    };
    let sites = verdict.sites().count();
    if let (1, Some(row)) = (sites, verdict.sites().next()) {
        return match Outcome::of(row) {
            Outcome::Better => format!("Yes: joining helped {}.", row.site),
            Outcome::Worse => format!("No: {} is worse off for joining.", row.site),
            Outcome::Unclear => format!("These questions can't tell whether joining helped {}.", row.site),
        };
    }
    let (better, worse, unclear) = (of(Outcome::Better), of(Outcome::Worse), of(Outcome::Unclear));
    let mut parts = vec![match better.len() {
        0 => "Joining helped no hospital for certain".to_owned(),
        n if n == sites => "Yes: joining helped every hospital".to_owned(),
        n => format!("Joining helped {n} of {}", counted(sites, "hospital")),
    }];
    if !worse.is_empty() {
        parts.push(format!("{} {} worse off", named(&worse), if worse.len() == 1 { "is" } else { "are" }));
    }
    if !unclear.is_empty() {
        parts.push(format!("for {} these questions can't tell", named(&unclear)));
    }
    format!("{}.", parts.join("; "))
}

/// One or two names, or a number where there are more.
fn named(sites: &[&str]) -> String {
    match sites {
        [one] => (*one).to_owned(),
        [one, two] => format!("{one} and {two}"),
        more => more.len().to_string(),
    }
}

/// The share of the pooled model's gain, or why there is none, in one sentence.
pub(crate) fn recovered(verdict: &Verdict) -> Option<String> {
    verdict.all()?.pooled?;
    Some(match verdict.recovered {
        Some(r) => format!(
            "Without pooling any rows, {} (95 % interval {} to {}) of what pooling all rows would bring was reached.",
            percent(r.share),
            percent(r.ci95[0]),
            percent(r.ci95[1])
        ),
        None => "Pooling all rows brings no gain over the hospitals' own models that these questions could show, so there is \
                 no share of it to state."
            .into(),
    })
}

/// Says which differences the questions were too few to show.
pub(crate) fn resolution(row: &VerdictRow) -> String {
    format!(
        "{}: the interval spans zero; with {} a difference under {} can't be seen.",
        row.site,
        counted(row.questions, "question"),
        value(row.smallest_visible)
    )
}

/// How the intervals were made, in one sentence.
pub(crate) fn method(verdict: &Verdict) -> String {
    format!(
        "{}, mean over test questions{}. Intervals: paired bootstrap over questions, {} resamples within each site and \
         category, seed {}.",
        verdict.metric.title(),
        if verdict.metric == Metric::AnswerNll { " (nats, lower is better)" } else { "" },
        grouped(verdict.bootstrap.resamples as u64),
        verdict.bootstrap.seed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (value(-0.0001).as_str(), signed(0.05).as_str(), signed(-0.05).as_str()),
            ("0.000", "+0.050", "-0.050")
        );
        assert_eq!(
            (grouped(999).as_str(), grouped(1_000).as_str(), grouped(1_234_567).as_str()),
            ("999", "1,000", "1,234,567")
        );
        assert_eq!((counted(1, "site"), counted(1200, "row")), ("1 site".into(), "1,200 rows".into()));
    }

    #[test]
    fn the_headline_counts_every_outcome_and_names_the_few() {
        let row = |site: &str, better_off, worse_off| VerdictRow {
            site: site.into(),
            better_off,
            worse_off,
            ..VerdictRow::default()
        };
        let say = |rows: &[VerdictRow]| headline(&Verdict { rows: rows.to_vec(), ..Verdict::default() });
        let (good, bad, open) = (row("A", true, false), row("B", false, true), row("C", false, false));
        assert_eq!(say(&[good.clone(), good.clone()]), "Yes: joining helped every hospital.");
        let mixed = say(&[good.clone(), bad.clone(), open.clone()]);
        assert_eq!(
            mixed,
            "Joining helped 1 of 3 hospitals; B is worse off; for C these questions can't tell."
        );
        let alone = |row: &VerdictRow| say(std::slice::from_ref(row));
        assert_eq!(alone(&good), "Yes: joining helped A.");
        assert_eq!(alone(&bad), "No: B is worse off for joining.");
        assert_eq!(alone(&open), "These questions can't tell whether joining helped C.");
        let three = say(&[bad.clone(), bad.clone(), bad, open]);
        assert_eq!(
            three,
            "Joining helped no hospital for certain; 3 are worse off; for C these questions can't tell."
        );
    }
}
