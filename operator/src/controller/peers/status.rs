//! Computes a ClusterPeer's status. Pure.
//!
//! Invariant: no heartbeat. Numbers that change all the time are shown in steps.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pinkeeper::{
    cluster::{Leadership, MemberView, Standing},
    types::{ClusterId, Member, Metrics, PeerId, Timestamp},
};

use crate::crd::{self, ClusterPeerDaemon, ClusterPeerStatus, PeerRole};

/// What a peer knows about itself.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The generation of its ClusterPeer's spec.
    pub generation: i64,
    /// Its identity.
    pub id: PeerId,
    /// Its addresses.
    pub member: &'a Member,
    /// Its cluster.
    pub standing: Standing,
    /// The cluster that it is about to found.
    pub announced: Option<ClusterId>,
    /// The Raft leadership.
    pub leadership: Leadership,
    /// A leader answers this peer, or it leads itself.
    pub led: bool,
    /// Its entry in the membership.
    pub membership: Option<&'a MemberView>,
    /// Its peer metrics.
    pub metrics: &'a Metrics,
    /// What a blank peer waits for.
    pub waiting: &'a str,
    /// Message about deletions that wait for approval, if any.
    pub unpins: Option<&'a str>,
    /// Why deletions are held, if so.
    pub held: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// A number that follows `now` only after a change of more than 5 % (and is exact at 0).
#[must_use]
pub fn steady(shown: Option<u64>, now: Option<u64>) -> Option<u64> {
    match (shown, now) {
        (Some(shown), Some(now)) if now != 0 && now.abs_diff(shown) <= shown / 20 => Some(shown),
        (_, now) => now,
    }
}

/// The peer's own status, given the present one.
#[must_use]
pub fn own_status(situation: Situation<'_>, before: &ClusterPeerStatus) -> ClusterPeerStatus {
    let Situation { metrics, standing, leadership, membership, .. } = situation;
    let cluster_id = match standing {
        Standing::Blank => situation.announced.map(|cluster| cluster.to_string()),
        Standing::Member { cluster, .. } => Some(cluster.to_string()),
    };
    let role = if leadership.local {
        Some(PeerRole::Leader)
    } else {
        membership.map(|view| if view.voter { PeerRole::Voter } else { PeerRole::Learner })
    };
    ClusterPeerStatus {
        observed_generation: Some(situation.generation),
        conditions: [ready(situation, before)]
            .into_iter()
            .chain(warnings(situation, before))
            .collect(),
        peer_id: Some(situation.id.to_string()),
        cluster_id,
        addresses: addresses(&situation.member.addresses),
        role,
        version: Some(metrics.version.clone()).filter(|version| !version.is_empty()),
        daemon: metrics.daemon.as_ref().map(|daemon| ClusterPeerDaemon {
            id: daemon.id.clone(),
            agent: daemon.agent.clone(),
            addresses: daemon_addresses(&daemon.addresses),
        }),
        repository_size: metrics.repository_size.map(crd::quantity),
        free_space: metrics.free_space.map(crd::quantity),
        pins: Some(count(metrics.pins)),
        queue: Some(count(metrics.pin_queue)),
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Addresses within the limits of the definition.
fn addresses(all: &[String]) -> Vec<String> {
    let fits = |address: &&String| (1..=crd::ADDRESS_LEN_MAX).contains(&address.len());
    all.iter().filter(fits).take(crd::ADDRESSES_LEN_MAX).cloned().collect()
}

/// Addresses of a daemon that others can dial, common transports first, so that the limit cuts off
/// rare transports and not announced addresses. Loopback addresses are used only if there are no
/// others.
fn daemon_addresses(all: &[String]) -> Vec<String> {
    let is_local = |address: &&String| {
        ["/ip4/127.", "/ip6/::1/"].iter().any(|start| address.starts_with(start))
    };
    let is_odd = |address: &String| {
        ["/webtransport", "/webrtc-direct", "/p2p-circuit", "/ws"]
            .iter()
            .any(|part| address.contains(part))
    };
    let mut chosen: Vec<String> = all.iter().filter(|a| !is_local(a)).cloned().collect();
    if chosen.is_empty() {
        return addresses(all);
    }
    chosen.sort_by_key(is_odd);
    addresses(&chosen)
}

fn ready(situation: Situation<'_>, before: &ClusterPeerStatus) -> Condition {
    let Situation { standing, led, metrics, waiting, now, .. } = situation;
    let (status, reason, message) = match standing {
        Standing::Blank => ("False", "Joining", waiting),
        Standing::Member { .. } if !led => (
            "False",
            "NoLeader",
            "no leader answers this peer: a majority of the voters must be up",
        ),
        Standing::Member { .. } if metrics.daemon.is_none() => {
            ("False", "DaemonDown", "the IPFS daemon beside this peer does not answer")
        }
        Standing::Member { .. } => ("True", "Ready", ""),
    };
    condition("Ready", (status, reason, message), before, now)
}

/// Conditions that exist only while they are true: deletions wait for approval, and deletions are
/// held.
fn warnings(
    situation: Situation<'_>,
    before: &ClusterPeerStatus,
) -> impl Iterator<Item = Condition> {
    let all = [
        ("UnpinsWaiting", "TooManyDeleted", situation.unpins),
        ("DeletionsHeld", "OtherServer", situation.held),
    ];
    all.into_iter().filter_map(move |(kind, reason, message)| {
        Some(condition(kind, ("True", reason, message?), before, situation.now))
    })
}

/// A condition. It keeps its transition time while its status stays the same.
pub(super) fn condition(
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    before: &ClusterPeerStatus,
    now: Timestamp,
) -> Condition {
    let was = before.conditions.iter().find(|c| c.type_ == kind && c.status == status);
    let second = i64::try_from(now.0 / 1000).unwrap_or_default();
    let now = Time(jiff::Timestamp::from_second(second).unwrap_or_default());
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.chars().take(crd::MESSAGE_LEN_MAX).collect(),
        observed_generation: None,
        last_transition_time: was.map_or(now, |was| was.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pinkeeper::types::DaemonInfo;

    use super::*;

    fn metrics(daemon: bool) -> Metrics {
        let daemon = daemon.then(|| DaemonInfo {
            id: "12D3KooWdaemon".into(),
            agent: "kubo/0.43.1".into(),
            addresses: vec!["/ip4/10.0.0.7/tcp/4001/p2p/12D3KooWdaemon".into()],
        });
        Metrics {
            daemon,
            free_space: Some(10 << 30),
            repository_size: None,
            pins: 3,
            pin_queue: 0,
            tags: BTreeMap::new(),
            version: "0.1.0".into(),
            addresses: Vec::new(),
            ttl_ms: 10_000,
            ..Metrics::default()
        }
    }

    #[test]
    fn ready_says_what_is_missing() {
        let member =
            Member { name: "p-0".into(), addresses: vec!["/ip4/10.0.0.7/tcp/9096".into()] };
        let of = Standing::Member { cluster: ClusterId([1; 16]), epoch: 1 };
        let leader = Some(PeerId([2; 32]));
        let cases = [
            (Standing::Blank, false, true, "False", "Joining", None),
            (of, false, true, "False", "NoLeader", Some(PeerRole::Voter)),
            (of, true, false, "False", "DaemonDown", Some(PeerRole::Voter)),
            (of, true, true, "True", "Ready", Some(PeerRole::Voter)),
        ];
        for (standing, led, daemon, status, reason, role) in cases {
            let metrics = metrics(daemon);
            let view = MemberView { member: member.clone(), voter: true };
            let situation = Situation {
                generation: 4,
                id: PeerId([1; 32]),
                member: &member,
                standing,
                announced: None,
                leadership: Leadership { leader, term: 1, local: false },
                led,
                membership: role.is_some().then_some(&view),
                metrics: &metrics,
                waiting: "for others",
                unpins: None,
                held: None,
                now: Timestamp(5000),
            };
            let first = own_status(situation, &ClusterPeerStatus::default());
            assert_eq!(first.conditions[0].status, status);
            assert_eq!(first.conditions[0].reason, reason);
            assert_eq!(first.role, role);
            let later = Situation { now: Timestamp(9_999_000), ..situation };
            assert_eq!(own_status(later, &first), first, "the same is said later");
            let told = own_status(Situation { unpins: Some("7 wait"), ..later }, &first);
            assert_eq!(told.conditions[0], first.conditions[0]);
            let unpins = &told.conditions[1];
            assert_eq!((unpins.type_.as_str(), unpins.status.as_str()), ("UnpinsWaiting", "True"));
            assert_eq!(unpins.message, "7 wait");
            assert_eq!(own_status(later, &told), first, "said until nothing waits");
            let told = own_status(Situation { held: Some("another server"), ..later }, &first);
            let held = &told.conditions[1];
            assert_eq!(
                (held.type_.as_str(), held.message.as_str()),
                ("DeletionsHeld", "another server")
            );
        }
    }

    /// A healthy member.
    fn well<'a>(member: &'a Member, metrics: &'a Metrics) -> Situation<'a> {
        Situation {
            generation: 4,
            id: PeerId([1; 32]),
            member,
            standing: Standing::Member { cluster: ClusterId([1; 16]), epoch: 1 },
            announced: None,
            leadership: Leadership { leader: Some(PeerId([2; 32])), term: 1, local: false },
            led: true,
            membership: None,
            metrics,
            waiting: "for others",
            unpins: None,
            held: None,
            now: Timestamp(5000),
        }
    }

    fn said(situation: Situation<'_>) -> ClusterPeerStatus {
        own_status(situation, &ClusterPeerStatus::default())
    }

    #[test]
    fn a_peer_says_what_it_is_and_to_whom_it_belongs() {
        let member = Member { name: "p-0".into(), addresses: Vec::new() };
        let (metrics, none) = (metrics(true), metrics(false));
        let well = well(&member, &metrics);
        let voter = MemberView { member: member.clone(), voter: true };
        let learner = MemberView { member: member.clone(), voter: false };
        // Whether it leads, its entry in the membership, and its role.
        let cases = [
            (false, None, None),
            (false, Some(&voter), Some(PeerRole::Voter)),
            (false, Some(&learner), Some(PeerRole::Learner)),
            (true, Some(&voter), Some(PeerRole::Leader)),
            (true, None, Some(PeerRole::Leader)),
        ];
        for (local, membership, role) in cases {
            let leadership = Leadership { local, ..well.leadership };
            let status = said(Situation { leadership, membership, ..well });
            assert_eq!(status.role, role, "{local} {membership:?}");
        }
        let status = said(well);
        assert_eq!(status.observed_generation, Some(4));
        assert_eq!(status.peer_id, Some(PeerId([1; 32]).to_string()));
        assert_eq!(status.cluster_id, Some(ClusterId([1; 16]).to_string()));
        assert_eq!((status.pins, status.queue), (Some(3), Some(0)));
        assert_eq!((status.free_space.is_some(), status.repository_size), (true, None));
        assert_eq!(status.daemon.map(|daemon| daemon.id), Some("12D3KooWdaemon".into()));
        // Earlier values of the object do not stay.
        let before = said(well);
        let blank = own_status(Situation { standing: Standing::Blank, ..well }, &before);
        assert_eq!((blank.cluster_id, blank.role), (None, None));
        let announced = Some(ClusterId([2; 16]));
        let founds = Situation { standing: Standing::Blank, announced, ..well };
        assert_eq!(own_status(founds, &before).cluster_id, announced.map(|id| id.to_string()));
        let member = Situation { announced, ..well };
        assert_eq!(own_status(member, &before).cluster_id, before.cluster_id, "the disk counts");
        assert_eq!(own_status(Situation { metrics: &none, ..well }, &before).daemon, None);
    }

    #[test]
    fn the_first_of_several_troubles_is_told() {
        let member = Member { name: "p-0".into(), addresses: Vec::new() };
        let (metrics, none) = (metrics(true), metrics(false));
        let well = well(&member, &metrics);
        let (blank, of) = (Standing::Blank, well.standing);
        let cases = [
            (blank, false, &none, "Joining", "for others"),
            (blank, true, &metrics, "Joining", "for others"),
            (of, false, &none, "NoLeader", "a majority"),
            (of, false, &metrics, "NoLeader", "a majority"),
            (of, true, &none, "DaemonDown", "does not answer"),
            (of, true, &metrics, "Ready", ""),
        ];
        for (standing, led, metrics, reason, message) in cases {
            let status = said(Situation { standing, led, metrics, ..well });
            let ready = &status.conditions[0];
            assert_eq!(ready.reason, reason);
            assert!(ready.message.contains(message), "{}", ready.message);
            assert_eq!(ready.status, if reason == "Ready" { "True" } else { "False" });
        }
    }

    #[test]
    fn a_condition_is_since_its_status_changed() {
        let before = ClusterPeerStatus::default();
        let at = |second: u64, status, before: &ClusterPeerStatus| {
            let now = Timestamp(second * 1000 + 999);
            let one = condition("Ready", (status, "Reason", "message"), before, now);
            let since = one.last_transition_time.0.as_second();
            (since, ClusterPeerStatus { conditions: vec![one], ..ClusterPeerStatus::default() })
        };
        let (since, first) = at(5, "True", &before);
        assert_eq!(since, 5);
        assert_eq!(at(9, "True", &first).0, 5);
        let (since, second) = at(9, "False", &first);
        assert_eq!(since, 9);
        assert_eq!(at(10, "True", &second).0, 10, "it was False in between");
        // Another condition of that status is another.
        let mut other = first;
        other.conditions[0].type_ = "UnpinsWaiting".into();
        assert_eq!(at(9, "True", &other).0, 9);
    }

    #[test]
    fn addresses_that_a_daemon_announces_are_among_those_that_are_told() {
        let odd = |n| format!("/ip4/10.0.0.7/udp/4001/quic-v1/webtransport/certhash/{n}/p2p/12D3");
        let mut all: Vec<String> = (0..crd::ADDRESSES_LEN_MAX).map(odd).collect();
        all.extend(["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/4001"].map(String::from));
        all.extend(["/ip4/10.0.0.7/tcp/4001", "/ip4/192.0.2.1/tcp/30400"].map(String::from));
        let told = daemon_addresses(&all);
        assert_eq!(told[..3], ["/ip4/10.0.0.7/tcp/4001", "/ip4/192.0.2.1/tcp/30400", &*odd(0)]);
        assert_eq!(told.len(), crd::ADDRESSES_LEN_MAX);
        let alone = ["/ip4/127.0.0.1/tcp/4001".to_owned()];
        assert_eq!(daemon_addresses(&alone), alone);
    }

    #[test]
    fn what_the_definition_does_not_allow_is_left_out() {
        let text = |length: usize| "a".repeat(length);
        let most = crd::ADDRESS_LEN_MAX;
        let all = [text(0), text(1), text(most), text(most + 1)];
        assert_eq!(addresses(&all), [text(1), text(most)]);
        let many = vec![text(1); crd::ADDRESSES_LEN_MAX + 1];
        assert_eq!(addresses(&many).len(), crd::ADDRESSES_LEN_MAX);
        assert_eq!((count(7), count(u64::MAX)), (7, i64::MAX));
        let before = ClusterPeerStatus::default();
        let member = Member { name: "p-0".into(), addresses: Vec::new() };
        let unnamed = Metrics { version: String::new(), ..metrics(true) };
        assert_eq!(said(well(&member, &unnamed)).version, None);
        let said = condition("Ready", ("True", "", &text(9000)), &before, Timestamp(0));
        assert_eq!(said.message.len(), crd::MESSAGE_LEN_MAX);
    }

    #[test]
    fn space_moves_in_steps() {
        let cases = [
            (None, Some(7), Some(7)),
            (Some(1000), Some(1050), Some(1000)),
            (Some(1000), Some(1051), Some(1051)),
            (Some(1000), Some(950), Some(1000)),
            (Some(1000), Some(949), Some(949)),
            (Some(1000), Some(940), Some(940)),
            (Some(10), Some(0), Some(0)),
            (Some(0), Some(1), Some(1)),
            (None, None, None),
            (Some(1000), Some(0), Some(0)),
            (Some(1000), None, None),
            (Some(0), Some(0), Some(0)),
        ];
        for (shown, now, expected) in cases {
            assert_eq!(steady(shown, now), expected, "{shown:?} {now:?}");
        }
    }
}
