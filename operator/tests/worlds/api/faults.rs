//! Faults between a pod and the API server, drawn from the seed for each request.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::store::Refusal;

/// Longest delay of a request, except for a lost connection: longer than clients wait.
const SLOW_MAX_MS: u64 = 13_000;

/// Frequencies of the faults, per thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Requests that fail without effect: overload, errors, missing permissions.
    pub refused: u32,
    /// Requests that take effect, but whose answer is lost.
    pub unanswered: u32,
    /// Requests that do not reach the server.
    pub unheard: u32,
    /// Requests that take seconds.
    pub slow: u32,
    /// Not a frequency: the longest additional delay of all requests, each way.
    pub lag_ms: u64,
    /// Lists served from an outdated cache, which a correct server never does.
    pub stale: u32,
    /// Watch events after which the stream ends, fails with 410, or hangs.
    pub watch: u32,
    /// GETs of a Pin answered by something other than the API server, or by one that has not loaded
    /// the definition of Pins yet.
    pub astray: u32,
    /// All permissions are missing.
    pub forbidden: bool,
}

/// The fate of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Delay of the request, and of the answer.
    pub delays: [Duration; 2],
    pub end: End,
    /// A list is served as of an earlier revision.
    pub stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Served,
    Refused(Refusal),
    /// The answer is lost; whether the request takes effect, and whether the client gets an error.
    Lost {
        effect: bool,
        told: bool,
    },
}

/// How a watch continues.
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

    /// The answer to a misdirected GET of a Pin.
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
        // From a proxy without a backend.
        3 => Refusal::new(404, "NotFound", "404 page not found"),
        _ => Refusal::new(403, "Forbidden", "RBAC: clusterrole not found"),
    }
}
