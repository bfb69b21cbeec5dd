//! Networks of peers that can be cut: each peer in a network namespace of its own.
//!
//! The namespaces hang on a bridge in another one; the test has an address on it and always reaches
//! every peer's REST API, and peers their stand-in daemons. Needs root. Everything is called
//! `pinkeeper-<process>-…` and removed when dropped; what a killed process left is removed by the next
//! network. The addresses are of 198.18.0.0/15, which is set apart for tests (RFC 2544).

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use crate::{peer::Place, signal};

/// What namespaces of tests begin with.
const PREFIX: &str = "pinkeeper-";
/// Where the addresses begin.
const BASE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Addresses of one network; the first is the network's own, the second the test's.
const ADDRESSES: u32 = 16;
/// Networks there is room for in 198.18.0.0/15.
const NETWORKS: u32 = (1 << 17) / ADDRESSES;
/// Peers one network has room for: the last address is the broadcast address.
const PEERS_MAX: usize = ADDRESSES as usize - 3;

/// What is cut: nothing that the first sends reaches the second.
pub type Cuts = BTreeSet<(usize, usize)>;

/// A network of peers, numbered from 0.
#[derive(Debug)]
pub struct Network {
    /// What its namespaces begin with.
    name: String,
    /// The test's end of the link to the bridge.
    link: String,
    /// Of the network.
    base: u32,
    count: usize,
}

impl Network {
    /// Makes a network for so many peers.
    ///
    /// # Errors
    /// When the system refuses, as it does without root.
    pub fn new(count: usize) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ensure!(count <= PEERS_MAX, "a network has room for {PEERS_MAX} peers");
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        remove_leftovers()?;
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let network = Self {
            name: format!("{PREFIX}{process}-{number}"),
            // The name of a link has at most 15 characters.
            link: format!("pk{process}x{number}"),
            base: BASE + process.wrapping_mul(7).wrapping_add(number) % NETWORKS * ADDRESSES,
            count,
        };
        network.build()?;
        Ok(network)
    }

    fn build(&self) -> anyhow::Result<()> {
        let (hub, link) = (self.hub(), &self.link);
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        ip(&format!("link add {link} type veth peer name test netns {hub}"))?;
        ip(&format!("-n {hub} link set test master bridge up"))?;
        ip(&format!("address add {}/28 dev {link}", self.test()))?;
        ip(&format!("link set {link} up"))?;
        for n in 0..self.count {
            let namespace = self.namespace(n);
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {hub} link add to{n} type veth peer name peer netns {namespace}"))?;
            ip(&format!("-n {hub} link set to{n} master bridge up"))?;
            ip(&format!("-n {namespace} address add {}/28 dev peer", self.address(n)))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} link set peer up"))?;
        }
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn namespace(&self, n: usize) -> String {
        format!("{}-{n}", self.name)
    }

    /// The test's own address, for daemons.
    #[must_use]
    pub fn test(&self) -> IpAddr {
        Ipv4Addr::from(self.base + 1).into()
    }

    fn address(&self, n: usize) -> IpAddr {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        Ipv4Addr::from(self.base + 2 + n).into()
    }

    /// Where a peer is to run.
    #[must_use]
    pub fn place(&self, n: usize) -> Place {
        Place { ip: self.address(n), namespace: Some(self.namespace(n)) }
    }

    /// Cuts exactly these ways between peers and heals the others.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&self, cuts: &Cuts) -> anyhow::Result<()> {
        for to in 0..self.count {
            let senders =
                cuts.iter().filter(|(_, receiver)| *receiver == to).map(|(from, _)| *from);
            let drops: String = senders
                .map(|from| format!("-A INPUT -s {} -j DROP\n", self.address(from)))
                .collect();
            // One transaction: all that was there is replaced.
            let rules = format!("*filter\n:INPUT ACCEPT [0:0]\n{drops}COMMIT\n");
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.namespace(to), "iptables-restore"]);
            run(command, &rules)?;
        }
        Ok(())
    }

    /// Takes a peer's link down, also to the test and its daemon, or brings it up again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plug(&self, n: usize, up: bool) -> anyhow::Result<()> {
        ip(&format!("-n {} link set peer {}", self.namespace(n), if up { "up" } else { "down" }))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The other end of a link goes with it.
        let namespaces = (0..self.count).map(|n| self.namespace(n)).chain([self.hub()]);
        let results = [ip(&format!("link del {}", self.link))];
        let results =
            results.into_iter().chain(namespaces.map(|name| ip(&format!("netns del {name}"))));
        for error in results.filter_map(Result::err) {
            eprintln!("a part of a network stays: {error:#}");
        }
    }
}

/// Removes the namespaces of test processes that are no more, and what runs in them.
fn remove_leftovers() -> anyhow::Result<()> {
    for namespace in lines("netns list")?.iter().filter_map(|line| line.split(' ').next()) {
        let process = namespace.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(process) = process.and_then(|text| text.parse::<u32>().ok()) else { continue };
        if std::path::Path::new(&format!("/proc/{process}")).exists() {
            continue;
        }
        eprintln!("removing {namespace}, which a test has left");
        for pid in lines(&format!("netns pids {namespace}"))? {
            signal::to_process(pid.trim().parse()?, Signal::KILL)?;
        }
        ip(&format!("netns del {namespace}"))?;
    }
    Ok(())
}

fn ip(args: &str) -> anyhow::Result<()> {
    lines(args).map(drop)
}

fn lines(args: &str) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new("ip");
    command.args(args.split(' '));
    Ok(run(command, "")?.lines().map(ToOwned::to_owned).collect())
}

fn run(mut command: Command, input: &str) -> anyhow::Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    // Dropped at once: that is the end of its input.
    let stdin = child.stdin.take().context("no stdin")?;
    { stdin }.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
