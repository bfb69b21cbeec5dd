//! The leader marks peers that nothing is heard of: their own ClusterPeers cannot say it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    directory::{Directory, Listed, peers_in},
    own::apply_status,
    status::condition,
};
use crate::controller::leading::Leading;

/// How often peers are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A new leader waits for the peers' metrics before it calls anybody silent: a time to live.
const FIRST: Duration = Duration::from_secs(10);
/// Between two marks of one peer: one that writes its status but does not reach the leader would
/// take the mark away each time.
const MARK_EVERY: Duration = Duration::from_secs(30);

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(
    lead: Arc<Leading>,
    directory: watch::Receiver<Arc<Directory>>,
) {
    let began = Instant::now();
    let mut marked: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        if began.elapsed() < FIRST {
            continue;
        }
        let now = directory.borrow().clone();
        for (name, listed) in silent(&lead, &now) {
            if !lead.holds() {
                return;
            }
            let recently = |at: &Instant| at.elapsed() < MARK_EVERY;
            if marked.get(name).is_some_and(recently) {
                continue;
            }
            marked.insert(name.clone(), Instant::now());
            tokio::select! {
                biased;
                () = lead.token.cancelled() => return,
                () = mark(&lead, name, listed) => {}
            }
        }
    }
}

/// Members that nothing is heard of and whose ClusterPeers do not say so.
fn silent<'a>(lead: &Leading, directory: &'a Directory) -> Vec<(&'a String, &'a Listed)> {
    let cluster = &lead.shared.cluster;
    let (members, heard) = (cluster.members(), cluster.peer_metrics());
    let is_silent = |listed: &Listed| {
        let member = listed.id.filter(|id| members.contains_key(id) && *id != cluster.id());
        let unknown =
            listed.status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
        member.is_some_and(|id| !heard.contains_key(&id)) && !unknown
    };
    directory.peers.iter().filter(|(_, listed)| is_silent(listed)).collect()
}

/// Writes the whole status again with another Ready: one field manager owns all of it, and what it
/// leaves out would go.
async fn mark(lead: &Leading, name: &str, listed: &Listed) {
    let message = "the leader hears nothing of this peer";
    let mut status = listed.status.clone();
    let ready =
        condition("Ready", ("Unknown", "PeerDown", message), &status, lead.shared.clock.now());
    // What else it said may be over.
    status.conditions = vec![ready];
    status.role = None;
    let api = peers_in(&lead.shared.client, &lead.shared.settings.namespace);
    tracing::warn!(peer = name, "nothing was heard of a peer");
    match apply_status(&api, name, &listed.resource_version, &status).await {
        Ok(result) => {
            lead.shared.reach.note(&result);
            if let Err(error) = result {
                tracing::warn!(peer = name, %error, "a silent peer was not marked");
            }
        }
        Err(_) => tracing::warn!(peer = name, "a silent peer was not marked: no answer in time"),
    }
}
