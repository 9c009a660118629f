//! Rules for Rust sources: a story at the top, no printing in libraries, `unsafe` in one place and argued for.

use std::path::Path;

use super::{File, Finding};

/// A file above this many lines is worth a second look.
const LONG: usize = 400;
/// A file above this many lines is refused.
const TOO_LONG: usize = 800;
/// The only place where `unsafe` may live.
const KERNELS: &str = "crates/engine/src/kernels";
/// Crates that may print: those that speak to people.
const SPEAKERS: [&str; 3] = ["crates/cli", "bench", "xtask"];
/// Macros that print, without the `!`.
const PRINTERS: [&str; 5] = ["println", "eprintln", "print", "eprint", "dbg"];

/// Checks every Rust source.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.has_extension("rs") && !is_made(file)) {
        check_file(file, &mut findings);
    }
    findings
}

/// Sources with more than 400 and at most 800 lines.
pub fn long_files(files: &[File]) -> impl Iterator<Item = (&Path, usize)> {
    files
        .iter()
        .filter(|file| file.has_extension("rs"))
        .map(|file| (file.path.as_path(), file.text.lines().count()))
        .filter(|(_, lines)| (LONG + 1..=TOO_LONG).contains(lines))
}

/// Code that a program wrote: nobody reads it for its story.
fn is_made(file: &File) -> bool {
    file.text.lines().take(2).any(|line| line.contains("@generated"))
}

fn check_file(file: &File, findings: &mut Vec<Finding>) {
    let mut object = |line, message: String| findings.push(Finding::new(&file.path, line, message));
    if !file.text.starts_with("//!") {
        object(1, "the file must open with `//!`: the story that it tells".into());
    }
    let lines = file.text.lines().count();
    if lines > TOO_LONG {
        object(0, format!("{lines} lines; at most {TOO_LONG}. Which part deserves a file of its own?"));
    }
    let code = mask(&file.text);
    let tests = test_lines(&code);
    let in_tests = file.path.components().any(|part| part.as_os_str() == "tests");
    let speaks = SPEAKERS.iter().any(|folder| file.starts_with(folder));
    let originals: Vec<&str> = file.text.lines().collect();
    for (index, line) in code.lines().enumerate() {
        let tested = in_tests || tests.iter().any(|range| range.contains(&index));
        if !speaks && !tested {
            for printer in PRINTERS {
                if words(line).any(|(at, word)| word == printer && line[at + word.len()..].starts_with('!')) {
                    object(index + 1, format!("{printer}! in a library; use the Sink or return the words"));
                }
            }
        }
        if words(line).any(|(_, word)| word == "unsafe") {
            if !file.starts_with(KERNELS) {
                object(index + 1, format!("`unsafe` outside {KERNELS}"));
            } else if !line.contains("unsafe fn") && !argued(&originals, index) {
                object(index + 1, "`unsafe` without a `SAFETY:` line above it".into());
            }
        }
    }
}

/// Whether the line at `index`, or the comments and attributes right above it, say why it is sound.
fn argued(lines: &[&str], index: usize) -> bool {
    let above = lines[..index].iter().rev().take_while(|line| {
        let line = line.trim_start();
        line.starts_with("//") || line.starts_with("#[") || !line.ends_with([';', '}']) && !line.is_empty()
    });
    std::iter::once(&lines[index]).chain(above).any(|line| line.contains("SAFETY:"))
}

/// The identifiers of a line with their byte offsets.
pub fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + line[rest..].find(is_word)?;
        let length = line[start..].find(|c| !is_word(c)).unwrap_or(line.len() - start);
        rest = start + length;
        Some((start, &line[start..rest]))
    })
}

/// The source with comments, strings and character literals blanked out; lines stay where they are.
pub fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut masked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut masked[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&masked).into_owned()
}

/// The end of the comment or literal that starts at `at`, or `at` where none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        rest.get(from..)
            .and_then(|tail| tail.windows(needle.len()).position(|window| window == needle))
            .map_or(bytes.len(), |place| at + from + place + needle.len())
    };
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => find(b"\n", 2).saturating_sub(1).max(at + 2),
        [b'/', b'*', ..] => find(b"*/", 2),
        [b'r', b'"' | b'#', ..] if !after_word => {
            let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return at;
            }
            let closing = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
            find(&closing, 2 + hashes)
        }
        [b'"', ..] => quoted_end(bytes, at, b'"'),
        [b'\'', b'\\', ..] => quoted_end(bytes, at, b'\''),
        // A lifetime has no closing quote within one character.
        [b'\'', tail @ ..] => match tail.iter().take(5).position(|&byte| byte == b'\'') {
            Some(length) if length > 0 && std::str::from_utf8(&tail[..length]).is_ok_and(one_char) => {
                at + length + 2
            }
            _ => at,
        },
        _ => at,
    }
}

fn one_char(text: &str) -> bool {
    text.chars().count() == 1
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// Line ranges (from 0) of the items behind `#[cfg(test)]` in masked code.
pub fn test_lines(code: &str) -> Vec<std::ops::Range<usize>> {
    let line_of = |at: usize| code[..at].matches('\n').count();
    code.match_indices("#[cfg(test)]")
        .map(|(start, _)| {
            let Some(open) = code[start..].find(['{', ';']).map(|offset| start + offset) else {
                return line_of(start)..usize::MAX;
            };
            let mut depth = 0usize;
            let end = code[open..].bytes().position(|byte| {
                match byte {
                    b'{' => depth += 1,
                    b'}' => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            line_of(start)..end.map_or(usize::MAX, |end| line_of(open + end) + 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File { path: PathBuf::from(path), text: text.into() };
        check(&[file]).into_iter().map(|f| format!("{}: {}", f.line, f.message)).collect()
    }

    #[test]
    fn masking_keeps_code_and_lines_and_hides_the_rest() {
        let masked =
            mask("let a = \"unsafe\"; // unsafe\nlet b = r#\"dbg!\"#; let c: &'static str = x; 'u' '\\''");
        assert!(!masked.contains("unsafe") && !masked.contains("dbg"), "{masked}");
        assert!(masked.contains("&'static str = x;"), "{masked}");
        assert_eq!(masked.lines().count(), 2);
    }

    #[test]
    fn printing_is_objected_to_in_library_code_only() {
        let text =
            "//! Story.\nfn f() { println!(\"x\"); }\n#[cfg(test)]\nmod tests {\n fn g() { dbg!(1); }\n}\n";
        assert_eq!(findings("crates/data/src/a.rs", text).len(), 1);
        assert!(findings("crates/cli/src/a.rs", text).is_empty());
        assert!(findings("crates/data/tests/a.rs", text).is_empty());
        assert!(findings("crates/data/src/a.rs", "//! S.\n// println!(1)\n").is_empty());
    }

    #[test]
    fn unsafe_needs_its_place_and_its_reason() {
        let bare = "//! Story.\nfn f() {\n    let x = 1;\n    unsafe { g() }\n}\n";
        let argued = "//! Story.\nfn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() }\n}\n";
        assert!(findings("crates/core/src/a.rs", argued)[0].contains("outside"));
        assert!(findings("crates/engine/src/kernels/a.rs", bare)[0].contains("SAFETY"));
        assert!(findings("crates/engine/src/kernels/a.rs", argued).is_empty());
    }

    #[test]
    fn a_file_without_a_story_is_named() {
        assert!(findings("crates/core/src/a.rs", "fn f() {}\n")[0].contains("//!"));
    }
}
