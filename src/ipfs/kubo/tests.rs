//! Against a server that answers prepared bytes: what a real Kubo is hard to make say.
#![allow(clippy::unwrap_used)]

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

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
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let byte = socket.read_u8().await.unwrap();
                request.push(byte);
            }
            for piece in pieces {
                socket.write_all(piece.as_bytes()).await.unwrap();
                socket.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    KuboClient::new(&url).unwrap()
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
    let body = vec![piece.as_str(); 20];
    let (result, _) = pin(&body, CLEAN).await;
    assert!(
        matches!(&result, Err(IpfsError::Failed(text)) if text.contains("longer")),
        "{result:?}"
    );
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
            "Refused",
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

#[test]
fn only_plain_addresses_are_taken() {
    for bad in ["", "localhost:5001", "https://127.0.0.1:5001", "http://127.0.0.1:5001/api"] {
        assert!(KuboClient::new(bad).is_err(), "{bad}");
    }
    assert!(KuboClient::new("http://127.0.0.1:5001").is_ok());
}
