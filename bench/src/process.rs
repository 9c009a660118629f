//! What the process has used so far: time since its start, processor time, memory. All from Linux's `/proc`.

/// Ticks of `/proc/<pid>/stat` in a second: `USER_HZ`, which Linux holds at 100 on every architecture.
const TICKS_PER_S: f64 = 100.0;

/// Seconds since the process was started, to 10 ms, so that loading the program counts; `None` where the system does
/// not tell.
pub fn age_s() -> Option<f64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some((now - stat_field(22)? / TICKS_PER_S).max(0.0))
}

/// Processor time of all threads so far, in user and in system mode, seconds.
pub fn cpu_s() -> Option<f64> {
    Some((stat_field(14)? + stat_field(15)?) / TICKS_PER_S)
}

/// Largest resident memory so far, bytes.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The median; of an even number the mean of the two in the middle, and NaN of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (values[half - 1] + values[half]) / 2.0,
        _ => values[half],
    }
}

/// A field of `/proc/self/stat`, counted from 1 as in proc(5).
fn stat_field(number: usize) -> Option<f64> {
    field(&std::fs::read_to_string("/proc/self/stat").ok()?, number)
}

/// Fields are counted behind the last bracket: the second, the program's name, may hold blanks and brackets itself.
fn field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 11 12 13 14 15 16 123456 17";
        assert_eq!(field(stat, 14), Some(250.0));
        assert_eq!(field(stat, 15), Some(50.0));
        assert_eq!(field(stat, 22), Some(123_456.0));
        assert_eq!(field("", 14), None);
    }

    #[test]
    fn medians_of_odd_even_and_no_numbers() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_running_process_has_an_age() {
        if cfg!(target_os = "linux") {
            assert!(age_s().is_some_and(|age| age < 3600.0));
            assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 100_000));
            assert!(cpu_s().is_some());
        }
    }
}
