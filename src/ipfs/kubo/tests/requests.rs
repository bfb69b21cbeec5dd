//! The requests sent, and when an answer counts as complete: tests with a scripted carrier.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, sleep};

use super::*;
use crate::ipfs::fake::StandInDaemon;

#[derive(Clone)]
enum Piece {
    Text(String),
    Trailer(&'static str, Vec<u8>),
    Pause(Duration),
}

type Sent = Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>;

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn error(text: &str) -> Piece {
    Piece::Trailer("x-stream-error", text.as_bytes().to_vec())
}

const FOREVER: Piece = Piece::Pause(Duration::MAX);

impl Piece {
    async fn sent(self) -> Option<Sent> {
        match self {
            Self::Text(text) => Some(Ok(Frame::data(text.into()))),
            Self::Trailer(name, value) => {
                let name = HeaderName::from_static(name);
                let value = HeaderValue::from_bytes(&value).unwrap();
                Some(Ok(Frame::trailers(HeaderMap::from_iter([(name, value)]))))
            }
            Self::Pause(Duration::MAX) => std::future::pending().await,
            Self::Pause(time) => {
                sleep(time).await;
                None
            }
        }
    }
}

/// Answers with the pieces in turn, and records the requests.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<Piece>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Vec<Piece>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() })
    }

    fn client(self: &Arc<Self>) -> KuboClient {
        KuboClient::over(Arc::clone(self) as Arc<dyn Carrier>)
    }

    fn asked(&self) -> MutexGuard<'_, Vec<String>> {
        self.asked.lock().unwrap()
    }
}

impl Carrier for Script {
    fn post<'a>(
        &'a self,
        command: &'a str,
        query: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Response<Body>, String>> {
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.asked().push(format!("{command}?{}", query.join("&")));
        let pieces = self.answers.lock().unwrap().pop_front();
        let answer = pieces.map(|pieces| {
            let pieces = stream::iter(pieces).then(Piece::sent).filter_map(std::future::ready);
            Response::new(StreamBody::new(pieces).boxed_unsync())
        });
        std::future::ready(answer.ok_or_else(|| "it does not answer".to_owned())).boxed()
    }
}

async fn pin_over(script: &Arc<Script>) -> Result<(), IpfsError> {
    script.client().pin(cid(CID), watch::channel(Progress::default()).0).await
}

#[tokio::test]
async fn questions_are_sent_in_these_words() {
    let script = Script::new([]);
    let client = script.client();
    let _ = client.id().await;
    let _ = client.pinned(vec![cid(CID)]).await;
    let _ = client.pinned(vec![cid(CID), cid(OTHER)]).await;
    let _ = pin_over(&script).await;
    let _ = client.unpin(cid(CID)).await;
    let _ = client.pins().collect::<Vec<_>>().await;
    let _ = client.repository().await;
    let _ = client.run_gc().await;
    let _ = client.connect(vec!["/ip4/10.0.0.1/tcp/4001".to_owned()]).await;
    let expected = [
        "id?".to_owned(),
        format!("pin/ls?arg={CID}&type=recursive&stream=true"),
        format!("pin/ls?arg={CID}&arg={OTHER}&type=recursive&stream=true"),
        format!("pin/add?arg={CID}&recursive=true&progress=true"),
        format!("pin/rm?arg={CID}"),
        "pin/ls?type=recursive&stream=true".to_owned(),
        "repo/stat?size-only=true".to_owned(),
        "diag/cmds/clear?".to_owned(),
        "swarm/peering/add?arg=/ip4/10.0.0.1/tcp/4001".to_owned(),
    ];
    assert_eq!(*script.asked(), expected);

    // CIDs that are not pinned recursively may be pinned directly; a collection checks before it
    // begins.
    let no = vec![error(&format!("path '{CID}' is not pinned"))];
    let script = Script::new([no.clone(), no]);
    assert_eq!(script.client().pinned(vec![cid(CID)]).await, Ok(vec![Held::No]));
    assert_eq!(script.asked()[1], format!("pin/ls?arg={CID}&type=direct&stream=true"));
    let script = Script::new([vec![], vec![text("[]")], vec![]]);
    assert_eq!(script.client().run_gc().await, Ok(GcReport::default()));
    let asked = ["diag/cmds/clear?", "diag/cmds?", "repo/gc?stream-errors=true"];
    assert_eq!(*script.asked(), asked);
}

/// A complete object followed by an error: the request failed.
#[tokio::test]
async fn an_error_after_the_whole_object_counts() {
    let script = |object: &str| Script::new([vec![text(object), error("shutting down")]]).client();
    let late = IpfsError::Failed("shutting down".to_owned());
    let unpinned = script(&format!("{{\"Pins\":[\"{CID}\"]}}\n")).unpin(cid(CID)).await;
    assert_eq!(unpinned, Err(late.clone()));
    assert_eq!(script("{\"ID\":\"12D3\"}\n").id().await, Err(late.clone()));
    let stat = script("{\"RepoSize\":1,\"StorageMax\":2}\n").repository().await;
    assert_eq!(stat, Err(late.clone()));
    let connected = script("{}\n").connect(vec![]).await;
    assert_eq!(connected, Err(late));
}

#[tokio::test]
async fn an_answer_to_unpin_is_an_object_or_nothing_is_known() {
    for (pieces, done) in [
        (vec![text("{\"Pins\":[]}\n")], true),
        (vec![text("{}")], true),
        (vec![error("not pinned or pinned indirectly")], true),
        (vec![], false),
        (vec![text("\n")], false),
        (vec![text("{\"Pins\":")], false),
        (vec![error("context canceled")], false),
    ] {
        let answer = Script::new([pieces]).client().unpin(cid(CID)).await;
        assert_eq!(answer.is_ok(), done, "{answer:?}");
    }
}

#[tokio::test]
async fn a_trailer_is_an_error_when_it_says_something() {
    let pins = || text(&format!("{{\"Pins\":[\"{CID}\"]}}\n"));
    let after = async |name, value: &[u8]| {
        pin_over(&Script::new([vec![pins(), Piece::Trailer(name, value.to_vec())]])).await
    };
    assert_eq!(after("x-stream-error", b"").await, Ok(()));
    assert_eq!(after("x-stream-error", b" ").await, Ok(()));
    assert_eq!(after("x-chunked-output", b"1").await, Ok(()));
    let refused = IpfsError::Unpinnable("invalid cid: x".to_owned());
    assert_eq!(after("x-stream-error", b"invalid cid: x").await, Err(refused));
    for text in [&b"x"[..], b"\xFF\xFE"] {
        let error = after("x-stream-error", text).await;
        assert!(matches!(error, Err(IpfsError::Failed(_))), "{error:?}");
    }
}

#[tokio::test]
async fn a_last_line_needs_no_end_and_empty_ones_are_none() {
    let pins = format!("{{\"Pins\":[\"{CID}\"]}}");
    for end in ["", "\n", "\r\n\n \n"] {
        let (begin, rest) = pins.split_at(12);
        let pieces = vec![text("{}\n\n"), text(begin), text(""), text(&format!("{rest}{end}"))];
        assert_eq!(pin_over(&Script::new([pieces])).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silence_is_slow_after_30_s_and_never_success() {
    let pins = || text(&format!("{{\"Pins\":[\"{CID}\"]}}\n"));
    let pause = |seconds| Piece::Pause(Duration::from_secs(seconds));
    let begin = Instant::now();
    let pieces = vec![text("{}\n"), pause(29), text("{}\n"), pause(29), pins(), FOREVER];
    let slow = IpfsError::Slow("silent for 30 s".to_owned());
    assert_eq!(pin_over(&Script::new([pieces])).await, Err(slow));
    assert_eq!(begin.elapsed().as_secs(), 29 + 29 + 30);
    let pieces = vec![text("{}\n"), pause(29), pins(), pause(29)];
    assert_eq!(pin_over(&Script::new([pieces])).await, Ok(()));
    // The same for a list, which is incomplete then.
    let item = text(&format!("{{\"Cid\":\"{CID}\"}}\n"));
    let pins: Vec<_> = Script::new([vec![item, FOREVER]]).client().pins().collect().await;
    assert!(matches!(pins[..], [Ok(_), Err(IpfsError::Slow(_))]), "{pins:?}");
    // One object must arrive completely in time, however busy the daemon seems.
    let blank = vec![text(" "), pause(3), text(" "), pause(3), text("{\"ID\":\"12D3\"}")];
    let late = IpfsError::Slow("no answer to id within 4 s".to_owned());
    assert_eq!(Script::new([blank]).client().id().await, Err(late));
}

#[tokio::test(start_paused = true)]
async fn an_answer_has_to_begin_in_time() {
    struct Silent;
    impl Carrier for Silent {
        fn post<'a>(
            &'a self,
            _: &'a str,
            _: &'a [(&'a str, &'a str)],
        ) -> BoxFuture<'a, Result<Response<Body>, String>> {
            std::future::pending().boxed()
        }
    }
    let client = KuboClient::over(Arc::new(Silent));
    let late = |text: &str| IpfsError::Slow(format!("no answer to {text}"));
    let begin = Instant::now();
    let pinned = client.pin(cid(CID), watch::channel(Progress::default()).0).await;
    assert_eq!(pinned, Err(late("pin/add within 60 s")));
    assert_eq!(begin.elapsed().as_secs(), 60);
    assert_eq!(client.pins().collect::<Vec<_>>().await, [Err(late("pin/ls within 60 s"))]);
    assert_eq!(client.unpin(cid(CID)).await, Err(late("pin/rm within 60 s")));
    assert_eq!(client.pinned(vec![cid(CID)]).await, Err(late("pin/ls within 60 s")));
}

#[tokio::test(start_paused = true)]
async fn a_collection_may_be_silent_for_hours() {
    let hours = |hours: u64| Piece::Pause(Duration::from_secs(hours * 3600));
    let block = || text("{\"Key\":{}}\n");
    let pieces = vec![hours(5), block(), hours(5), block()];
    let script = Script::new([vec![], vec![text("[]")], pieces]);
    let collected = GcReport { removed: 2, errors: vec![] };
    assert_eq!(script.client().run_gc().await, Ok(collected));
}

#[tokio::test(start_paused = true)]
async fn a_collection_begins_only_when_nobody_holds_the_lock() {
    let busy = || vec![text("[{\"Command\":\"pin/add\",\"Active\":true}]")];
    let free = || vec![text("[{\"Command\":\"pin/add\",\"Active\":false}]")];
    let begin = Instant::now();
    let script = Script::new([vec![], busy(), busy(), free(), vec![]]);
    assert_eq!(script.client().run_gc().await, Ok(GcReport::default()));
    assert_eq!(begin.elapsed(), Duration::from_millis(200));
    let begin = Instant::now();
    let script = Script::new(std::iter::once(vec![]).chain((0..1000).map(|_| busy())));
    let error = script.client().run_gc().await.unwrap_err();
    assert!(matches!(&error, IpfsError::Failed(text) if text.contains("pin/add is under way")));
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    assert!(!script.asked().iter().any(|asked| asked.starts_with("repo/gc")));
}

/// A client of a daemon with these pins, which answers a limited number of questions.
fn holding(recursive: &[Cid], direct: &[Cid]) -> KuboClient {
    let daemon = StandInDaemon::new("d", Duration::ZERO);
    recursive.iter().for_each(|cid| daemon.pin_foreign(*cid));
    direct.iter().for_each(|cid| daemon.pin_direct(*cid));
    let asked = AtomicUsize::new(0);
    daemon.set_witness(Arc::new(move |_, _| {
        assert!(asked.fetch_add(1, Ordering::Relaxed) < 2000, "it never stops asking");
    }));
    daemon.client()
}

fn numbered(n: u16) -> Cid {
    let [a, b] = n.to_be_bytes();
    Cid::from_bytes(&[1, 0x55, 0, 2, a, b]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn however_many_are_asked_about_each_has_its_own_answer() {
    let patterns: [fn(u16) -> Held; 7] = [
        |_| Held::Recursive,
        |_| Held::No,
        |_| Held::Direct,
        |n| [Held::Recursive, Held::No, Held::Direct][usize::from(n) % 3],
        |n| if n == 0 { Held::No } else { Held::Recursive },
        |n| if n % 17 == 16 { Held::Direct } else { Held::Recursive },
        |n| if n % 40 == 39 { Held::Recursive } else { Held::No },
    ];
    for pattern in patterns {
        for count in [0, 1, 2, 3, 15, 16, 17, 18, 33, 100, 255, 256] {
            let cids: Vec<Cid> = (0..count).map(numbered).collect();
            let of = |held| {
                let these = (0..count).filter(|n| pattern(*n) == held).map(numbered);
                these.collect::<Vec<Cid>>()
            };
            let client = holding(&of(Held::Recursive), &of(Held::Direct));
            let expected: Vec<Held> = (0..count).map(pattern).collect();
            assert_eq!(client.pinned(cids).await, Ok(expected), "of {count}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_direct_pins_than_are_listed_are_asked_about_one_by_one() {
    for count in [999, 1000, 1001, 1500] {
        let direct: Vec<Cid> = (0..count).map(numbered).collect();
        let client = holding(&[], &direct);
        // The last ones in the daemon's list.
        let asked: Vec<Cid> = (count - 2..count + 1).map(numbered).collect();
        let answer = client.pinned(asked).await;
        assert_eq!(answer, Ok(vec![Held::Direct, Held::Direct, Held::No]), "of {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_direct_pins_that_breaks_off_answers_nothing() {
    let no = || vec![error(&format!("path '{CID}' is not pinned"))];
    let item = text(&format!("{{\"Cid\":\"{OTHER}\"}}\n"));
    for end in [error("shutting down"), FOREVER] {
        let script = Script::new([no(), no(), no(), vec![item.clone(), end]]);
        let answer = script.client().pinned(vec![cid(CID); 3]).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(script.asked().last().unwrap(), "pin/ls?type=direct&stream=true");
    }
}

#[tokio::test(start_paused = true)]
async fn recursive_pins_alone_are_listed() {
    let pins: Vec<_> = holding(&[numbered(1)], &[numbered(2)]).pins().collect().await;
    assert_eq!(pins, [Ok(numbered(1))]);
}

/// Always gives the same answer.
struct Always(StatusCode, String);

impl Carrier for Always {
    fn post<'a>(
        &'a self,
        _: &'a str,
        _: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Response<Body>, String>> {
        let body = stream::iter([Sent::Ok(Frame::data(self.1.clone().into()))]);
        let mut response = Response::new(StreamBody::new(body).boxed_unsync());
        *response.status_mut() = self.0;
        std::future::ready(Ok(response)).boxed()
    }
}

#[tokio::test]
async fn an_error_of_any_length_is_not_read_to_its_end() {
    for (len, kept) in [(65_000, true), (66_000, false)] {
        let words = "no".repeat(len / 2);
        let carrier = Always(StatusCode::INTERNAL_SERVER_ERROR, words);
        let error = KuboClient::over(Arc::new(carrier)).id().await.unwrap_err().to_string();
        assert!(error.len() < 400, "{error}");
        assert_eq!(error.contains("HTTP 500: nono"), kept, "{error}");
    }
}

#[tokio::test]
async fn any_other_status_than_200_is_no_success() {
    for (status, done) in [(200, true), (202, false), (301, false), (404, false), (500, false)] {
        let pins = format!("{{\"Pins\":[\"{CID}\"]}}\n");
        let carrier = Always(StatusCode::from_u16(status).unwrap(), pins);
        let client = KuboClient::over(Arc::new(carrier));
        let pinned = client.pin(cid(CID), watch::channel(Progress::default()).0).await;
        assert_eq!((pinned.is_ok(), client.unpin(cid(CID)).await.is_ok()), (done, done));
    }
}
