//! Unusual answers of a daemon: errors that say nothing about a pin, and a pin that is confirmed before
//! it is given up.

use http::{Response, StatusCode};
use serde_json::json;

use super::{
    StandInDaemon,
    rpc::{body, error, line, plain, streamed},
};
use crate::{ipfs::kubo::Body, types::Cid};

/// Kubo's texts for unrelated errors.
const WORDS: [&str; 3] = [
    "lock /data/ipfs/repo.lock: someone else has the lock",
    "context deadline exceeded",
    "leveldb: closed",
];

impl StandInDaemon {
    /// The unusual answer, if this request gets one. An unpin may have happened nevertheless.
    pub(super) fn rude_answer(&self, command: &str, arguments: &[&str]) -> Option<Response<Body>> {
        if arguments.is_empty() || !command.starts_with("pin/") {
            return None;
        }
        let turn = {
            let mut world = self.world();
            let every = world.rude?;
            world.rude_turn += 1;
            world.rude_turn.is_multiple_of(every).then_some(world.rude_turn / every)?
        };
        let words = WORDS[usize::try_from(turn).unwrap_or_default() % WORDS.len()];
        Some(match (command, turn % 4) {
            ("pin/add", 0 | 2) => {
                let done = json!({"Pins": [arguments[0]]});
                let lines = [done, json!({"Progress": 1, "Bytes": 100})];
                streamed(futures::stream::iter(lines.map(|value| Ok(line(&value)))))
            }
            ("pin/rm", 1) => {
                if let Ok(cid) = arguments[0].parse::<Cid>() {
                    let mut world = self.world();
                    world.confirmed.remove(&cid);
                    world.drop_pin(&cid);
                }
                error(words)
            }
            (_, 3) => plain(StatusCode::BAD_GATEWAY, "<html>502 Bad Gateway</html>"),
            (_, 2) => body(StatusCode::INTERNAL_SERVER_ERROR, &json!({"Message": ""})),
            _ => error(words),
        })
    }
}
