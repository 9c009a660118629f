//! What this machine is and how much memory the process has used, as far as the system tells.

use consilium_eval::summary::HardwareSummary;

/// Largest resident memory of this process so far, bytes; 0 where the system does not tell (`/proc` is Linux's).
pub fn peak_rss_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|text| kibibytes(&text, "VmHWM:")).unwrap_or(0)
}

/// The value of a line such as `VmHWM:   1234 kB`, in bytes.
fn kibibytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Threads to use when `wanted` are asked for; 0 asks for all cores.
pub fn threads(wanted: usize) -> usize {
    if wanted > 0 { wanted } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// This machine, computing with `threads` threads.
pub fn hardware(threads: usize) -> HardwareSummary {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.into());
    HardwareSummary {
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from) as u64,
        threads: threads as u64,
        memory_bytes: kibibytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0),
        os: std::env::consts::OS.into(),
        kernel: consilium_engine::Isa::chosen().name().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_lines_are_read_in_kibibytes() {
        assert_eq!(kibibytes("Name: x\nVmHWM:\t    12 kB\n", "VmHWM:"), Some(12 * 1024));
        assert_eq!(kibibytes("VmHWM: many kB", "VmHWM:"), None);
        assert_eq!(kibibytes("", "VmHWM:"), None);
    }

    #[test]
    fn a_running_process_has_used_memory() {
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes() > 100_000);
        }
        assert!(threads(0) >= 1);
        assert_eq!(threads(3), 3);
    }
}
