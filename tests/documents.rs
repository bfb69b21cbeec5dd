//! What the documents name is there: files, folders, tests and metrics, and what their links lead to.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, iter,
    path::{Path, PathBuf},
};

use pinkeeper::config::KEYS;

/// The documents at the root; all others are in `docs/`.
const AT_THE_ROOT: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Where files of this repository are; a name that begins so must exist.
const FOLDERS: &[&str] = &["src/", "operator/", "e2e/", "charts/", "manifests/", "crds/", "tests/"];

/// Words of a test's name, at least; shorter names may be anything.
const TEST_WORDS_MIN: usize = 4;

/// How names of metrics begin, which may have as many words.
const METRIC_PREFIXES: [&str; 2] = ["pinkeeper_", "process_"];

/// The document with the table of metrics, and the table's head.
const METRICS: (&str, &str) = ("docs/operations.md", "| metric | labels | meaning |");

/// Levels of headings.
const HEADING_LEVELS: std::ops::RangeInclusive<usize> = 1..=6;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of this repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The paths of all documents.
fn documents() -> BTreeSet<String> {
    let paths = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let names = paths.map(|path| format!("docs/{}", path.file_name().unwrap().to_str().unwrap()));
    AT_THE_ROOT.map(str::to_owned).into_iter().chain(names).collect()
}

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

/// Whether a quoted text is meant to be a test's name; a metric's begins otherwise.
fn is_test_name(text: &str) -> bool {
    text.split('_').count() >= TEST_WORDS_MIN
        && !METRIC_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
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
    for document in documents() {
        let missing = missing(&read(&document), &known);
        assert!(missing.is_empty(), "{document} names what is not there: {missing:?}");
    }
}

#[test]
fn the_metrics_of_the_documents_are_those_that_are_registered() {
    let mut texts = Vec::new();
    for folder in ["src", "operator/src"] {
        sources(&root().join(folder), &mut texts);
    }
    let (document, head) = METRICS;
    let text = read(document);
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    // Other cells may quote something else.
    let names: Vec<_> = rows.filter_map(|row| row.split('|').nth(1)).collect();
    let listed: BTreeSet<_> = quoted(&names.join("\n")).map(registered_as).collect();
    let registered: BTreeSet<_> = texts.iter().flat_map(|text| registrations(text)).collect();
    assert_eq!(listed, registered);
}

/// What a metric of this name is called where it is registered: the library appends the kind, and all have
/// the prefix of the program, the operator's also one of their own.
fn registered_as(name: &str) -> String {
    let name = name.strip_prefix("pinkeeper_").unwrap_or(name);
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

/// The lines of a document outside of fenced code.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    document.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The text of a line that is a heading.
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    HEADING_LEVELS.contains(&level).then_some(text)?.strip_prefix(' ')
}

/// What GitHub calls a heading in links: in lower case, without punctuation, with hyphens for spaces.
fn slug(heading: &str) -> String {
    let heading = heading.trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of all headings of a document; a repeated one has a number behind it.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut anchors: BTreeSet<String> = BTreeSet::new();
    for slug in prose(document).filter_map(heading).map(slug) {
        let numbered = (1_u32..).map(|number| format!("{slug}-{number}"));
        let mut names = iter::once(slug.clone()).chain(numbered);
        let free = names.find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

/// What the links of a document lead to. Quoted code holds no links.
fn links(document: &str) -> Vec<String> {
    let unquoted = |line: &str| line.split('`').step_by(2).collect::<String>();
    let lines: Vec<String> = prose(document).map(unquoted).collect();
    let text = lines.join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// Whether a link in the text of a document leads to another site, a file, a folder or a heading.
fn leads_somewhere(link: &str, document: &str, text: &str) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let Some((path, anchor)) = link.split_once('#') else {
        return beside(document, link).exists();
    };
    let linked = match path {
        "" => Ok(text.to_owned()),
        path => fs::read_to_string(beside(document, path)),
    };
    linked.is_ok_and(|linked| anchors(&linked).contains(anchor))
}

/// A path as a document names it: from the document's own folder.
fn beside(document: &str, path: &str) -> PathBuf {
    root().join(document).parent().unwrap().join(path)
}

/// The links of a document that lead nowhere.
fn broken(document: &str, text: &str) -> Vec<String> {
    links(text).into_iter().filter(|link| !leads_somewhere(link, document, text)).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    for document in documents() {
        let broken = broken(&document, &read(&document));
        assert!(broken.is_empty(), "{document} has links that lead nowhere: {broken:?}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# What's `new`?\n## Twice\n## Twice\n\
                [a](../README.md) [b](../src) [c](../README.md#pinkeeper) [d](https://a.example/b)\n\
                [e](#whats-new) [f](#twice) [g](#twice-1) `[h](code.md)` [`i`,\n`j`](none.md)\n\
                [k](../README.md#none) [l](#twice-2) [m](../src#a)\n\
                ```text\n# No heading\n[n](fenced.md)\n```\n[o](#no-heading) [p](README.md)\n";
    let expected =
        ["none.md", "../README.md#none", "#twice-2", "../src#a", "#no-heading", "README.md"];
    assert_eq!(broken("docs/made-up.md", text), expected);
}

#[test]
fn anchors_are_as_github_makes_them() {
    let cases = [
        ("Limits", "limits"),
        ("The daemon's configuration", "the-daemons-configuration"),
        ("REST, probes and Prometheus metrics", "rest-probes-and-prometheus-metrics"),
        ("A `raft` volume or data folder is lost", "a-raft-volume-or-data-folder-is-lost"),
        ("Settings of `data_dir` – and more", "settings-of-data_dir--and-more"),
    ];
    for (heading, expected) in cases {
        assert_eq!(slug(heading), expected);
    }
}

/// The cells of each row of a setting, by its key: `| key | variable | flag | default | meaning |`.
fn settings(document: &str) -> BTreeMap<String, Vec<String>> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| -> Vec<String> {
        row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let peers = rows.map(cells).filter(|cells| cells[1].starts_with("`PINKEEPER_"));
    peers.map(|cells| (cells[0].trim_matches('`').to_owned(), cells)).collect()
}

#[test]
fn the_table_of_settings_is_that_of_the_program() {
    let document = read("docs/configuration.md");
    let (peers, _) = document.split_once("\n## Settings of `pinkeeper run`").unwrap();
    let documented = settings(peers);
    for key in KEYS {
        let row = documented.get(key.name).unwrap_or_else(|| panic!("no row of {}", key.name));
        let (variable, flag) = (key.name.to_uppercase(), key.name.replace('_', "-"));
        assert_eq!(row[1], format!("`PINKEEPER_{variable}`"), "{}", key.name);
        assert_eq!(row[2], format!("`--{flag}`"), "{}", key.name);
        // A default that is a value stands in both.
        let value = row[3].strip_prefix('`').and_then(|text| text.split('`').next());
        let is_value = |value: &&str| documented.keys().all(|key| key != value);
        if let (Some((_, told)), Some(value)) =
            (key.help.split_once("(default: "), value.filter(is_value))
        {
            assert!(told.contains(value), "{}: {value} and {told}", key.name);
        }
    }
    assert_eq!(documented.len(), KEYS.len(), "a setting that the program does not have");
}
