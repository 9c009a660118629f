//! Numbers as people read them.

use std::time::Duration;

/// `17.3 MB`, in powers of ten as disks and networks count.
pub fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000 => return format!("{count} B"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let amount = count as f64 / unit;
    if amount < 10.0 { format!("{amount:.2} {name}") } else { format!("{amount:.1} {name}") }
}

/// `8.2 s`, `3 min 05 s`, `2 h 10 min`.
pub fn seconds(seconds: f64) -> String {
    let whole = Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_secs();
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3_600, whole / 60 % 60),
    }
}

/// `134,515,008`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// At most `width` characters, with an ellipsis where something was cut.
pub fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_counts_read_well() {
        assert_eq!((bytes(999).as_str(), bytes(1_843_200).as_str()), ("999 B", "1.84 MB"));
        assert_eq!(bytes(269_030_016), "269.0 MB");
        assert_eq!((seconds(8.24).as_str(), seconds(185.0).as_str()), ("8.2 s", "3 min 05 s"));
        assert_eq!(seconds(7_810.0), "2 h 10 min");
        assert_eq!((count(7).as_str(), count(134_515_008).as_str()), ("7", "134,515,008"));
        assert_eq!(clip("Drug Gene Relations", 9), "Drug Gen…");
    }
}
