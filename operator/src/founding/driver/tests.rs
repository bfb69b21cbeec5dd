//! Tables of what the driver passes to [`next`].

use pinkeeper::state::Limits;

use super::*;

const A: ClusterId = ClusterId([0xaa; 16]);
const B: ClusterId = ClusterId([0xbb; 16]);
const OF_A: Standing = Standing::Member { cluster: A, epoch: 1 };

fn id(number: u8) -> PeerId {
    PeerId([number; 32])
}

/// ClusterPeers with the IDs in their statuses.
fn directory(peers: &[(&str, Option<u8>, Option<ClusterId>)]) -> Directory {
    let listed = |(name, number, cluster): &(&str, Option<u8>, Option<ClusterId>)| {
        let listed = Listed { id: number.map(id), cluster: *cluster, ..Listed::default() };
        ((*name).to_owned(), listed)
    };
    Directory { complete: true, peers: peers.iter().map(listed).collect() }
}

fn settings(pod: &str, initial_peers: u16) -> Settings {
    Settings {
        namespace: "web".into(),
        pod: pod.into(),
        release: "demo".into(),
        initial_peers,
        default_replicas: 2,
        limits: Limits::default(),
    }
}

fn record(version: &str) -> Record {
    Record {
        name: "demo-cluster".into(),
        version: version.into(),
        cluster: A,
        epoch: 1,
        founder: "p-0".into(),
        formed: false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_is_won_by_an_answer_and_from_before_it_was_asked_for() {
    for answer in [Ok(record("7")), Err("somebody else was first")] {
        let late = async {
            sleep(Duration::from_secs(59)).await;
            answer.clone()
        };
        let asked = Instant::now();
        assert_eq!(win(late).await, answer.map(|record| (record.cluster, asked)));
    }
}

#[test]
fn of_itself_a_peer_knows_better_and_without_an_identity_nobody_counts() {
    let listed =
        directory(&[("p-0", Some(0), Some(B)), ("p-1", Some(1), Some(B)), ("p-2", None, Some(B))]);
    for (standing, own) in [(Standing::Blank, None), (OF_A, Some(A))] {
        let seen = registered(&listed, id(0), standing);
        let expected = [
            Registered { name: "p-0".into(), id: id(0), cluster: own },
            Registered { name: "p-1".into(), id: id(1), cluster: Some(B) },
        ];
        assert_eq!(seen, expected, "{standing:?}");
    }
    // Another identity under its name is another peer.
    let seen = registered(&listed, id(7), Standing::Blank);
    assert_eq!(seen[0], Registered { name: "p-0".into(), id: id(0), cluster: Some(B) });
}

#[test]
fn a_cluster_is_named_by_any_cluster_peer_and_only_by_what_it_says() {
    let cases = [
        (OF_A, Some(A), true),
        (OF_A, Some(B), false),
        (OF_A, None, false),
        (Standing::Blank, Some(A), false),
        (Standing::Blank, None, false),
    ];
    for (standing, said, expected) in cases {
        for number in [None, Some(0), Some(1)] {
            let listed = directory(&[("p-0", Some(3), None), ("p-1", number, said)]);
            assert_eq!(names(&listed, standing), expected, "{standing:?} {said:?} {number:?}");
        }
    }
    assert!(!names(&Directory::default(), OF_A));
}

#[test]
fn those_that_the_cluster_is_founded_with_are_looked_for_though_they_are_not_listed() {
    let listed = directory(&[("p-set-1", Some(1), None), ("p-set-7", None, None)]);
    let cases = [
        ("p-set-0", 3, vec!["p-set-0", "p-set-1", "p-set-2", "p-set-7"]),
        ("p-set-0", 1, vec!["p-set-0", "p-set-1", "p-set-7"]),
        ("p-set-9", 2, vec!["p-set-0", "p-set-1", "p-set-7"]),
        ("alone", 3, vec!["p-set-1", "p-set-7"]),
    ];
    for (pod, initial, names) in cases {
        let expected: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
        assert_eq!(self::expected(&listed, &settings(pod, initial)), expected, "{pod} {initial}");
    }
}

#[test]
fn a_record_is_unchanged_only_while_its_very_version_is_read() {
    let start = Instant::now();
    let mut seen = Seen::default();
    // When it is read, the version, and how long it has not changed.
    let cases = [
        (0, Some("7"), 0),
        (50, Some("7"), 50),
        (120, Some("7"), 120),
        (121, Some("8"), 0),
        (130, Some("8"), 9),
        // It was deleted in between.
        (131, None, 0),
        (140, Some("8"), 0),
        (141, Some("7"), 0),
        (150, Some("7"), 9),
    ];
    for (at, version, expected) in cases {
        let now = start + Duration::from_secs(at);
        let record = version.map(record);
        let unchanged = seen.unchanged(record.as_ref(), now);
        assert_eq!(unchanged, Duration::from_secs(expected), "{version:?} after {at} s");
    }
}

#[test]
fn what_the_decision_is_made_on_is_what_is_there() {
    let settings = settings("p-3", 5);
    let own = Own { id: id(3), standing: OF_A, has_members: false };
    let complete = directory(&[("p-3", Some(3), None), ("p-1", Some(1), Some(A))]);
    let incomplete = Directory { complete: false, ..directory(&[("p-1", Some(1), Some(B))]) };
    for (directory, named) in [(complete, true), (incomplete, false)] {
        for has_members in [false, true] {
            let registered = registered(&directory, own.id, own.standing);
            let seen = observed(&settings, Own { has_members, ..own }, &directory, &registered);
            assert_eq!((seen.listed, seen.named), (directory.complete, named), "{directory:?}");
            assert_eq!((seen.has_members, seen.standing), (has_members, OF_A));
            assert_eq!((seen.name, seen.id, seen.ordinal), ("p-3", id(3), Some(3)));
            assert_eq!((seen.initial_peers, seen.registered), (5, &registered[..]));
            // The driver fills these in later.
            assert_eq!((seen.record, seen.unchanged, seen.won), (None, Duration::ZERO, None));
            assert_eq!(seen.announced, None);
        }
    }
}

#[test]
fn a_cluster_is_announced_once_this_peers_stored_object_names_it() {
    let peers =
        directory(&[("p-3", Some(3), Some(A)), ("p-1", Some(1), Some(B)), ("p-2", None, Some(B))]);
    assert_eq!([3, 1, 2].map(|n| announced(&peers, id(n))), [Some(A), Some(B), None]);
    assert_eq!(announced(&directory(&[("p-3", Some(3), None)]), id(3)), None);
}
