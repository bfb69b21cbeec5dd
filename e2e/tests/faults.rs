//! Real peers under faults: killed, paused, cut off. What clients saw must be linearizable, and in
//! the end every acknowledged pin is there and held.
//!
//! `PINKEEPER_SOAK=<minutes>` puts random faults on for so long, from the seed `PINKEEPER_SEED`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures::future::join_all;
use pinkeeper::types::Cid;
use pinkeeper_e2e::{
    chance::Chance,
    clients::{Clients, Recorder},
    daemon::identity_cid,
    faulty::{Fault, Faulty},
    linear::{Answer, Call, check},
    peer::{PeerProcess, until},
};

/// Time the clients have to get on, with a fault and after it.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
/// Answers that each peer which is not hit must give under a fault, and each peer after it.
const ANSWERS: usize = 30;
/// A request that cannot be served is answered within this: 10 s, and the rest for a busy machine.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(40);

/// What clients work on; the first is pinned on the first daemon by a stranger, as is another CID.
fn cids() -> Vec<Cid> {
    (0..8).map(identity_cid).collect()
}

/// A cluster at work.
struct Scenario {
    cluster: Faulty,
    recorder: Recorder,
    foreign: Vec<BTreeSet<Cid>>,
}

impl Scenario {
    /// Clients work on so many peers while one fault after the other comes, each for whoever leads.
    async fn under(count: usize, kinds: &[fn(usize) -> Fault]) {
        let mut scenario = Self::start(count).await;
        let clients = Clients::start(&scenario.recorder, &cids(), count as u64);
        scenario.progress(&(0..count).collect::<Vec<_>>(), "at first").await;
        for kind in kinds {
            let leader = scenario.cluster.leader().unwrap();
            scenario.suffer(&kind(leader)).await;
        }
        clients.stop().await;
        scenario.judge().await;
    }

    async fn start(count: usize) -> Self {
        let cluster = Faulty::start(count).await.unwrap();
        let mut foreign = vec![BTreeSet::new(); count];
        foreign[0] = [cids()[0], identity_cid(1_000)].into();
        foreign[0].iter().for_each(|cid| cluster.daemons[0].pin_foreign(*cid));
        let recorder = cluster.recorder().unwrap();
        Self { cluster, recorder, foreign }
    }

    /// Waits until each of these peers has given some more answers.
    async fn progress(&self, peers: &[usize], what: &str) {
        let before: Vec<usize> = peers.iter().map(|peer| self.recorder.answered(*peer)).collect();
        until(&format!("peers {peers:?} answer {what}"), PROGRESS_DEADLINE, || async {
            let mut both = peers.iter().zip(&before);
            both.all(|(peer, before)| self.recorder.answered(*peer) >= before + ANSWERS)
        })
        .await;
    }

    /// Puts a fault on while clients work, until those that it leaves a majority have got on; then
    /// takes it back and waits until all get on.
    async fn suffer(&mut self, fault: &Fault) {
        let begin = Instant::now();
        let leader = self.cluster.leader().unwrap();
        self.cluster.begin(fault).await.unwrap();
        self.progress(&unhurt(fault, self.cluster.count()), &format!("although {fault}")).await;
        let hurt = begin.elapsed();
        self.cluster.end(fault).unwrap();
        self.cluster.whole().await;
        let all: Vec<usize> = (0..self.cluster.count()).collect();
        self.progress(&all, &format!("after {fault}")).await;
        println!(
            "{fault} (leader: {leader}): {hurt:?}, all again after {:?}",
            begin.elapsed() - hurt
        );
    }

    /// Nothing false was said, and all that was acknowledged is there.
    async fn judge(mut self) {
        self.cluster.whole().await;
        // What everybody sees in the end belongs to the history.
        for cid in cids() {
            for peer in 0..self.cluster.count() {
                let answer = self.recorder.ask(99, peer, cid, Call::Get).await;
                assert!(answer != Answer::Unknown, "{cid} at peer {peer}");
            }
        }
        let (histories, false_answers) = self.recorder.notes();
        assert!(false_answers.is_empty(), "false answers: {false_answers:#?}");
        let begin = Instant::now();
        let operations = histories.values().flatten();
        let lost = operations.clone().filter(|one| one.answer == Answer::Unknown).count();
        for (cid, history) in &histories {
            if let Err(violation) = check(history) {
                let mut history = history.clone();
                history.sort_by_key(|operation| operation.called);
                history.iter().for_each(|operation| eprintln!("{operation}"));
                panic!("{cid}: {violation}");
            }
        }
        println!(
            "{} operations, {lost} of them without an answer, are linearizable; found in {:?}",
            operations.count(),
            begin.elapsed()
        );
        println!("settled in {:?}", self.cluster.settled(&self.recorder, &self.foreign).await);
        let pins = self.cluster.compare_states().await.unwrap();
        println!("{} pins, the same on every disk", pins.len());
    }
}

/// Peers that must go on answering, whoever leads: those that a majority talks with, and that talk
/// with every other such peer.
fn unhurt(fault: &Fault, count: usize) -> Vec<usize> {
    let down: BTreeSet<usize> = match fault {
        Fault::Kill(peers) | Fault::Pause(peers) => peers.iter().copied().collect(),
        Fault::Unplug(peer) => [*peer].into(),
        Fault::Cut(..) => BTreeSet::new(),
    };
    let talk = |a: usize, b: usize| match fault {
        Fault::Cut(_, cuts) => !cuts.contains(&(a, b)) && !cuts.contains(&(b, a)),
        Fault::Kill(_) | Fault::Pause(_) | Fault::Unplug(_) => true,
    };
    let up: Vec<usize> = (0..count).filter(|peer| !down.contains(peer)).collect();
    let with_majority =
        |peer: &usize| up.iter().filter(|other| talk(*peer, **other)).count() > count / 2;
    let can_lead: Vec<usize> = up.iter().copied().filter(with_majority).collect();
    can_lead
        .iter()
        .copied()
        .filter(|peer| can_lead.iter().all(|other| talk(*peer, *other)))
        .collect()
}

#[tokio::test]
async fn three_peers_under_faults() {
    let kinds: [fn(usize) -> Fault; 8] = [
        |leader| Fault::Kill(vec![leader]),
        |leader| Fault::Pause(vec![leader]),
        |leader| Fault::split(&[leader], 3),
        |leader| Fault::deaf(leader, 3),
        |leader| Fault::mute(leader, 3),
        |leader| Fault::split(&[(leader + 1) % 3], 3),
        |leader| Fault::Unplug(leader),
        |leader| Fault::Kill(vec![(leader + 1) % 3]),
    ];
    Scenario::under(3, &kinds).await;
}

#[tokio::test]
async fn five_peers_under_faults() {
    let kinds: [fn(usize) -> Fault; 5] = [
        |leader| Fault::Kill(vec![leader, (leader + 1) % 5]),
        |leader| Fault::split(&[leader, (leader + 1) % 5], 5),
        |leader| Fault::Pause(vec![leader, (leader + 2) % 5]),
        |leader| Fault::between(leader, (leader + 1) % 5),
        |leader| Fault::one_way(leader, (leader + 3) % 5),
    ];
    Scenario::under(5, &kinds).await;
}

#[tokio::test]
async fn what_is_pinned_once_is_unpinned_once() {
    let scenario = Scenario::start(3).await;
    let recorder = &scenario.recorder;
    for cid in cids() {
        for _ in 0..4 {
            recorder.pin(0, 0, cid).await;
            join_all((0..12).map(|client| recorder.ask(client, client % 3, cid, Call::Unpin)))
                .await;
            // Pins that meet each other and unpins are answered as what they are, too.
            let pins = join_all((0..6).map(|client| recorder.pin(client, client % 3, cid)));
            let unpins = (6..12).map(|client| recorder.ask(client, client % 3, cid, Call::Unpin));
            futures::future::join(pins, join_all(unpins)).await;
        }
    }
    scenario.judge().await;
}

#[tokio::test]
async fn a_leader_that_wakes_up_says_nothing_false() {
    /// Metrics of peers are good for 6 s; a leader that slept longer knows of nobody.
    const SLEEP: Duration = Duration::from_secs(8);
    let mut scenario = Scenario::start(3).await;
    let recorder = scenario.recorder.clone();
    let [kept, gone, renewed, new] = [0, 1, 2, 3].map(|n| cids()[n]);
    for cid in [kept, gone, renewed] {
        assert_eq!(recorder.pin(0, 0, cid).await, Answer::Done);
    }
    let leader = scenario.cluster.leader().unwrap();
    let other = (leader + 1) % 3;
    let asleep = Fault::Pause(vec![leader]);
    scenario.cluster.begin(&asleep).await.unwrap();
    let slept = Instant::now();
    until("another peer leads", PROGRESS_DEADLINE, || async {
        matches!(recorder.ask(0, other, gone, Call::Unpin).await, Answer::Found(_) | Answer::Absent)
    })
    .await;
    assert_eq!(recorder.pin(0, other, renewed).await, Answer::Done);
    tokio::time::sleep(SLEEP.saturating_sub(slept.elapsed())).await;

    // They lie in its socket when it wakes up: what it knows then is old.
    let looks = [kept, gone, renewed, new].map(|cid| recorder.ask(1, leader, cid, Call::Get));
    let unpins = [gone, renewed].map(|cid| recorder.ask(2, leader, cid, Call::Unpin));
    let pins = join_all((0..6).map(|_| recorder.pin(3, leader, new)));
    let wake = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        scenario.cluster.end(&asleep).unwrap();
    };
    let asked = futures::future::join3(join_all(looks), join_all(unpins), pins);
    let ((looks, unpins, pins), ()) = futures::future::join(asked, wake).await;
    println!("woken up, the old leader answered {looks:?}, {unpins:?}, {pins:?}");
    scenario.judge().await;
}

#[tokio::test]
async fn a_write_without_an_answer_is_not_done_twice() {
    /// A peer waits 5 s for the leader's answer.
    const GIVEN_UP: Duration = Duration::from_secs(8);
    let mut scenario = Scenario::start(3).await;
    let recorder = scenario.recorder.clone();
    let leader = scenario.cluster.leader().unwrap();
    let (asked, other, cid) = ((leader + 1) % 3, (leader + 2) % 3, cids()[1]);
    // The leader hears the peer that is asked, and is not heard by it.
    let cut = Fault::one_way(leader, asked);
    scenario.cluster.begin(&cut).await.unwrap();
    let pin = {
        let recorder = recorder.clone();
        async move { recorder.pin(0, asked, cid).await }
    };
    let mut pin = tokio::spawn(pin);
    until("the pin is there", PROGRESS_DEADLINE, || async {
        matches!(recorder.ask(1, other, cid, Call::Get).await, Answer::Found(_))
    })
    .await;
    assert!(matches!(recorder.ask(1, other, cid, Call::Unpin).await, Answer::Found(_)));
    let early = tokio::time::timeout(GIVEN_UP, &mut pin).await;
    scenario.cluster.end(&cut).unwrap();
    let answer = match early {
        Ok(answer) => answer,
        Err(_) => pin.await,
    };
    println!("the pin was answered {:?}", answer.unwrap());
    assert_eq!(recorder.ask(1, other, cid, Call::Get).await, Answer::Absent);
    scenario.judge().await;
}

#[tokio::test]
async fn without_a_majority_everything_is_refused_and_comes_back_by_itself() {
    let mut scenario = Scenario::start(5).await;
    let recorder = scenario.recorder.clone();
    for cid in cids() {
        assert_eq!(recorder.pin(0, 0, cid).await, Answer::Done);
    }
    let leader = scenario.cluster.leader().unwrap();
    let others: Vec<usize> = (0..5).filter(|peer| *peer != leader).collect();
    let faults = [
        // The leader stays, with one other, and has writes under way.
        Fault::Kill(others[1..].to_vec()),
        // The leader is lost.
        Fault::Pause(vec![leader, others[0], others[1]]),
        Fault::split(&[others[0], others[1]], 5),
    ];
    for fault in faults {
        let clients = Clients::start(&recorder, &cids(), 3);
        scenario.progress(&[0, 1, 2, 3, 4], "before").await;
        scenario.cluster.begin(&fault).await.unwrap();
        let left: Vec<usize> = match &fault {
            Fault::Kill(down) | Fault::Pause(down) => {
                (0..5).filter(|peer| !down.contains(peer)).collect()
            }
            Fault::Cut(..) | Fault::Unplug(_) => others[..2].to_vec(),
        };
        let refusals = left.iter().map(|peer| refuses(&scenario.cluster.peers[*peer]));
        join_all(refusals).await;
        scenario.cluster.end(&fault).unwrap();
        println!("{fault}: whole again after {:?}", scenario.cluster.whole().await);
        scenario.progress(&[0, 1, 2, 3, 4], &format!("after {fault}")).await;
        clients.stop().await;
    }
    scenario.judge().await;
}

/// A peer without a majority says so to whatever is asked, in time.
async fn refuses(peer: &PeerProcess) {
    let http = reqwest::Client::builder().no_proxy().timeout(REFUSAL_DEADLINE).build().unwrap();
    // Not one of the clients': it may take effect after all, when there is a majority again.
    let one = peer.rest_url(&format!("pins/{}", identity_cid(3_000)));
    let requests = [
        http.post(format!("{one}?name=v0&replication=1")),
        http.delete(&one),
        http.get(&one),
        http.get(peer.rest_url("pins")),
    ];
    let begin = Instant::now();
    join_all(requests.map(async |request| {
        let answer =
            request.send().await.unwrap_or_else(|error| panic!("{}: {error}", peer.name()));
        let (url, status) = (answer.url().clone(), answer.status());
        let text = answer.text().await.unwrap();
        assert_eq!(status, 503, "{}, {url}: {text}", peer.name());
        assert!(text.contains("leader") || text.contains("majority"), "{url}: {text}");
    }))
    .await;
    println!("{} refused everything within {:?}", peer.name(), begin.elapsed());
}

#[tokio::test]
async fn random_faults() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let minutes = number("PINKEEPER_SOAK").unwrap_or(0);
    let seed = number("PINKEEPER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let begin = Instant::now();
    loop {
        let count = 3 + 2 * chance.below(2);
        let mut scenario = Scenario::start(count).await;
        let clients = Clients::start(&scenario.recorder, &cids(), chance.number());
        // One search looks at the history of a few minutes.
        for _ in 0..if minutes == 0 { 2 } else { 12 } {
            let fault = random_fault(&mut chance, count, scenario.cluster.leader().unwrap());
            scenario.suffer(&fault).await;
        }
        clients.stop().await;
        scenario.judge().await;
        if begin.elapsed() >= Duration::from_secs(minutes * 60) {
            return;
        }
    }
}

/// A fault that leaves a majority; it often hits the leader.
fn random_fault(chance: &mut Chance, count: usize, leader: usize) -> Fault {
    let first = if chance.below(2) == 0 { leader } else { chance.below(count) };
    let second = (first + 1 + chance.below(count - 1)) % count;
    let hurt = if count == 5 && chance.below(2) == 0 { vec![first, second] } else { vec![first] };
    match chance.below(9) {
        0 | 1 => Fault::Kill(hurt),
        2 | 3 => Fault::Pause(hurt),
        4 => Fault::split(&hurt, count),
        5 => Fault::deaf(first, count),
        6 => Fault::mute(first, count),
        7 => Fault::between(first, second),
        _ => Fault::one_way(first, second),
    }
}
