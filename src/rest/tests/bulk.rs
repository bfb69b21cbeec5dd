//! `POST /pins` with NDJSON, as clients see it.

use std::time::Duration;

use axum::{
    body::BodyDataStream,
    http::{HeaderMap, header::CONTENT_TYPE},
};
use futures::{FutureExt as _, StreamExt as _};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use super::*;
use crate::{
    rest::{
        bulk::{GROUPS_MAX, pin_all},
        pins::Given,
        query::Parameters,
    },
    types::Write,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn cid(number: u32) -> Cid {
    let digest = number.to_be_bytes().repeat(8);
    let hash = cid::multihash::Multihash::<64>::wrap(0x12, &digest).unwrap();
    Cid::from(cid::Cid::new_v1(0x55, hash))
}

/// A request whose body is written piece by piece.
struct Bulk {
    write: OwnedWriteHalf,
    read: Lines<BufReader<OwnedReadHalf>>,
}

impl Bulk {
    async fn begin(server: &Server) -> Self {
        let address = server.base.strip_prefix("http://").unwrap();
        let (read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let head = "POST /pins HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        write.write_all(head.as_bytes()).await.unwrap();
        Self { write, read: BufReader::new(read).lines() }
    }

    async fn send(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.write.write_all(chunk.as_bytes()).await.unwrap();
    }

    async fn end(&mut self) {
        self.write.write_all(b"0\r\n\r\n").await.unwrap();
    }

    /// The next answer, without the framing of HTTP.
    async fn answer(&mut self) -> Option<Value> {
        loop {
            let line = timeout(PATIENCE, self.read.next_line()).await.unwrap().unwrap()?;
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn each_line_is_answered_in_order_and_a_wrong_one_stops_no_other() {
    let server = Server::start().await;
    let long = "x".repeat(20_000);
    let lines = [
        format!(r#"{{"cid":"{}"}}"#, cid(1)),
        r#"{"cid":"hello"}"#.to_owned(),
        "no JSON".to_owned(),
        format!(r#"{{"cid":"{}","replication":2,"name":"a b","mode":"recursive"}}"#, cid(4)),
        format!(r#"{{"cid":"{}","replicas":2}}"#, cid(5)),
        String::new(),
        format!(r#"{{"cid":"{}","name":"{long}"}}"#, cid(7)),
        r#"{"name":"x"}"#.to_owned(),
        format!(r#"{{"cid":"{}","cid":"{}"}}"#, cid(9), cid(9)),
        format!(r#"{{"cid":"{}","replication-min":"1","replication-max":"-1"}}"#, cid(10)),
    ];
    let request = server.client.post(format!("{}/pins", server.base));
    let request = request.header("content-type", "application/x-ndjson; charset=utf-8");
    let response = request.body(lines.join("\n")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pinned = |line: u32| json!({ "line": line, "cid": cid(line).to_string() });
    let wrong = [
        (2, "error decoding Cid"),
        (3, "not a JSON object"),
        (5, "replicas"),
        (7, "longer than"),
        (8, "\"cid\" is missing"),
        (9, "twice"),
    ];
    assert_eq!(answers.len(), 9, "{text}");
    for answer in answers {
        let line = u32::try_from(answer["line"].as_u64().unwrap()).unwrap();
        match wrong.iter().find(|(wrong, _)| *wrong == line) {
            Some((_, words)) => {
                assert_eq!(answer["error"]["code"], 400, "{answer}");
                assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
            }
            None => assert_eq!(answer, pinned(line)),
        }
    }
    let pins = server.cluster.told().pins.clone();
    let known: Vec<Cid> = pins.keys().copied().collect();
    assert!(known.len() == 3 && [1, 4, 10].map(cid).iter().all(|cid| known.contains(cid)));
    let claim = &pins[&cid(4)].pin.claims.get(&Owner::Rest).unwrap().options;
    assert_eq!(
        (claim.name.to_string(), claim.replication.max),
        ("a b".to_owned(), Factor::Count(2))
    );
    server.stop().await;
}

#[tokio::test]
async fn answers_come_while_the_request_goes_on() {
    let server = Server::start().await;
    let mut bulk = Bulk::begin(&server).await;
    for number in 1..4 {
        bulk.send(&format!("{{\"cid\":\"{}\"}}\n", cid(number))).await;
        assert_eq!(bulk.answer().await.unwrap()["line"], number);
    }
    server.cluster.told().error = Some(UseCaseError::Unavailable("none".to_owned()));
    bulk.send(&format!("{{\"cid\":\"{}\"}}", cid(4))).await;
    bulk.end().await;
    assert_eq!(bulk.answer().await.unwrap()["error"]["code"], 503);
    assert_eq!(bulk.answer().await, None);
    server.stop().await;
}

/// The answers to so many lines that arrive together.
async fn answers(server: &Server, count: u32) -> BodyDataStream {
    let source = Source::StandIn(server.cluster.clone());
    let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, "application/x-ndjson".parse().unwrap())]);
    let lines: String = (0..count).map(|n| format!("{{\"cid\":\"{}\"}}\n", cid(n))).collect();
    let given = Given(Parameters::new(Vec::new()).unwrap());
    let api = State(Api { source, replication });
    let answer = pin_all(api, headers, given, lines.into()).await.unwrap();
    answer.into_body().into_data_stream()
}

#[tokio::test]
async fn few_lines_are_ahead_of_their_answers() {
    let server = Server::start().await;
    server.cluster.open.send_replace(false);
    let mut waiting = server.cluster.waiting.subscribe();
    let ahead = GROUPS_MAX * Write::BATCH_LEN_MAX;
    let count = ahead + 500;
    let mut answers = answers(&server, u32::try_from(count).unwrap()).await;
    tokio::select! {
        _ = answers.next() => panic!("an answer to what waits"),
        full = timeout(PATIENCE, waiting.wait_for(|waiting| *waiting >= ahead)) => {
            assert_eq!(*full.unwrap().unwrap(), ahead);
        }
    }
    server.cluster.open.send_replace(true);
    let text = timeout(PATIENCE, answers.map(Result::unwrap).collect::<Vec<_>>()).await.unwrap();
    let text = String::from_utf8(text.concat()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().map(|line| line["line"].as_u64().unwrap()).eq(1..=count as u64));
    server.stop().await;
}

/// The server drops the answer of a client that is gone.
#[tokio::test]
async fn an_answer_that_nobody_wants_leaves_no_pins_behind() {
    let server = Server::start().await;
    server.cluster.open.send_replace(false);
    let mut waiting = server.cluster.waiting.subscribe();
    let mut answers = answers(&server, 10).await;
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(*waiting.borrow_and_update(), 10);
    drop(answers);
    assert_eq!(*waiting.borrow_and_update(), 0);
    server.cluster.open.send_replace(true);
    assert!(server.cluster.told().pins.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn another_content_type_is_refused() {
    let server = Server::start().await;
    let (status, text) = server.ask(Method::POST, "/pins").await;
    assert_eq!(status, 415, "{text}");
    assert!(text.contains("application/x-ndjson"), "{text}");
    server.stop().await;
}
