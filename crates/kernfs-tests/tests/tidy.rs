//! What can be checked of the sources mechanically, so that `cargo test` is the only gate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// All Rust sources of the workspace and of the fuzz targets, as (path from the root, text).
fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    let mut dirs = vec![root().join("crates"), root().join("fuzz/fuzz_targets")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                sources.push((name, fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    assert!(sources.len() > 40, "only {} sources were found", sources.len());
    sources
}

/// Lines that are code: comments, documentation and string literals taken off.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or(line))
}

#[test]
fn unsafe_stands_only_where_the_architecture_names_it() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let section = architecture.split("## Where `unsafe` is").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or(section);
    let named: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|path| path.ends_with(".rs"))
        .collect();
    // This file says the word; sources that must not compile are about what is refused.
    let other = |path: &str| !path.contains("/compile_fail/") && !path.ends_with("tests/tidy.rs");
    let compiled = sources().into_iter().filter(|(path, _)| other(path));
    let uses = |text: &str| {
        let words =
            code(text).flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        words.into_iter().any(|word| word == "unsafe")
    };
    let used: BTreeSet<String> =
        compiled.filter(|(_, text)| uses(text)).map(|(path, _)| path).collect();
    let used: BTreeSet<&str> = used.iter().map(String::as_str).collect();
    let unnamed: Vec<_> = used.difference(&named).collect();
    let stale: Vec<_> = named.difference(&used).collect();
    assert!(
        unnamed.is_empty(),
        "`unsafe` in files that ARCHITECTURE.md does not name: {unnamed:?}"
    );
    assert!(stale.is_empty(), "ARCHITECTURE.md names files without `unsafe`: {stale:?}");
}

#[test]
fn nothing_is_left_over() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        // This file names what it looks for.
        if path.ends_with("tests/tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let leftover = ["dbg!", "todo!", "unimplemented!", "FIXME", "XXX"];
            if leftover.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "left over:\n{}", found.join("\n"));
}

/// A function that is longer cannot be seen whole.
const LONGEST_FUNCTION: usize = 75;

#[test]
fn functions_can_be_seen_whole() {
    let mut found = Vec::new();
    // Tests may be tables.
    for (path, text) in sources().into_iter().filter(|(path, _)| path.contains("/src/")) {
        let mut start = None;
        for (number, line) in text.lines().enumerate() {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            let head =
                ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub async fn ", "const fn "];
            if start.is_none() && head.iter().any(|head| body.starts_with(head)) {
                start = Some((number, indent, body.to_owned()));
            }
            let Some((first, depth, name)) = &start else { continue };
            if indent == *depth && (body == "}" || body.ends_with(';')) {
                let lines = number - first + 1;
                if lines > LONGEST_FUNCTION {
                    found.push(format!("{path}:{}: {lines} lines: {name}", first + 1));
                }
                start = None;
            }
        }
    }
    assert!(
        found.is_empty(),
        "functions of more than {LONGEST_FUNCTION} lines:\n{}",
        found.join("\n")
    );
}

/// The words of a text that follow a word.
fn words_after<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(word).skip(1).map(first_word)
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(text)
}

/// The modules that code names: `crate::one`, and each of `crate::{one, two::Thing}`.
fn modules_named(text: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            named.insert(first_word(rest).to_owned());
            continue;
        };
        let mut depth = 1;
        let end = group.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        let mut depth = 0;
        let parts = group[..end.expect("an end of the group")].split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        let words = parts.map(|part| first_word(part.trim_start()));
        named.extend(words.filter(|word| !word.is_empty()).map(String::from));
    }
    named
}

#[test]
fn modules_are_found_in_code() {
    let code = "use crate::a::X;\nuse crate::{b, c::{Y, z}, d};\nfn f() { crate::e::g(); }";
    assert_eq!(modules_named(code), ["a", "b", "c", "d", "e"].map(String::from).into());
}

/// The modules of a crate in the order in which its `lib.rs` declares them, each with those that
/// its code names; tests excepted, which are last in a file.
fn modules(name: &str) -> Vec<(String, BTreeSet<String>)> {
    let read = |file: &str| {
        let path = root().join("crates").join(name).join("src").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        code(text.split("#[cfg(test)]").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    };
    let lib = read("lib.rs");
    let declared = words_after(&lib, "mod ").filter(|module| !module.ends_with("_tests"));
    let uses = |module: &str| modules_named(&read(&format!("{module}.rs")));
    declared.map(|module| (module.to_owned(), uses(module))).collect()
}

/// Finds modules each of which uses the next, and the last the first.
fn cycle(modules: &[(String, BTreeSet<String>)]) -> Option<Vec<&str>> {
    let mut rest: BTreeMap<&str, &BTreeSet<String>> =
        modules.iter().map(|(module, uses)| (module.as_str(), uses)).collect();
    // What uses nothing that is left is in no cycle.
    while let Some(leaf) =
        rest.iter().find(|(_, uses)| !uses.iter().any(|used| rest.contains_key(used.as_str())))
    {
        let leaf = *leaf.0;
        rest.remove(leaf);
    }
    let mut path = vec![*rest.keys().next()?];
    loop {
        let uses = rest[path.last()?].iter();
        let next = uses.map(String::as_str).find(|used| rest.contains_key(used))?;
        if let Some(first) = path.iter().position(|module| *module == next) {
            path.push(next);
            return Some(path.split_off(first));
        }
        path.push(next);
    }
}

#[test]
fn modules_have_no_cycles() {
    // The order to read them in is that of their layers, but in `fuse-session`.
    let crates = [
        ("kernfs", true),
        ("fuse-session", false),
        ("kernfs-fuse", true),
        ("kernfs-attr", true),
        ("kernfs-psi", true),
    ];
    for (name, is_layered) in crates {
        let modules = modules(name);
        assert!(modules.len() > 8, "{name}: only {} modules were found", modules.len());
        let mut above = BTreeSet::new();
        for (module, uses) in &modules {
            for used in uses {
                let is_module = modules.iter().any(|(module, _)| module == used);
                assert!(is_module, "{name}: {module} says crate::{used}, which names no module");
                let is_above = is_layered && above.contains(used);
                assert!(!is_above, "{name}: {module} uses {used}, which is declared above it");
            }
            above.insert(module.clone());
        }
        let cycle = cycle(&modules).map(|path| path.join(" -> "));
        assert_eq!(cycle, None, "{name} has a cycle of modules");
    }
}

#[test]
fn each_crate_is_in_the_table_of_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for entry in fs::read_dir(root().join("crates")).expect("crates") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(readme.contains(&format!("(crates/{name})")), "README.md does not list {name}");
    }
}
