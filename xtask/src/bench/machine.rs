//! What a measurement was made on: numbers without it mean nothing.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::session::Run;

/// The machine and the programs.
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: Option<u64>,
    instruction_set: Option<String>,
    os: String,
    rustc: Option<String>,
    /// Versions of the peer's packages, by name.
    peer: Value,
    /// UTC, year-month-day.
    date: String,
}

/// This machine, with what the runs tell of themselves.
pub fn describe(runs: &[Run]) -> Machine {
    let told =
        |field: &str| runs.iter().filter_map(|run| run.result.as_ref().ok()?.get(field)).next_back().cloned();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    Machine {
        cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: after(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024),
        instruction_set: told("instruction_set").and_then(|name| name.as_str().map(str::to_owned)),
        os: os(),
        rustc: output("rustc", "--version"),
        peer: told("versions").unwrap_or(Value::Null),
        date: date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
    }
}

impl Machine {
    /// In two lines, for people.
    pub fn line(&self, threads: usize) -> String {
        let memory = self.memory_bytes.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
        let mut words = format!("{}: {}, {} cores{memory}", self.date, self.cpu, self.cores);
        let mut programs = vec![self.os.clone(), format!("{threads} threads")];
        programs.extend(self.instruction_set.as_ref().map(|name| format!("kernels {name}")));
        programs.extend(self.rustc.clone());
        for name in ["torch", "transformers", "peft"] {
            programs.extend(self.peer[name].as_str().map(|version| format!("{name} {version}")));
        }
        words.push('\n');
        words + &programs.join(", ")
    }

    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "instruction_set": self.instruction_set,
            "os": self.os,
            "rustc": self.rustc,
            "peer": self.peer,
            "date": self.date,
        })
    }
}

/// The value of the first line `label : value`.
fn after(text: &str, label: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The distribution, where it says its name, and the kernel.
fn os() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    match output("uname", "-r") {
        Some(kernel) => format!("{name}, kernel {kernel}"),
        None => name.to_owned(),
    }
}

fn output(program: &str, argument: &str) -> Option<String> {
    let output =
        Command::new(program).arg(argument).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The date of a time in seconds since 1970, UTC (Howard Hinnant's `civil_from_days`, years that begin in March).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_with_and_without_leap_days() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_251_200, "2024-03-01"),
            (4_107_542_399, "2100-02-28"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn lines_of_proc_are_read() {
        assert_eq!(after("a\t: 1\nmodel name\t: Some CPU\n", "model name").as_deref(), Some("Some CPU"));
        assert_eq!(after("", "model name"), None);
    }
}
