//! Rules for every text file: no path of somebody's machine.

use super::{File, Finding};

/// First folders of absolute paths that exist on one machine only.
const HOMES: [&str; 4] = ["work", "root", "home", "Users"];

/// Looks for absolute paths into home folders and build machines.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for (index, line) in file.text.lines().enumerate() {
            for home in HOMES {
                if names_machine(line, home) {
                    let message = format!("a path of one machine, under /{home}");
                    findings.push(Finding::new(&file.path, index + 1, message));
                }
            }
        }
    }
    findings
}

/// Whether `line` holds `/<home>/x` as the start of a path.
fn names_machine(line: &str, home: &str) -> bool {
    let needle = format!("/{home}/");
    line.match_indices(&needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + needle.len()..].chars().next();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-~/}*".contains(c)))
            && after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_found_and_relative_ones_are_not() {
        for (home, bad) in HOMES.map(|home| (home, format!("see \"/{home}/me/x\""))) {
            assert!(names_machine(&bad, home));
            assert!(!names_machine(&bad.replace("\"/", "\"../"), home));
        }
        assert!(!names_machine("net/work/x", "work"));
    }
}
