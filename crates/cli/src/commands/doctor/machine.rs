//! What the machine is: processor, cores, memory, disk.

use std::path::Path;

use serde::Serialize;

/// Facts of this machine; what the system does not tell is `None`.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// Processor's name, or its architecture.
    pub cpu: String,
    /// Vector instructions that the engine can use.
    pub features: Vec<&'static str>,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Memory that a program could get now.
    pub free_memory_bytes: Option<u64>,
    /// Free space where runs are written.
    pub free_disk_bytes: Option<u64>,
}

impl Machine {
    /// Looks at this machine; `out` is where runs will be written.
    pub fn look(out: &Path) -> Self {
        Self {
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            features: features(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            memory_bytes: meminfo("MemTotal:"),
            free_memory_bytes: meminfo("MemAvailable:"),
            free_disk_bytes: free_disk(out),
        }
    }
}

fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ];
        found.extend(known.into_iter().filter(|(_, there)| *there).map(|(name, _)| name));
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon");
    found
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// A line of Linux's memory table, in bytes.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// As `df` says for the nearest folder that exists.
fn free_disk(out: &Path) -> Option<u64> {
    let here = std::env::current_dir().ok()?.join(out);
    let folder = here.ancestors().find(|folder| folder.is_dir())?;
    let listing = std::process::Command::new("df").arg("-Pk").arg(folder).output().ok()?;
    let text = String::from_utf8(listing.stdout).ok()?;
    let kib: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib * 1024)
}
