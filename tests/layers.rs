//! The layers of the peer, held against its source text: who may use whom, and who may touch the
//! network, the disk, the clock and chance.
//!
//! Test code is left out: it may use whatever helps it. What is found is told as `file:line: rule`.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "layers/source.rs"]
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use self::source::{Source, Use};

/// Each module of the peer and those it may use. In reading order: a module may use earlier ones
/// only, which the test checks of this table too.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("state", &["types"]),
    ("allocate", &["types"]),
    ("clock", &["types"]),
    ("files", &[]),
    ("database", &["files"]),
    ("high_water", &["files"]),
    ("identity", &["files", "types"]),
    ("telemetry", &[]),
    ("ipfs", &["types"]),
    ("rpc", &["identity", "types"]),
    ("tracker", &["clock", "database", "high_water", "ipfs", "state", "types"]),
    ("monitor", &["ipfs", "tracker", "types"]),
    ("consensus", &["database", "files", "high_water", "rpc", "state", "types"]),
    (
        "cluster",
        &[
            "types",
            "state",
            "allocate",
            "clock",
            "files",
            "ipfs",
            "rpc",
            "tracker",
            "monitor",
            "consensus",
        ],
    ),
    ("config", &["files", "identity", "telemetry", "types"]),
    ("rest", &["cluster", "clock", "rpc", "telemetry", "types"]),
    ("fuzzing", &["types", "identity", "ipfs", "rpc", "tracker", "consensus", "config", "rest"]),
    (
        "peer",
        &[
            "types",
            "clock",
            "files",
            "identity",
            "telemetry",
            "ipfs",
            "rpc",
            "tracker",
            "monitor",
            "consensus",
            "cluster",
            "config",
            "rest",
        ],
    ),
    ("sim", &["types", "state", "clock", "ipfs", "rpc", "tracker", "consensus", "cluster", "peer"]),
];

/// Modules that only compute.
const PURE: &[&str] = &["types", "state", "allocate", "tracker::machine"];

/// Dependencies that only compute too.
const PURE_CRATES: &[&str] =
    &["bs58", "cid", "hex", "jiff", "minicbor", "serde", "sha2", "thiserror"];

/// What a pure module must not use although its crate is allowed: I/O, clocks, chance (the order of
/// a hash map is chance).
const IMPURE: &[&str] = &[
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::env",
    "std::fs",
    "std::hash::RandomState",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

/// Pure modules' exceptions: module, and what it may use. What is logged decides nothing.
const PURE_EXCEPTIONS: &[(&str, &str)] =
    &[("state::shared", "tokio::sync"), ("tracker::machine", "tracing")];

/// What the tracker's decisions may use of modules that do I/O: plain data.
const MACHINE_DATA: &[&str] = &[
    "ipfs::Held",
    "ipfs::IpfsError",
    "tracker::ledger",
    "tracker::ledger::Change",
    "tracker::ledger::Entry",
    "tracker::ledger::Origin",
];

/// What only some modules may use.
const OWNED: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("raft_log", &["consensus"]),
    ("redb", &["database", "consensus", "tracker::ledger", "sim::disk"]),
    ("libp2p", &["rpc", "identity", "config", "peer"]),
    ("reqwest", &["ipfs", "config::values"]),
    ("axum", &["rest", "peer"]),
    ("hyper", &["rest::serve"]),
    ("hyper_util", &["rest::serve"]),
    ("rand", &["consensus::runtime", "rpc", "sim"]),
    ("rustix", &["files", "monitor"]),
    ("std::time::SystemTime", &["clock"]),
    ("std::time::Instant", &[]),
];

/// What the Kubernetes side may use of the peer: not its parts, only the whole and its words.
const OPERATOR_MAY_USE: &[&str] =
    &["clock", "cluster", "config", "files", "identity", "peer", "state", "telemetry", "types"];

/// Whether `path` is `prefix` or below it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether a use of `path` gives a hold of `what`: it is within it, or an import of all around it.
fn reaches(path: &str, what: &str) -> bool {
    is_within(path, what)
        || path.strip_suffix("::*").is_some_and(|module| is_within(what, module))
        || (path.contains("::") && what.starts_with(&format!("{path}::")) && !is_item(path))
}

/// Names of types begin with a capital: an import of a type is no import of the module around it.
fn is_item(path: &str) -> bool {
    path.rsplit("::").next().is_some_and(|last| last.starts_with(char::is_uppercase))
}

fn is_within_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| is_within(path, prefix))
}

/// The rule a use breaks, if any. `module` is the user, as in `tracker::machine::pump`.
fn broken(module: &str, used: &str, dependencies: &BTreeSet<String>) -> Option<String> {
    if let Some(inner) = used.strip_prefix("crate::") {
        return broken_layer(module, inner);
    }
    if let Some((what, owners)) =
        OWNED.iter().find(|(what, owners)| reaches(used, what) && !is_within_any(module, owners))
    {
        return Some(match owners {
            [] => format!("{module} uses {used}, but nobody may use {what}"),
            _ => format!("{module} uses {used}, but only {} may use {what}", owners.join(", ")),
        });
    }
    if !is_within_any(module, PURE) {
        return None;
    }
    if PURE_EXCEPTIONS.iter().any(|(who, what)| is_within(module, who) && is_within(used, what)) {
        return None;
    }
    if let Some(what) = IMPURE.iter().find(|what| reaches(used, what)) {
        return Some(format!("{module} uses {used}, but a pure module must not use {what}"));
    }
    let first = used.split("::").next().unwrap_or_default();
    (dependencies.contains(first) && !PURE_CRATES.contains(&first))
        .then(|| format!("{module} uses {used}, but {first} is no crate for a pure module"))
}

fn broken_layer(module: &str, inner: &str) -> Option<String> {
    let user = module.split("::").next().unwrap_or_default();
    let target = inner.split("::").next().unwrap_or_default();
    if is_within(module, "tracker::machine")
        && !is_within_any(inner, &["types", "tracker::machine"])
        && !MACHINE_DATA.contains(&inner)
    {
        return Some(format!("{module} uses {inner}, but the machine may use data only"));
    }
    if user == target || user.is_empty() {
        return None;
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == user) else {
        return Some(format!("module {user} has no place in the layers (tests/layers.rs)"));
    };
    (!allowed.contains(&target))
        .then(|| format!("{module} uses {inner}, but {user} may use only: {}", allowed.join(", ")))
}

fn broken_in_operator(used: &str) -> Option<String> {
    let module = used.strip_prefix("pinkeeper::")?.split("::").next()?;
    (!OPERATOR_MAY_USE.contains(&module))
        .then(|| format!("it uses {used}, but of the peer only: {}", OPERATOR_MAY_USE.join(", ")))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Dependencies of the peer, as Rust spells them.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    into.sort();
}

/// All uses below a folder that are no test's, each with its file.
fn uses(folder: &str) -> Vec<(String, Source, Use)> {
    let base = root().join(folder);
    let mut files = Vec::new();
    rust_files(&base, &mut files);
    let mut sources: Vec<(String, Source)> = files
        .iter()
        .map(|file| {
            let inside = file.strip_prefix(&base).unwrap();
            let shown = format!("{folder}/{}", inside.display());
            (shown, Source::read(&source::module_of(inside), &fs::read_to_string(file).unwrap()))
        })
        .collect();
    let tests: Vec<String> =
        sources.iter().flat_map(|(_, source)| source.test_modules.clone()).collect();
    sources.retain(|(_, source)| !tests.iter().any(|test| is_within(&source.module, test)));
    let all = sources.into_iter().flat_map(|(shown, source)| {
        let uses = source.uses.clone();
        uses.into_iter().map(move |used| (shown.clone(), source.clone(), used))
    });
    all.collect()
}

#[test]
fn the_layers_hold() {
    let dependencies = dependencies();
    assert!(dependencies.contains("openraft") && dependencies.contains("raft_log"));
    let uses = uses("src");
    let mut found: Vec<String> = uses
        .iter()
        .filter_map(|(file, source, used)| {
            let module = if used.module.is_empty() { &source.module } else { &used.module };
            let rule = broken(module, &used.path, &dependencies)?;
            Some(format!("{file}:{}: {rule}", used.line))
        })
        .collect();
    found.dedup();
    assert!(found.is_empty(), "the layers are broken:\n{}", found.join("\n"));
    // The reader has seen the code: some uses that are known to be there.
    let seen = |file: &str, path: &str| uses.iter().any(|(f, _, u)| f == file && u.path == path);
    assert!(seen("src/state/shared.rs", "tokio::sync::broadcast"));
    assert!(seen("src/allocate.rs", "crate::types::Metrics"));
    assert!(seen("src/tracker/machine/mod.rs", "crate::tracker::ledger::Origin"));
}

#[test]
fn the_operator_uses_the_peer_as_a_whole() {
    let found: Vec<String> = uses("operator/src")
        .iter()
        .filter_map(|(file, _, used)| {
            Some(format!("{file}:{}: {}", used.line, broken_in_operator(&used.path)?))
        })
        .collect();
    assert!(found.is_empty(), "the layers are broken:\n{}", found.join("\n"));
    assert!(broken_in_operator("pinkeeper::consensus::Consensus").is_some());
}

#[test]
fn the_table_goes_one_way_and_names_every_module() {
    let mut earlier = BTreeSet::new();
    for (module, allowed) in LAYERS {
        for other in *allowed {
            assert!(earlier.contains(other), "{module} may use {other}, which comes after it");
        }
        earlier.insert(module);
    }
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let listed: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    assert_eq!(declared, listed, "tests/layers.rs and src/lib.rs name other modules");
}

/// What `text` breaks as the module `module`, as `line: rule`.
fn broken_by(module: &str, text: &str) -> Vec<String> {
    let source = Source::read(module, text);
    let dependencies: BTreeSet<String> =
        ["rand", "serde", "tokio"].map(str::to_owned).into_iter().collect();
    let told = source.uses.iter().filter_map(|used| {
        Some(format!("{}: {}", used.line, broken(module, &used.path, &dependencies)?))
    });
    told.collect()
}

#[test]
fn every_rule_can_be_broken() {
    let cases = [
        ("types::cid", "use crate::state::Op;", "types may use only"),
        (
            "state::op",
            "\nuse crate::{\n    types::{Cid},\n    ipfs::Ipfs,\n};",
            "4: state::op uses",
        ),
        ("consensus::machine", "use crate::cluster::Cluster;", "consensus may use only"),
        ("ipfs", "fn f() { crate::cluster::g() }", "ipfs may use only"),
        ("tracker::machine", "use crate::ipfs::SharedIpfs;", "data only"),
        ("tracker::machine::pump", "use super::super::driver::Driver;", "data only"),
        ("cluster", "use openraft::Raft;", "only consensus may use openraft"),
        ("rest", "fn f(x: openraft::LogId) {}", "only consensus may use openraft"),
        ("cluster", "fn f() { std::time::Instant::now(); }", "nobody may use"),
        ("cluster", "use std::{fmt, time::{Duration, SystemTime}};", "only clock may use"),
        ("allocate", "use rand::Rng;", "may use rand"),
        ("allocate", "use tokio::time::sleep;", "no crate for a pure module"),
        ("state::pin_set", "use tokio::sync::watch;", "no crate for a pure module"),
        ("types", "use std::{fmt, fs};", "must not use std::fs"),
        ("types", "use std::collections::*;", "must not use std::collections::HashMap"),
        ("types", "use std::time;", "std::time::"),
        ("types", "fn f() { std::net::lookup() }", "must not use std::net"),
        ("types", "fn f() { jiff::Timestamp::now() }", "must not use jiff::Timestamp::now"),
        ("nowhere", "use crate::types::Cid;", "no place in the layers"),
    ];
    for (module, text, rule) in cases {
        let broken = broken_by(module, text);
        assert!(broken.iter().any(|told| told.contains(rule)), "{module}: {text}: {broken:?}");
    }
}

#[test]
fn what_is_allowed_is_not_told() {
    let cases = [
        ("types", "use std::{fmt, time::Duration, collections::BTreeMap}; use serde::Serialize;"),
        ("types", "/// [`crate::cluster`] // use tokio::fs;\nconst A: &str = \"openraft::Raft\";"),
        ("types", "#[cfg(test)]\nmod tests { use std::fs; fn f() { crate::rpc::g() } }"),
        ("types", "#[cfg(test)]\n#[allow(x)]\nuse std::fs;"),
        ("types", "fn f<'a>(c: char) -> bool { c == '\"' || c == 'x' } // std::fs::x"),
        ("types", "const R: &str = r#\"a \" std::fs::read \"#;"),
        ("state::shared", "use tokio::sync::broadcast;"),
        ("consensus", "use openraft::{Raft, Config};"),
        (
            "tracker::machine",
            "use super::ledger::{self, Change, Origin}; use crate::ipfs::IpfsError;",
        ),
        ("cluster", "use tokio::time::Instant;"),
    ];
    for (module, text) in cases {
        assert_eq!(broken_by(module, text), Vec::<String>::new(), "{module}: {text}");
    }
}
