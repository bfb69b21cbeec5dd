//! Every direct dependency has a place and a reason in docs/dependencies.md, and none is there for nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The packages as the table calls them, and their folders.
const PACKAGES: &[(&str, &str)] = &[("peer", "."), ("operator", "operator"), ("e2e", "e2e")];

/// Packages whose code is in the shipped binary.
const SHIPPED: &[&str] = &["peer", "operator"];

/// Letters of the shortest reason that can be one.
const REASON_LEN_MIN: usize = 15;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Names in the sections of direct dependencies of a manifest, those of this repository left out.
fn direct(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut counts = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.ends_with("dependencies]") && !section.starts_with("workspace");
        } else if counts && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            if !name.starts_with("pinkeeper") {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Names in `[workspace.dependencies]`.
fn of_workspace(manifest: &str) -> BTreeSet<String> {
    let section = manifest.split("[workspace.dependencies]\n").nth(1).unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()))
        .map(|line| line.split([' ', '=']).next().unwrap().to_owned())
        .collect()
}

fn manifest(folder: &str) -> String {
    fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap()
}

/// By dependency: the packages that name it.
fn declared() -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (package, folder) in PACKAGES {
        for name in direct(&manifest(folder)) {
            all.entry(name).or_default().insert((*package).to_owned());
        }
    }
    all
}

/// Rows `| name | packages | reason |` under the heading "Dependencies".
fn table(readme: &str) -> BTreeMap<String, (BTreeSet<String>, String)> {
    let section = readme.split("\n## Dependencies\n").nth(1).unwrap_or_default();
    let rows = section
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    rows.filter_map(|(name, rest)| {
        let (packages, reason) = rest.split_once(" | ")?;
        let packages = packages.split(", ").map(str::to_owned).collect();
        Some((name.to_owned(), (packages, reason.to_owned())))
    })
    .collect()
}

/// What the table gets wrong.
fn wrong(
    declared: &BTreeMap<String, BTreeSet<String>>,
    table: &BTreeMap<String, (BTreeSet<String>, String)>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, packages) in declared {
        match table.get(name) {
            None => wrong.push(format!("{name} is not in the table")),
            Some((told, _)) if told != packages => {
                wrong.push(format!("{name} is named by {packages:?}, the table says {told:?}"));
            }
            Some((_, reason)) if reason.len() < REASON_LEN_MIN => {
                wrong.push(format!("{name} has no reason"));
            }
            Some(_) => {}
        }
    }
    let strangers = table.keys().filter(|name| !declared.contains_key(*name));
    wrong.extend(strangers.map(|name| format!("{name} is in the table, but no dependency")));
    wrong
}

fn mentions(folder: &Path, word: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return mentions(&path, word);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        text.split(|c| !is_part(c)).any(|part| part == word)
    })
}

#[test]
fn the_readme_gives_a_reason_for_each_dependency() {
    let readme = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let wrong = wrong(&declared(), &table(&readme));
    assert!(wrong.is_empty(), "docs/dependencies.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_dependency_is_used() {
    let declared = declared();
    let unused: Vec<String> = of_workspace(&manifest("."))
        .into_iter()
        .filter(|name| !declared.contains_key(name))
        .map(|name| format!("no package uses {name} of [workspace.dependencies]"))
        .collect();
    assert!(unused.is_empty(), "{}", unused.join("\n"));
    for (package, folder) in PACKAGES.iter().filter(|(package, _)| SHIPPED.contains(package)) {
        for name in direct(&manifest(folder)) {
            let word = name.replace('-', "_");
            // The tests at the root name crates in order to forbid them.
            let folders: &[&str] = if *folder == "." { &["src"] } else { &["src", "tests"] };
            let used =
                folders.iter().any(|inner| mentions(&root().join(folder).join(inner), &word));
            assert!(used, "{package} depends on {name} and does not use it");
        }
    }
}

#[test]
fn what_is_missing_wrong_or_too_much_is_found() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\nserde.workspace = true\n# no = 1\n\
                    pinkeeper = { path = \"..\" }\n[lints]\nworkspace = true\n\
                    [dev-dependencies]\ntempfile = \"3\"\ntokio = \"1\"\n";
    let names = direct(manifest);
    assert_eq!(names.iter().collect::<Vec<_>>(), ["serde", "tempfile", "tokio"]);
    let peer = BTreeSet::from(["peer".to_owned()]);
    let declared = names.into_iter().map(|name| (name, peer.clone())).collect();
    let readme = "# x\n## Dependencies\n\n| Crate | In | Why |\n|---|---|---|\n\
                  | `serde` | peer, e2e | turns data into bytes and back |\n\
                  | `tokio` | peer | fast |\n| `rand` | peer | there was once a reason |\n## End\n";
    let wrong = wrong(&declared, &table(readme));
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    for (told, what) in wrong.iter().zip(["serde", "tempfile", "tokio", "rand"]) {
        assert!(told.starts_with(what), "{told}");
    }
}
