//! Escaping and the few shapes that every part of the page uses.

use std::fmt;

/// Text made safe for HTML, in elements and in quoted attributes alike.
pub(super) fn esc(text: &str) -> Escaped<'_> {
    Escaped(text)
}

pub(super) struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Control characters are no HTML at all; white space stays.
                c if c.is_control() && !c.is_whitespace() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// A part of the page with its heading and an introductory line; `body` and `lead` are HTML.
pub(super) fn section(id: &str, title: &str, lead: &str, body: &str) -> String {
    let lead = if lead.is_empty() { String::new() } else { format!("<p class=\"lead\">{lead}</p>\n") };
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{lead}{body}</section>\n", esc(title))
}

/// A definition list of `(term, HTML)`; entries with an empty value are left out.
pub(super) fn facts(entries: &[(&str, String)]) -> String {
    let rows: String = entries
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(term, value)| format!("<div><dt>{}</dt><dd>{value}</dd></div>\n", esc(term)))
        .collect();
    format!("<dl class=\"facts\">\n{rows}</dl>\n")
}

/// A minus sign as typographers want it.
pub(super) fn minus(number: String) -> String {
    number.replace('-', "\u{2212}")
}

/// Bytes in decimal units with three significant digits.
pub(super) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return match unit {
                "B" => format!("{n} B"),
                _ if value < 9.995 => format!("{value:.2} {unit}"),
                _ if value < 99.95 => format!("{value:.1} {unit}"),
                _ => format!("{value:.0} {unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A duration that a person would say.
pub(super) fn seconds(s: f64) -> String {
    match s {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {:02} s", (s / 60.0) as u64, (s % 60.0) as u64),
        s => format!("{} h {:02} min", (s / 3600.0) as u64, (s % 3600.0 / 60.0) as u64),
    }
}

/// A share with as many digits as it needs.
pub(super) fn share(x: f64) -> String {
    match x * 100.0 {
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 1.0 => format!("{p:.1} %"),
        p => format!("{p:.2} %"),
    }
}

/// A model's name for people, and the class that colours it.
pub(super) fn model_name(model: &str) -> (String, &'static str) {
    match model {
        "base" => ("base model".into(), "base"),
        "federated" => ("federated".into(), "federated"),
        "pooled" => ("pooled".into(), "pooled"),
        _ => (format!("{} alone", model.strip_prefix("local-").unwrap_or(model)), "local"),
    }
}

/// An axis that starts and ends at round numbers: `(ticks, low, high)`, about `wanted` steps.
pub(super) fn axis(low: f64, high: f64, wanted: usize) -> (Vec<f64>, f64, f64) {
    let high = if high > low { high } else { low + 1.0 };
    let span = high - low;
    let raw = span / wanted as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * 0.999).unwrap_or(raw);
    let first = (low / step + 1e-9).floor();
    let count = ((high / step - 1e-9).ceil() - first).max(1.0) as usize;
    let ticks: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).collect();
    (ticks.clone(), ticks[0], ticks[count])
}

/// An axis tick without needless digits.
pub(super) fn tick(x: f64) -> String {
    let text = format!("{x:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    minus(if text == "-0" || text.is_empty() { "0".into() } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_special_is_escaped() {
        let text = esc("<a href='x' title=\"y\">&\u{7}</a>\n").to_string();
        assert_eq!(text, "&lt;a href=&#39;x&#39; title=&quot;y&quot;&gt;&amp;\u{fffd}&lt;/a&gt;\n");
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(
            [bytes(0), bytes(999), bytes(1_843_200), bytes(538_060_032)],
            ["0 B", "999 B", "1.84 MB", "538 MB"]
        );
        assert_eq!([bytes(999_999), bytes(25_300_000_000)], ["1.00 MB", "25.3 GB"]);
        assert_eq!([seconds(3.456), seconds(83.0), seconds(7265.0)], ["3.46 s", "1 min 23 s", "2 h 01 min"]);
        assert_eq!([share(0.003414), share(0.0512), share(0.68)], ["0.34 %", "5.1 %", "68 %"]);
    }

    #[test]
    fn axes_are_round_and_hold_what_they_must() {
        let (ticks, low, high) = axis(-0.12, 0.27, 5);
        assert!(low <= -0.12 && high >= 0.27 && ticks.len() <= 8, "{ticks:?}");
        assert!(ticks.iter().any(|t| t.abs() < 1e-12), "zero is among {ticks:?}");
        assert_eq!(axis(1.0, 1.0, 4).0, [1.0, 1.25, 1.5, 1.75, 2.0]);
        assert_eq!([tick(0.25), tick(-0.5), tick(-0.0), tick(2.0)], ["0.25", "\u{2212}0.5", "0", "2"]);
    }
}
