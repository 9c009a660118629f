//! Running the built binary.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// The binary in `dir`, without configuration or network from outside.
pub fn consilium(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium"));
    command.current_dir(dir).env("HF_HUB_OFFLINE", "1").env("HF_HOME", dir.join("hub"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONSILIUM_")) {
        command.env_remove(name);
    }
    command
}

/// A free port below those that systems give to outgoing connections: while a server is down, a client that tries to
/// reach it must not end up on its port.
pub fn quiet_port() -> u16 {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..32_000).find(free).expect("a free port")
}

/// What one call said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the binary in `dir`.
pub fn run<A: AsRef<OsStr>>(dir: &Path, args: &[A]) -> Said {
    said(consilium(dir).args(args).output().expect("the binary starts"))
}

/// The output as text.
pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
        err: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
    }
}

impl Said {
    /// The JSON document on standard output, and nothing else.
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }

    /// Asserts the exit code and that standard error is one clear paragraph with `words` in it.
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "no '{word}' in: {}", self.err);
        }
        assert!(!self.err.contains("panicked") && !self.err.contains("stack backtrace"), "{}", self.err);
    }
}
