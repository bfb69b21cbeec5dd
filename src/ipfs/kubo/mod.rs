//! Kubo's RPC (<https://docs.ipfs.tech/reference/kubo/rpc/>) over HTTP.
//!
//! Invariants:
//! - A pin counts as done only if the last object of `pin/add` carries `Pins` and no trailer
//!   `X-Stream-Error` came, since Kubo ends an interrupted pin with HTTP 200 and a clean end.
//! - `pin/ls` always has a type; without one it would walk every DAG.
//! - Everything read from the daemon and kept is bounded.
//!
//! It decides nothing: retries and stall times belong to the tracker.

mod codecs;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod fuzzing;
mod gc;
mod http;
mod metrics;
mod verdict;
mod wire;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::watch;

use self::{
    codecs::Codecs,
    http::{Lines, Rpc},
    verdict::Pinning,
    wire::{Id, PinEvent, PinLsItem, RepoStat},
};
pub use self::{
    http::{Body, Carrier},
    metrics::DaemonMetrics,
};
use super::{ASK_LEN_MAX, Held, Ipfs, IpfsError, RepositoryStat};
use crate::types::{Cid, DaemonInfo, GcReport, Progress};

/// Deadline of `id`. A daemon that misses it counts as away; people must see a daemon's end within 10
/// s.
const ID_DEADLINE: Duration = Duration::from_secs(4);
/// Deadline of answers that cost the daemon little.
const QUICK_DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of answers that may wait for the daemon's pin lock or walk its index.
const SLOW_DEADLINE: Duration = Duration::from_secs(60);
/// Longest silence within a stream. Kubo writes progress every 500 ms, even without progress.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Single questions at the same time, per question of the tracker. Each waits for the pin that Kubo is
/// writing, and simultaneous ones wait together; many more would keep Kubo busy with switching.
const SINGLE_AT_ONCE: usize = 4;

/// Single questions, all answered with yes, before a longer one is tried.
const SINGLES_LEN: usize = 16;

/// Above this number of direct pins, CIDs are asked about one by one instead of listing all.
const DIRECT_LEN_MAX: usize = 1000;

/// Why a client cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum KuboUrlError {
    /// The address is not of the form `http://host:port`.
    #[error("{0:?} is not the address of a Kubo RPC (http://127.0.0.1:5001)")]
    Url(String),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// The client of one Kubo; clones share connections.
#[derive(Clone, Debug)]
pub struct KuboClient {
    rpc: Rpc,
    codecs: Codecs,
}

impl KuboClient {
    /// A client for the RPC at `url`, as in `http://127.0.0.1:5001`. Sends nothing yet.
    ///
    /// # Errors
    /// When `url` is not an address of that form.
    pub fn new(url: &str) -> Result<Self, KuboUrlError> {
        Ok(Self { rpc: Rpc::new(url)?, codecs: Codecs::default() })
    }

    /// The same with metrics.
    #[must_use]
    pub fn measured(self, metrics: DaemonMetrics) -> Self {
        Self { rpc: self.rpc.measured(metrics), ..self }
    }

    /// A client of the daemon behind `carrier`.
    #[must_use]
    pub fn over(carrier: Arc<dyn Carrier>) -> Self {
        Self { rpc: Rpc::over(carrier), codecs: Codecs::default() }
    }

    async fn ask_id(&self) -> Result<DaemonInfo, IpfsError> {
        let id: Id = self.rpc.ask("id", &[], ID_DEADLINE).await?;
        id.try_into()
    }

    async fn ask_pinned(&self, cids: &[Cid]) -> Result<Vec<Held>, IpfsError> {
        let recursive = self.ask_pinned_as("recursive", cids).await?;
        let others = cids.iter().zip(&recursive).filter(|(_, held)| !**held);
        let others: Vec<Cid> = others.map(|(cid, _)| *cid).collect();
        let direct = self.direct_among(&others).await?;
        let held =
            |(cid, recursive): (&Cid, &bool)| verdict::held(*recursive, direct.contains(cid));
        Ok(cids.iter().zip(&recursive).map(held).collect())
    }

    /// Which of `cids` are pinned directly. Direct pins are rare, so one list replaces many questions.
    async fn direct_among(&self, cids: &[Cid]) -> Result<BTreeSet<Cid>, IpfsError> {
        if cids.len() > 2 {
            let pins = list("direct", &self.rpc).take(DIRECT_LEN_MAX + 1);
            let pins: Vec<Result<Cid, IpfsError>> = pins.collect().await;
            if pins.len() <= DIRECT_LEN_MAX {
                return pins.into_iter().collect();
            }
        }
        let held = self.ask_pinned_as("direct", cids).await?;
        Ok(cids.iter().zip(held).filter(|(_, held)| *held).map(|(cid, _)| *cid).collect())
    }

    /// Kubo names the pinned CIDs in order and stops at the first that is not pinned this way. So
    /// answers are taken piece by piece: long questions while everything is pinned, a few single ones
    /// at a time where it is not.
    async fn ask_pinned_as(&self, kind: &str, cids: &[Cid]) -> Result<Vec<bool>, IpfsError> {
        let mut answers = Vec::with_capacity(cids.len());
        let mut window = cids.len().clamp(1, ASK_LEN_MAX);
        while answers.len() < cids.len() {
            let rest = &cids[answers.len()..];
            if window > 1 {
                let asked = &rest[..window.min(rest.len())];
                let held = self.leading_pinned(kind, asked).await?;
                answers.extend(std::iter::repeat_n(true, held));
                window = (window * 2).min(ASK_LEN_MAX);
                if held < asked.len() {
                    answers.push(false);
                    window = 1;
                }
            } else {
                let asked = &rest[..SINGLES_LEN.min(rest.len())];
                let single = |cid| self.leading_pinned(kind, std::slice::from_ref(cid));
                let questions: Vec<_> = asked.iter().map(single).collect();
                let answered = stream::iter(questions).buffered(SINGLE_AT_ONCE);
                let held: Vec<usize> = answered.try_collect().await?;
                if !held.contains(&0) {
                    window = (asked.len() * 2).min(ASK_LEN_MAX);
                }
                answers.extend(held.iter().map(|held| *held == 1));
            }
        }
        Ok(answers)
    }

    /// How many of `cids` are pinned before the first that is not.
    async fn leading_pinned(&self, kind: &str, cids: &[Cid]) -> Result<usize, IpfsError> {
        let texts: Vec<String> = cids.iter().map(Cid::to_string).collect();
        let mut query: Vec<(&str, &str)> = texts.iter().map(|cid| ("arg", cid.as_str())).collect();
        query.extend([("type", kind), ("stream", "true")]);
        let mut named = 0;
        let answer = async {
            let mut lines = self.rpc.open("pin/ls", &query, SLOW_DEADLINE).await?;
            while let Some(item) = lines.next_json::<PinLsItem>().await? {
                verdict::is_next(&item, cids.get(named))?;
                named += 1;
            }
            Ok(())
        };
        let end = answer.await;
        verdict::leading_pinned(&texts, named, end)
    }

    async fn add_pin(&self, cid: Cid, progress: &watch::Sender<Progress>) -> Result<(), IpfsError> {
        self.codecs.check(&self.rpc, &cid).await?;
        let text = cid.to_string();
        let query = [("arg", text.as_str()), ("recursive", "true"), ("progress", "true")];
        let mut lines = self.rpc.open("pin/add", &query, SLOW_DEADLINE).await?;
        let mut pinning = Pinning::new(cid);
        while let Some(event) = lines.next_json::<PinEvent>().await? {
            if let Some(made) = pinning.hear(&event) {
                progress.send_replace(made);
            }
        }
        pinning.end()
    }

    async fn remove_pin(&self, cid: Cid) -> Result<(), IpfsError> {
        let text = cid.to_string();
        let query = [("arg", text.as_str())];
        let answer = self.rpc.ask::<serde_json::Value>("pin/rm", &query, SLOW_DEADLINE).await;
        verdict::unpinned(answer.map(|_| ()))
    }

    async fn ask_repository(&self) -> Result<RepositoryStat, IpfsError> {
        let stat: RepoStat =
            self.rpc.ask("repo/stat", &[("size-only", "true")], SLOW_DEADLINE).await?;
        Ok(stat.into())
    }

    async fn keep_connected(&self, addresses: &[String]) -> Result<(), IpfsError> {
        let query: Vec<(&str, &str)> = addresses.iter().map(|a| ("arg", a.as_str())).collect();
        // A lost peering is restored by itself, but its first dial takes some ten seconds; so the
        // daemon is also told to connect now.
        for command in ["swarm/peering/add", "swarm/connect"] {
            let mut lines = self.rpc.open(command, &query, QUICK_DEADLINE).await?;
            // The content of a success is not needed.
            while lines.next_json::<serde_json::Value>().await?.is_some() {}
        }
        Ok(())
    }
}

/// Progress of a listing between two items.
enum Listing {
    Start(&'static str, Rpc),
    Open(Lines),
    Over,
}

/// All pins of a kind whose CID we could have pinned; a list that ends with `Err` is incomplete.
fn list(kind: &'static str, rpc: &Rpc) -> BoxStream<'static, Result<Cid, IpfsError>> {
    stream::unfold(Listing::Start(kind, rpc.clone()), next_pin).boxed()
}

async fn next_pin(listing: Listing) -> Option<(Result<Cid, IpfsError>, Listing)> {
    let next = async {
        let mut lines = match listing {
            Listing::Start(kind, rpc) => {
                let query = [("type", kind), ("stream", "true")];
                rpc.open("pin/ls", &query, SLOW_DEADLINE).await?
            }
            Listing::Open(lines) => lines,
            Listing::Over => return Ok(None),
        };
        while let Some(item) = lines.next_json::<PinLsItem>().await? {
            match item.cid.parse() {
                Ok(cid) => return Ok(Some((cid, Listing::Open(lines)))),
                Err(error) => {
                    tracing::debug!(cid = item.cid, %error, "skipped a foreign pin with an unsupported CID")
                }
            }
        }
        Ok(None)
    };
    match next.await {
        Ok(None) => None,
        Ok(Some((cid, listing))) => Some((Ok(cid), listing)),
        Err(error) => Some((Err(error), Listing::Over)),
    }
}

impl Ipfs for KuboClient {
    fn id(&self) -> BoxFuture<'_, Result<DaemonInfo, IpfsError>> {
        self.ask_id().boxed()
    }

    fn pinned(&self, cids: Vec<Cid>) -> BoxFuture<'_, Result<Vec<Held>, IpfsError>> {
        async move { self.ask_pinned(&cids).await }.boxed()
    }

    fn pin(
        &self,
        cid: Cid,
        progress: watch::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), IpfsError>> {
        async move { self.add_pin(cid, &progress).await }.boxed()
    }

    fn unpin(&self, cid: Cid) -> BoxFuture<'_, Result<(), IpfsError>> {
        self.remove_pin(cid).boxed()
    }

    fn pins(&self) -> BoxStream<'_, Result<Cid, IpfsError>> {
        list("recursive", &self.rpc)
    }

    fn repository(&self) -> BoxFuture<'_, Result<RepositoryStat, IpfsError>> {
        self.ask_repository().boxed()
    }

    fn run_gc(&self) -> BoxFuture<'_, Result<GcReport, IpfsError>> {
        gc::run(&self.rpc).boxed()
    }

    fn connect(&self, addresses: Vec<String>) -> BoxFuture<'_, Result<(), IpfsError>> {
        async move { self.keep_connected(&addresses).await }.boxed()
    }
}

#[cfg(test)]
mod tests;
