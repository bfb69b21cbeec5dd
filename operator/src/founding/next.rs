//! Decides the next step of founding from what a peer sees. Pure.

use std::time::Duration;

use pinkeeper::{
    cluster::Standing,
    types::{ClusterId, PeerId},
};

use crate::kubernetes::Record;

/// An unformed record may be taken over after it has not changed for this long.
pub const UNFORMED_MAX: Duration = Duration::from_secs(120);
/// The winner of the record must found within this time, or win the record again.
pub const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// A ClusterPeer with an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: PeerId,
    /// The cluster that it names.
    pub cluster: Option<ClusterId>,
}

/// What a peer sees.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its own name.
    pub name: &'a str,
    /// Its own identity.
    pub id: PeerId,
    /// Its ordinal in the StatefulSet.
    pub ordinal: Option<u32>,
    /// The cluster of its disk, if any.
    pub standing: Standing,
    /// Its disk has members; an interrupted founder has a cluster without members.
    pub has_members: bool,
    /// The record, if there is one.
    pub record: Option<&'a Record>,
    /// The list of ClusterPeers has been read.
    pub listed: bool,
    /// All registered peers.
    pub registered: &'a [Registered],
    /// A stored ClusterPeer names the cluster of this peer's disk.
    pub named: bool,
    /// Number of peers that the cluster is founded with.
    pub initial_peers: u16,
    /// How long this peer has seen the record unchanged.
    pub unchanged: Duration,
    /// The cluster of the record that this process won, and how long ago it sent the request.
    pub won: Option<(ClusterId, Duration)>,
    /// The cluster that this peer's ClusterPeer names, as stored.
    pub announced: Option<ClusterId>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait, for this reason.
    Wait(String),
    /// Create the record with a new cluster ID.
    Create,
    /// Replace the unformed record by one with a new cluster ID.
    TakeOver,
    /// Name the record's cluster in this peer's ClusterPeer, before it is founded. From then on no other
    /// peer takes the record over, also when this peer is away for long after it has founded.
    Announce(ClusterId),
    /// Found the record's cluster.
    Found(ClusterId, u64),
    /// Mark the record as formed.
    MarkFormed,
    /// Create the record again from this peer's data.
    Restore(ClusterId, u64),
    /// Join that cluster; with a warning, if there is one.
    Join(ClusterId, Option<String>),
    /// Nothing is left to do.
    Settled,
    /// This peer's data is of another cluster than the record.
    OtherCluster(String),
}

impl Step {
    /// Whether it begins a new cluster. The driver takes it only after it has read the ClusterPeers
    /// again: an older list may show peers without the cluster that they name by now.
    #[must_use]
    pub fn begins_a_cluster(&self) -> bool {
        matches!(self, Self::Create | Self::TakeOver)
    }
}

/// Decides the next step.
#[must_use]
pub fn next(observed: Observed<'_>) -> Step {
    if !observed.listed && !observed.has_members {
        return Step::Wait("waiting for the list of ClusterPeers".into());
    }
    match (observed.standing, observed.record) {
        (Standing::Member { cluster, epoch }, Some(record)) => {
            with_data(observed, cluster, epoch, record)
        }
        (Standing::Member { cluster, epoch }, None) if observed.has_members => {
            Step::Restore(cluster, epoch)
        }
        (Standing::Member { cluster, .. }, None) => Step::Wait(format!(
            "this disk is of cluster {cluster} but has no members, and there is no record: waiting \
             for a member to restore the record"
        )),
        (Standing::Blank, None) => without_record(observed),
        (Standing::Blank, Some(record)) if record.formed => {
            Step::Join(record.cluster, all_lost(observed, record))
        }
        (Standing::Blank, Some(record)) => unformed(observed, record),
    }
}

fn with_data(observed: Observed<'_>, cluster: ClusterId, epoch: u64, record: &Record) -> Step {
    if (cluster, epoch) != (record.cluster, record.epoch) {
        return Step::OtherCluster(format!(
            "this disk has data of cluster {cluster} (epoch {epoch}), but the record names cluster \
             {} (epoch {})",
            record.cluster, record.epoch
        ));
    }
    if record.formed {
        return Step::Settled;
    }
    if observed.has_members {
        // Any member marks the record, in case the founder could not. First a ClusterPeer must name
        // the cluster: it prevents another founding if the record is deleted while the members are
        // away.
        return match observed.named {
            true => Step::MarkFormed,
            false => Step::Wait(format!("waiting for a ClusterPeer to name cluster {cluster}")),
        };
    }
    // Interrupted between binding the disk and founding. No other peer can have founded the
    // cluster: the record names this pod, and no other peer names this cluster. Nor can another peer
    // take the record over: this peer's ClusterPeer has named the cluster since before the disk was bound.
    let other = |peer: &&Registered| peer.id != observed.id && peer.cluster == Some(cluster);
    match observed.registered.iter().find(other) {
        None if record.founder == observed.name => Step::Found(cluster, epoch),
        _ => Step::Wait(format!("waiting for the members of cluster {cluster}")),
    }
}

fn without_record(observed: Observed<'_>) -> Step {
    if let Some(peer) = observed.registered.iter().find(|peer| peer.cluster.is_some()) {
        return Step::Wait(format!(
            "the ClusterPeer {0} names a cluster, but there is no record: waiting for the peer \
             to restore it. If that cluster is gone for good: kubectl delete clusterpeer {0}",
            peer.name
        ));
    }
    let (there, all) = (observed.registered.len(), usize::from(observed.initial_peers));
    if there < majority(all) || !is_registered(observed) {
        return Step::Wait(format!("{there} of {all} peers have registered; a majority is needed"));
    }
    match observed.ordinal {
        Some(0) => Step::Create,
        _ => Step::Wait("waiting for the first peer to found the cluster".into()),
    }
}

fn unformed(observed: Observed<'_>, record: &Record) -> Step {
    let won = observed.won.filter(|(cluster, _)| *cluster == record.cluster);
    if won.is_some_and(|(_, ago)| ago < FOUND_WITHIN) {
        return match observed.announced == Some(record.cluster) {
            true => Step::Found(record.cluster, record.epoch),
            false => Step::Announce(record.cluster),
        };
    }
    let of_it = |peer: &&Registered| peer.cluster == Some(record.cluster);
    if let Some(peer) = observed.registered.iter().find(of_it) {
        return Step::Join(record.cluster, unfounded(observed, record, peer));
    }
    if let Some(peer) = observed.registered.iter().find(|peer| peer.cluster.is_some()) {
        return Step::Wait(format!("the ClusterPeer {} names another cluster", peer.name));
    }
    // Only one process has this pod's name, so the founder was an earlier process of this pod.
    let mine = record.founder == observed.name;
    let stuck = mine || observed.unchanged >= UNFORMED_MAX;
    let enough = observed.registered.len() >= majority(observed.initial_peers.into());
    if stuck && enough && is_registered(observed) {
        return Step::TakeOver;
    }
    Step::Wait(format!("waiting for {} to found the cluster", record.founder))
}

/// The warning if a named cluster has not been founded for long.
fn unfounded(observed: Observed<'_>, record: &Record, peer: &Registered) -> Option<String> {
    (observed.unchanged >= UNFORMED_MAX).then(|| {
        format!(
            "cluster {} is named by the ClusterPeer {1}, but is not formed yet: waiting for that peer. If it \
             is gone for good: kubectl delete clusterpeer {1}",
            record.cluster, peer.name
        )
    })
}

/// The warning if no peer seems to have the cluster's data any more.
fn all_lost(observed: Observed<'_>, record: &Record) -> Option<String> {
    let all = observed.registered.len() >= usize::from(observed.initial_peers);
    let blank = observed.registered.iter().all(|peer| peer.cluster.is_none());
    (all && blank).then(|| {
        format!(
            "cluster {} was formed, but the disks of all {} peers are empty. Restore the volumes; \
             or, if they are lost for good, give up the cluster: kubectl delete configmap {} (then \
             the peers found a new cluster, which claims the Pins again)",
            record.cluster,
            observed.registered.len(),
            record.name
        )
    })
}

fn is_registered(observed: Observed<'_>) -> bool {
    let own = |peer: &Registered| peer.name == observed.name && peer.id == observed.id;
    observed.registered.iter().any(own)
}

fn majority(all: usize) -> usize {
    all / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClusterId = ClusterId([0xaa; 16]);
    const B: ClusterId = ClusterId([0xbb; 16]);

    fn peer(ordinal: u8, cluster: Option<ClusterId>) -> Registered {
        Registered { name: format!("p-{ordinal}"), id: PeerId([ordinal; 32]), cluster }
    }

    fn record(formed: bool, founder: &str) -> Record {
        Record {
            name: "demo-cluster".into(),
            version: "7".into(),
            cluster: A,
            epoch: 1,
            founder: founder.into(),
            formed,
        }
    }

    fn blank(ordinal: u32, registered: &[Registered]) -> Observed<'_> {
        Observed {
            name: ["p-0", "p-1", "p-2"][ordinal as usize],
            id: PeerId([u8::try_from(ordinal).unwrap_or_default(); 32]),
            ordinal: Some(ordinal),
            standing: Standing::Blank,
            has_members: false,
            record: None,
            listed: true,
            registered,
            named: true,
            initial_peers: 3,
            unchanged: Duration::ZERO,
            won: None,
            announced: None,
        }
    }

    /// The step without its message.
    fn kind(step: &Step) -> String {
        match step {
            Step::Wait(_) => "wait".into(),
            Step::Join(cluster, worry) => format!("join {cluster} {}", worry.is_some()),
            Step::OtherCluster(_) => "other".into(),
            step => format!("{step:?}"),
        }
    }

    #[test]
    fn only_ordinal_0_creates_and_only_with_a_majority_of_blank_peers() {
        let two = [peer(0, None), peer(1, None)];
        let cases: [(u32, &[Registered], &str); 6] = [
            (0, &two, "Create"),
            (1, &two, "wait"),
            (0, &two[..1], "wait"),
            (0, &[], "wait"),
            // A majority, but without this peer's own registration.
            (0, &[peer(1, None), peer(2, None)], "wait"),
            (0, &[peer(0, None), peer(1, None), peer(2, Some(B))], "wait"),
        ];
        for (ordinal, registered, expected) in cases {
            assert_eq!(kind(&next(blank(ordinal, registered))), expected, "{registered:?}");
        }
        let single = Observed { initial_peers: 1, ..blank(0, &two[..1]) };
        assert_eq!(next(single), Step::Create);
    }

    /// Ordinals of blank peers that have registered.
    fn blanks(ordinals: &[u8]) -> Vec<Registered> {
        ordinals.iter().map(|ordinal| peer(*ordinal, None)).collect()
    }

    #[test]
    fn a_majority_of_the_initial_peers_creates_and_takes_over_and_one_less_does_not() {
        let record = record(false, "p-9");
        for (initial, majority) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
            for there in 0..=initial {
                let registered = blanks(&Vec::from_iter(0..there));
                let initial_peers = initial.into();
                let none = Observed { initial_peers, ..blank(0, &registered) };
                let stuck = Observed { record: Some(&record), unchanged: UNFORMED_MAX, ..none };
                let (creates, takes_over) =
                    if there < majority { ("wait", "wait") } else { ("Create", "TakeOver") };
                assert_eq!(kind(&next(none)), creates, "{there} of {initial}");
                assert_eq!(kind(&next(stuck)), takes_over, "{there} of {initial}");
            }
        }
    }

    #[test]
    fn a_record_is_taken_over_only_stuck_with_a_majority_and_registered() {
        let step = Duration::from_millis(1);
        let (own, other) = (record(false, "p-0"), record(false, "p-2"));
        // This name or this identity, but not both.
        let impostor = Registered { id: PeerId([7; 32]), ..peer(0, None) };
        let renamed = Registered { name: "p-7".into(), ..peer(0, None) };
        let all = blanks(&[0, 1, 2]);
        let cases: [(&Record, Duration, Vec<Registered>, &str); 13] = [
            (&other, UNFORMED_MAX, all.clone(), "TakeOver"),
            (&other, UNFORMED_MAX + step, blanks(&[0, 2]), "TakeOver"),
            // The founder may still found it.
            (&other, UNFORMED_MAX - step, all.clone(), "wait"),
            (&other, Duration::ZERO, all.clone(), "wait"),
            // No majority.
            (&other, UNFORMED_MAX, blanks(&[0]), "wait"),
            (&other, UNFORMED_MAX, blanks(&[]), "wait"),
            (&own, Duration::ZERO, blanks(&[0]), "wait"),
            // Not registered.
            (&other, UNFORMED_MAX, blanks(&[1, 2]), "wait"),
            (&other, UNFORMED_MAX, vec![impostor.clone(), peer(1, None)], "wait"),
            (&other, UNFORMED_MAX, vec![renamed, peer(1, None)], "wait"),
            (&own, Duration::ZERO, blanks(&[1, 2]), "wait"),
            (&own, Duration::ZERO, vec![impostor, peer(1, None)], "wait"),
            // Its own record is void at once.
            (&own, Duration::ZERO, all, "TakeOver"),
        ];
        for (record, unchanged, registered, expected) in cases {
            let seen = Observed { record: Some(record), unchanged, ..blank(0, &registered) };
            let told = kind(&next(seen));
            assert_eq!(told, expected, "{} {unchanged:?} {registered:?}", record.founder);
        }
        // Any peer takes over if the founder does not come back.
        let two = blanks(&[0, 1]);
        let seen = Observed { record: Some(&other), unchanged: UNFORMED_MAX, ..blank(1, &two) };
        assert_eq!(next(seen), Step::TakeOver);
        assert_eq!(next(Observed { ordinal: None, ..seen }), Step::TakeOver);
    }

    #[test]
    fn only_who_is_registered_itself_under_its_ordinal_creates() {
        let impostor = Registered { id: PeerId([7; 32]), ..peer(0, None) };
        let renamed = Registered { name: "p-7".into(), ..peer(0, None) };
        for own in [impostor, renamed] {
            let registered = [own, peer(1, None), peer(2, None)];
            assert_eq!(kind(&next(blank(0, &registered))), "wait", "{registered:?}");
        }
        let all = blanks(&[0, 1, 2]);
        for (ordinal, expected) in [(Some(0), "Create"), (Some(1), "wait"), (None, "wait")] {
            let seen = Observed { ordinal, ..blank(0, &all) };
            assert_eq!(kind(&next(seen)), expected, "{ordinal:?}");
        }
    }

    #[test]
    fn nothing_is_founded_before_the_list_of_cluster_peers_is_read() {
        let (all, unformed) = (blanks(&[0, 1, 2]), record(false, "p-0"));
        let formed = record(true, "p-0");
        let of = Standing::Member { cluster: A, epoch: 1 };
        let unread = Observed { listed: false, won: Some((A, Duration::ZERO)), ..blank(0, &all) };
        for standing in [Standing::Blank, of] {
            for record in [None, Some(&unformed), Some(&formed)] {
                let step = next(Observed { standing, record, ..unread });
                assert!(matches!(&step, Step::Wait(why) if why.contains("list")), "{step:?}");
            }
        }
        // Members do not need the list: their disk has the cluster.
        let member = Observed { standing: of, has_members: true, ..unread };
        assert_eq!(next(member), Step::Restore(A, 1));
        assert_eq!(next(Observed { record: Some(&formed), ..member }), Step::Settled);
    }

    #[test]
    fn what_begins_a_cluster_waits_for_another_look() {
        let (wait, id) = (String::new(), A);
        let steps = [
            (Step::Create, true),
            (Step::TakeOver, true),
            (Step::Wait(wait.clone()), false),
            (Step::Announce(id), false),
            (Step::Found(id, 1), false),
            (Step::MarkFormed, false),
            (Step::Restore(id, 1), false),
            (Step::Join(id, None), false),
            (Step::Settled, false),
            (Step::OtherCluster(wait), false),
        ];
        for (step, begins) in steps {
            assert_eq!(step.begins_a_cluster(), begins, "{step:?}");
        }
    }

    #[test]
    fn whoever_waits_says_for_whom() {
        let words = |observed| match next(observed) {
            Step::Wait(words) | Step::OtherCluster(words) => words,
            step => panic!("{step:?}"),
        };
        let (one, all) = (blanks(&[0]), blanks(&[0, 1, 2]));
        let named = [peer(0, None), peer(1, Some(B)), peer(2, None)];
        let (other, later) = (record(false, "p-2"), Record { epoch: 2, ..record(true, "p-2") });
        let of = Standing::Member { cluster: A, epoch: 1 };
        let unformed = |registered| Observed { record: Some(&other), ..blank(0, registered) };
        let with_data = |registered| Observed { standing: of, ..unformed(registered) };
        let cases: [(Observed<'_>, &[&str]); 8] = [
            (blank(0, &one), &["1 of 3"]),
            (blank(1, &all), &["first peer"]),
            (blank(0, &named), &["p-1", "no record", "kubectl delete clusterpeer p-1"]),
            (unformed(&all), &["p-2"]),
            (unformed(&named), &["p-1", "another cluster"]),
            (with_data(&all), &["aaaa", "members"]),
            (Observed { record: None, ..with_data(&all) }, &["aaaa", "no record"]),
            (Observed { record: Some(&later), ..with_data(&all) }, &["aaaa", "epoch 1", "epoch 2"]),
        ];
        for (observed, expected) in cases {
            let words = words(observed);
            assert!(expected.iter().all(|part| words.contains(part)), "{words}: {expected:?}");
        }
    }

    #[test]
    fn whoever_won_the_record_founds_soon_or_not_at_all() {
        let all = [peer(0, None), peer(1, None), peer(2, None)];
        let (own, other) = (record(false, "p-0"), record(false, "p-2"));
        let step = Duration::from_millis(1);
        let (soon, late) = (Duration::from_secs(1), FOUND_WITHIN);
        let base = Observed { announced: Some(A), ..blank(0, &all) };
        let cases = [
            (&own, Some((A, soon)), Duration::ZERO, Step::Found(A, 1)),
            (&own, Some((A, late - step)), UNFORMED_MAX, Step::Found(A, 1)),
            (&other, Some((A, soon)), Duration::ZERO, Step::Found(A, 1)),
            (&own, Some((A, late)), Duration::ZERO, Step::TakeOver),
            // Won by an earlier process of this pod.
            (&own, None, Duration::ZERO, Step::TakeOver),
            (&own, Some((B, soon)), Duration::ZERO, Step::TakeOver),
            (&other, Some((B, soon)), Duration::ZERO, Step::Wait(String::new())),
            (&other, Some((A, late)), Duration::ZERO, Step::Wait(String::new())),
            (&other, None, UNFORMED_MAX, Step::TakeOver),
        ];
        for (record, won, unchanged, expected) in cases {
            let step = next(Observed { record: Some(record), won, unchanged, ..base });
            assert_eq!(kind(&step), kind(&expected), "{record:?} {won:?} {unchanged:?}");
        }
        // Its ClusterPeer names the cluster first.
        for announced in [None, Some(B)] {
            let won = Some((A, soon));
            let seen = Observed { record: Some(&own), won, announced, ..base };
            assert_eq!(next(seen), Step::Announce(A));
            let late = Observed { won: Some((A, late)), ..seen };
            assert_eq!(next(late), Step::TakeOver);
        }
        // A record that was formed meanwhile is not founded again.
        let formed = record(true, "p-0");
        let seen = Observed { record: Some(&formed), won: Some((A, soon)), ..base };
        assert_eq!(kind(&next(seen)), kind(&Step::Join(A, Some(String::new()))));
        // The epoch is the record's.
        let raised = Record { epoch: 3, ..own };
        let seen = Observed { record: Some(&raised), won: Some((A, soon)), ..base };
        assert_eq!(next(seen), Step::Found(A, 3));
    }

    #[test]
    fn an_unformed_record_with_a_member_is_joined_and_never_taken_over() {
        let all = [peer(0, Some(A)), peer(1, None), peer(2, None)];
        let record = record(false, "p-0");
        let seen = Observed { record: Some(&record), unchanged: UNFORMED_MAX, ..blank(1, &all) };
        assert_eq!(kind(&next(seen)), kind(&Step::Join(A, Some(String::new()))));
        let Step::Join(_, Some(why)) = next(seen) else { panic!("{:?}", next(seen)) };
        assert!(why.contains("kubectl delete clusterpeer p-0"), "{why}");
        let soon = Observed { unchanged: UNFORMED_MAX - Duration::from_millis(1), ..seen };
        assert_eq!(next(soon), Step::Join(A, None));
        let others = [peer(0, Some(B)), peer(1, None), peer(2, None)];
        let seen = Observed { registered: &others, ..seen };
        assert_eq!(kind(&next(seen)), "wait");
        // The founder does not take it over either.
        assert_eq!(kind(&next(Observed { name: "p-0", id: PeerId([0; 32]), ..seen })), "wait");
        // The record's cluster exists, whatever other clusters are named.
        let both = [peer(0, Some(B)), peer(1, None), peer(2, Some(A))];
        assert!(matches!(next(Observed { registered: &both, ..seen }), Step::Join(A, _)));
    }

    #[test]
    fn data_and_record_must_agree() {
        let of = |cluster, epoch| Standing::Member { cluster, epoch };
        let (formed, unformed) = (record(true, "p-0"), record(false, "p-0"));
        let cases = [
            (of(A, 1), None, "Restore(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, 1)"),
            (of(B, 2), None, "Restore(bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, 2)"),
            (of(A, 1), Some(&formed), "Settled"),
            (of(A, 1), Some(&unformed), "MarkFormed"),
            (of(B, 1), Some(&formed), "other"),
            (of(B, 1), Some(&unformed), "other"),
            (of(A, 2), Some(&formed), "other"),
            (of(A, 2), Some(&unformed), "other"),
            (of(A, 0), Some(&unformed), "other"),
        ];
        for (standing, record, expected) in cases {
            let seen = Observed { standing, record, has_members: true, ..blank(1, &[]) };
            assert_eq!(kind(&next(seen)), expected, "{standing:?} {record:?}");
            // An interrupted founder must agree too.
            if expected == "other" {
                let alone = [peer(0, None)];
                let (name, registered) = ("p-0", &alone[..]);
                let seen = Observed { has_members: false, name, registered, ..seen };
                assert_eq!(kind(&next(seen)), expected, "{standing:?} {record:?}");
            }
        }
    }

    #[test]
    fn a_record_is_formed_once_a_cluster_peer_names_the_cluster() {
        let standing = Standing::Member { cluster: A, epoch: 1 };
        let record = record(false, "p-0");
        for (named, expected) in [(false, "wait"), (true, "MarkFormed")] {
            let seen = Observed { standing, has_members: true, named, ..blank(0, &[]) };
            assert_eq!(kind(&next(Observed { record: Some(&record), ..seen })), expected);
        }
    }

    #[test]
    fn an_interrupted_founder_goes_on_unless_others_are_of_its_cluster() {
        let standing = Standing::Member { cluster: A, epoch: 1 };
        let alone = [peer(0, Some(A)), peer(1, None), peer(2, None)];
        let joined = [peer(0, Some(A)), peer(1, Some(A)), peer(2, None)];
        let (own, other, formed) =
            (record(false, "p-0"), record(false, "p-1"), record(true, "p-0"));
        let apart = [peer(0, Some(A)), peer(1, Some(B)), peer(2, None)];
        // Its own ClusterPeer without the cluster; another identity with its name, as after a lost
        // volume.
        let unsaid = [peer(0, None), peer(1, None), peer(2, None)];
        let lost = [Registered { id: PeerId([7; 32]), ..peer(0, Some(A)) }, peer(1, None)];
        let founds = "Found(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, 1)";
        let cases: [(Option<&Record>, &[Registered], &str); 8] = [
            (Some(&own), &alone, founds),
            (Some(&own), &apart, founds),
            (Some(&own), &unsaid, founds),
            (Some(&own), &lost, "wait"),
            (Some(&own), &joined, "wait"),
            (Some(&other), &alone, "wait"),
            (Some(&formed), &alone, "Settled"),
            (None, &alone, "wait"),
        ];
        for (record, registered, expected) in cases {
            let step = next(Observed { standing, record, ..blank(0, registered) });
            assert_eq!(kind(&step), expected, "{record:?} {registered:?}");
        }
    }

    #[test]
    fn a_formed_cluster_is_waited_for_even_when_every_disk_is_empty() {
        let blanks = [peer(0, None), peer(1, None), peer(2, None)];
        let some = [peer(0, None), peer(1, None), peer(2, Some(A))];
        let more = [peer(0, None), peer(1, None), peer(2, None), peer(3, None)];
        let another = [peer(0, None), peer(1, None), peer(2, Some(B))];
        let cases: [(&[Registered], bool); 5] = [
            (&blanks, true),
            (&more, true),
            (&some, false),
            (&another, false),
            (&blanks[..2], false),
        ];
        let record = record(true, "p-0");
        for (registered, lost) in cases {
            let unchanged = UNFORMED_MAX * 2;
            let seen = Observed { record: Some(&record), unchanged, ..blank(0, registered) };
            let step = next(seen);
            let Step::Join(A, worry) = step else { panic!("{step:?}") };
            assert_eq!(worry.is_some(), lost, "{registered:?}");
            let names_command =
                |text: String| text.contains("kubectl delete configmap demo-cluster");
            let counts = |text: &String| text.contains(&format!("all {} peers", registered.len()));
            assert!(worry.as_ref().is_none_or(counts));
            assert!(worry.is_none_or(names_command));
        }
    }
}
