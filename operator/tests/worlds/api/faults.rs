//! What goes wrong between a pod and the API server, drawn by seed for each request.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::store::Refusal;

/// The longest that anything but a lost connection delays a request: longer than clients wait.
const SLOW_MAX_MS: u64 = 13_000;

/// How often, of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Requests answered by an error without effect: overload, errors, missing rights.
    pub refused: u32,
    /// Requests that reach the server and whose answer is lost.
    pub unanswered: u32,
    /// Requests that do not reach the server.
    pub unheard: u32,
    /// Requests that take seconds.
    pub slow: u32,
    /// Not how often: what all requests may take longer than usual, each way.
    pub lag_ms: u64,
    /// Lists that are served from a cache that lags behind, which a sound server never does.
    pub stale: u32,
    /// Watch events after which the stream ends, says 410, or is never heard of again.
    pub watch: u32,
    /// Questions for a Pin that something else than an API server answers, or one that has not taken the
    /// definition of Pins in yet.
    pub astray: u32,
    /// All rights are gone.
    pub forbidden: bool,
}

/// What becomes of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// On its way to the server, and back.
    pub delays: [Duration; 2],
    pub end: End,
    /// A list is served as of some earlier revision.
    pub stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Served,
    Refused(Refusal),
    /// The answer does not come; whether the request takes effect, and whether the client is told.
    Lost {
        effect: bool,
        told: bool,
    },
}

/// How a watch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFate {
    GoesOn,
    Ends,
    Breaks,
    Expires,
    Stalls,
}

impl Faults {
    /// Any mixture, often none at all.
    pub fn draw(random: &mut StdRng) -> Self {
        let mut some = |most: u32| match random.random_bool(0.5) {
            true => random.random_range(0..most),
            false => 0,
        };
        Self {
            refused: some(300),
            unanswered: some(150),
            unheard: some(100),
            slow: some(100),
            lag_ms: 0,
            stale: some(500),
            watch: some(300),
            astray: 0,
            forbidden: some(10) == 9,
        }
    }

    pub fn of_request(&self, random: &mut StdRng) -> Fate {
        let mut hits = |often: u32| random.random_range(0..1000) < often;
        let (refused, slow) = (hits(self.refused), hits(self.slow));
        let (unanswered, unheard, stale) =
            (hits(self.unanswered), hits(self.unheard), hits(self.stale));
        let told = hits(500);
        let refusal = refusal(random);
        let end = if self.forbidden {
            End::Refused(Refusal::new(403, "Forbidden", "forbidden: simulated"))
        } else if refused {
            End::Refused(refusal)
        } else if unanswered || unheard {
            End::Lost { effect: unanswered, told }
        } else {
            End::Served
        };
        let most = if slow { SLOW_MAX_MS } else { 10 + self.lag_ms };
        let delays = [0; 2].map(|_| Duration::from_millis(random.random_range(0..=most)));
        Fate { delays, end, stale }
    }

    /// What a question for a Pin is answered that has gone astray.
    pub fn of_question(&self, random: &mut StdRng) -> Option<Refusal> {
        if self.astray == 0 || random.random_range(0..1000) >= self.astray {
            return None;
        }
        Some(match random.random_range(0..4) {
            0 | 1 => Refusal::new(404, "NotFound", "404 page not found"),
            2 => Refusal::new(410, "Gone", "gone: simulated"),
            _ => Refusal::new(502, "BadGateway", "bad gateway"),
        })
    }

    pub fn of_event(&self, random: &mut StdRng) -> (WatchFate, Duration) {
        let hit = random.random_range(0..1000) < self.watch;
        let kinds = [WatchFate::Ends, WatchFate::Breaks, WatchFate::Expires, WatchFate::Stalls];
        let fate = kinds[random.random_range(0..kinds.len())];
        let most = if random.random_range(0..1000) < self.slow { 3000 } else { 20 };
        let delay = Duration::from_millis(random.random_range(0..=most));
        (if hit { fate } else { WatchFate::GoesOn }, delay)
    }
}

fn refusal(random: &mut StdRng) -> Refusal {
    match random.random_range(0..5) {
        0 => Refusal {
            retry_after: Some(random.random_range(1..4)),
            ..Refusal::new(429, "TooManyRequests", "too many requests")
        },
        1 => Refusal::new(500, "InternalError", "etcdserver: leader changed"),
        2 => Refusal::new(503, "ServiceUnavailable", "the server is shutting down"),
        // Of a proxy that has lost its servers.
        3 => Refusal::new(404, "NotFound", "404 page not found"),
        _ => Refusal::new(403, "Forbidden", "RBAC: clusterrole not found"),
    }
}
