#![allow(clippy::unwrap_used)]

mod bulk;
pub(super) mod stand_in;

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use self::stand_in::StandIn;
use super::*;
use crate::{
    cluster::UseCaseError,
    telemetry,
    types::{
        Allocation, Cid, Claim, ClaimName, ClaimOptions, DaemonInfo, Factor, GcCounters, GcReport,
        Member, Metrics, Owner, PeerId, Pin, PinEntry, PinState, PinStatus, Timestamp,
    },
};

const CID: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";
const A: PeerId = PeerId([1; 32]);
const B: PeerId = PeerId([2; 32]);

fn metrics(daemon: bool) -> Metrics {
    Metrics {
        daemon: daemon.then(|| DaemonInfo {
            id: "12D3Kubo".to_owned(),
            agent: "kubo/0.43.1".to_owned(),
            addresses: vec!["/ip4/10.0.0.1/tcp/4001/p2p/12D3Kubo".to_owned()],
        }),
        free_space: daemon.then_some(1 << 40),
        full_percent: daemon.then_some(25),
        repository_size: None,
        pins: 7,
        pin_queue: 2,
        tags: BTreeMap::new(),
        version: "0.1.0".to_owned(),
        addresses: vec!["/ip4/10.0.0.1/tcp/9096".to_owned()],
        ttl_ms: 30_000,
        ..Metrics::default()
    }
}

struct Server {
    cluster: StandIn,
    base: String,
    client: Client,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let member = |name: &str, host: u8| Member {
            name: name.to_owned(),
            addresses: vec![format!("/ip4/10.0.0.{host}/tcp/9096")],
        };
        let members = BTreeMap::from([(A, member("a", 1)), (B, member("b", 2))]);
        let cluster = StandIn::new(A, members, metrics(true));
        let source = Source::StandIn(cluster.clone());
        let counts = RestMetrics::default();
        let mut registry = telemetry::registry();
        counts.register(&mut registry);
        let default = Replication { min: Factor::Count(1), max: Factor::Count(2) };
        let hosts = Hosts::new(([127, 0, 0, 1], 0).into(), ["pins.example".to_owned()]);
        let router = api(source.clone(), default, counts, hosts)
            .merge(Router::new().nest("/h", health::router(source, SharedRegistry::new(registry))));
        let listener = bind("rest_listen", ([127, 0, 0, 1], 0).into()).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let token = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, token.clone()));
        Self { cluster, base, client: Client::new(), token, task }
    }

    async fn ask(&self, method: Method, path: &str) -> (u16, String) {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.ask(Method::GET, path).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A pin on both peers, pinned at A and failed at B.
    fn add(&self, seed: u8) -> Cid {
        let digest = cid::multihash::Multihash::<64>::wrap(0x12, &[seed; 32]).unwrap();
        let cid = Cid::from(cid::Cid::new_v1(0x55, digest));
        let replication = Replication { min: Factor::Count(1), max: Factor::Everywhere };
        let options = ClaimOptions {
            replication,
            retain: false,
            name: ClaimName::Given("web/docs".to_owned()),
        };
        let claim = Claim { options, generation: 1, since: Timestamp(5000) };
        let owner = Owner::Object(crate::types::Uid("u".to_owned()));
        let pin = Pin {
            claims: [(owner, claim)].into_iter().collect(),
            allocations: vec![
                Allocation { peer: A, leaving: false, at_entry: 1 },
                Allocation { peer: B, leaving: false, at_entry: 1 },
            ],
            created: Timestamp(4000),
        };
        let status = |state, message: &str| PinStatus {
            state,
            since: Timestamp(6000),
            message: message.to_owned(),
            attempts: 3,
        };
        let statuses = BTreeMap::from([
            (A, status(PinState::Pinned, "12 blocks")),
            (B, status(PinState::Failed, "disk full")),
        ]);
        self.cluster.told().pins.insert(cid, PinEntry { cid, pin, statuses });
        cid
    }

    async fn stop(self) {
        self.token.cancel();
        drop(self.client);
        self.task.await.unwrap();
    }

    /// Sends bytes and reads to the end of the connection.
    async fn raw(&self, request: &str) -> String {
        let address = self.base.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn id_has_every_field_of_the_original() {
    let server = Server::start().await;
    let (status, id) = server.get("/id").await;
    assert_eq!(status, 200);
    let expected = json!({
        "id": A.to_string(),
        "addresses": [format!("/ip4/10.0.0.1/tcp/9096/p2p/{A}")],
        "cluster_peers": [A.to_string(), B.to_string()],
        "cluster_peers_addresses": [
            format!("/ip4/10.0.0.1/tcp/9096/p2p/{A}"),
            format!("/ip4/10.0.0.3/tcp/9096/p2p/{B}"),
        ],
        "version": "0.1.0",
        "commit": "development",
        "rpc_protocol_version": "/pinkeeper/0.1/rpc",
        "error": "",
        "ipfs": {
            "id": "12D3Kubo",
            "addresses": ["/ip4/10.0.0.1/tcp/4001/p2p/12D3Kubo"],
            "error": "",
        },
        "peername": "a",
    });
    assert_eq!(id, expected);
    assert_eq!(server.ask(Method::GET, "/health").await, (204, String::new()));
    server.stop().await;
}

#[tokio::test]
async fn a_pin_is_made_and_removed_with_the_fields_of_the_original() {
    let server = Server::start().await;
    let path = format!("/pins/{CID}?replication-max=2&name=x%20y&mode=recursive&shard-size=0");
    let (status, text) = server.ask(Method::POST, &path).await;
    assert_eq!(status, 200, "{text}");
    let pin: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "replication_factor_min": 1,
        "replication_factor_max": 2,
        "name": "x y",
        "mode": "recursive",
        "shard_size": 0,
        "user_allocations": [],
        "expire_at": "0001-01-01T00:00:00Z",
        "metadata": {},
        "pin_update": null,
        "origins": [],
        "cid": CID,
        "type": "pin",
        "allocations": [A.to_string(), B.to_string()],
        "max_depth": -1,
        "reference": null,
        "timestamp": "1970-01-01T00:00:01Z",
    });
    assert_eq!(pin, expected);
    let (status, info) = server.get(&format!("/pins/{CID}")).await;
    assert_eq!((status, &info["peer_map"][A.to_string()]["status"]), (200, &json!("pin_queued")));

    let path = format!("/pins/{CID}");
    let (status, text) = server.ask(Method::DELETE, &path).await;
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, expected));
    let (status, text) = server.ask(Method::DELETE, &path).await;
    assert_eq!(status, 404);
    assert_eq!(text, r#"{"code":404,"message":"pin is not part of the pinset"}"#);
    let (status, info) = server.get(&path).await;
    assert_eq!((status, &info["peer_map"][B.to_string()]["status"]), (200, &json!("unpinned")));
    server.stop().await;
}

#[tokio::test]
async fn a_status_has_every_field_of_the_original() {
    let server = Server::start().await;
    let cid = server.add(1);
    let (status, info) = server.get(&format!("/pins/{cid}?local=false")).await;
    assert_eq!(status, 200);
    let expected = json!({
        "cid": cid.to_string(),
        "name": "web/docs",
        "allocations": [A.to_string(), B.to_string()],
        "origins": [],
        "created": "1970-01-01T00:00:04Z",
        "metadata": {},
        "peer_map": {
            A.to_string(): {
                "peername": "a",
                "ipfs_peer_id": "12D3Kubo",
                "ipfs_peer_addresses": ["/ip4/10.0.0.1/tcp/4001/p2p/12D3Kubo"],
                "status": "pinned",
                "timestamp": "1970-01-01T00:00:06Z",
                "error": "",
                "attempt_count": 3,
                "priority_pin": false,
            },
            B.to_string(): {
                "peername": "b",
                "ipfs_peer_id": "12D3Other",
                "status": "pin_error",
                "timestamp": "1970-01-01T00:00:06Z",
                "error": "disk full",
                "attempt_count": 3,
                "priority_pin": false,
            },
        },
    });
    assert_eq!(info, expected);
    let (_, info) = server.get(&format!("/pins/{cid}?local=true")).await;
    assert_eq!(info["peer_map"].as_object().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn the_list_is_one_object_a_line_in_pages_and_filtered() {
    let server = Server::start().await;
    assert_eq!(server.ask(Method::GET, "/pins").await, (204, String::new()));
    server.cluster.told().page = 10;
    let cids: Vec<Cid> = (0..25).map(|seed| server.add(seed)).collect();
    let (status, text) = server.ask(Method::GET, "/pins?filter=&cids=&local=").await;
    assert_eq!((status, text.lines().count()), (200, 25));
    for line in text.lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["cid"].is_string());
    }
    let count = async |query: &str| {
        let (status, text) = server.ask(Method::GET, &format!("/pins?{query}")).await;
        assert!(matches!(status, 200 | 204), "{text}");
        text.lines().count()
    };
    assert_eq!(count("filter=error").await, 25);
    assert_eq!(count("filter=error&local=true").await, 0);
    assert_eq!(count("filter=pinning,pinned&local=true").await, 25);
    assert_eq!(count(&format!("cids={},{CID}", cids[3])).await, 2);
    assert_eq!(count(&format!("cids={},{CID}&filter=unpinned", cids[3])).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_list_that_breaks_never_looks_whole() {
    let server = Server::start().await;
    server.cluster.told().page = 1;
    for seed in 0..3 {
        server.add(seed);
    }
    let head = "GET /pins HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let whole = server.raw(&format!("{head}TE: trailers\r\n\r\n")).await;
    assert!(whole.ends_with("0\r\nx-stream-error: \r\n\r\n"), "{whole}");

    server.cluster.told().error_after_page = Some(UseCaseError::Unavailable("lost".to_owned()));
    let told = server.raw(&format!("{head}TE: trailers\r\n\r\n")).await;
    assert!(told.contains("trailer: X-Stream-Error"), "{told}");
    assert!(told.contains("x-stream-error: lost"), "{told}");
    let cut = server.raw(&format!("{head}\r\n")).await;
    assert!(cut.contains("200 OK") && !cut.ends_with("0\r\n\r\n"), "{cut}");
    let response = server.client.get(format!("{}/pins", server.base)).send().await.unwrap();
    assert!(response.text().await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_code_and_message() {
    let server = Server::start().await;
    let refused = async |method: Method, path: &str, code: u16, words: &str| {
        let (status, text) = server.ask(method, path).await;
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &body["code"]), (code, &json!(code)), "{path}: {text}");
        assert!(body["message"].as_str().unwrap().contains(words), "{path}: {text}");
    };
    refused(Method::POST, "/pins/hello", 400, "error decoding Cid").await;
    refused(Method::POST, &format!("/pins/{CID}?mode=direct"), 400, "mode").await;
    refused(Method::POST, &format!("/pins/{CID}?replicas=2"), 400, "replicas").await;
    refused(Method::GET, &format!("/pins/{CID}?local=maybe"), 400, "local").await;
    refused(Method::GET, "/pins?filter=done", 400, "pin_queued").await;
    refused(Method::DELETE, &format!("/pins/{CID}?force=true"), 400, "force").await;
    refused(Method::GET, "/nothing", 404, "/nothing").await;
    refused(Method::PUT, &format!("/pins/{CID}"), 405, "PUT").await;

    for (error, code) in [
        (UseCaseError::Invalid("no".to_owned()), 400),
        (UseCaseError::Failed("broke".to_owned()), 500),
        (UseCaseError::Unavailable("none".to_owned()), 503),
    ] {
        let words = error.to_string();
        server.cluster.told().error = Some(error);
        refused(Method::POST, &format!("/pins/{CID}"), code, &words).await;
        refused(Method::GET, "/pins", code, &words).await;
    }
    let response = server.client.get(format!("{}/pins", server.base)).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    // Local knowledge needs no other peer.
    let cid = server.add(3);
    for path in [format!("/pins/{cid}?local=true"), "/pins?local=true".to_owned()] {
        let (status, text) = server.ask(Method::GET, &path).await;
        assert!(status == 200 && text.contains(&cid.to_string()), "{path}: {status} {text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_a_strangers_page_sends_is_refused_and_counted() {
    let server = Server::start().await;
    let ask = async |request: &str, more: &str| {
        let head = "HTTP/1.1\r\nConnection: close\r\nContent-Length: 0";
        server.raw(&format!("{request} {head}\r\n{more}\r\n\r\n")).await
    };
    for route in ["GET /id", "GET /pins", "POST /pins", "POST /ipfs/gc", "GET /nothing"] {
        let answer = ask(route, "Host: evil.example").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{route}: {answer}");
        assert!(answer.contains("rest_hosts"), "{route}: {answer}");
    }
    let pin = format!("POST /pins/{CID}");
    let answer = ask(&pin, "Host: localhost\r\nOrigin: http://evil.example").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(
        server.get(&format!("/pins/{CID}")).await.1["peer_map"][A.to_string()]["status"],
        "unpinned"
    );
    let answer = ask(&pin, "Host: pins.example:80\r\nOrigin: http://pins.example:80").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = ask("GET /health", "Host: evil.example").await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    let (_, text) = server.ask(Method::GET, "/h/metrics").await;
    assert!(text.contains(r#"route="/pins/{cid}",method="POST",code="403"} 1"#), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn garbage_collection_says_what_it_did_at_each_peer() {
    let server = Server::start().await;
    let errors = vec!["could not remove a block".to_owned()];
    server.cluster.told().collected = BTreeMap::from([
        (A, Ok(GcReport { removed: 12, errors })),
        (B, Err("the daemon is away".to_owned())),
    ]);
    let of_a = json!({
        "peer": A.to_string(), "peername": "a", "removed": 12,
        "keys": [{"error": "could not remove a block"}],
    });
    let of_b = json!({
        "peer": B.to_string(), "peername": "b", "removed": 0, "keys": [],
        "error": "the daemon is away",
    });
    let ask = async |path: &str| {
        let (status, text) = server.ask(Method::POST, path).await;
        (status, serde_json::from_str::<Value>(&text).unwrap())
    };
    let all = json!({"peer_map": {A.to_string(): of_a, B.to_string(): of_b}});
    assert_eq!(ask("/ipfs/gc?local=false").await, (200, all));
    let local = json!({"peer_map": {A.to_string(): of_a}});
    assert_eq!(ask("/ipfs/gc?local=true").await, (200, local));
    assert_eq!(ask("/ipfs/gc?force=true").await.0, 400);
    server.cluster.told().error = Some(UseCaseError::Busy("already".to_owned()));
    assert_eq!(ask("/ipfs/gc").await, (409, json!({"code": 409, "message": "already"})));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_kept_alive_and_never_looks_whole_when_it_breaks() {
    let members = BTreeMap::from([(A, Member::default())]);
    let cluster = StandIn::new(A, members, metrics(true));
    cluster.told().collect_time = Duration::from_secs(50);
    let ask = async || {
        let replication = Replication { min: Factor::Everywhere, max: Factor::Everywhere };
        let api = Api { source: Source::StandIn(cluster.clone()), replication };
        let given = pins::Given(query::Parameters::new(vec![]).unwrap());
        let answer = gc::collect(State(api), given).await.unwrap();
        axum::body::to_bytes(answer.into_body(), 1000).await
    };
    assert_eq!(ask().await.unwrap(), "\n{\"peer_map\":{}}");
    cluster.told().error = Some(UseCaseError::Failed("the leader is gone".to_owned()));
    assert!(ask().await.is_err());
}

#[tokio::test]
async fn probes_and_metrics_tell_the_peers_state() {
    let server = Server::start().await;
    assert_eq!(server.ask(Method::GET, "/h/healthz").await.0, 200);
    assert_eq!(server.ask(Method::GET, "/h/readyz").await.0, 200);
    server.cluster.told().unready = Some("no leader is known".to_owned());
    let expected = (503, "no leader is known\n".to_owned());
    assert_eq!(server.ask(Method::GET, "/h/readyz").await, expected);
    server.cluster.told().collections =
        GcCounters { running: true, done: 2, failed: 1, removed: 40, done_at: None };
    server.ask(Method::GET, "/id").await;
    server.ask(Method::GET, "/nothing/here").await;
    let (status, text) = server.ask(Method::GET, "/h/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "pinkeeper_ready 0",
        "pinkeeper_members 2",
        "pinkeeper_daemon_up 1",
        "pinkeeper_pins_held 7",
        "pinkeeper_pin_queue 2",
        "pinkeeper_free_space_bytes 1099511627776",
        "pinkeeper_gc_running 1",
        r#"pinkeeper_gc_runs_total{outcome="done"} 2"#,
        r#"pinkeeper_gc_runs_total{outcome="failed"} 1"#,
        "pinkeeper_gc_removed_blocks_total 40",
        r#"pinkeeper_rest_requests_total{route="/id",method="GET",code="200"} 1"#,
        r#"pinkeeper_rest_requests_total{route="none",method="GET",code="404"} 1"#,
        r#"pinkeeper_build_info{version="0.1.0",commit="development"} 1"#,
        "pinkeeper_leader 1",
        "pinkeeper_raft_term 7",
        "pinkeeper_level 1",
        "pinkeeper_program_level 2",
        "pinkeeper_full_ratio 0.25",
        r#"pinkeeper_pins{status="pinned"} 5"#,
        r#"pinkeeper_pins{status="not_found"} 2"#,
        r#"pinkeeper_pins{status="failed"} 0"#,
        r#"pinkeeper_pin_failures_total{reason="failed"} 9"#,
        r#"pinkeeper_rest_request_seconds_count{route="/id",method="GET"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("\npinkeeper_repository_size_bytes "), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn members_are_listed_and_can_be_asked_to_leave() {
    let server = Server::start().await;
    let (status, text) = server.ask(Method::GET, "/peers").await;
    assert_eq!(status, 200);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let field = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("id"), [A.to_string(), B.to_string()]);
    assert_eq!(field("peername"), ["a", "b"]);
    assert_eq!(
        (field("voter"), field("departing")),
        (vec![true.into(), false.into()], vec![false.into(), true.into()])
    );
    assert_eq!(
        (field("allocations"), field("away_seconds")),
        (vec![7.into(), 3.into()], vec![0.into(), 90.into()])
    );
    assert_eq!(lines[1]["ipfs"]["id"], "12D3Other");
    assert_eq!(
        (lines[0]["version"].as_str(), lines[1]["version"].as_str()),
        (Some("0.1.0"), Some(""))
    );
    for (query, departs) in [("", true), ("?cancel=true", false), ("?cancel=false", true)] {
        let answer = server.ask(Method::DELETE, &format!("/peers/{B}{query}")).await;
        assert_eq!(answer, (204, String::new()), "{query}");
        assert_eq!(server.cluster.told().departures.pop(), Some((B, departs)), "{query}");
    }
    for path in [
        "/peers/12D3",
        "/peers/x?cancel=true",
        &format!("/peers/{B}?cancel=1"),
        &format!("/peers/{B}?force=true"),
    ] {
        assert_eq!(server.ask(Method::DELETE, path).await.0, 400, "{path}");
    }
    assert_eq!(server.ask(Method::GET, "/peers?local=true").await.0, 400);
    assert!(server.cluster.told().departures.is_empty());
    server.cluster.told().error = Some(UseCaseError::Unavailable("no leader".to_owned()));
    assert_eq!(server.ask(Method::DELETE, &format!("/peers/{B}")).await.0, 503);
    server.stop().await;
}

#[tokio::test]
async fn a_member_that_is_away_is_an_alert() {
    let server = Server::start().await;
    let (status, text) = server.ask(Method::GET, "/health/alerts").await;
    assert_eq!(status, 200);
    let alerts: Value = serde_json::from_str(&text).unwrap();
    let [alert] = &alerts.as_array().unwrap()[..] else { panic!("{alerts}") };
    assert_eq!((&alert["name"], &alert["peer"]), (&"ping".into(), &B.to_string().into()));
    assert_eq!(alert["valid"], false);
    let since: jiff::Timestamp = alert["triggered_at"].as_str().unwrap().parse().unwrap();
    let ago = jiff::Timestamp::now().duration_since(since).as_secs();
    assert!((90..150).contains(&ago), "{ago}");
    assert_eq!(server.ask(Method::GET, "/health/alerts?x=1").await.0, 400);
    server.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_setting() {
    let first = bind("rest_listen", ([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = first.local_addr().unwrap();
    let error = bind("health_listen", address).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("health_listen: cannot listen on {address}")), "{error}");
}
