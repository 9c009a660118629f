//! Texts of others, made safe to keep and show.

/// Longest reason that is kept, characters.
const LONGEST: usize = 300;

/// A text from the other side on one line, without control characters, at most 300 characters.
pub fn shortened(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(LONGEST).map(clean).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}
