//! Answers of a daemon, for [`crate::fuzzing`].
//!
//! The bytes are answers separated by [`APART`], given in turn; the last one repeats. The first byte of
//! each answer says how it arrives: bits 0 and 1 are the length of its pieces, 2 and 3 its status, 4
//! whether it breaks off. Then come the body and, after [`TRAILER`], the trailer `X-Stream-Error`.

#![allow(clippy::unwrap_used, reason = "a failure is what is looked for")]

use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;

use super::{http::STREAM_ERROR, *};

/// Separates answers; JSON never contains it.
const APART: u8 = 0;
/// Separates a body from its trailer.
const TRAILER: u8 = 1;
const CID: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
const OTHER: &str = "bafkqablimvwgy3y";
/// Longest error text in characters, including our words around the daemon's.
const ERROR_LEN_MAX: usize = 500;

#[derive(Clone, Debug)]
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    piece_len: usize,
    trailer: Option<HeaderValue>,
    broken: bool,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let (how, rest) = bytes.split_first().map_or((0, bytes), |(how, rest)| (*how, rest));
        let (body, trailer) = match rest.iter().position(|byte| *byte == TRAILER) {
            Some(end) => (&rest[..end], HeaderValue::from_bytes(&rest[end + 1..]).ok()),
            None => (rest, None),
        };
        let status = [StatusCode::OK, StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR];
        Self {
            status: *status.get(usize::from(how >> 2 & 3)).unwrap_or(&StatusCode::NOT_FOUND),
            body: body.to_vec(),
            piece_len: [1, 7, 64, usize::MAX][usize::from(how & 3)],
            trailer,
            broken: how & 16 != 0,
        }
    }

    /// Whether the answer is complete and without an error.
    fn is_sound(&self) -> bool {
        let error = self.trailer.as_ref().map(|text| String::from_utf8_lossy(text.as_bytes()));
        self.status == StatusCode::OK
            && !self.broken
            && error.is_none_or(|error| error.trim().is_empty())
    }

    /// The lines that are not blank; `None` where an unread field is invalid JSON, which does not
    /// matter to a reader that skips it.
    fn lines(&self) -> impl DoubleEndedIterator<Item = Option<Value>> {
        let lines = self.body.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .map(|line| serde_json::from_slice(line).ok())
    }

    /// Whether some line may name the CID.
    fn names(&self, cid: Cid) -> bool {
        self.lines().any(|line| {
            // A list of the fields is equivalent to an object.
            line.is_none_or(|line| is_text_of(line["Cid"].as_str().or(line[0].as_str()), cid))
        })
    }

    fn response(&self) -> Response<Body> {
        type Piece = Result<Frame<bytes::Bytes>, Box<dyn std::error::Error + Send + Sync>>;
        let pieces = self.body.chunks(self.piece_len);
        let mut pieces: Vec<Piece> =
            pieces.map(|piece| Ok(Frame::data(piece.to_vec().into()))).collect();
        let trailer = |text: &HeaderValue| [(HeaderName::from_static(STREAM_ERROR), text.clone())];
        pieces.extend(
            self.trailer
                .as_ref()
                .map(|text| Ok(Frame::trailers(HeaderMap::from_iter(trailer(text))))),
        );
        pieces.extend(self.broken.then(|| Err("it broke off".into())));
        let body = http_body_util::BodyExt::boxed_unsync(StreamBody::new(stream::iter(pieces)));
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response
    }
}

/// Gives the answers in turn.
struct Script {
    answers: Vec<Answer>,
    next: AtomicUsize,
}

impl Carrier for Script {
    fn post<'a>(
        &'a self,
        _: &'a str,
        _: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Response<Body>, String>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.get(turn).or_else(|| self.answers.last());
        let answer = answer.map(Answer::response).ok_or_else(|| "it does not answer".to_owned());
        std::future::ready(answer).boxed()
    }
}

/// The client's results for each question.
#[derive(Debug, PartialEq)]
struct Heard {
    id: Result<DaemonInfo, IpfsError>,
    held: Result<Vec<Held>, IpfsError>,
    pin: (Result<(), IpfsError>, Progress),
    unpin: Result<(), IpfsError>,
    pins: Vec<Result<Cid, IpfsError>>,
    repository: Result<RepositoryStat, IpfsError>,
    collected: Result<GcReport, IpfsError>,
    connected: Result<(), IpfsError>,
}

impl Heard {
    async fn of(answers: &[Answer]) -> Self {
        let client = || {
            let script = Script { answers: answers.to_vec(), next: AtomicUsize::new(0) };
            KuboClient::over(Arc::new(script))
        };
        let (cid, other) = (CID.parse().unwrap(), OTHER.parse().unwrap());
        let (progress, seen) = watch::channel(Progress::default());
        let pin = client().pin(cid, progress).await;
        Self {
            id: client().id().await,
            held: client().pinned(vec![cid, other, cid]).await,
            pin: (pin, *seen.borrow()),
            unpin: client().unpin(cid).await,
            pins: client().pins().collect().await,
            repository: client().repository().await,
            collected: client().run_gc().await,
            connected: client().connect(vec!["/ip4/10.0.0.1/tcp/4001".to_owned()]).await,
        }
    }

    fn answered(&self) -> usize {
        let Self { id, held, pin, unpin, pins, repository, collected, connected } = self;
        let pins = !pins.is_empty() && pins.iter().all(Result::is_ok);
        let single = [
            id.is_ok(),
            held.is_ok(),
            pin.0.is_ok(),
            unpin.is_ok(),
            pins,
            repository.is_ok(),
            collected.is_ok(),
            connected.is_ok(),
        ];
        single.into_iter().filter(|answered| *answered).count()
    }

    fn errors(&self) -> impl Iterator<Item = &IpfsError> {
        let Self { id, held, pin, unpin, pins, repository, collected, connected } = self;
        let single = [
            id.as_ref().err(),
            held.as_ref().err(),
            pin.0.as_ref().err(),
            unpin.as_ref().err(),
            repository.as_ref().err(),
            collected.as_ref().err(),
            connected.as_ref().err(),
        ];
        single.into_iter().flatten().chain(pins.iter().filter_map(|pin| pin.as_ref().err()))
    }
}

/// Uses the bytes as answers to all requests of a peer; returns how many requests succeed.
pub(crate) fn answers(bytes: &[u8]) -> usize {
    let answers: Vec<Answer> = bytes.split(|byte| *byte == APART).map(Answer::read).collect();
    let whole: Vec<Answer> = answers.iter().cloned().map(in_one_piece).collect();
    // A collection checks again after a while whether it may begin.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let heard = runtime.block_on(Heard::of(&answers));
    let again = runtime.block_on(Heard::of(&whole));
    assert_eq!(heard, again, "it depends on where the answer is cut");
    heard.errors().for_each(|error| {
        let text = error.to_string();
        assert!(text.chars().count() <= ERROR_LEN_MAX, "{text}");
    });
    judge(&heard, &answers);
    heard.answered()
}

fn is_text_of(text: Option<&str>, cid: Cid) -> bool {
    text.is_some_and(|text| text.parse() == Ok(cid))
}

fn in_one_piece(answer: Answer) -> Answer {
    Answer { piece_len: usize::MAX, ..answer }
}

/// The client must believe exactly what was said completely. There is at least one answer.
fn judge(heard: &Heard, answers: &[Answer]) {
    let (first, cid) = (&answers[0], CID.parse().unwrap());
    let is_sound = first.is_sound();
    if heard.pin.0.is_ok() {
        let named = first.lines().next_back().unwrap().is_none_or(|last| {
            let named = last["Pins"].as_array().or(last[0].as_array()).unwrap();
            named.iter().any(|text| is_text_of(text.as_str(), cid))
        });
        assert!(is_sound && named, "{first:?}");
    }
    if let Ok(held) = &heard.held {
        assert_eq!(held.len(), 3);
        let named = answers.iter().any(|answer| answer.names(cid));
        assert!(named || (held[0], held[2]) == (Held::No, Held::No), "{held:?}");
    }
    assert!(is_sound || heard.pins.last().is_some_and(Result::is_err), "{:?}", heard.pins);
    let errors = heard.pins.iter().filter(|pin| pin.is_err()).count();
    assert!(errors <= 1 && heard.pins.len() - errors <= first.lines().count());
    assert!(is_sound || (heard.id.is_err() && heard.repository.is_err()));
    if let Ok(collected) = &heard.collected {
        assert!(collected.errors.len() <= GcReport::ERRORS_MAX);
    }
}

/// Answers of each kind, valid and invalid, each with whether it answers something.
#[cfg(test)]
pub(crate) fn samples() -> Vec<(bool, Vec<u8>)> {
    let pins = format!("{{\"Pins\":[\"{CID}\"]}}\n");
    let item = format!("{{\"Cid\":\"{CID}\",\"Type\":\"recursive\"}}\n");
    let not_pinned = format!("path '{OTHER}' is not pinned");
    let id = "{\"ID\":\"12D3Kubo\",\"AgentVersion\":\"kubo/0.43.1\",\
              \"Addresses\":[\"/ip4/10.0.0.1/tcp/4001/p2p/12D3Kubo\"]}\n";
    let collected = format!("{{\"Key\":{{\"/\":\"{CID}\"}}}}\n{{\"Error\":\"it cannot\"}}\n");
    let texts = [
        (true, format!("c{{}}\n{{\"Progress\":5,\"Bytes\":12239}}\n{pins}")),
        (false, format!("c{pins}\u{1}pin: promise channel was closed")),
        (false, format!("s{item}")),
        (true, format!("a{item}\u{1}{not_pinned}\0c{item}\0k{{\"Message\":\"{not_pinned}\"}}")),
        (true, format!("c{id}")),
        (true, "c{\"RepoSize\":100,\"StorageMax\":10000000000,\"NumObjects\":7}\n".to_owned()),
        (
            true,
            format!(
                "c\0c[{{\"Command\":\"pin/ls\",\"Active\":true}}]\n\0c{collected}\u{1}some errors"
            ),
        ),
        (true, "k{\"Message\":\"not pinned or pinned indirectly\",\"Code\":0}\n".to_owned()),
        (false, "o404 page not found".to_owned()),
        (true, format!("b{pins}{{\"Progress\":5}}\n")),
    ];
    texts.map(|(is_sound, text)| (is_sound, text.into_bytes())).to_vec()
}

#[cfg(test)]
#[tokio::test(start_paused = true)]
async fn samples_are_heard_as_they_are_meant() {
    let mut heard = Vec::new();
    for (is_sound, sample) in samples() {
        let answers: Vec<Answer> = sample.split(|byte| *byte == APART).map(Answer::read).collect();
        let answered = Heard::of(&answers).await;
        assert_eq!(answered.answered() > 0, is_sound, "{answered:?}");
        heard.push(answered);
    }
    assert_eq!(heard[0].pin, (Ok(()), Progress { blocks: 5, bytes: 12239 }));
    assert!(heard[1].pin.0.is_err());
    assert!(matches!(&heard[2].pins[..], [Ok(_), Err(IpfsError::Down(_))]));
    assert_eq!(heard[3].held, Ok(vec![Held::Recursive, Held::No, Held::Recursive]));
    assert_eq!(heard[4].id.as_ref().map(|id| id.addresses.len()), Ok(1));
    assert_eq!(heard[5].repository.as_ref().map(|stat| stat.size), Ok(100));
    let collected = GcReport { removed: 1, errors: vec!["it cannot".to_owned()] };
    assert_eq!(heard[6].collected, Ok(collected));
    assert_eq!(heard[7].unpin, Ok(()));
    assert!(matches!(heard[8].id, Err(IpfsError::Refused(_))));
    assert!(heard[9].pin.0.is_err());
}
