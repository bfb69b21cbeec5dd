//! One watch: the changes after a revision, as lines, until it ends, breaks or hangs.

use std::{collections::VecDeque, io, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures::stream;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Door,
    faults::WatchFate,
    http::{self, Call, broken_off},
    store::{Change, Happened, Kind, Refusal},
};

/// Time between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without a timeout of its client ends after this.
const SECONDS: u64 = 290;

pub struct Watch {
    door: Door,
    kind: Kind,
    namespace: String,
    revision: u64,
    bookmarks: bool,
    /// The cluster that it began on, and how often connections have been broken since.
    connection: u64,
    until: Instant,
    bookmark: Instant,
    changed: watch::Receiver<u64>,
    lines: VecDeque<Bytes>,
    over: bool,
}

impl Watch {
    /// The watch that `call` requests; absent if it is not a watch.
    pub fn new(door: Door, call: &Call) -> Option<Self> {
        let Call::Watch { kind, namespace, revision, seconds, bookmarks } = call.clone() else {
            return None;
        };
        let now = Instant::now();
        let connection = door.api.lock().connections;
        Some(Self {
            connection,
            changed: door.api.changed.subscribe(),
            door,
            kind,
            namespace,
            revision,
            bookmarks,
            until: now + Duration::from_secs(seconds.unwrap_or(SECONDS)),
            bookmark: now + BOOKMARK_EVERY,
            lines: VecDeque::new(),
            over: false,
        })
    }

    pub fn into_response(self) -> Response {
        let lines = stream::unfold(self, |mut watch| async {
            let line = watch.next().await?;
            Some((line, watch))
        });
        Response::new(Body::from_stream(lines))
    }

    /// The next line.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(line));
            }
            if self.over || Instant::now() >= self.until {
                return None;
            }
            self.changed.borrow_and_update();
            match self.look() {
                Look::Nothing => {}
                Look::Line(fate, delay) => {
                    sleep(delay).await;
                    match fate {
                        WatchFate::GoesOn => {}
                        WatchFate::Ends => return None,
                        WatchFate::Breaks => {
                            self.over = true;
                            return Some(Err(broken_off()));
                        }
                        WatchFate::Expires => self.expire(),
                        WatchFate::Stalls => {
                            self.door.hang().await;
                            self.over = true;
                            return Some(Err(broken_off()));
                        }
                    }
                    continue;
                }
            }
            let next_look = self.next_look();
            tokio::select! {
                biased;
                _ = self.changed.changed() => {}
                () = sleep_until(next_look) => {}
            }
        }
    }

    /// When to check again if nothing changes. Not at once for a due bookmark that cannot be
    /// delivered: virtual time would stand still.
    fn next_look(&self) -> Instant {
        if self.bookmark > Instant::now() { self.bookmark.min(self.until) } else { self.until }
    }

    /// Checks for the next change.
    fn look(&mut self) -> Look {
        let api = self.door.api.clone();
        let mut server = api.lock();
        if server.connections != self.connection {
            self.over = true;
            return Look::Line(WatchFate::Breaks, Duration::ZERO);
        }
        // Nothing is delivered now; the changes follow later.
        if server.is_cut(&self.door) {
            return Look::Nothing;
        }
        let next = match server.store().since(self.revision) {
            Err(_) => None,
            Ok(changes) => Some(changes.iter().find(|change| self.is_about(change)).cloned()),
        };
        let (fate, delay) = server.fate_of_event();
        let Some(next) = next else {
            self.expire();
            return Look::Line(WatchFate::GoesOn, delay);
        };
        let Some(change) = next else {
            if self.bookmarks && Instant::now() >= self.bookmark {
                self.bookmark = Instant::now() + BOOKMARK_EVERY;
                self.revision = server.store().revision();
                let object = json!({"apiVersion": self.kind.api_version(), "kind": self.kind.name(),
                    "metadata": {"resourceVersion": self.revision.to_string()}});
                self.push("BOOKMARK", &object);
                return Look::Line(WatchFate::GoesOn, delay);
            }
            return Look::Nothing;
        };
        if fate == WatchFate::GoesOn {
            self.revision = change.revision;
            let what = match change.happened {
                Happened::Added => "ADDED",
                Happened::Modified => "MODIFIED",
                Happened::Deleted => "DELETED",
            };
            self.push(what, &change.object);
        }
        Look::Line(fate, delay)
    }

    fn is_about(&self, change: &Change) -> bool {
        change.key.kind == self.kind
            && (self.namespace.is_empty() || change.key.namespace == self.namespace)
    }

    fn expire(&mut self) {
        self.push("ERROR", &http::status(&Refusal::expired()));
        self.over = true;
    }

    fn push(&mut self, what: &str, object: &Value) {
        let line = json!({"type": what, "object": object}).to_string() + "\n";
        self.lines.push_back(line.into());
    }
}

enum Look {
    Nothing,
    Line(WatchFate, Duration),
}
