//! The stand-in's answers, in the form of Kubo's: status, lines of JSON, trailers.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, Stream},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{End, Request, StandInDaemon, World, gc::PinLock};
use crate::{
    ipfs::kubo::{Body, Carrier},
    types::Cid,
};

/// Kubo's interval between progress objects, even without progress.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

type Said = Vec<(Cid, bool)>;
pub(super) type Piece = Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>;

impl Carrier for StandInDaemon {
    fn post<'a>(
        &'a self,
        command: &'a str,
        query: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<Response<Body>, String>> {
        async move {
            let witness = self.world().witness.clone();
            if let Some(witness) = witness {
                witness(command, query);
            }
            let (life, delay) = {
                let world = self.world();
                if world.down {
                    return Err("the stand-in is down".to_owned());
                }
                (world.life, if world.hanging { Duration::MAX } else { world.delay })
            };
            if delay == Duration::MAX {
                return Err(broken(self.ended(life).await));
            }
            if command == "pin/rm" {
                self.until(life, |world| !world.collecting).await.map_err(broken)?;
            }
            let arguments: Vec<&str> =
                query.iter().filter(|(key, _)| *key == "arg").map(|(_, value)| *value).collect();
            let rudely = self.rude_answer(command, &arguments).map(|answer| (answer, Said::new()));
            let (answer, said) =
                rudely.unwrap_or_else(|| self.answer_to(command, query, &arguments, life));
            if !delay.is_zero() {
                tokio::select! { biased;
                    end = self.ended(life) => return Err(broken(end)),
                    () = sleep(delay) => {}
                }
            }
            let mut world = self.world();
            said.into_iter().for_each(|(cid, held)| world.answered(cid, held));
            Ok(answer)
        }
        .boxed()
    }
}

pub(super) fn broken(end: End) -> String {
    format!("the stand-in's life has ended: {end:?}")
}

impl StandInDaemon {
    /// Waits for the end of the daemon's life; returns how it ends.
    pub(super) async fn ended(&self, life: u64) -> End {
        self.until(life, |_| false).await.err().unwrap_or(End::Broken)
    }

    /// Waits until `done`; an error if the daemon's life ends first.
    pub(super) async fn until(&self, life: u64, done: impl Fn(&World) -> bool) -> Result<(), End> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let world = self.world();
                if world.life != life {
                    return Err(world.end.clone());
                }
                if done(&world) {
                    return Ok(());
                }
            }
            // The sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }

    /// The answer, and what it says about CIDs once it has arrived.
    fn answer_to(
        &self,
        command: &str,
        query: &[(&str, &str)],
        arguments: &[&str],
        life: u64,
    ) -> (Response<Body>, Said) {
        let cids: Result<Vec<Cid>, _> = arguments.iter().map(|text| text.parse::<Cid>()).collect();
        let recursive = query.contains(&("type", "recursive"));
        let answer = match (command, cids) {
            ("pin/ls", Ok(cids)) if !cids.is_empty() => {
                return self.ask(recursive, &cids, arguments);
            }
            ("pin/rm", Ok(cids)) if cids.len() == 1 => {
                return (self.remove(cids[0]), vec![(cids[0], false)]);
            }
            ("id", _) => {
                let id = self.world().id.clone();
                let address = format!("/ip4/127.0.0.1/tcp/4001/p2p/{id}");
                whole(&json!({"ID": id, "AgentVersion": "stand-in/1", "Addresses": [address]}))
            }
            ("repo/stat", _) => {
                let size = self.world().pins.len() * 100;
                whole(&json!({"RepoSize": size, "StorageMax": 10_000_000_000_u64}))
            }
            ("swarm/peering/add", _) => {
                let addresses = arguments.iter().map(|text| (*text).to_owned()).collect();
                self.world().connected.push(addresses);
                whole(&json!({"Strings": []}))
            }
            ("swarm/connect", _) => whole(&json!({"Strings": []})),
            ("pin/ls", Ok(_)) => self.list(recursive),
            ("pin/add", Ok(cids)) if cids.len() == 1 => self.add(cids[0], life),
            ("diag/cmds/clear", _) => streamed(stream::empty()),
            ("diag/cmds", _) => self.running(),
            ("repo/gc", _) => streamed(self.collect(life)),
            _ => error("invalid path or no such command of the stand-in"),
        };
        (answer, Said::new())
    }

    fn remove(&self, cid: Cid) -> Response<Body> {
        let removed = {
            let mut world = self.world();
            world.log(Request::Unpin(cid));
            world.confirmed.remove(&cid);
            world.drop_pin(&cid)
        };
        if removed {
            whole(&json!({"Pins": [cid.to_string()]}))
        } else {
            error("not pinned or pinned indirectly")
        }
    }

    /// Like Kubo: names the pinned CIDs up to the first that is not pinned.
    fn ask(&self, recursive: bool, cids: &[Cid], texts: &[&str]) -> (Response<Body>, Said) {
        let mut world = self.world();
        let (mut items, mut said) = (Vec::new(), Said::new());
        for (cid, text) in cids.iter().zip(texts) {
            let held = if recursive { &world.pins } else { &world.direct }.contains(cid);
            if recursive {
                world.log(Request::Ask(*cid));
                said.push((*cid, held));
            }
            if !held {
                let message = format!("path '{text}' is not pinned");
                if items.is_empty() {
                    return (error(&message), said);
                }
                items.push(trailer(&message));
                break;
            }
            items.push(Ok(item(cid)));
        }
        (streamed(stream::iter(items)), said)
    }

    fn list(&self, recursive: bool) -> Response<Body> {
        let daemon = self.clone();
        let began = Instant::now();
        let (pins, limit) = {
            let world = self.world();
            let pins = if recursive { &world.pins } else { &world.direct };
            (pins.clone(), world.listing_limit.filter(|_| recursive))
        };
        let items: Vec<Cid> = pins.iter().copied().take(limit.unwrap_or(usize::MAX)).collect();
        let named = daemon.clone();
        let named = stream::iter(items).map(move |cid| {
            let mut world = named.world();
            // Later answers take precedence over this list.
            if recursive && world.answers.get(&cid).is_none_or(|answer| answer.at < began) {
                world.answered(cid, true);
            }
            Ok(item(&cid))
        });
        let end = stream::once(async move {
            if limit.is_some() {
                return Some(trailer("the listing broke off"));
            }
            let mut world = daemon.world();
            for (cid, answer) in &mut world.answers {
                if recursive && answer.at < began && !pins.contains(cid) {
                    answer.held = false;
                }
            }
            None
        });
        streamed(named.chain(end.filter_map(std::future::ready)))
    }

    fn add(&self, cid: Cid, life: u64) -> Response<Body> {
        let mut world = self.world();
        world.log(Request::Pin(cid));
        world.in_flight += 1;
        world.in_flight_max = world.in_flight_max.max(world.in_flight);
        let pin = Adding {
            daemon: self.clone(),
            cid,
            life,
            step: Step::Locking,
            lock: None,
            _in_flight: InFlight(Arc::clone(&self.world)),
        };
        let begin = stream::once(std::future::ready(Ok(line(&json!({})))));
        streamed(begin.chain(stream::unfold(pin, Adding::next)))
    }
}

/// Counts a pin in flight while it lives.
struct InFlight(Arc<Mutex<World>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}

enum Step {
    Locking,
    Finding,
    Fetching,
    Over,
}

/// A `pin/add` under way; it ends when the reader is gone.
struct Adding {
    daemon: StandInDaemon,
    cid: Cid,
    life: u64,
    step: Step,
    lock: Option<PinLock>,
    _in_flight: InFlight,
}

impl Adding {
    async fn next(mut self) -> Option<(Piece, Self)> {
        let next = match self.step {
            Step::Locking => self.lock().await,
            Step::Finding => self.find().await,
            Step::Fetching => self.fetch().await,
            Step::Over => return None,
        };
        let piece = match next {
            Ok(value) => Ok(line(&value)),
            Err(End::Broken) => {
                self.step = Step::Over;
                Err(broken(End::Broken).into())
            }
            Err(End::Clean(None)) => return None,
            Err(End::Clean(Some(text))) => {
                self.step = Step::Over;
                trailer(&text)
            }
        };
        Some((piece, self))
    }

    /// Waits while a collection waits or runs.
    async fn lock(&mut self) -> Result<Value, End> {
        let free = self.daemon.until(self.life, |world| !world.collecting);
        tokio::select! { biased;
            free = free => free?,
            () = sleep(PROGRESS_PERIOD) => return Ok(json!({})),
        }
        self.lock = Some(PinLock::new(&self.daemon));
        // Like Kubo: an existing pin is removed before the content is fetched again.
        self.daemon.world().drop_pin(&self.cid);
        self.step = Step::Finding;
        self.find().await
    }

    async fn find(&mut self) -> Result<Value, End> {
        {
            let mut world = self.daemon.world();
            if let Some(error) = world.failing.get(&self.cid) {
                return Err(End::Clean(Some(error.clone())));
            }
            if world.lying {
                world.answered(self.cid, true);
                self.step = Step::Over;
                return Ok(json!({"Pins": [self.cid.to_string()]}));
            }
        }
        let cid = self.cid;
        let found = self.daemon.until(self.life, |world| !world.missing.contains(&cid));
        tokio::select! { biased;
            found = found => found?,
            () = sleep(PROGRESS_PERIOD) => return Ok(json!({})),
        }
        self.step = Step::Fetching;
        // A quick pin is done before Kubo reports any progress.
        if self.daemon.world().pin_time < PROGRESS_PERIOD {
            return self.fetch().await;
        }
        Ok(json!({"Progress": 1, "Bytes": 100}))
    }

    async fn fetch(&mut self) -> Result<Value, End> {
        let (time, delay) = {
            let world = self.daemon.world();
            (world.pin_time, world.delay)
        };
        self.pass(time).await?;
        self.daemon.world().hold_pin(self.cid);
        self.pass(delay).await?;
        self.daemon.world().answered(self.cid, true);
        self.step = Step::Over;
        Ok(json!({"Pins": [self.cid.to_string()]}))
    }

    async fn pass(&self, time: Duration) -> Result<(), End> {
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! { biased;
            end = self.daemon.ended(self.life) => Err(end),
            () = sleep(time) => Ok(()),
        }
    }
}

pub(super) fn line(value: &Value) -> Frame<Bytes> {
    Frame::data(Bytes::from(format!("{value}\n")))
}

fn item(cid: &Cid) -> Frame<Bytes> {
    line(&json!({"Cid": cid.to_string(), "Type": "recursive"}))
}

pub(super) fn trailer(text: &str) -> Piece {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-stream-error", HeaderValue::from_str(text)?);
    Ok(Frame::trailers(trailers))
}

pub(super) fn whole(value: &Value) -> Response<Body> {
    body(StatusCode::OK, value)
}

pub(super) fn error(message: &str) -> Response<Body> {
    let value = json!({"Message": message, "Code": 0, "Type": "error"});
    body(StatusCode::INTERNAL_SERVER_ERROR, &value)
}

pub(super) fn body(status: StatusCode, value: &Value) -> Response<Body> {
    plain(status, &format!("{value}\n"))
}

pub(super) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let bytes = Full::new(Bytes::from(text.to_owned()));
    let mut response = Response::new(bytes.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

pub(super) fn streamed(pieces: impl Stream<Item = Piece> + Send + 'static) -> Response<Body> {
    Response::new(StreamBody::new(pieces).boxed_unsync())
}
