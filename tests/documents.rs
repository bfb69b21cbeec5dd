//! What the documents name is there: files, folders, tests and metrics.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where files of this repository are; a name that begins so must exist.
const FOLDERS: &[&str] = &["src/", "operator/", "e2e/", "charts/", "manifests/", "crds/", "tests/"];

/// Words of a test's name, at least; shorter names may be anything.
const TEST_WORDS_MIN: usize = 4;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// How the head of the README's table of metrics begins.
const METRICS: &str = "| metrics, after `pinkeeper_` |";

/// What stands between backticks on one line.
fn quoted(document: &str) -> impl Iterator<Item = &str> {
    document.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The text of each Rust file below a folder.
fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(fs::read_to_string(&path).unwrap());
        }
    }
}

fn functions(text: &str) -> impl Iterator<Item = String> {
    text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next()).map(str::to_owned)
}

/// Whether a quoted text is meant to be a test's name; a metric's ends otherwise.
fn is_test_name(text: &str) -> bool {
    text.split('_').count() >= TEST_WORDS_MIN
        && !text.ends_with("_total")
        && !text.ends_with("_seconds")
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// What a document names and what is not there.
fn missing(document: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let is_path = |text: &str| {
        FOLDERS.iter().any(|folder| text.starts_with(folder)) && !text.contains([' ', '*', '<'])
    };
    quoted(document)
        .filter(|text| {
            (is_path(text) && !root().join(text).exists())
                || (is_test_name(text) && !functions.contains(*text))
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_the_documents_name_is_there() {
    let mut texts = Vec::new();
    for folder in ["src", "operator", "e2e", "tests"] {
        sources(&root().join(folder), &mut texts);
    }
    let known = texts.iter().flat_map(|text| functions(text)).collect();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/installing.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let missing = missing(&text, &known);
        assert!(missing.is_empty(), "{document} names what is not there: {missing:?}");
    }
}

#[test]
fn the_metrics_of_the_readme_are_those_that_are_registered() {
    let mut texts = Vec::new();
    for folder in ["src", "operator/src"] {
        sources(&root().join(folder), &mut texts);
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let rows = readme.lines().skip_while(|line| !line.starts_with(METRICS)).skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    let told: BTreeSet<_> = quoted(&rows.join("\n")).map(registered_as).collect();
    let registered: BTreeSet<_> = texts.iter().flat_map(|text| registrations(text)).collect();
    assert_eq!(told, registered);
}

/// What a metric of this name is called where it is registered: the library appends the kind, and the
/// operator's have a prefix of their own.
fn registered_as(name: &str) -> String {
    let name = name.strip_prefix("controller_").unwrap_or(name);
    name.trim_end_matches("_total").trim_end_matches("_info").to_owned()
}

/// The first argument of each `registry.register(` and of the operator's `add(`.
fn registrations(text: &str) -> impl Iterator<Item = String> {
    let after = |call: &'static str| text.split(call).skip(1);
    after("registry.register(")
        .chain(after(" add("))
        .filter_map(|rest| Some(rest.trim_start().strip_prefix('"')?.split('"').next()?.to_owned()))
}

#[test]
fn a_missing_file_or_test_is_found() {
    let known = BTreeSet::from(["a_test_that_is_there".to_owned()]);
    let document = "| `src/lib.rs` | `data_dir`, `a_test_that_is_there` |\n\
                    `src/nowhere.rs` and `a_test_that_is_not`, `pin/add`";
    assert_eq!(missing(document, &known), ["src/nowhere.rs", "a_test_that_is_not"]);
}
