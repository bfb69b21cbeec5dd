//! The layers of the peer and of the Kubernetes side, held against their source text: who may use
//! whom, and which modules of the peer may touch the network, the disk, the clock and chance.
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

/// The modules of one crate, or of one module, each with those of them that it may use. In reading
/// order: a module may use earlier ones only, which the test checks of each table too.
struct Table {
    /// The file that declares the modules.
    file: &'static str,
    /// The module that they are in; empty for a crate's root.
    inside: &'static str,
    modules: &'static [(&'static str, &'static [&'static str])],
}

const PEER: Table = Table { file: "src/lib.rs", inside: "", modules: PEER_MODULES };

/// The tables of the Kubernetes side.
const OPERATOR: [Table; 3] = [
    Table { file: "operator/src/lib.rs", inside: "", modules: OPERATOR_MODULES },
    Table {
        file: "operator/src/kubernetes/mod.rs",
        inside: "kubernetes",
        modules: KUBERNETES_MODULES,
    },
    Table {
        file: "operator/src/controller/mod.rs",
        inside: "controller",
        modules: CONTROLLER_MODULES,
    },
];

const PEER_MODULES: &[(&str, &[&str])] = &[
    ("causes", &[]),
    ("runtime", &[]),
    ("types", &[]),
    ("state", &["types"]),
    ("allocate", &["types"]),
    ("clock", &["types"]),
    ("files", &[]),
    ("database", &["files"]),
    ("high_water", &["files"]),
    ("identity", &["files", "types"]),
    ("telemetry", &[]),
    ("ipfs", &["causes", "types"]),
    ("rpc", &["causes", "identity", "types"]),
    ("tracker", &["clock", "database", "high_water", "ipfs", "state", "types"]),
    ("monitor", &["ipfs", "tracker", "types"]),
    ("consensus", &["database", "files", "high_water", "rpc", "runtime", "state", "types"]),
    (
        "cluster",
        &[
            "runtime",
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
            "runtime",
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
    (
        "sim",
        &[
            "runtime",
            "types",
            "state",
            "allocate",
            "clock",
            "ipfs",
            "rpc",
            "tracker",
            "consensus",
            "cluster",
            "peer",
        ],
    ),
];

const OPERATOR_MODULES: &[(&str, &[&str])] = &[
    ("crd", &[]),
    ("kubernetes", &["crd"]),
    ("founding", &["kubernetes"]),
    ("controller", &["crd", "kubernetes"]),
    ("run", &["kubernetes", "founding", "controller"]),
    ("process", &["kubernetes", "run"]),
    ("kubo", &[]),
    ("secret", &[]),
    ("install", &[]),
];

const KUBERNETES_MODULES: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("backoff", &[]),
    ("reach", &["api"]),
    ("counters", &[]),
    ("raw", &[]),
    ("settings", &[]),
    ("record", &["api", "settings"]),
    ("context", &["reach", "counters", "settings", "record"]),
    ("watching", &["api", "backoff", "reach"]),
    ("directory", &["api", "raw", "context", "watching"]),
];

const CONTROLLER_MODULES: &[(&str, &[&str])] = &[
    ("queue", &[]),
    ("objects", &[]),
    ("deletions", &[]),
    ("guard_time", &[]),
    ("leading", &["queue", "objects", "deletions", "guard_time"]),
    ("pins", &["queue", "objects", "deletions", "leading"]),
    ("bucket", &[]),
    ("events", &["leading", "bucket"]),
    ("claims", &["queue", "objects", "deletions", "leading", "events"]),
    ("status", &["queue", "objects", "leading", "bucket", "events", "claims"]),
    ("peers", &["leading", "claims"]),
    ("hand_over", &[]),
];

/// Modules that only compute.
const PURE: &[&str] = &["types", "state", "allocate", "tracker::machine"];

/// Dependencies that only compute too.
const PURE_CRATES: &[&str] =
    &["bs58", "cid", "hex", "jiff", "minicbor", "parking_lot", "serde", "sha2", "thiserror"];

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
    ("rand", &["consensus::runtime", "rpc", "runtime", "sim"]),
    ("rustix", &["files", "monitor"]),
    ("std::time::SystemTime", &["clock"]),
    ("std::time::Instant", &[]),
];

/// What the Kubernetes side may use of the peer: not its parts, only the whole and its words.
const OPERATOR_MAY_USE: &[&str] = &[
    "allocate",
    "clock",
    "cluster",
    "config",
    "files",
    "identity",
    "peer",
    "state",
    "telemetry",
    "types",
];

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

/// The rule that a use inside one crate breaks. `inner` is the path without the crate.
fn broken_layer(module: &str, inner: &str) -> Option<String> {
    if is_within(module, "tracker::machine")
        && !is_within_any(inner, &["types", "tracker::machine"])
        && !MACHINE_DATA.contains(&inner)
    {
        return Some(format!("{module} uses {inner}, but the machine may use data only"));
    }
    PEER.broken(module, inner)
}

impl Table {
    /// The one of its modules that a path is in, or that it names; absent for what is elsewhere.
    fn place<'a>(&self, path: &'a str) -> Option<&'a str> {
        let inner = match self.inside {
            "" => path,
            inside => path.strip_prefix(inside)?.strip_prefix("::")?,
        };
        inner.split("::").next().filter(|first| !first.is_empty())
    }

    /// The rule that a use breaks. Whoever declares the modules may use all of them.
    fn broken(&self, module: &str, used: &str) -> Option<String> {
        let (user, target) = (self.place(module)?, self.place(used)?);
        if user == target {
            return None;
        }
        let Some((_, allowed)) = self.modules.iter().find(|(name, _)| *name == user) else {
            return Some(format!("module {module} has no place in the layers (tests/layers.rs)"));
        };
        (!allowed.contains(&target)).then(|| {
            format!("{module} uses {used}, but {user} may use only: {}", allowed.join(", "))
        })
    }

    /// Whether each module is there and may use earlier ones only.
    fn check(&self) {
        let mut earlier = BTreeSet::new();
        for (module, allowed) in self.modules {
            for other in *allowed {
                assert!(earlier.contains(other), "{module} may use {other}, which comes after it");
            }
            earlier.insert(*module);
        }
        let text = fs::read_to_string(root().join(self.file)).unwrap();
        assert_eq!(declared(&text), earlier, "tests/layers.rs and {} name others", self.file);
    }
}

/// The modules that a file declares, those for tests left out.
fn declared(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().zip([""].into_iter().chain(text.lines()));
    lines
        .filter(|(_, before)| *before != "#[cfg(test)]")
        .filter_map(|(line, _)| {
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        })
        .collect()
}

/// The rule that a use in the Kubernetes side breaks.
fn broken_in_operator(module: &str, used: &str) -> Option<String> {
    if let Some(inner) = used.strip_prefix("crate::") {
        return OPERATOR.iter().find_map(|table| table.broken(module, inner));
    }
    let of_the_peer = used.strip_prefix("pinkeeper::")?.split("::").next()?;
    (!OPERATOR_MAY_USE.contains(&of_the_peer))
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

/// What is broken below a folder, as `file:line: rule`.
fn found(uses: &[(String, Source, Use)], broken: impl Fn(&str, &str) -> Option<String>) -> String {
    let mut found: Vec<String> = uses
        .iter()
        .filter_map(|(file, source, used)| {
            let module = if used.module.is_empty() { &source.module } else { &used.module };
            Some(format!("{file}:{}: {}", used.line, broken(module, &used.path)?))
        })
        .collect();
    found.dedup();
    found.join("\n")
}

/// The reader has seen the code: a use that is known to be there.
fn seen(uses: &[(String, Source, Use)], file: &str, path: &str) -> bool {
    uses.iter().any(|(of, _, used)| of == file && used.path == path)
}

#[test]
fn the_layers_hold() {
    let dependencies = dependencies();
    assert!(dependencies.contains("openraft") && dependencies.contains("raft_log"));
    let uses = uses("src");
    let found = found(&uses, |module, used| broken(module, used, &dependencies));
    assert!(found.is_empty(), "the layers are broken:\n{found}");
    assert!(seen(&uses, "src/state/shared.rs", "tokio::sync::broadcast"));
    assert!(seen(&uses, "src/allocate.rs", "crate::types::Metrics"));
    assert!(seen(&uses, "src/tracker/machine/mod.rs", "crate::tracker::ledger::Origin"));
}

#[test]
fn the_layers_of_the_operator_hold_and_it_uses_the_peer_as_a_whole() {
    let uses = uses("operator/src");
    let found = found(&uses, broken_in_operator);
    assert!(found.is_empty(), "the layers are broken:\n{found}");
    let claims = "operator/src/controller/claims/anchors.rs";
    assert!(seen(&uses, claims, "crate::controller::leading::Leading"));
    assert!(seen(&uses, claims, "crate::kubernetes::record"));
}

#[test]
fn the_tables_go_one_way_and_name_every_module() {
    for table in [PEER].iter().chain(&OPERATOR) {
        table.check();
    }
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
fn every_rule_of_the_operator_can_be_broken() {
    let cases = [
        ("founding::driver", "use crate::controller::leading::Leading;", "founding may use only"),
        ("kubernetes::record", "use crate::founding::Record;", "kubernetes may use only"),
        ("controller::claims", "use crate::founding::next;", "controller may use only"),
        ("kubernetes::record", "use super::Context;", "record may use only"),
        (
            "controller::claims::approvals",
            "use crate::controller::status::Note;",
            "claims may use only",
        ),
        (
            "controller::claims::approvals",
            "fn f() { super::super::peers::g() }",
            "claims may use only",
        ),
        (
            "controller::claims",
            "pub(in crate::controller) use crate::controller::Run;",
            "may use only",
        ),
        ("controller::nowhere", "use super::queue::Lane;", "no place in the layers"),
        ("nowhere", "use crate::crd;", "no place in the layers"),
        ("run", "use pinkeeper::consensus::Consensus;", "of the peer only"),
    ];
    for (module, text, rule) in cases {
        let broken = broken_by_operator(module, text);
        assert!(broken.iter().any(|told| told.contains(rule)), "{module}: {text}: {broken:?}");
    }
    for (module, text) in [
        ("controller", "pub use self::claims::Decision; use self::status::run;"),
        ("controller::status", "pub(in crate::controller) fn f() { super::claims::g() }"),
        ("controller::status::judge", "use super::graces::Held; use crate::kubernetes::Settings;"),
        ("kubernetes", "#[cfg(test)]\npub(crate) mod answers;\npub use self::record::Record;"),
        ("run", "use crate::{founding, controller::peers}; use pinkeeper::peer::Peer;"),
    ] {
        assert_eq!(broken_by_operator(module, text), Vec::<String>::new(), "{module}: {text}");
    }
}

fn broken_by_operator(module: &str, text: &str) -> Vec<String> {
    let source = Source::read(module, text);
    source.uses.iter().filter_map(|used| broken_in_operator(module, &used.path)).collect()
}

#[test]
fn modules_for_tests_have_no_layer() {
    let text = "#[cfg(test)]\npub(crate) mod stand;\nmod claims;\npub mod status;\n";
    assert_eq!(declared(text), BTreeSet::from(["claims", "status"]));
    assert_eq!(Source::read("controller", text).test_modules, ["controller::stand"]);
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
