//! On the leader: marks the ClusterPeers of silent peers, which cannot report it themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use pinkeeper::types::{PeerId, Timestamp};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{own::apply_status, status::condition};
use crate::{
    controller::leading::Leading,
    crd::ClusterPeerStatus,
    kubernetes::{Directory, Listed, peers_in},
};

/// How often peers are checked.
const EVERY: Duration = Duration::from_secs(1);
/// A new leader waits this long for the peer metrics before it calls a peer silent.
const FIRST: Duration = Duration::from_secs(10);
/// Shortest time between two marks of one peer. A peer that reaches the API server but not the
/// leader overwrites each mark.
const MARK_EVERY: Duration = Duration::from_secs(30);

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(
    lead: Arc<Leading>,
    directory: watch::Receiver<Arc<Directory>>,
) {
    let began = Instant::now();
    let mut marks = Marks::default();
    loop {
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        let cluster = &lead.context.cluster;
        let view = View {
            own: cluster.id(),
            members: cluster.members().into_keys().collect(),
            heard: cluster.peer_metrics().into_keys().collect(),
            led_for: began.elapsed(),
        };
        let now = directory.borrow().clone();
        for (name, listed) in silent(&view, &now) {
            if !lead.holds() {
                return;
            }
            if !marks.may(name, Instant::now()) {
                continue;
            }
            tokio::select! {
                biased;
                () = lead.token.cancelled() => return,
                () = mark(&lead, name, listed) => {}
            }
        }
    }
}

/// What the leader knows of the members.
struct View {
    /// The leader itself.
    own: PeerId,
    /// All members.
    members: BTreeSet<PeerId>,
    /// Members with current peer metrics.
    heard: BTreeSet<PeerId>,
    /// How long it has led.
    led_for: Duration,
}

/// Silent members whose ClusterPeers do not show it yet.
fn silent<'a>(view: &View, directory: &'a Directory) -> Vec<(&'a String, &'a Listed)> {
    if view.led_for < FIRST {
        return Vec::new();
    }
    let is_silent = |listed: &Listed| {
        let member = listed.id.filter(|id| view.members.contains(id) && *id != view.own);
        let unknown =
            listed.status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
        member.is_some_and(|id| !view.heard.contains(&id)) && !unknown
    };
    directory.peers.iter().filter(|(_, listed)| is_silent(listed)).collect()
}

/// Time of the last mark, by peer name.
#[derive(Debug, Default)]
struct Marks(BTreeMap<String, Instant>);

impl Marks {
    /// Whether a peer may be marked now; if so, records the mark.
    fn may(&mut self, name: &str, now: Instant) -> bool {
        let recently = |at: &Instant| now.saturating_duration_since(*at) < MARK_EVERY;
        let may = !self.0.get(name).is_some_and(recently);
        if may {
            self.0.insert(name.to_owned(), now);
        }
        may
    }
}

/// The whole status with Ready replaced. The other fields are repeated, since server-side apply
/// removes fields that its manager leaves out. Role and other conditions are dropped: they may be
/// outdated.
fn marked(status: &ClusterPeerStatus, now: Timestamp) -> ClusterPeerStatus {
    let message = "the leader hears nothing of this peer";
    let ready = condition("Ready", ("Unknown", "PeerDown", message), status, now);
    ClusterPeerStatus { conditions: vec![ready], role: None, ..status.clone() }
}

async fn mark(lead: &Leading, name: &str, listed: &Listed) {
    let status = marked(&listed.status, lead.context.clock.now());
    let api = peers_in(&lead.context.client, &lead.context.settings.namespace);
    tracing::warn!(peer = name, "nothing was heard of a peer");
    match apply_status(&api, name, &listed.resource_version, &status).await {
        Ok(result) => {
            lead.context.reach.note(&result);
            if let Err(error) = result {
                tracing::warn!(peer = name, %error, "cannot mark a silent peer");
            }
        }
        Err(_) => tracing::warn!(peer = name, "cannot mark a silent peer: no answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::PeerRole;

    fn id(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    /// The ClusterPeer of peer `number`, with a condition of this type and status.
    fn said(number: Option<u8>, kind: &str, status: &str) -> Listed {
        let before = ClusterPeerStatus::default();
        let said = condition(kind, (status, "Reason", ""), &before, Timestamp(5000));
        let other =
            condition("UnpinsWaiting", ("True", "TooManyDeleted", ""), &before, Timestamp(0));
        let status = ClusterPeerStatus {
            conditions: vec![said, other],
            role: Some(PeerRole::Voter),
            addresses: vec!["/ip4/10.0.0.2/tcp/9096".into()],
            pins: Some(7),
            ..before
        };
        Listed { id: number.map(id), status, ..Listed::default() }
    }

    #[test]
    fn a_member_that_nothing_is_heard_of_is_marked_once() {
        let all = || BTreeSet::from([id(1), id(2), id(3)]);
        let view = |members, heard: &[u8], led_for| View {
            own: id(1),
            members,
            heard: heard.iter().map(|number| id(*number)).collect(),
            led_for,
        };
        let soon = FIRST - Duration::from_millis(1);
        let without = || BTreeSet::from([id(1), id(3)]);
        // Whether the ClusterPeer of peer 2 must be marked.
        let cases = [
            ("silent", view(all(), &[1, 3], FIRST), said(Some(2), "Ready", "True"), true),
            ("silent, not ready", view(all(), &[3], FIRST), said(Some(2), "Ready", "False"), true),
            ("not asked yet", view(all(), &[1, 3], soon), said(Some(2), "Ready", "True"), false),
            ("heard", view(all(), &[2], FIRST), said(Some(2), "Ready", "True"), false),
            ("marked", view(all(), &[1, 3], FIRST), said(Some(2), "Ready", "Unknown"), false),
            ("another Unknown", view(all(), &[], FIRST), said(Some(2), "Other", "Unknown"), true),
            ("no member", view(without(), &[], FIRST), said(Some(2), "Ready", "True"), false),
            ("the leader", view(all(), &[], FIRST), said(Some(1), "Ready", "True"), false),
            ("nobody's", view(all(), &[], FIRST), said(None, "Ready", "True"), false),
        ];
        for (what, view, listed, expected) in cases {
            let peers = BTreeMap::from([("p-2".to_owned(), listed)]);
            let directory = Directory { complete: true, peers };
            let names = Vec::from_iter(silent(&view, &directory).into_iter().map(|(name, _)| name));
            assert_eq!(names, Vec::from_iter(expected.then_some("p-2")), "{what}");
        }
    }

    #[test]
    fn a_mark_that_is_taken_away_each_time_is_made_rarely() {
        let start = Instant::now();
        let mut marks = Marks::default();
        let step = Duration::from_millis(1);
        let cases = [
            (Duration::ZERO, true),
            (step, false),
            (MARK_EVERY - step, false),
            (MARK_EVERY, true),
            (MARK_EVERY + step, false),
            (MARK_EVERY * 2, true),
        ];
        for (at, may) in cases {
            assert_eq!(marks.may("p-2", start + at), may, "after {at:?}");
        }
        assert!(marks.may("p-3", start), "another peer");
    }

    #[test]
    fn a_mark_says_only_that_nothing_is_known() {
        let listed = said(Some(2), "Ready", "True");
        let now = Timestamp(9_000_000);
        let status = marked(&listed.status, now);
        let [ready] = &status.conditions[..] else { panic!("{status:?}") };
        assert_eq!((ready.type_.as_str(), ready.status.as_str()), ("Ready", "Unknown"));
        assert_eq!(ready.reason, "PeerDown");
        assert_eq!(ready.last_transition_time.0.as_second(), 9_000);
        assert_eq!(status.role, None);
        let (conditions, role) = (Vec::new(), None);
        let kept = |of: &ClusterPeerStatus| ClusterPeerStatus {
            conditions: conditions.clone(),
            role,
            ..of.clone()
        };
        assert_eq!(kept(&status), kept(&listed.status), "the rest stays");
    }
}
