//! Tests with prepared answers that a real Kubo hardly ever gives.
#![allow(clippy::unwrap_used)]

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

mod requests;
mod tables;

const CID: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
const OTHER: &str = "bafkqablimvwgy3y";

fn cid(text: &str) -> Cid {
    text.parse().unwrap()
}

/// Answers each connection with the next of `answers`, each in several pieces.
async fn server(answers: Vec<Vec<String>>) -> KuboClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for pieces in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            for piece in pieces {
                socket.write_all(piece.as_bytes()).await.unwrap();
                socket.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    KuboClient::new(&url).unwrap()
}

async fn read_request(socket: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(socket.read_u8().await.unwrap());
    }
}

fn chunked(status: &str, body: &[&str], end: &str) -> Vec<String> {
    let mut pieces = vec![format!(
        "HTTP/1.1 {status}\r\nTrailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )];
    pieces.extend(body.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())));
    pieces.push(end.to_owned());
    pieces
}

async fn pin(body: &[&str], end: &str) -> (Result<(), IpfsError>, Progress) {
    let client = server(vec![chunked("200 OK", body, end)]).await;
    let (sender, receiver) = watch::channel(Progress::default());
    let result = client.pin(cid(CID), sender).await;
    (result, *receiver.borrow())
}

const CLEAN: &str = "0\r\n\r\n";

#[tokio::test]
async fn a_pin_is_done_when_the_last_object_says_so() {
    let last = format!("{{\"Pins\":[\"{CID}\"]}}\n");
    let body = ["{}\n{\"Progr", "ess\":5,\"Bytes\":12239}\n", &last];
    let (result, progress) = pin(&body, CLEAN).await;
    assert_eq!(result, Ok(()));
    assert_eq!(progress, Progress { blocks: 5, bytes: 12239 });
}

#[tokio::test]
async fn a_clean_end_alone_is_no_success() {
    let (result, _) = pin(&["{\"Progress\":5}\n"], CLEAN).await;
    assert!(matches!(result, Err(IpfsError::Failed(_))), "{result:?}");
    let other = format!("{{\"Pins\":[\"{OTHER}\"]}}\n");
    let (result, _) = pin(&[&other], CLEAN).await;
    assert!(matches!(result, Err(IpfsError::Failed(_))), "{result:?}");
}

#[tokio::test]
async fn the_trailer_is_an_error_even_after_the_pins() {
    let end = "0\r\nX-Stream-Error: pin: promise channel was closed\r\n\r\n";
    for body in [String::from("{}\n"), format!("{{\"Pins\":[\"{CID}\"]}}\n")] {
        let (result, _) = pin(&[&body], end).await;
        assert_eq!(
            result,
            Err(IpfsError::Failed("pin: promise channel was closed".to_owned())),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_broken_connection_is_down() {
    let last = format!("{{\"Pins\":[\"{CID}\"]}}\n");
    let (result, _) = pin(&[&last], "").await;
    assert!(matches!(result, Err(IpfsError::Down(_))), "{result:?}");
    let client = KuboClient::new("http://127.0.0.1:1").unwrap();
    let error = client.id().await.unwrap_err();
    assert!(matches!(error, IpfsError::Down(_)), "{error:?}");
}

#[tokio::test]
async fn a_line_without_end_is_refused() {
    let piece = "x".repeat(LINE_PIECE);
    for end in ["", "\n"] {
        let mut body = vec![piece.as_str(); 20];
        body.push(end);
        body.retain(|piece| !piece.is_empty());
        let (result, _) = pin(&body, CLEAN).await;
        assert!(
            matches!(&result, Err(IpfsError::Failed(text)) if text.contains("longer")),
            "{result:?}"
        );
    }
}

/// The daemon's texts go to every peer and to people.
#[tokio::test]
async fn little_is_kept_of_what_a_daemon_says_at_length() {
    let long = "x".repeat(LINE_PIECE);
    let ask =
        async |body: String| server(vec![chunked("200 OK", &[&body], CLEAN)]).await.id().await;
    let addresses = vec!["/ip4/10.0.0.1/tcp/4001"; 1000].join("\",\"");
    let said = format!(
        "{{\"ID\":\"12D3\",\"AgentVersion\":\"{long}\",\"Addresses\":[\"{long}\",\"{addresses}\"]}}\n"
    );
    let info = ask(said).await.unwrap();
    assert_eq!((info.id.as_str(), info.agent.len(), info.addresses.len()), ("12D3", 128, 256));
    assert!(info.addresses.iter().all(|address| address.len() < 100));
    for wrong in [format!("\"{long}\""), "\"\"".to_owned(), format!("{{\"{long}\":1}}")] {
        let error = ask(format!("{{\"ID\":{wrong}}}\n")).await.unwrap_err().to_string();
        assert!(error.len() < 600, "{error}");
    }
    let error = ask(format!("{{\"ID\":\"12D3\",\"Addresses\":\"{long}\"}}\n")).await.unwrap_err();
    assert!(error.to_string().len() < 600, "{error}");
}

const LINE_PIECE: usize = 64 * 1024;

#[tokio::test]
async fn errors_are_told_apart_by_what_to_do() {
    let body = |text: &str| format!("{{\"Message\":\"{text}\",\"Code\":0,\"Type\":\"error\"}}");
    let table = [
        ("500 Internal Server Error", body("merkledag: not found"), "Failed"),
        (
            "500 Internal Server Error",
            body("pin: potentially insecure hash functions not allowed"),
            "Unpinnable",
        ),
        ("404 Not Found", "404 page not found".to_owned(), "Refused"),
        ("502 Bad Gateway", String::new(), "Failed"),
    ];
    for (status, body, kind) in table {
        let pieces = if body.is_empty() { vec![] } else { vec![body.as_str()] };
        let client = server(vec![chunked(status, &pieces, CLEAN)]).await;
        let error = client.repository().await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{status} {body}: {error:?}");
    }
}

#[tokio::test]
async fn what_is_pinned_is_asked_piece_by_piece() {
    let held = |cid: &str| format!("{{\"Cid\":\"{cid}\",\"Type\":\"recursive\"}}\n");
    let first = held(OTHER);
    let end = format!("0\r\nX-Stream-Error: path '{CID}' is not pinned\r\n\r\n");
    let none = format!("{{\"Message\":\"path '{CID}' is not pinned\",\"Code\":0}}");
    let direct = held(CID);
    for (last, expected) in [
        (chunked("500 Internal Server Error", &[&none], CLEAN), Held::No),
        (chunked("200 OK", &[&direct], CLEAN), Held::Direct),
    ] {
        let begin = chunked("200 OK", &[&first], &end);
        let client = server(vec![begin, chunked("200 OK", &[&first], CLEAN), last]).await;
        let answer = client.pinned(vec![cid(OTHER), cid(CID), cid(OTHER)]).await;
        assert_eq!(answer, Ok(vec![Held::Recursive, expected, Held::Recursive]));
    }
}

#[tokio::test]
async fn a_short_answer_about_pins_is_an_error() {
    let client = server(vec![chunked("200 OK", &[], CLEAN)]).await;
    let answer = client.pinned(vec![cid(CID)]).await;
    assert!(matches!(answer, Err(IpfsError::Failed(_))), "{answer:?}");
}

#[tokio::test]
async fn a_listing_broken_off_ends_with_an_error() {
    let item = format!("{{\"Cid\":\"{CID}\",\"Type\":\"recursive\"}}\n");
    for (end, complete) in
        [(CLEAN, true), ("", false), ("0\r\nX-Stream-Error: shutting down\r\n\r\n", false)]
    {
        let client = server(vec![chunked("200 OK", &[&item], end)]).await;
        let pins: Vec<_> = client.pins().collect().await;
        assert_eq!(pins[0], Ok(cid(CID)));
        assert_eq!(pins.len() == 1, complete, "{pins:?}");
        assert!(complete || pins[1].is_err(), "{pins:?}");
    }
}

/// Such as the CIDs that `ipfs add --inline` makes of files of up to 100 bytes: nobody can ask us to
/// pin them.
#[tokio::test]
async fn what_others_have_pinned_under_a_cid_that_we_do_not_take_is_passed_over() {
    // An identity CID of a hundred letters x.
    let long = format!("bafkqazdypb4{}hq6a", "hq6dypb4".repeat(19));
    assert!(long.parse::<Cid>().is_err());
    let items = [&long, CID, &long].map(|cid| format!("{{\"Cid\":\"{cid}\"}}\n"));
    let client =
        server(vec![chunked("200 OK", &items.each_ref().map(String::as_str), CLEAN)]).await;
    let pins: Vec<_> = client.pins().collect().await;
    assert_eq!(pins, [Ok(cid(CID))]);
}

/// A client that collected the whole answer first would never reach the first pin.
#[tokio::test]
async fn a_listing_without_end_is_read_as_it_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let written = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_request(&mut socket).await;
        let piece = format!("{{\"Cid\":\"{CID}\",\"Type\":\"recursive\"}}\n").repeat(100);
        let head = chunked("200 OK", &[], "").concat();
        socket.write_all(head.as_bytes()).await.unwrap();
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        let mut written = 0_usize;
        // Ends when the reader is gone.
        while socket.write_all(chunk.as_bytes()).await.is_ok() {
            written += chunk.len();
        }
        written
    });
    let client = KuboClient::new(&url).unwrap();
    let first: Vec<_> = client.pins().take(1000).collect().await;
    assert!(first.iter().all(|pin| *pin == Ok(cid(CID))), "{first:?}");
    // Anything else that was written waits in the system's buffers.
    let written = tokio::time::timeout(Duration::from_secs(20), written).await;
    assert!(written.expect("the daemon is still being read").unwrap() < 32 << 20);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_slow_and_not_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = KuboClient::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let error = client.id().await.unwrap_err();
    assert_eq!(error, IpfsError::Slow("no answer to id within 4 s".to_owned()));
    let error = client.rpc.ask::<Id>("id", &[], Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, IpfsError::Slow(_)), "{error:?}");
}

#[tokio::test]
async fn a_collection_counts_blocks_and_keeps_errors() {
    let quiet = || chunked("200 OK", &["[{\"Command\":\"pin/ls\",\"Active\":true}]\n"], CLEAN);
    let cleared = || chunked("200 OK", &[], CLEAN);
    let key = format!("{{\"Key\":{{\"/\":\"{CID}\"}}}}\n");
    let item = "{\"Key\":null,\"Error\":\"could not remove it\"}\n";
    let end = "0\r\nX-Stream-Error: encountered errors during gc run\r\n\r\n";
    let some = chunked("200 OK", &[&key, item, &key], end);
    let client = server(vec![cleared(), quiet(), some]).await;
    let errors = vec!["could not remove it".to_owned()];
    assert_eq!(client.run_gc().await, Ok(GcReport { removed: 2, errors }));
    let interrupted = chunked("200 OK", &[&key], "0\r\nX-Stream-Error: shutting down\r\n\r\n");
    let client = server(vec![cleared(), quiet(), interrupted]).await;
    assert!(matches!(client.run_gc().await, Err(IpfsError::Failed(_))));
}

#[test]
fn only_plain_addresses_are_taken() {
    for bad in ["", "localhost:5001", "https://127.0.0.1:5001", "http://127.0.0.1:5001/api"] {
        assert!(KuboClient::new(bad).is_err(), "{bad}");
    }
    assert!(KuboClient::new("http://127.0.0.1:5001").is_ok());
}
