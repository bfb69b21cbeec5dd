//! Where the peers' processor time goes while they accept single pins, by `perf`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::{
    cluster::{Cluster, stand_ins, urls},
    load::{Numbers, Until, cid, post_each},
};

/// How long is looked at.
const TIME: Duration = Duration::from_secs(5);
/// Samples a second, on each processor.
const FREQUENCY: &str = "997";

/// Parts, and what the names of their functions contain; the first that fits counts.
const PARTS: [(&str, &[&str]); 12] = [
    ("state on disk (redb)", &["redb"]),
    ("Raft log (raft-log)", &["raft_log", "chunked_wal", "codeq"]),
    ("Raft (openraft)", &["openraft"]),
    (
        "connections between peers (libp2p, encryption)",
        &["libp2p", "yamux", "snow", "chacha", "poly1305", "salsa", "multistream", "asynchronous"],
    ),
    ("HTTP (hyper, axum)", &["hyper", "axum", "tower", "httparse", "matchit", "4http", "http::"]),
    ("client of the daemon (reqwest)", &["reqwest"]),
    ("tracker", &["pinkeeper::tracker", "7tracker"]),
    ("consensus, state", &["pinkeeper::consensus", "9consensus", "pinkeeper::state", "5state"]),
    ("the rest of the peer", &["pinkeeper"]),
    (
        "JSON, CBOR, CIDs, hashes",
        &["serde", "minicbor", "bs58", "multibase", "base_x", "jiff", "3cid", "cid::", "sha2"],
    ),
    ("memory, copying, collections", &["mi_", "mem", "alloc", "btree", "hashbrown", "core::"]),
    ("tokio", &["tokio"]),
];

/// Parts of the kernel, in the same way.
const KERNEL_PARTS: [(&str, &[&str]); 3] = [
    (
        "kernel: network",
        &["tcp", "ip_", "skb", "sock", "inet", "net", "dev_", "loopback", "lo_", "nf_", "ep_"],
    ),
    ("kernel: disk", &["ext4", "jbd2", "blk", "bio", "virtqueue", "virtblk", "fsync", "folio"]),
    ("kernel: the rest (calls, scheduling)", &[""]),
];

/// A table of parts and their shares, as Markdown; `Err` says why there is none.
pub(crate) async fn measure(numbers: &Numbers) -> anyhow::Result<String> {
    let there = Command::new("perf").arg("--version").stdout(Stdio::null()).status();
    ensure!(there.is_ok_and(|status| status.success()), "perf is not installed");
    let daemons = stand_ins(Duration::from_secs(1)).await?;
    let cluster = Cluster::start(&urls(&daemons)).await?;
    let folder = TempDir::new()?;
    let file = folder.path().join("perf.data");
    let ids: Vec<String> =
        cluster.peers.iter().filter_map(|peer| Some(peer.id()?.to_string())).collect();
    let seconds = TIME.as_secs().to_string();
    let mut record = tokio::process::Command::new("perf")
        .args(["record", "-q", "-F", FREQUENCY, "-p", &ids.join(","), "-o"])
        .arg(&file)
        .args(["--", "sleep", &seconds])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let leader = cluster.rest(cluster.leader()?)?;
    let numbers = numbers.clone();
    post_each(leader, 64, Until::Time(TIME), move || cid(numbers.next())).await?;
    ensure!(record.wait().await?.success(), "perf cannot record here");
    Ok(table(&functions(&file)?))
}

/// Lines of `perf report`: a share in per cent, where it ran, and the function.
fn functions(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("perf")
        .args(["report", "--stdio", "-q", "-F", "overhead,sym", "-i"])
        .arg(file)
        .stderr(Stdio::null())
        .output()
        .context("perf report")?;
    ensure!(output.status.success(), "perf cannot report");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn table(functions: &str) -> String {
    let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
    for line in functions.lines() {
        let Some((share, function)) = line.trim().split_once('%') else { continue };
        let Ok(share) = share.parse::<f64>() else { continue };
        *shares.entry(part_of(function.trim())).or_default() += share;
    }
    let mut shares: Vec<(&str, f64)> = shares.into_iter().collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut table = "| part | share |\n|---|---|\n".to_owned();
    for (part, share) in shares {
        let _ = writeln!(table, "| {part} | {share:.1} % |");
    }
    table
}

fn part_of(function: &str) -> &'static str {
    let parts: &[_] = if function.starts_with("[k]") { &KERNEL_PARTS } else { &PARTS };
    let name = function.get(3..).unwrap_or_default();
    let fits = |words: &[&str]| words.iter().any(|word| name.contains(word));
    parts.iter().find(|(_, words)| fits(words)).map_or("other", |(part, _)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_summed_up_by_part_largest_first() {
        let report = "
    10.50%  [.] redb::tree_store::btree::insert
     4.50%  [k] tcp_sendmsg
    20.00%  [k] finish_task_switch
     1.00%  [.] <pinkeeper::tracker::machine::Machine>::pump
     2.00%  [.] redb::transactions::commit
     0.50%  [.] 0x00000000001
";
        let lines: Vec<String> = table(report).lines().skip(2).map(ToOwned::to_owned).collect();
        let expected = [
            "| kernel: the rest (calls, scheduling) | 20.0 % |",
            "| state on disk (redb) | 12.5 % |",
            "| kernel: network | 4.5 % |",
            "| tracker | 1.0 % |",
            "| other | 0.5 % |",
        ];
        assert_eq!(lines, expected);
    }
}
