//! Which crate may depend on which, and what each must not know: the table of `ARCHITECTURE.md` as data.

use anyhow::{Context, Result};

use super::source::{mask, test_lines, words};
use super::{File, Finding};

/// One crate's place in the house.
struct Room {
    /// Folder, relative to the root.
    folder: &'static str,
    /// Workspace crates that it may use; `None` is all of them.
    may_use: Option<&'static [&'static str]>,
    /// Dependencies that would let it know what it must not.
    no_dependencies: &'static [&'static str],
    /// Paths in its code that would.
    no_paths: &'static [&'static str],
    /// Names in its code that would.
    no_words: &'static [&'static str],
}

const ROOMS: [Room; 12] = [
    Room {
        folder: "crates/core",
        may_use: Some(&[]),
        no_dependencies: &[
            "tokio",
            "rayon",
            "memmap2",
            "gemm",
            "candle-core",
            "ndarray",
            "burn",
            "tch",
            "hf-hub",
        ],
        no_paths: &["std::fs", "std::net", "std::thread", "std::process", "std::env"],
        no_words: &["Instant", "SystemTime", "tokio"],
    },
    Room {
        folder: "crates/engine",
        may_use: Some(&["core"]),
        no_dependencies: &["tokio", "tokenizers", "sqlx", "rusqlite", "hf-hub"],
        no_paths: &["std::net", "std::env"],
        no_words: &["rounds", "Round", "client", "clients", "Template", "tokio"],
    },
    Room {
        folder: "crates/data",
        may_use: Some(&["core"]),
        no_dependencies: &["tokio", "gemm", "sqlx"],
        no_paths: &[],
        no_words: &["Engine", "Adapter", "gradient", "gradients", "rounds", "Round", "tokio"],
    },
    Room {
        folder: "crates/federation",
        may_use: Some(&["core"]),
        no_dependencies: &["tokio", "sqlx", "rusqlite", "memmap2", "rayon", "hf-hub"],
        no_paths: &["std::fs", "std::net", "std::thread", "std::env", "std::process"],
        no_words: &["Instant", "SystemTime", "CpuEngine", "tokio"],
    },
    Room {
        folder: "crates/net",
        may_use: Some(&["core", "federation"]),
        no_dependencies: &["gemm", "tokenizers"],
        no_paths: &[],
        no_words: &["CpuEngine", "Example"],
    },
    // A package of its own: it makes the code of the protocol, and nobody else compiles it.
    Room {
        folder: "crates/net/proto/generate",
        may_use: Some(&[]),
        no_dependencies: &[],
        no_paths: &[],
        no_words: &[],
    },
    Room {
        folder: "crates/eval",
        may_use: Some(&["core"]),
        no_dependencies: &["tokio", "gemm", "tokenizers"],
        no_paths: &["std::net"],
        no_words: &["CpuEngine", "Engine", "Transport", "tokio"],
    },
    Room {
        folder: "crates/experiment",
        may_use: Some(&["core", "engine", "data", "federation", "eval"]),
        no_dependencies: &["tokio", "sqlx", "rusqlite", "indicatif", "clap", "crossterm"],
        no_paths: &["std::net"],
        no_words: &["stdout", "stderr", "stdin", "IsTerminal", "tokio"],
    },
    Room {
        folder: "bench",
        may_use: Some(&["core", "data", "engine"]),
        no_dependencies: &["tokio", "gemm", "rayon"],
        no_paths: &["std::net"],
        no_words: &["rounds", "Round", "tokio"],
    },
    Room { folder: "crates/cli", may_use: None, no_dependencies: &[], no_paths: &[], no_words: &[] },
    Room { folder: "fuzz", may_use: Some(&["core"]), no_dependencies: &[], no_paths: &[], no_words: &[] },
    Room { folder: "xtask", may_use: None, no_dependencies: &[], no_paths: &[], no_words: &[] },
];

/// Checks manifests and sources of every crate of the workspace.
pub fn check(files: &[File]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for manifest in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let folder = manifest.path.parent().and_then(|path| path.to_str()).unwrap_or_default();
        if folder.is_empty() {
            continue;
        }
        match ROOMS.iter().find(|room| room.folder == folder) {
            Some(room) => check_manifest(room, manifest, &mut findings)?,
            None => findings.push(Finding::new(
                &manifest.path,
                0,
                "this crate has no place in the house; decide its arrows in xtask/src/tidy/arrows.rs",
            )),
        }
    }
    for room in &ROOMS {
        let inside = |file: &&File| file.has_extension("rs") && file.starts_with(room.folder);
        for file in files.iter().filter(inside) {
            check_source(room, file, &mut findings);
        }
    }
    Ok(findings)
}

fn check_manifest(room: &Room, manifest: &File, findings: &mut Vec<Finding>) -> Result<()> {
    let table: toml::Table =
        manifest.text.parse().with_context(|| format!("{} is no TOML", manifest.path.display()))?;
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for name in table.get(section).and_then(|s| s.as_table()).into_iter().flat_map(|s| s.keys()) {
            if let (Some(own), Some(allowed)) = (name.strip_prefix("consilium-"), room.may_use)
                && !allowed.contains(&own)
            {
                let message = format!("an arrow against the graph: {} -> crates/{own}", room.folder);
                findings.push(Finding::new(&manifest.path, 0, message));
            }
            if section == "dependencies" && room.no_dependencies.contains(&name.as_str()) {
                let message = format!("{} must not know what {name} brings", room.folder);
                findings.push(Finding::new(&manifest.path, 0, message));
            }
        }
    }
    Ok(())
}

/// Looks at code outside comments, strings and tests: a test may use a file or a clock.
fn check_source(room: &Room, file: &File, findings: &mut Vec<Finding>) {
    if file.path.components().any(|part| part.as_os_str() == "tests") {
        return;
    }
    let code = mask(&file.text);
    let tests = test_lines(&code);
    for (index, line) in code.lines().enumerate() {
        if tests.iter().any(|range| range.contains(&index)) {
            continue;
        }
        let flat = line.replace(' ', "");
        for path in room.no_paths.iter().filter(|path| names_path(&flat, path)) {
            let message = format!("{} must not know {path}", room.folder);
            findings.push(Finding::new(&file.path, index + 1, message));
        }
        for (_, word) in words(line).filter(|(_, word)| room.no_words.contains(word)) {
            let message = format!("{} must not know `{word}`", room.folder);
            findings.push(Finding::new(&file.path, index + 1, message));
        }
        let foreign = words(line).filter_map(|(_, word)| word.strip_prefix("consilium_"));
        for own in foreign.filter(|own| room.may_use.is_some_and(|allowed| !allowed.contains(own))) {
            if room.folder.strip_prefix("crates/") != Some(own) {
                let message = format!("an arrow against the graph: {} -> crates/{own}", room.folder);
                findings.push(Finding::new(&file.path, index + 1, message));
            }
        }
    }
}

/// Whether code without blanks names `std::x`, written out or inside `use std::{..., x, ...}`.
fn names_path(flat: &str, path: &str) -> bool {
    let Some((root, module)) = path.split_once("::") else { return false };
    let mentions = |text: &str| words(text).any(|(_, word)| word == module);
    let written_out =
        flat.match_indices(path).any(|(at, _)| !flat[at + path.len()..].starts_with(char::is_alphanumeric));
    let grouped = flat
        .split_once(&format!("use{root}::{{"))
        .is_some_and(|(_, group)| mentions(group.split("};").next().unwrap_or(group)));
    written_out || grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File { path: PathBuf::from(path), text: text.into() };
        check(&[file]).unwrap().into_iter().map(|f| f.message).collect()
    }

    #[test]
    fn an_arrow_against_the_graph_is_found_in_manifests_and_in_code() {
        let manifest =
            "[dependencies]\nconsilium-core.workspace = true\nconsilium-experiment.workspace = true\n";
        assert_eq!(
            findings("crates/eval/Cargo.toml", manifest),
            ["an arrow against the graph: crates/eval -> crates/experiment"]
        );
        assert!(findings("crates/cli/Cargo.toml", manifest).is_empty());
        assert_eq!(findings("crates/data/src/a.rs", "use consilium_engine::Model;").len(), 1);
        assert!(findings("crates/data/src/a.rs", "use consilium_core::Batch;").is_empty());
    }

    #[test]
    fn forbidden_knowledge_is_found_however_it_is_spelt() {
        for code in ["use std::fs;", "use std::{fmt, fs};", "let f = std::fs::File::open(p);"] {
            assert_eq!(findings("crates/core/src/a.rs", code).len(), 1, "{code}");
        }
        assert_eq!(findings("crates/federation/src/a.rs", "let t = Instant::now();").len(), 1);
        assert!(
            findings("crates/core/src/a.rs", "// std::fs\nlet a = \"std::fs\"; use std::fsx;").is_empty()
        );
        assert!(findings("crates/experiment/src/a.rs", "use std::fs;").is_empty());
    }

    #[test]
    fn tests_may_open_files() {
        let code = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert!(findings("crates/core/src/a.rs", code).is_empty());
    }

    #[test]
    fn a_crate_without_a_place_is_named() {
        assert!(findings("crates/helpers/Cargo.toml", "")[0].contains("no place"));
    }
}
