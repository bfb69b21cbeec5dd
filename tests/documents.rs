//! What the documents name is there: files, folders and tests.

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

/// What stands between backticks on one line.
fn quoted(document: &str) -> impl Iterator<Item = &str> {
    document.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn functions(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            into.extend(names.map(str::to_owned));
        }
    }
}

/// Whether a quoted text is meant to be a test's name.
fn is_test_name(text: &str) -> bool {
    text.split('_').count() >= TEST_WORDS_MIN
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
    let mut known = BTreeSet::new();
    for folder in ["src", "operator", "e2e", "tests"] {
        functions(&root().join(folder), &mut known);
    }
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let missing = missing(&text, &known);
        assert!(missing.is_empty(), "{document} names what is not there: {missing:?}");
    }
}

#[test]
fn a_missing_file_or_test_is_found() {
    let known = BTreeSet::from(["a_test_that_is_there".to_owned()]);
    let document = "| `src/lib.rs` | `data_dir`, `a_test_that_is_there` |\n\
                    `src/nowhere.rs` and `a_test_that_is_not`, `pin/add`";
    assert_eq!(missing(document, &known), ["src/nowhere.rs", "a_test_that_is_not"]);
}
