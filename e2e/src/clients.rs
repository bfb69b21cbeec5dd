//! Clients that pin, unpin and look at a few CIDs at all peers at once, and note what they saw.
//!
//! Each client asks one peer, one thing at a time. What they note is a history for [`crate::linear`]:
//! a pin is called by a name of its own, so that every answer tells which pin it saw. An answer that
//! fits no rule of the REST API is noted as false; an error of the server or no answer is unknown.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pinkeeper::types::Cid;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value as Json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    chance::Chance,
    linear::{Answer, Call, Operation, Value},
};

/// Clients of each peer.
const PER_PEER: usize = 4;
/// Time one request has. Longer than a pause, so that a peer that wakes up still answers.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest rest between two requests, in milliseconds.
const REST_MAX: usize = 80;

/// What was asked and answered, by CID.
pub type Histories = BTreeMap<Cid, Vec<Operation>>;

/// What clients share.
#[derive(Debug)]
struct Shared {
    begin: Instant,
    /// The REST API of each peer, as in `http://127.0.0.1:9094/`.
    urls: Vec<String>,
    http: reqwest::Client,
    next_value: AtomicU32,
    /// Answers that were none of errors, by peer.
    answered: Vec<AtomicUsize>,
    seen: Mutex<(Histories, Vec<String>)>,
}

/// Asks peers and notes the answers; clones share the notes.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

impl Recorder {
    /// For the REST APIs of these peers.
    ///
    /// # Errors
    /// Never in practice.
    pub fn new(urls: Vec<String>) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Shared {
            begin: Instant::now(),
            http: reqwest::Client::builder().no_proxy().timeout(DEADLINE).build()?,
            next_value: AtomicU32::new(1),
            answered: urls.iter().map(|_| AtomicUsize::new(0)).collect(),
            urls,
            seen: Mutex::default(),
        })))
    }

    /// Answers so far of a peer that were no errors.
    #[must_use]
    pub fn answered(&self, peer: usize) -> usize {
        self.0.answered[peer].load(Ordering::Relaxed)
    }

    /// Everything noted, and every false answer.
    #[must_use]
    pub fn notes(&self) -> (Histories, Vec<String>) {
        self.seen().clone()
    }

    fn seen(&self) -> MutexGuard<'_, (Histories, Vec<String>)> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies that the pin of a value asks for; a majority of the peers can always keep them.
    #[must_use]
    pub fn copies(&self, value: Value) -> usize {
        1 + value as usize % (self.0.urls.len() / 2 + 1)
    }

    /// Pins under a new value.
    pub async fn pin(&self, client: usize, peer: usize, cid: Cid) -> Answer {
        let value = self.0.next_value.fetch_add(1, Ordering::Relaxed);
        self.ask(client, peer, cid, Call::Pin(value)).await
    }

    /// Asks a peer and notes the answer.
    pub async fn ask(&self, client: usize, peer: usize, cid: Cid, call: Call) -> Answer {
        let called = self.0.begin.elapsed();
        let answer = self.answer(self.request(peer, cid, call), call).await;
        let answered = self.0.begin.elapsed();
        let mut seen = self.seen();
        let answer = answer.unwrap_or_else(|text| {
            seen.1.push(format!("{called:?}: peer {peer}, {cid}: {call:?}: {text}"));
            Answer::Unknown
        });
        if answer != Answer::Unknown {
            self.0.answered[peer].fetch_add(1, Ordering::Relaxed);
        }
        let operation = Operation { client, call, answer, called, answered };
        seen.0.entry(cid).or_default().push(operation);
        answer
    }

    fn request(&self, peer: usize, cid: Cid, call: Call) -> RequestBuilder {
        let url = format!("{}pins/{cid}", self.0.urls[peer]);
        match call {
            Call::Pin(value) => {
                let copies = self.copies(value);
                self.0.http.post(format!("{url}?name=v{value}&replication={copies}"))
            }
            Call::Unpin => self.0.http.delete(url),
            Call::Get => self.0.http.get(url),
        }
    }

    /// What an answer means, or what is wrong with it.
    async fn answer(&self, request: RequestBuilder, call: Call) -> Result<Answer, String> {
        let Ok(response) = request.send().await else { return Ok(Answer::Unknown) };
        let status = response.status();
        if status.is_server_error() {
            return Ok(Answer::Unknown);
        }
        let Ok(text) = response.text().await else { return Ok(Answer::Unknown) };
        let wrong = || format!("{status}: {text}");
        if status == StatusCode::NOT_FOUND && call == Call::Unpin {
            return Ok(Answer::Absent);
        }
        let body: Json = serde_json::from_str(&text).map_err(|_| wrong())?;
        let name = body["name"].as_str().filter(|_| status == StatusCode::OK).ok_or_else(wrong)?;
        let value = name.strip_prefix('v').and_then(|value| value.parse().ok());
        match (call, value) {
            (Call::Pin(value), Some(found)) if value == found => Ok(Answer::Done),
            (Call::Unpin | Call::Get, Some(found)) => Ok(Answer::Found(found)),
            (Call::Get, None) if name.is_empty() => Ok(Answer::Absent),
            _ => Err(wrong()),
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    tasks: JoinSet<()>,
    token: CancellationToken,
}

impl Clients {
    /// Sets clients of every peer to work on these CIDs.
    #[must_use]
    pub fn start(recorder: &Recorder, cids: &[Cid], seed: u64) -> Self {
        let (mut tasks, token) = (JoinSet::new(), CancellationToken::new());
        for client in 0..recorder.0.urls.len() * PER_PEER {
            let chance = Chance(seed ^ (client as u64) << 32);
            tasks.spawn(work(recorder.clone(), client, cids.to_vec(), chance, token.clone()));
        }
        Self { tasks, token }
    }

    /// Lets each finish what it asked last.
    pub async fn stop(self) {
        self.token.cancel();
        self.tasks.join_all().await;
    }
}

async fn work(
    recorder: Recorder,
    client: usize,
    cids: Vec<Cid>,
    mut chance: Chance,
    token: CancellationToken,
) {
    let peer = client % recorder.0.urls.len();
    while !token.is_cancelled() {
        let cid = cids[chance.below(cids.len())];
        match chance.below(10) {
            0..4 => recorder.pin(client, peer, cid).await,
            4..6 => recorder.ask(client, peer, cid, Call::Unpin).await,
            _ => recorder.ask(client, peer, cid, Call::Get).await,
        };
        sleep(Duration::from_millis(chance.below(REST_MAX) as u64)).await;
    }
}
