//! Three `pinkeeper peer` processes with three real daemons on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use pinkeeper::{consensus::StateStore, types::Cid};
use pinkeeper_e2e::{
    daemon::{Daemon, identity_cid},
    peer::{PeerProcess, Setup, free_port, program, statuses, until},
    trio::{FORM_DEADLINE, PIN_DEADLINE, SECRET, Trio, number},
};
use tokio::{process::Command, sync::Semaphore, time::timeout};

/// A peer that is told to stop does so within this.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn content_is_pinned_where_it_is_wanted_and_nowhere_else() {
    let trio = Trio::start().await.unwrap();
    println!("a cluster of three formed in {:?}", trio.formed_in);
    for peer in &trio.peers {
        let (_, metrics) = peer.health("metrics").await.unwrap();
        assert!(metrics.contains("pinkeeper_ready 1"), "{metrics}");
        assert!(metrics.contains("pinkeeper_members 3"), "{metrics}");
    }
    let foreign = identity_cid(7);
    trio.daemons[0].rpc("pin/add", &[("arg", &foreign.to_string())]).await.unwrap();

    let root = add_folder(&trio).await;
    let follower = (trio.leader().unwrap() + 1) % 3;
    let answer = trio.peers[follower].pin(&root, "replication=2&name=docs").await.unwrap();
    assert_eq!(answer["allocations"].as_array().unwrap().len(), 2, "{answer}");
    println!("a folder was pinned on two peers in {:?}", trio.until_pinned(&root, 2).await);
    for peer in &trio.peers {
        let statuses = peer.statuses(&root).await.unwrap();
        assert_eq!(number(&statuses, "remote"), 1, "{statuses:?}");
    }
    same_bytes(&trio, &root).await;

    trio.peers[follower].unpin(&root).await.unwrap();
    until("both daemons have unpinned it", PIN_DEADLINE, || async {
        !join_all(trio.daemons.iter().map(|daemon| daemon.holds(&root))).await.contains(&true)
    })
    .await;

    let other = (follower + 1) % 3;
    trio.peers[other].pin(&foreign, "").await.unwrap();
    trio.until_pinned(&foreign, 3).await;
    trio.peers[other].unpin(&foreign).await.unwrap();
    until("the daemons without it before have unpinned it", PIN_DEADLINE, || async {
        !trio.daemons[1].holds(&foreign).await && !trio.daemons[2].holds(&foreign).await
    })
    .await;
    // An unpin of this daemon would have been sent with the others; each is behind a question.
    trio.until_statuses(0, &foreign, "unpinned", |all| number(all, "unpinned") == 3).await;
    assert!(trio.daemons[0].holds(&foreign).await, "what others pinned is theirs");
}

/// A thousand of them do not fit in one message from the leader.
#[tokio::test]
async fn a_follower_lists_pins_with_the_longest_names() {
    const PINS: u32 = 1100;
    let trio = Trio::start().await.unwrap();
    let follower = &trio.peers[(trio.leader().unwrap() + 1) % 3];
    let query = format!("name={}", "%F0%9F%A6%80".repeat(1024));
    let pinned = stream::iter(0..PINS).map(async |n| follower.pin(&identity_cid(n), &query).await);
    pinned.buffer_unordered(32).try_for_each(async |_| Ok(())).await.unwrap();
    let listed = follower.pins().await.unwrap();
    let names: BTreeSet<_> = listed.iter().map(|pin| pin["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from([Some("\u{1f980}".repeat(1024).as_str())]));
    assert_eq!(listed.len(), PINS as usize);
}

/// Puts a folder of files into the first daemon, unpinned.
async fn add_folder(trio: &Trio) -> Cid {
    let files = (0..40_usize).map(|n| {
        let bytes = (0..20_000).map(|at| u8::try_from((at * (n + 3) + n) % 251).unwrap()).collect();
        (format!("docs/part-{}/file-{n}.txt", n % 4), bytes)
    });
    trio.daemons[0].add_folder(files.collect()).await.unwrap()
}

/// The daemons that pinned a folder have its files, without asking others.
async fn same_bytes(trio: &Trio, root: &Cid) {
    let path = format!("{root}/part-1/file-5.txt");
    let original =
        trio.daemons[0].rpc("cat", &[("arg", &path), ("offline", "true")]).await.unwrap();
    let holders = join_all(trio.daemons.iter().map(|daemon| daemon.holds(root))).await;
    assert_eq!(holders.iter().filter(|holds| **holds).count(), 2, "{holders:?}");
    for (daemon, _) in trio.daemons.iter().zip(holders).filter(|(_, holds)| *holds) {
        let copy = daemon.rpc("cat", &[("arg", &path), ("offline", "true")]).await.unwrap();
        assert!(copy == original, "the copy differs");
    }
}

#[tokio::test]
async fn pins_survive_the_sigkill_of_every_peer_while_they_are_made() {
    const PHASES: usize = 4;
    const PER_PHASE: usize = 50;
    let mut trio = Trio::start().await.unwrap();
    let urls: Vec<String> = trio.peers.iter().map(|peer| peer.rest_url("pins/")).collect();
    let (go, done) = (Semaphore::new(0), AtomicUsize::new(0));
    let next = AtomicUsize::new(0);
    let clients = join_all((0..6).map(|client| make_pins(client, &urls, &go, &next, &done)));
    let kills = async {
        for phase in 0..PHASES {
            // Each once, and in the end whoever leads.
            let victim = if phase < 3 { phase } else { trio.leader().unwrap() };
            let led = trio.leader().unwrap() == victim;
            let reached = |count: usize| {
                let done = &done;
                move || async move { done.load(Ordering::SeqCst) >= count }
            };
            go.add_permits(20);
            until("some pins are made", PIN_DEADLINE, reached(phase * PER_PHASE + 10)).await;
            trio.peers[victim].kill().await.unwrap();
            let killed = Instant::now();
            let before = done.load(Ordering::SeqCst);
            go.add_permits(PER_PHASE - 20);
            // One request of each client may have been answered just before.
            until("the next pins are made", PIN_DEADLINE, reached(before + 7)).await;
            println!("killed {victim} (leader: {led}): written again {:?} later", killed.elapsed());
            until("the rest is made", PIN_DEADLINE, reached((phase + 1) * PER_PHASE)).await;
            trio.peers[victim].start().unwrap();
            println!("it was back after {:?}", trio.whole().await);
        }
        go.close();
    };
    futures::future::join(clients, kills).await;

    let expected = (0..PHASES * PER_PHASE).map(pin_number).collect();
    println!("all pinned after {:?}", all_pinned(&trio, &expected, 2).await);
}

fn pin_number(n: usize) -> Cid {
    identity_cid(1_000 + u32::try_from(n).unwrap())
}

/// Makes pins while there are permits; asks another peer when one does not do it.
async fn make_pins(
    client: usize,
    urls: &[String],
    go: &Semaphore,
    next: &AtomicUsize,
    done: &AtomicUsize,
) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20));
    let http = http.build().unwrap();
    let mut peer = client % urls.len();
    while let Ok(permit) = go.acquire().await {
        permit.forget();
        let cid = pin_number(next.fetch_add(1, Ordering::SeqCst));
        loop {
            let url = format!("{}{cid}?replication=2", urls[peer]);
            match http.post(url).send().await {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) => {
                    let status = answer.status();
                    // A wish that can be met must not be called impossible.
                    assert!(status.is_server_error(), "{status}: {:?}", answer.text().await);
                }
                Err(_) => {}
            }
            peer = (peer + 1) % urls.len();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until every peer lists exactly these pins, each once and pinned on so many peers.
async fn all_pinned(trio: &Trio, expected: &BTreeSet<Cid>, count: usize) -> Duration {
    let begin = Instant::now();
    for peer in &trio.peers {
        until("exactly the pins made are listed as pinned", PIN_DEADLINE, || async {
            let Ok(pins) = peer.pins().await else { return false };
            let cids: Vec<Cid> =
                pins.iter().map(|pin| pin["cid"].as_str().unwrap().parse().unwrap()).collect();
            let found: BTreeSet<Cid> = cids.iter().copied().collect();
            assert_eq!(cids.len(), found.len(), "a pin is listed twice");
            assert!(found == *expected, "{} pins of {}", found.len(), expected.len());
            pins.iter().all(|pin| number(&statuses(pin), "pinned") == count)
        })
        .await;
    }
    begin.elapsed()
}

#[tokio::test]
async fn a_cluster_comes_back_from_its_disks_alone() {
    let mut trio = Trio::start().await.unwrap();
    let cids: BTreeSet<Cid> = (0..20).map(identity_cid).collect();
    for cid in &cids {
        trio.peers[1].pin(cid, "").await.unwrap();
    }
    all_pinned(&trio, &cids, 3).await;
    let members = trio.peers[0].members().await.unwrap();
    stop_all(&mut trio).await;
    let clusters = clusters(&trio);
    assert!(clusters.len() == 1, "{clusters:?}");

    // Other ports, as after a move; of all that, two are told where the first is, whoever leads.
    trio.peers.iter_mut().for_each(|peer| peer.change_ports().unwrap());
    let first = trio.peers[0].address();
    for (n, peer) in trio.peers.iter_mut().enumerate() {
        peer.setup().bootstrap = if n == 0 { Vec::new() } else { vec![first.clone()] };
        peer.start().unwrap();
    }
    println!("back on new ports after {:?}", trio.whole().await);
    assert_eq!(trio.peers[0].members().await.unwrap(), members);
    all_pinned(&trio, &cids, 3).await;
    trio.peers[2].pin(&identity_cid(99), "").await.unwrap();
    trio.until_pinned(&identity_cid(99), 3).await;
    stop_all(&mut trio).await;
    assert_eq!(self::clusters(&trio), clusters);
}

async fn stop_all(trio: &mut Trio) {
    let begin = Instant::now();
    trio.peers.iter().for_each(|peer| peer.terminate().unwrap());
    for status in join_all(trio.peers.iter_mut().map(PeerProcess::ended)).await {
        assert_eq!(status.unwrap().code(), Some(0));
    }
    println!("all three stopped in {:?}", begin.elapsed());
    assert!(begin.elapsed() < STOP_DEADLINE, "{:?}", begin.elapsed());
}

/// The clusters that the peers' disks belong to.
fn clusters(trio: &Trio) -> BTreeSet<String> {
    let of =
        |peer: &PeerProcess| StateStore::open(&peer.data().join("state.redb")).unwrap().cluster();
    trio.peers.iter().map(|peer| format!("{:?}", of(peer).unwrap().unwrap())).collect()
}

#[tokio::test]
async fn content_with_a_missing_block_is_pinned_when_the_block_appears_and_not_before() {
    let mut trio = Trio::start().await.unwrap();
    let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).take(12_000).collect();
    let root = trio.daemons[0].add(bytes).await.unwrap();
    let children = trio.daemons[0].children(&root).await.unwrap();
    let missing = trio.daemons[0].take_block(&children[5]).await.unwrap();
    trio.peers[1].pin(&root, "").await.unwrap();
    // Stopped in the middle of a pin, Kubo ends its answer as if the pin were done.
    trio.until_statuses(1, &root, "being pinned", |all| all["a"].status == "pinning").await;
    trio.daemons[0].terminate().unwrap();
    trio.daemons[0].ended().await.unwrap();
    until_failing(&trio, &root).await;
    trio.daemons[0].run().await.unwrap();
    trio.until_statuses(1, &root, "found to stall", |all| {
        assert_eq!(number(all, "pinned"), 0, "{all:?}");
        all["a"].error.contains("blocks")
    })
    .await;
    until_failing(&trio, &root).await;
    assert!(!trio.daemons[0].holds(&root).await);

    for n in 0..20 {
        trio.peers[2].pin(&identity_cid(n), "").await.unwrap();
    }
    for n in 0..20 {
        trio.until_pinned(&identity_cid(n), 3).await;
    }

    trio.daemons[0].put_block(missing).await.unwrap();
    println!("pinned {:?} after the block appeared", trio.until_pinned(&root, 3).await);
    for daemon in &trio.daemons {
        assert!(daemon.holds(&root).await);
    }
}

/// Waits until every peer says that it cannot pin something, and why.
async fn until_failing(trio: &Trio, cid: &Cid) {
    let failing = trio.until_statuses(1, cid, "said to fail everywhere", |all| {
        assert_eq!(number(all, "pinned"), 0, "{all:?}");
        all.values().all(|peer| {
            ["pin_error", "cluster_error"].contains(&&*peer.status) && !peer.error.is_empty()
        })
    });
    println!("that it fails was told after {:?}", failing.await);
    println!("{:?}", trio.peers[1].statuses(cid).await.unwrap());
}

/// Runs a peer that is to refuse its configuration; answers its last line.
async fn refused(args: &[&str]) -> String {
    let mut command = Command::new(program().unwrap());
    command.arg("peer").args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(20), command.output()).await.expect("an end").unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    let mut errors = text.lines().filter(|line| line.starts_with("error: "));
    let line = errors.next_back().unwrap_or_default().to_owned();
    assert!(errors.next().is_none() && text.ends_with(&format!("{line}\n")), "{args:?}: {text}");
    println!("{line}");
    line
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_in_one_line() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("secret"), SECRET).unwrap();
    fs::write(path("file"), "").unwrap();
    fs::write(path("unknown.yaml"), "name: a\ndata_dri: /tmp\n").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();

    let good = [
        ("--name", "a".to_owned()),
        ("--data-dir", path("data")),
        ("--secret-file", path("secret")),
        ("--listen", format!("/ip4/127.0.0.1/tcp/{}", ports[0])),
        ("--rest-listen", format!("127.0.0.1:{}", ports[1])),
        ("--health-listen", format!("127.0.0.1:{}", ports[2])),
    ];
    let cases = [
        ("--config", path("unknown.yaml"), "data_dri"),
        ("--config", path("nowhere.yaml"), "nowhere.yaml"),
        ("--listen", "/ip4/127.0.0.1/udp/9096".to_owned(), "--listen"),
        ("--bootstrap", "peer-0:9096".to_owned(), "--bootstrap"),
        ("--ipfs-api", "127.0.0.1:5001".to_owned(), "--ipfs-api"),
        ("--rest-listen", "here".to_owned(), "--rest-listen"),
        ("--secret-file", path("nothing"), "nothing"),
        ("--secret-file", path("file"), "64 hex characters"),
        ("--data-dir", path("file/data"), "data_dir"),
        ("--ipfs-path", path("nowhere"), "ipfs_path"),
        ("--listen", format!("/ip4/127.0.0.1/tcp/{port}"), "in use"),
        ("--rest-listen", format!("127.0.0.1:{port}"), "in use"),
        ("--health-listen", format!("127.0.0.1:{port}"), "in use"),
    ];
    for (flag, value, said) in &cases {
        let others = good.iter().filter(|(name, _)| name != flag);
        let args = others.flat_map(|(name, value)| [*name, value.as_str()]);
        let args: Vec<&str> = args.chain([*flag, value.as_str()]).collect();
        let line = refused(&args).await;
        assert!(line.contains(said), "{flag} {value}: {line}");
    }
    let args = good.iter().filter(|(name, _)| *name != "--secret-file");
    let args: Vec<&str> = args.flat_map(|(name, value)| [*name, value.as_str()]).collect();
    assert!(refused(&args).await.contains("secret_file: is missing"));
}

/// A founder with a daemon, alone.
async fn founder(daemon: &Daemon) -> PeerProcess {
    let mut founder = PeerProcess::new(Setup {
        name: "founder".to_owned(),
        secret: SECRET.to_owned(),
        found: true,
        bootstrap: Vec::new(),
        ipfs_api: daemon.url(),
    })
    .unwrap();
    founder.start().unwrap();
    until("the founder is ready", FORM_DEADLINE, || founder.is_ready()).await;
    let up = async || {
        let id = founder.get("id").await;
        id.is_ok_and(|id| id["ipfs"]["id"].as_str().is_some_and(|id| !id.is_empty()))
    };
    until("its daemon is known", FORM_DEADLINE, up).await;
    founder
}

#[tokio::test]
async fn a_stranger_stays_out_and_a_daemon_has_one_peer() {
    let daemon = Daemon::start().await.unwrap();
    let mut founder = founder(&daemon).await;
    let joining = |name: &str, secret: String| {
        PeerProcess::new(Setup {
            name: name.to_owned(),
            secret,
            found: false,
            bootstrap: vec![founder.address()],
            ipfs_api: daemon.url(),
        })
        .unwrap()
    };
    let mut stranger = joining("stranger", SECRET.replace('8', "9"));
    let mut second = joining("second", SECRET.to_owned());

    stranger.start().unwrap();
    let tries = async || stranger.logged().matches("another cluster secret").count() >= 2;
    until("the stranger has tried and been told why", FORM_DEADLINE, tries).await;
    let (status, reason) = stranger.health("readyz").await.unwrap();
    assert!(status == 503 && reason.contains("not joined"), "{status}: {reason}");

    second.start().unwrap();
    assert_eq!(second.ended().await.unwrap().code(), Some(2));
    let log = second.logged();
    let line = log.lines().next_back().unwrap();
    assert!(line.starts_with("error: ") && line.contains("already uses this daemon"), "{line}");

    let (own, members) = founder.members().await.unwrap();
    assert_eq!(members, [own], "neither was taken in");
    assert!(founder.is_running().unwrap() && founder.is_ready().await);
}

/// What happens to a data folder.
type Damage = Box<dyn Fn(&Path)>;

#[tokio::test]
async fn a_damaged_data_folder_is_refused() {
    let daemon = Daemon::start().await.unwrap();
    let mut peer = founder(&daemon).await;
    let cid = identity_cid(1);
    peer.pin(&cid, "").await.unwrap();
    peer.terminate().unwrap();
    assert_eq!(peer.ended().await.unwrap().code(), Some(0));

    let (data, sound) = (peer.data(), peer.data().with_extension("sound"));
    fs::rename(&data, &sound).unwrap();
    let cut = |name: &'static str, len: u64| {
        let part = move |data: &Path| {
            let file = File::options().write(true).open(data.join(name)).unwrap();
            file.set_len(file.metadata().unwrap().len() * len / 4).unwrap();
        };
        Box::new(part) as Damage
    };
    let remove_log = |data: &Path| {
        for entry in data.join("log").read_dir().unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    };
    let remove_state = |data: &Path| fs::remove_file(data.join("state.redb")).unwrap();
    let remove_identity = |data: &Path| fs::remove_file(data.join("identity")).unwrap();
    let cases: Vec<(&str, Damage, &str)> = vec![
        ("the state is cut", cut("state.redb", 2), "state.redb"),
        ("the state is nearly gone", cut("state.redb", 1), "state.redb"),
        ("the state is empty", cut("state.redb", 0), "the state"),
        ("the state is gone", Box::new(remove_state), "state.redb"),
        ("the log is gone", Box::new(remove_log), "log"),
        (
            "both are gone",
            Box::new(move |data| {
                remove_log(data);
                remove_state(data);
            }),
            "state.redb",
        ),
        ("the identity is cut", cut("identity", 2), "identity"),
        ("the identity is gone", Box::new(remove_identity), "identity"),
    ];
    for (what, damage, said) in cases {
        copy(&sound, &data);
        damage(&data);
        peer.start().unwrap();
        let code = peer.ended().await.unwrap().code();
        let log = peer.logged();
        let line = log.lines().next_back().unwrap();
        println!("{what}: {line}");
        assert_eq!(code, Some(2), "{what}: {line}");
        assert!(line.starts_with("error: ") && line.contains(said), "{what}: {line}");
        let advice = ["restore", "put it back", "give the peer an empty data folder"];
        assert!(
            advice.iter().any(|advice| line.contains(advice)),
            "what to do about {what}: {line}"
        );
        fs::remove_dir_all(&data).unwrap();
    }
    copy(&sound, &data);
    peer.start().unwrap();
    until("the pin is back", PIN_DEADLINE, || async {
        peer.statuses(&cid).await.is_ok_and(|all| number(&all, "pinned") == 1)
    })
    .await;
}

/// Copies a data folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
