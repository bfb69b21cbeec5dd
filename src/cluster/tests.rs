//! Tables for what follows from leadership, and tests of whole peers in simulated networks.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::{
    rpc::{CallError, Transport as _},
    sim::{
        host::{Host, Make},
        network::{SimNetwork, SimTransport},
        run_seeded,
    },
    types::{
        Append, AppendReply, Cid, ClaimName, ClaimOptions, ConfirmNow, Entry, EntryBody, Envelope,
        FIRST_LEVEL, Factor, Hello, LogPosition, OnePin, PinRequest, PinsAfter, Question,
        RaftMessage, RaftReply, ReadIndex, Refusal, Replication, Request, Response, Run, RunGc,
        RunGcHere, SnapshotChunk, SnapshotReply, StatusBatch, StatusReply, Vote, Write, Writes,
    },
};

#[test]
fn leadership_goes_round_the_voters_that_have_most_of_the_log() {
    let id = |n| PeerId([n; 32]);
    let lags = |lags: &[(u8, u64)]| lags.iter().map(|(n, lag)| (id(*n), *lag)).collect();
    assert_eq!(successor(id(1), lags(&[])), None);
    assert_eq!(successor(id(1), lags(&[(2, 0), (3, 0)])), Some(id(2)));
    assert_eq!(successor(id(2), lags(&[(1, 0), (3, 7)])), Some(id(3)));
    assert_eq!(successor(id(3), lags(&[(1, 5), (2, 0)])), Some(id(1)));
    assert_eq!(successor(id(1), lags(&[(2, 9_000), (3, 0)])), Some(id(3)));
    let little = 7 + leader::LAG_MAX;
    assert_eq!(successor(id(1), lags(&[(2, little), (3, 7)])), Some(id(2)));
    assert_eq!(successor(id(1), lags(&[(2, little + 1), (3, 7)])), Some(id(3)));
}

#[test]
fn a_leader_acts_only_in_the_term_that_it_decided_in() {
    let leader = Some(PeerId([1; 32]));
    let check = |local, term| check_leads_in(3, Leadership { leader, term, local });
    let refused = Err(ProposeError::NotLeader(leader));
    assert_eq!(check(true, 3), Ok(()));
    for (local, term) in [(false, 3), (true, 2), (true, 4), (false, 4)] {
        assert_eq!(check(local, term), refused, "local {local}, term {term}");
    }
}

#[test]
fn a_peer_is_led_by_itself_with_a_majority_or_by_another_that_has_answered_lately() {
    let (own, other) = (PeerId([1; 32]), PeerId([2; 32]));
    let (now, late) = (Some(Duration::ZERO), Some(informer::TTL));
    let just = Some(informer::TTL - Duration::from_millis(1));
    let table = [
        (None, false, now, false),
        (Some(own), true, None, true),
        (Some(own), false, now, false),
        (Some(other), false, now, true),
        (Some(other), false, just, true),
        (Some(other), false, late, false),
        (Some(other), false, None, false),
    ];
    for (leader, local, answered, expected) in table {
        let now = Leadership { leader, term: 3, local };
        assert_eq!(is_led(own, now, answered), expected, "{now:?}, answered {answered:?}");
    }
}

#[test]
fn a_peer_is_ready_when_it_is_a_member_is_led_and_has_caught_up() {
    let member = Standing::Member { cluster: ClusterId([1; 16]), epoch: 1 };
    let progress = |last, applied| LogProgress { last, applied, committed: last };
    let table = [
        (member, true, progress(Some(1_000), Some(0)), true),
        (member, true, progress(Some(1_001), Some(0)), false),
        (member, true, progress(Some(9), None), true),
        (member, true, progress(None, None), true),
        (member, false, progress(Some(9), Some(9)), false),
        (Standing::Blank, true, progress(None, None), false),
    ];
    for (standing, led, progress, ready) in table {
        let found = readiness(standing, led, progress);
        assert_eq!(found.is_ok(), ready, "{standing:?}, led {led}, {progress:?}: {found:?}");
    }
}

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn host(n: u8, network: &SimNetwork) -> Host {
    let member = Member { name: format!("pod-{n}"), addresses: vec![format!("/{n}")] };
    let (sync_time, pin_time) = (Duration::ZERO, Duration::ZERO);
    Host::new(Make { id: peer(n), member, sync_time, pin_time }, network.clone())
}

fn cluster(host: &Host) -> &Cluster {
    &host.peer.as_ref().unwrap().cluster
}

/// Three voters. The first one leads.
async fn three(network: &SimNetwork) -> [Host; 3] {
    let mut hosts = [1, 2, 3].map(|n| host(n, network));
    for host in &mut hosts {
        host.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
    }
    cluster(&hosts[0]).found(CLUSTER, 1).await.unwrap();
    let all_vote = |host: &Host| {
        let voters = cluster(host).members().values().filter(|view| view.voter).count();
        voters == 3 && !cluster(host).is_joint()
    };
    until(|| hosts.iter().all(all_vote)).await;
    hosts
}

async fn until(condition: impl Fn() -> bool) {
    let looks = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looks).await.unwrap();
}

/// A peer that only sends requests.
struct Caller(SimTransport);

impl Caller {
    fn new(n: u8, network: &SimNetwork) -> Self {
        Self(network.connect(peer(n), mpsc::channel(1).0))
    }

    async fn ask_as(
        &self,
        of: Option<(ClusterId, u64)>,
        to: &Host,
        request: Request,
    ) -> Result<Response, CallError> {
        self.0.call(to.id, Envelope { cluster: of, request }, CALL_DEADLINE).await
    }

    async fn ask(&self, to: &Host, request: Request) -> Response {
        self.ask_as(Some((CLUSTER, 1)), to, request).await.unwrap()
    }

    async fn report(&self, to: &Host, stream: u64, sequence: u64) -> Response {
        let (more, entries, statuses) = (false, 1, Vec::new());
        let batch = StatusBatch { stream, sequence, more, entries, statuses };
        self.ask(to, batch.into_request()).await
    }

    /// Joins through the leader.
    async fn join(&self, leader: &Host, name: &str) {
        let member = Member { name: name.to_owned(), addresses: vec!["/9".to_owned()] };
        let hello = Hello { member, join: true, level: FIRST_LEVEL, ..Hello::default() };
        let answer = self.ask_as(None, leader, Request::Hello(hello)).await;
        assert!(matches!(&answer, Ok(Response::Hello(reply)) if reply.admitted), "{answer:?}");
    }

    /// Joins through the first host, which leads; all of them know it then.
    async fn join_known(&self, hosts: &[Host]) {
        self.join(&hosts[0], "pod-9").await;
        until(|| hosts.iter().all(|host| cluster(host).members().contains_key(&peer(9)))).await;
    }
}

fn questions() -> Vec<Request> {
    let run = Run { ticket: 1, begin: true };
    vec![
        Metrics { ttl_ms: 60_000, level: FIRST_LEVEL, ..Metrics::default() }.into_request(),
        Writes(Vec::new()).into_request(),
        ReadIndex.into_request(),
        PinsAfter { after: None }.into_request(),
        RunGc { run, only: None }.into_request(),
        RunGcHere { run }.into_request(),
        ConfirmNow { cids: Vec::new() }.into_request(),
    ]
}

#[test]
fn a_peer_checks_the_caller_and_its_own_leadership_before_it_answers() {
    run_seeded(1, async {
        let network = SimNetwork::new(1);
        let hosts = three(&network).await;
        let [leader, other, _] = &hosts;
        let caller = Caller::new(9, &network);
        for request in questions() {
            let not_member = Response::Refused(Refusal::NotMember);
            assert_eq!(caller.ask(leader, request.clone()).await, not_member, "{request:?}");
            for foreign in [None, Some((CLUSTER, 2)), Some((ClusterId([8; 16]), 1))] {
                let answer = caller.ask_as(foreign, leader, request.clone()).await;
                let refused = Response::Refused(Refusal::OtherCluster(Some(CLUSTER)));
                assert_eq!(answer, Ok(refused), "{request:?} of {foreign:?}");
            }
        }
        caller.join_known(&hosts).await;
        for request in questions() {
            let answer = caller.ask(other, request.clone()).await;
            let not_leader = Response::Refused(Refusal::NotLeader(Some(leader.id)));
            assert_eq!(answer, not_leader, "{request:?}");
        }
        let not_leader = Response::Refused(Refusal::NotLeader(Some(leader.id)));
        assert_eq!(caller.report(other, 5, 0).await, not_leader);
        assert_eq!(caller.report(leader, 5, 0).await, Response::Statuses(StatusReply::Taken));
    });
}

#[test]
fn reports_of_an_earlier_leadership_are_forgotten() {
    run_seeded(2, async {
        let network = SimNetwork::new(2);
        let hosts = three(&network).await;
        let first = &hosts[0];
        let caller = Caller::new(9, &network);
        caller.join(first, "pod-9").await;
        let taken = Response::Statuses(StatusReply::Taken);
        assert_eq!(caller.report(first, 5, 0).await, taken);
        assert_eq!(caller.report(first, 5, 1).await, taken);
        let metrics = Metrics { ttl_ms: 3_600_000, level: FIRST_LEVEL, ..Metrics::default() };
        caller.ask(first, metrics.into_request()).await;
        assert!(cluster(first).peer_metrics().contains_key(&peer(9)));
        // Leadership goes round all three peers and returns to the first.
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            cluster(&hosts[from]).hand_over().await;
            until(|| cluster(&hosts[to]).leadership().borrow().local).await;
        }
        assert!(!cluster(first).reports().has_full_set(&peer(9)), "its copies are not confirmed");
        assert!(!cluster(first).peer_metrics().contains_key(&peer(9)), "it may be down by now");
        let all = Response::Statuses(StatusReply::SendAll);
        assert_eq!(caller.report(first, 5, 2).await, all);
    });
}

#[test]
fn a_leader_that_is_cut_off_and_does_not_know_it_answers_no_question() {
    run_seeded(3, async {
        let network = SimNetwork::new(3);
        let hosts = three(&network).await;
        let (leader, others) = hosts.split_first().unwrap();
        let caller = Caller::new(9, &network);
        caller.join(leader, "pod-9").await;
        let cid: Cid = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap();
        let questions = || {
            [
                ReadIndex.into_request(),
                OnePin { cid }.into_request(),
                PinsAfter { after: None }.into_request(),
                Writes(vec![Write::Unpin(cid)]).into_request(),
            ]
        };
        let barrier = |host: &Host| {
            let parts = &cluster(host).0.parts;
            let (consensus, transport) = (parts.consensus.clone(), parts.transport.clone());
            ReadBarrier { consensus, transport }
        };
        for question in questions() {
            let answer = caller.ask(leader, question.clone()).await;
            assert!(!matches!(answer, Response::Refused(_)), "{question:?}: {answer:?}");
        }
        for host in &hosts {
            assert_eq!(barrier(host).pass().await, Ok(()));
        }
        for question in questions() {
            for other in others {
                network.set_way_cut(leader.id, other.id, true);
                network.set_way_cut(other.id, leader.id, true);
            }
            assert!(
                cluster(leader).leadership().borrow().local,
                "it does not know that it is cut off"
            );
            let answer = caller.ask_as(Some((CLUSTER, 1)), leader, question.clone());
            let barrier = barrier(leader);
            let (answer, passed) = tokio::join!(answer, barrier.pass());
            assert!(
                matches!(answer, Ok(Response::Refused(_)) | Err(CallError::Timeout { .. })),
                "{question:?}: {answer:?}"
            );
            assert!(passed.is_err(), "its barrier");
            network.heal();
            // Another peer may have been elected meanwhile.
            let first_leads = async {
                tokio::time::sleep(Duration::from_secs(10)).await;
                while !cluster(leader).leadership().borrow().local {
                    for other in others {
                        cluster(other).hand_over().await;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(600), first_leads).await.unwrap();
        }
    });
}

/// Founds another cluster on a host of its own.
async fn another(n: u8, network: &SimNetwork) -> Host {
    let mut host = host(n, network);
    host.start(JoinPolicy::Wait).await.unwrap();
    cluster(&host).found(ClusterId([n; 16]), 1).await.unwrap();
    host
}

#[test]
fn addresses_spread_over_any_connection_with_any_leader() {
    run_seeded(4, async {
        let network = SimNetwork::new(4);
        let mut hosts = three(&network).await;
        hosts.iter_mut().for_each(Host::crash);
        // All come back at new addresses. The first is the only one that the others reach, and never stands
        // for election.
        hosts[0].timing.election_min = Duration::from_secs(1_000);
        hosts[0].timing.election_max = Duration::from_secs(2_000);
        for (from, to) in [(2, 3), (3, 2)] {
            network.set_way_cut(peer(from), peer(to), true);
        }
        for (host, n) in hosts.iter_mut().zip(1..) {
            host.member.addresses = vec![format!("/new/{n}")];
            host.start(JoinPolicy::Any).await.unwrap();
        }
        for (of, where_is) in [(1, 3), (2, 2)] {
            let new = format!("/new/{where_is}");
            until(|| {
                let addresses = cluster(&hosts[of]).addresses();
                addresses.get(&peer(where_is)).is_some_and(|known| known.contains(&new))
            })
            .await;
        }
        // The addresses that a peer reports of itself replace its earlier ones.
        until(|| cluster(&hosts[0]).addresses()[&peer(2)] == ["/new/2"]).await;
    });
}

#[test]
fn the_addresses_of_non_members_are_forgotten() {
    run_seeded(5, async {
        let network = SimNetwork::new(5);
        let hosts = three(&network).await;
        let known = |host: &Host| cluster(host).addresses().into_keys().collect::<Vec<_>>();
        cluster(&hosts[1]).learn_addresses([(peer(9), vec!["/9".to_owned()])].into());
        assert!(known(&hosts[1]).contains(&peer(9)));
        until(|| known(&hosts[1]) == [peer(1), peer(3)]).await;
    });
}

#[test]
fn two_clusters_that_meet_notice_each_other_and_only_the_newcomer_is_not_ready() {
    run_seeded(6, async {
        let network = SimNetwork::new(6);
        let hosts = three(&network).await;
        let ready = |host: &Host| cluster(host).readiness();
        let other = another(8, &network).await;
        let met = |host: &Host| ready(host).is_err_and(|reason| reason.contains("another cluster"));
        until(|| met(&other)).await;
        until(|| hosts.iter().all(|host| ready(host).is_ok())).await;
        // The newcomer takes in no peer that belongs to the first cluster.
        let hello = Hello { join: true, cluster: Some(CLUSTER), ..Hello::default() };
        let caller = Caller::new(9, &network);
        let answer = caller.ask_as(Some((CLUSTER, 1)), &other, Request::Hello(hello)).await;
        let refused = Refusal::OtherCluster(cluster(&other).cluster_id());
        assert_eq!(answer, Ok(Response::Refused(refused)));
        // Once it is disconnected, it is ready.
        network.set_cut(other.id, true);
        until(|| ready(&other).is_ok()).await;
    });
}

#[test]
fn a_founder_that_has_lost_its_disk_stops_when_it_meets_its_cluster() {
    run_seeded(7, async {
        let network = SimNetwork::new(7);
        let _hosts = three(&network).await;
        let mut wiped = another(8, &network).await;
        cluster(&wiped).founds_as_configured();
        let failed = tokio::time::timeout(Duration::from_secs(60), async {
            wiped.peer.as_mut().unwrap().failed().await
        });
        let error = failed.await.expect("the founder does not stop");
        assert!(matches!(&error, FatalError::AnotherCluster { other: CLUSTER, .. }), "{error:?}");
    });
}

fn append(term: u64, leader: PeerId) -> Request {
    let vote = Vote { term, candidate: leader, committed: true };
    let (previous, entries, committed) = (None, Vec::new(), None);
    Request::Raft(RaftMessage::Append(Append { vote, previous, entries, committed }))
}

#[test]
fn a_message_that_no_member_would_send_ends_no_leadership() {
    run_seeded(8, async {
        let network = SimNetwork::new(8);
        let hosts = three(&network).await;
        let [leader, other, _] = &hosts;
        let caller = Caller::new(9, &network);
        let terms = || hosts.iter().map(|host| cluster(host).leadership().borrow().term);
        let before: Vec<u64> = terms().collect();
        for host in [leader, other] {
            let not_member = Response::Refused(Refusal::NotMember);
            assert_eq!(caller.ask(host, append(u64::MAX, peer(9))).await, not_member);
            assert_eq!(caller.ask(host, append(u64::MAX, leader.id)).await, not_member);
            let vote = Vote { term: 9, candidate: peer(9), committed: true };
            let data = vec![0; 100];
            let chunk = SnapshotChunk { vote, transfer: 1, offset: 0, data, last: false };
            assert_eq!(caller.ask(host, Request::Snapshot(chunk)).await, not_member);
        }
        caller.join_known(&hosts).await;
        for request in [append(u64::MAX, peer(9)), append(9, leader.id)] {
            let answer = caller.ask(other, request.clone()).await;
            let refused = matches!(answer, Response::Refused(Refusal::Invalid(_)));
            assert!(refused, "{request:?}: {answer:?}");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(terms().eq(before), "another peer was elected");
        assert!(cluster(leader).leadership().borrow().local);
    });
}

#[test]
fn a_deposed_leader_learns_of_its_successor_and_changes_nothing() {
    run_seeded(10, async {
        let network = SimNetwork::new(10);
        let hosts = three(&network).await;
        let [leader, other, _] = &hosts;
        let caller = Caller::new(9, &network);
        caller.join_known(&hosts).await;
        let vote = Vote { term: 0, candidate: peer(9), committed: true };
        let newer = Vote { term: 1, candidate: leader.id, committed: true };
        let unknown =
            Entry { id: LogPosition { term: 0, index: 1 }, body: EntryBody::Ops(vec![99, 99, 99]) };
        let append = Append { vote, previous: None, entries: vec![unknown], committed: None };
        let answer = caller.ask(other, Request::Raft(RaftMessage::Append(append))).await;
        let expected = RaftReply::Append(AppendReply::HigherVote(newer));
        assert_eq!(answer, Response::Raft(expected));
        assert_eq!(*cluster(other).consensus().not_known().borrow(), None);
        let data = vec![0; 100];
        let chunk = SnapshotChunk { vote, transfer: 1, offset: 0, data, last: false };
        let answer = caller.ask(other, Request::Snapshot(chunk)).await;
        assert_eq!(answer, Response::Snapshot(SnapshotReply::Installed(newer)));
    });
}

#[test]
fn a_follower_that_is_behind_learns_of_new_members_from_old_ones() {
    run_seeded(9, async {
        let network = SimNetwork::new(9);
        let mut hosts = Vec::from(three(&network).await);
        network.set_cut(peer(3), true);
        for n in [4, 5] {
            let mut host = host(n, &network);
            host.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
            hosts.push(host);
        }
        let voters = |host: &Host| cluster(host).members().values().filter(|it| it.voter).count();
        until(|| voters(&hosts[0]) == 5 && !cluster(&hosts[0]).is_joint()).await;
        // A peer that the third one does not know leads.
        for (from, to) in [(0, 1), (1, 3)] {
            cluster(&hosts[from]).hand_over().await;
            until(|| cluster(&hosts[to]).leadership().borrow().local).await;
        }
        network.set_cut(peer(3), false);
        until(|| cluster(&hosts[2]).members().len() == 5 && cluster(&hosts[2]).is_led()).await;
    });
}

/// All members, voters, and peers with copies, as this peer's log has them.
fn cast(of: &Host) -> [BTreeSet<PeerId>; 3] {
    let members = cluster(of).members();
    let voters = members.iter().filter(|(_, view)| view.voter).map(|(peer, _)| *peer).collect();
    let on = cluster(of).state().read(|pins| pins.allocations_by_peer().clone());
    [members.into_keys().collect(), voters, on.into_keys().collect()]
}

/// Pins for REST, that many copies of each.
async fn pin_some(through: &Host, count: u8, copies: u16) {
    for n in 0..count {
        let hash = cid::multihash::Multihash::wrap(0, &[n]).unwrap();
        let replication = Replication { min: Factor::Count(copies), max: Factor::Count(copies) };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        let request = PinRequest { cid: cid::Cid::new_v1(0x55, hash).into(), options };
        cluster(through).pin(request).await.unwrap();
    }
}

#[test]
fn peers_that_lose_their_disks_one_after_the_other_have_successors() {
    run_seeded(12, async {
        let network = SimNetwork::new(12);
        let mut hosts = Vec::from(three(&network).await);
        pin_some(&hosts[0], 20, 2).await;
        let mut lost = Vec::new();
        let mut expected: BTreeSet<PeerId> = hosts.iter().map(|host| host.id).collect();
        // The second one leads when it loses its disk.
        for n in [1, 2, 3] {
            let (old, name) = (peer(n), format!("pod-{n}"));
            let at = hosts.iter().position(|host| host.id == old).unwrap();
            let mut gone = hosts.remove(at);
            gone.crash();
            lost.push(gone);
            let mut new = host(n + 10, &network);
            new.member.name = name;
            new.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
            hosts.push(new);
            expected.remove(&old);
            expected.insert(peer(n + 10));
            let all = [expected.clone(), expected.clone(), expected.clone()];
            until(|| hosts.iter().all(|host| cast(host) == all)).await;
        }
        for host in &mut lost {
            host.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
            let ended = host.peer.as_mut().unwrap().failed().await;
            assert_eq!(ended, FatalError::Removed);
        }
    });
}

#[test]
fn peers_that_are_asked_to_leave_give_their_copies_away_and_are_removed() {
    run_seeded(13, async {
        let network = SimNetwork::new(13);
        let mut hosts = Vec::from(three(&network).await);
        for n in [4, 5] {
            let mut host = host(n, &network);
            host.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
            hosts.push(host);
        }
        let five: BTreeSet<PeerId> = hosts.iter().map(|host| host.id).collect();
        until(|| hosts.iter().all(|host| cast(host)[1] == five)).await;
        pin_some(&hosts[0], 30, 3).await;
        // The leader is one of them.
        for n in [1, 4] {
            cluster(&hosts[2]).depart(peer(n), true).await.unwrap();
        }
        let mut stay = BTreeSet::new();
        for mut host in std::mem::take(&mut hosts) {
            if [peer(1), peer(4)].contains(&host.id) {
                let ended = tokio::time::timeout(Duration::from_secs(120), async {
                    host.peer.as_mut().unwrap().failed().await
                });
                assert_eq!(ended.await.unwrap(), FatalError::Removed);
                host.crash();
            } else {
                stay.insert(host.id);
                hosts.push(host);
            }
        }
        let all = [stay.clone(), stay.clone(), stay];
        until(|| hosts.iter().all(|host| cast(host) == all)).await;
        let copies = |host: &Host| {
            let holders = |pins: &crate::state::PinSet| {
                pins.iter().map(|(_, pin)| pin.holders().count()).collect::<BTreeSet<_>>()
            };
            cluster(host).state().read(holders)
        };
        until(|| hosts.iter().all(|host| copies(host) == BTreeSet::from([3]))).await;
        // Three copies are wanted, and two peers stay: each has all.
        cluster(&hosts[0]).depart(peer(5), true).await.unwrap();
        let two = BTreeSet::from([peer(2), peer(3)]);
        let one_votes = |host: &Host| {
            let [members, voters, with_copies] = cast(host);
            (members == two, voters.len(), with_copies == two) == (true, 1, true)
        };
        until(|| hosts[..2].iter().all(one_votes)).await;
        let refused = cluster(&hosts[0]).depart(peer(9), true).await;
        assert!(matches!(refused, Err(UseCaseError::Invalid(_))), "{refused:?}");
        cluster(&hosts[0]).depart(peer(2), true).await.unwrap();
        let last = cluster(&hosts[0]).depart(peer(3), true).await;
        assert!(matches!(last, Err(UseCaseError::Invalid(_))), "{last:?}");
    });
}

#[test]
fn a_hello_or_metrics_out_of_bounds_are_refused() {
    run_seeded(10, async {
        let network = SimNetwork::new(10);
        let hosts = three(&network).await;
        let caller = Caller::new(9, &network);
        let member = Member { name: "n".repeat(4 << 20), addresses: Vec::new() };
        let hello = Hello { member, join: true, level: FIRST_LEVEL, ..Hello::default() };
        let answer = caller.ask(&hosts[0], Request::Hello(hello)).await;
        let refused = matches!(answer, Response::Refused(Refusal::Invalid(_)));
        assert!(refused, "a name of 4 MB is taken");
        assert!(!cluster(&hosts[0]).members().contains_key(&peer(9)));
        caller.join(&hosts[0], "pod-9").await;
        let metrics = Metrics { ttl_ms: u64::MAX, ..Metrics::default() };
        let answer = caller.ask(&hosts[0], metrics.into_request()).await;
        assert!(matches!(answer, Response::Refused(Refusal::Invalid(_))), "{answer:?}");
    });
}
