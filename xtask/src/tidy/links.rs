//! Links of Markdown files to other files of the project.

use std::path::Path;

use super::{File, Finding};

/// Checks that each relative link of each Markdown file leads to a file or folder.
pub fn check(files: &[File], root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.has_extension("md")) {
        let folder = file.path.parent().unwrap_or(Path::new(""));
        for (line, target) in targets(&file.text) {
            let path = target.split(['#', '?']).next().unwrap_or_default();
            if !path.is_empty() && !root.join(folder).join(path).exists() {
                findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("the link to '{target}' leads nowhere"),
                ));
            }
        }
    }
    findings
}

/// Targets of inline links and images with their lines (from 1), outside fenced code, without web addresses.
fn targets(markdown: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in markdown.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push((index + 1, target));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_into_the_project_count() {
        let text = "[a](b.md#c) [w](https://x.y)\n```\n[no](no.md)\n```\n![p](p.png \"title\") [h](#top)";
        assert_eq!(targets(text), [(1, "b.md#c"), (5, "p.png"), (5, "#top")]);
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let file = File { path: "README.md".into(), text: "[x](missing/file.md) [y](Cargo.toml)".into() };
        let findings = check(&[file], Path::new(env!("CARGO_MANIFEST_DIR")));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("missing/file.md"));
    }
}
