#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::join_all};
use libp2p::swarm::ConnectionId;
use tokio::time::timeout;

use super::*;
use crate::types::{
    ClusterId, LeaderRequest, PinRequest, Question as _, RaftMessage, RaftReply, ReadIndex,
    Request, SnapshotChunk, Vote, Write, Writes,
};

/// Longest wait for anything that takes milliseconds, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_peer_listens_on_both_families_at_one_port() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    for order in [["/ip6/::", "/ip4/0.0.0.0"], ["/ip4/0.0.0.0", "/ip6/::"]] {
        let options = SwarmOptions {
            identity: Identity::from_key([1; 32]),
            secret: ClusterSecret::from_bytes([1; 32]),
            listen: order.map(|ip| format!("{ip}/tcp/{port}").parse().unwrap()).to_vec(),
            jitter_seed: 1,
            metrics: RpcMetrics::default(),
        };
        let token = CancellationToken::new();
        let (sender, _requests) = mpsc::channel(1);
        let started = SwarmTransport::start(options, sender, token.clone()).await.unwrap();
        let listening: Vec<String> = started.listening.iter().map(ToString::to_string).collect();
        for loopback in [format!("/ip4/127.0.0.1/tcp/{port}"), format!("/ip6/::1/tcp/{port}")] {
            assert!(listening.contains(&loopback), "{loopback}: {listening:?}");
        }
        token.cancel();
        timeout(PATIENCE, started.task).await.unwrap().unwrap();
    }
}

struct Peer {
    id: PeerId,
    transport: Arc<SwarmTransport>,
    port: u16,
    token: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Peer {
    /// A peer that answers each request with `Position(n)`, `n` being the term in the request.
    async fn start(key: u8, secret: u8) -> Self {
        Self::start_with(key, secret, 4096, serve_echo).await
    }

    async fn start_with<F>(
        key: u8,
        secret: u8,
        queue: usize,
        serve: impl FnOnce(mpsc::Receiver<Inbound>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let identity = Identity::from_key([key; 32]);
        let id = identity.id();
        let options = SwarmOptions {
            identity,
            secret: ClusterSecret::from_bytes([secret; 32]),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            jitter_seed: u64::from(key),
            metrics: RpcMetrics::default(),
        };
        let (sender, requests) = mpsc::channel(queue);
        let token = CancellationToken::new();
        let started = SwarmTransport::start(options, sender, token.clone()).await.unwrap();
        let port = started.listening[0]
            .iter()
            .find_map(|part| match part {
                Protocol::Tcp(port) => Some(port),
                _ => None,
            })
            .unwrap();
        let tasks = vec![started.task, tokio::spawn(serve(requests))];
        Self { id, transport: started.transport, port, token, tasks }
    }

    fn address(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.port)
    }

    fn knows(&self, others: &[&Peer]) {
        let addresses = others.iter().map(|peer| (peer.id, vec![peer.address()]));
        self.transport.set_addresses(addresses.collect());
        self.trusts(others);
    }

    fn trusts(&self, others: &[&Peer]) {
        let names = others.iter().map(|peer| (peer.id, String::new()));
        self.transport.set_members(names.collect());
    }

    async fn connects_to(&self, peer: PeerId) {
        eventually(|| self.transport.connected().contains(&peer)).await;
    }

    async fn stop(self) {
        self.token.cancel();
        for task in self.tasks {
            timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    }
}

async fn serve_echo(mut requests: mpsc::Receiver<Inbound>) {
    while let Some(inbound) = requests.recv().await {
        let _ = inbound.reply.send(echo(&inbound.envelope));
    }
}

fn echo(envelope: &Envelope) -> Response {
    match &envelope.request {
        Request::Raft(RaftMessage::Vote { vote, last, .. }) => {
            Response::Raft(RaftReply::Vote { vote: *vote, last: *last, granted: true })
        }
        Request::Snapshot(chunk) => Response::Position(Some(chunk.data.len() as u64)),
        _ => Response::Position(envelope.cluster.map(|(_, number)| number)),
    }
}

/// A request that [`echo`] answers with `Position(Some(number))`.
fn numbered(number: u64) -> Envelope {
    Envelope { cluster: Some((ClusterId([0; 16]), number)), request: ReadIndex.into_request() }
}

fn vote(term: u64) -> Vote {
    Vote { term, candidate: PeerId([1; 32]), committed: false }
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks until the peer answers: of two connections dialled across each other one is closed, and its
/// unanswered calls fail.
async fn answer_of(from: &Peer, to: PeerId, envelope: &Envelope) -> Response {
    let until = Instant::now() + PATIENCE;
    loop {
        match from.transport.call(to, envelope.clone(), Duration::from_secs(1)).await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn call_until_answered(from: &Peer, to: PeerId) {
    assert_eq!(answer_of(from, to, &numbered(1)).await, Response::Position(Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_call_each_other_on_every_lane() {
    let peers = [Peer::start(1, 9).await, Peer::start(2, 9).await, Peer::start(3, 9).await];
    for peer in &peers {
        peer.knows(&peers.iter().collect::<Vec<_>>());
    }
    for (from, to) in peers.iter().flat_map(|from| peers.iter().map(move |to| (from, to))) {
        if from.id == to.id {
            continue;
        }
        from.connects_to(to.id).await;
        call_until_answered(from, to.id).await;
        let request =
            Request::Raft(RaftMessage::Vote { vote: vote(5), last: None, transfer: false });
        let answer = answer_of(from, to.id, &Envelope { cluster: None, request }).await;
        let expected = RaftReply::Vote { vote: vote(5), last: None, granted: true };
        assert_eq!(answer, Response::Raft(expected));
        let data = vec![7; SnapshotChunk::LEN_MAX];
        let len = data.len() as u64;
        let chunk = SnapshotChunk { vote: vote(1), transfer: 1, offset: 0, data, last: true };
        let envelope = Envelope { cluster: None, request: Request::Snapshot(chunk) };
        let answer = answer_of(from, to.id, &envelope).await;
        assert_eq!(answer, Response::Position(Some(len)));
    }
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_calls_at_once_arrive_in_order() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (a, b) = {
        let seen = Arc::clone(&seen);
        let serve = move |mut requests: mpsc::Receiver<Inbound>| async move {
            while let Some(inbound) = requests.recv().await {
                seen.lock().unwrap().push(inbound.envelope.cluster.unwrap().1);
                let _ = inbound.reply.send(echo(&inbound.envelope));
            }
        };
        (Peer::start(1, 9).await, Peer::start_with(2, 9, 4096, serve).await)
    };
    a.knows(&[&b]);
    a.connects_to(b.id).await;
    let calls = (0..2000).map(|n| a.transport.call(b.id, numbered(n), PATIENCE));
    let calls: Vec<_> = calls.collect();
    for (n, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer, Ok(Response::Position(Some(n as u64))));
    }
    assert_eq!(*seen.lock().unwrap(), (0..2000).collect::<Vec<_>>());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_never_connects_and_the_error_says_so() {
    let (a, b) = (Peer::start(1, 9).await, Peer::start(2, 8).await);
    a.knows(&[&b]);
    b.knows(&[&a]);
    eventually(|| {
        let call = a.transport.call(b.id, numbered(1), Duration::from_secs(1));
        match futures::executor::block_on(call) {
            Err(CallError::Unreachable { reason, .. }) => reason.contains("secret"),
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert!(a.transport.connected().is_empty());
    assert!(b.transport.connected().is_empty());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_back_on_another_port_is_found_again() {
    let (a, b) = (Peer::start(1, 9).await, Peer::start(2, 9).await);
    let seed = format!("{}/p2p/{}", b.address(), b.id).parse().unwrap();
    a.transport.set_seeds(vec![seed]);
    a.connects_to(b.id).await;
    call_until_answered(&a, b.id).await;
    let (id, old_port) = (b.id, b.port);
    b.stop().await;
    // Not immediately: it may have been dialled again while it stopped, and that connection may not be
    // closed yet.
    eventually(|| {
        let call = a.transport.call(id, numbered(1), PATIENCE);
        let answer = futures::executor::block_on(call);
        matches!(answer, Err(CallError::Unreachable { sent: false, .. }))
            && a.transport.connected().is_empty()
    })
    .await;

    let b = Peer::start(2, 9).await;
    assert_ne!(b.port, old_port);
    a.knows(&[&b]);
    let back = Instant::now();
    call_until_answered(&a, id).await;
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    a.stop().await;
    b.stop().await;
}

/// Forwards one connection to `to` until cancelled, then holds it open silently: half-open.
async fn wire(to: u16, cut: CancellationToken) -> (u16, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        tokio::select! {
            () = cut.cancelled() => {}
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
        }
        std::future::pending::<()>().await;
    });
    (port, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let (a, b) = (Peer::start(1, 9).await, Peer::start(2, 9).await);
    let cut = CancellationToken::new();
    let (port, task) = wire(b.port, cut.clone()).await;
    let address = vec![format!("/ip4/127.0.0.1/tcp/{port}")];
    a.transport.set_addresses(BTreeMap::from([(b.id, address)]));
    call_until_answered(&a, b.id).await;
    cut.cancel();
    let since = Instant::now();
    eventually(|| a.transport.connected().is_empty()).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    eventually(|| b.transport.shared.tasks.is_empty()).await;
    a.knows(&[&b]);
    call_until_answered(&a, b.id).await;
    call_until_answered(&b, a.id).await;
    task.abort();
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_costs_the_deadline_and_later_calls_work() {
    let mute = Arc::new(AtomicUsize::new(6));
    let (a, b) = {
        let mute = Arc::clone(&mute);
        let serve = move |mut requests: mpsc::Receiver<Inbound>| async move {
            let mut kept = Vec::new();
            while let Some(inbound) = requests.recv().await {
                if mute.load(Ordering::Relaxed) > 0 {
                    mute.fetch_sub(1, Ordering::Relaxed);
                    kept.push(inbound);
                } else {
                    let _ = inbound.reply.send(echo(&inbound.envelope));
                }
            }
        };
        (Peer::start(1, 9).await, Peer::start_with(2, 9, 64, serve).await)
    };
    a.knows(&[&b]);
    a.connects_to(b.id).await;
    let deadline = Duration::from_millis(200);
    for _ in 0..3 {
        let before = Instant::now();
        let answer = a.transport.call(b.id, numbered(1), deadline).await;
        assert_eq!(answer, Err(CallError::Timeout { peer: b.id, deadline }));
        assert!(before.elapsed() >= deadline && before.elapsed() < PATIENCE);
    }
    call_until_answered(&a, b.id).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_answers_busy_and_a_dropped_request_failed() {
    let (release, hold) = tokio::sync::oneshot::channel::<()>();
    let serve = move |mut requests: mpsc::Receiver<Inbound>| async move {
        let _ = hold.await;
        while requests.recv().await.is_some() {}
    };
    let (a, b) = (Peer::start(1, 9).await, Peer::start_with(2, 9, 3, serve).await);
    a.knows(&[&b]);
    a.connects_to(b.id).await;
    let mut calls: Vec<_> = (0..5).map(|n| a.transport.call(b.id, numbered(n), PATIENCE)).collect();
    for call in calls.split_off(3) {
        assert_eq!(call.await, Ok(Response::Refused(Refusal::Busy)));
    }
    release.send(()).unwrap();
    for call in calls {
        let answer = call.await;
        assert!(matches!(answer, Ok(Response::Refused(Refusal::Failed(_)))), "{answer:?}");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_too_long_is_refused_here() {
    let a = Peer::start(1, 9).await;
    let data = vec![0; frame::FRAME_LEN_MAX];
    let chunk = SnapshotChunk { vote: vote(1), transfer: 1, offset: 0, data, last: true };
    let envelope = Envelope { cluster: None, request: Request::Snapshot(chunk) };
    let answer = a.transport.call(PeerId([5; 32]), envelope, PATIENCE).await;
    assert!(matches!(answer, Ok(Response::Refused(Refusal::Invalid(_)))), "{answer:?}");
    let answer = a.transport.call(PeerId([5; 32]), numbered(1), PATIENCE).await;
    assert!(matches!(answer, Err(CallError::Unreachable { sent: false, .. })), "{answer:?}");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_named() {
    let a = Peer::start(1, 9).await;
    let options = SwarmOptions {
        identity: Identity::from_key([2; 32]),
        secret: ClusterSecret::from_bytes([9; 32]),
        listen: vec![a.address().parse().unwrap()],
        jitter_seed: 1,
        metrics: RpcMetrics::default(),
    };
    let (sender, _requests) = mpsc::channel(1);
    let error = SwarmTransport::start(options, sender, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains(&a.address()), "{error}");
    a.stop().await;
}

/// A peer that knows the secret but sends raw bytes instead of frames.
struct Stranger {
    streams: Arc<Streams>,
    on: ConnectionId,
    task: JoinHandle<()>,
}

impl Stranger {
    async fn open(&self, lane: Lane) -> libp2p::Stream {
        self.streams.open(self.on, lane).await.unwrap().stream
    }
}

async fn stranger(to: &Peer) -> Stranger {
    let identity = Identity::from_key([66; 32]);
    let secret = ClusterSecret::from_bytes([9; 32]);
    let streams = Arc::new(Streams::new(CancellationToken::new()));
    let behaviour = Behaviour::new(Arc::clone(&streams), Arc::new(drop));
    let mut swarm = network::swarm(identity.keypair(), &secret, behaviour).unwrap();
    swarm.dial(to.address().parse::<Multiaddr>().unwrap()).unwrap();
    let connected = async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
                break connection_id;
            }
        }
    };
    let on = timeout(PATIENCE, connected).await.expect("it does not connect");
    let task = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Stranger { streams, on, task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_frame_closes_its_stream_and_no_other() {
    let a = Peer::start(1, 9).await;
    let stranger = stranger(&a).await;
    let mut good = stranger.open(Lane::Control).await;
    let mut ask = async |number: u64| {
        let bytes = frame::encode_request(number, &numbered(number)).unwrap();
        good.write_all(&bytes).await.unwrap();
        good.flush().await.unwrap();
        let answer = timeout(PATIENCE, frame::read(&mut good)).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.id, number);
        frame::decode::<Response>(&answer.payload).unwrap()
    };
    assert_eq!(ask(1).await, Response::Position(Some(1)));

    // A member may send as much; other peers may not.
    let oversized =
        u32::try_from(frame::FRAME_LEN_STRANGER_MAX + 1).unwrap().to_be_bytes().to_vec();
    let answer = frame::encode_answer(1, &Response::Position(None)).unwrap();
    let unknown_kind = vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 77];
    for bytes in [oversized, answer, unknown_kind] {
        let mut bad = stranger.open(Lane::Control).await;
        bad.write_all(&bytes).await.unwrap();
        bad.flush().await.unwrap();
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, bad.read_to_end(&mut rest)).await.expect("it stays open");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        assert_eq!(ask(2).await, Response::Position(Some(2)));
    }
    stranger.task.abort();
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_a_newer_version_is_refused_and_the_stream_lives_on() {
    let a = Peer::start(1, 9).await;
    let stranger = stranger(&a).await;
    let mut stream = stranger.open(Lane::Control).await;
    // No cluster, then request variant 200.
    let newer = [&[0, 0, 0, 11][..], &7_u64.to_be_bytes(), &[0, 0, 200]].concat();
    stream.write_all(&newer).await.unwrap();
    stream.write_all(&frame::encode_request(8, &numbered(8)).unwrap()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answers = BTreeMap::new();
    for _ in 0..2 {
        let answer = timeout(PATIENCE, frame::read(&mut stream)).await.unwrap().unwrap().unwrap();
        answers.insert(answer.id, frame::decode::<Response>(&answer.payload).unwrap());
    }
    assert!(matches!(answers[&7], Response::Refused(Refusal::Invalid(_))), "{answers:?}");
    assert_eq!(answers[&8], Response::Position(Some(8)));
    stranger.task.abort();
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_floods_gets_busy_and_one_that_does_not_read_is_cut_off() {
    // Requests stay unanswered, so that every place stays taken.
    let serve = |mut requests: mpsc::Receiver<Inbound>| async move {
        let mut kept = Vec::new();
        while let Some(inbound) = requests.recv().await {
            kept.push(inbound);
        }
    };
    let a = Peer::start_with(1, 9, 4096, serve).await;
    let stranger = stranger(&a).await;
    let mut stream = stranger.open(Lane::Control).await;
    let mut bytes = Vec::new();
    for id in 0..IN_FLIGHT_MAX as u64 + 1 {
        bytes.extend(frame::encode_request(id, &numbered(id)).unwrap());
    }
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let answer = timeout(PATIENCE, frame::read(&mut stream)).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.id, IN_FLIGHT_MAX as u64);
    let answer: Response = frame::decode(&answer.payload).unwrap();
    assert_eq!(answer, Response::Refused(Refusal::Busy));

    // Refusals are much shorter than these requests, so it takes very many to fill the buffers between.
    let flood = async {
        loop {
            if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, flood).await.expect("a peer that does not read is served for ever");
    stranger.task.abort();
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_dropped_future_leave_no_trace() {
    let serve = |mut requests: mpsc::Receiver<Inbound>| async move {
        let mut kept = std::collections::VecDeque::new();
        while let Some(inbound) = requests.recv().await {
            match inbound.envelope.request {
                Request::Leader(LeaderRequest::ReadIndex(_)) => {
                    drop(inbound.reply.send(echo(&inbound.envelope)))
                }
                _ => kept.push_back(inbound),
            }
            // Late answers, to callers that are gone.
            if kept.len() > 100 {
                kept.pop_front();
            }
        }
    };
    let (a, b) = (Peer::start(1, 9).await, Peer::start_with(2, 9, 4096, serve).await);
    a.knows(&[&b]);
    call_until_answered(&a, b.id).await;
    let request = PinRequest {
        cid: "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap(),
        options: crate::types::ClaimOptions {
            replication: crate::types::Replication {
                min: crate::types::Factor::Everywhere,
                max: crate::types::Factor::Everywhere,
            },
            retain: false,
            name: crate::types::ClaimName::default(),
        },
    };
    let pin = Envelope { cluster: None, request: Writes(vec![Write::Pin(request)]).into_request() };
    // More than our side may have in flight.
    for _ in 0..2 * IN_FLIGHT_MAX {
        let call = a.transport.call(b.id, pin.clone(), PATIENCE);
        assert!(timeout(Duration::from_micros(1), call).await.is_err());
    }
    call_until_answered(&a, b.id).await;
    a.stop().await;
    b.stop().await;
}

/// Two processes with one identity, as from a copied data folder: each replaces the other's connection,
/// and `to` closes a connection each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_their_connections_however_many_were_replaced() {
    let b = Peer::start(2, 9).await;
    let (original, copy) = (Peer::start(1, 9).await, Peer::start(1, 9).await);
    original.knows(&[&b]);
    copy.knows(&[&b]);
    for n in 0..40 {
        let from = if n % 2 == 0 { &original } else { &copy };
        let answer = answer_of(from, b.id, &numbered(n)).await;
        assert_eq!(answer, Response::Position(Some(n)), "after {n} connections");
    }
    copy.stop().await;
    call_until_answered(&original, b.id).await;
    original.stop().await;
    eventually(|| b.transport.shared.tasks.is_empty()).await;
    b.stop().await;
}
