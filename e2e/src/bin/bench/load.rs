//! Loads: many clients that pin, each with a connection of its own.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use pinkeeper::types::Cid;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    cluster::Place,
    http::{Connection, request},
};

/// Before a client that reached nobody tries the next peer.
const AWAY_WAIT: Duration = Duration::from_millis(10);

/// Numbers for CIDs that were not used yet; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Arc<AtomicU32>);

impl Numbers {
    pub(crate) fn next(&self) -> u32 {
        self.skip(1)
    }

    /// The first of so many.
    pub(crate) fn skip(&self, count: u32) -> u32 {
        self.0.fetch_add(count, Ordering::Relaxed)
    }
}

/// A CID as content has it: version 1, raw, a digest of 32 bytes that is spread as a hash is.
pub(crate) fn cid(number: u32) -> Cid {
    let mut digest = [0; 32];
    let mut state = u64::from(number);
    for part in digest.chunks_exact_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        part.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
        state ^= mixed;
    }
    let hash = multihash::Multihash::wrap(0x12, &digest).unwrap_or_default();
    cid::Cid::new_v1(0x55, hash).into()
}

/// So many CIDs that were not used yet.
pub(crate) fn new_cids(numbers: &Numbers, count: u32, cid_of: fn(u32) -> Cid) -> Vec<Cid> {
    let first = numbers.skip(count);
    (first..first + count).map(cid_of).collect()
}

/// Clients of one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clients {
    pub(crate) count: usize,
    pub(crate) at: Place,
}

impl Clients {
    /// Numbers that are measured.
    pub(crate) const COUNTS: [usize; 3] = [64, 16, 1];

    /// Those that every kind of single pin is measured with, in the order of the table.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let each = |at| Self::COUNTS.map(|count| Self { count, at });
        [Place::Leader, Place::Follower].into_iter().flat_map(each)
    }

    /// Whether goals are about them.
    pub(crate) fn is_goal(self) -> bool {
        self.count == 64 && self.at == Place::Leader
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.count == 1 { "client" } else { "clients" };
        let place = match self.at {
            Place::Leader => "the leader",
            Place::Follower => "a follower",
        };
        write!(f, "{} {clients} at {place}", self.count)
    }
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After that time.
    Time(Duration),
    /// After that many pins.
    Count(u32),
}

/// What a load did.
#[derive(Debug)]
pub(crate) struct Load {
    /// Answers 200.
    pub(crate) accepted: u32,
    pub(crate) time: Duration,
}

impl Load {
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.accepted) / self.time.as_secs_f64()
    }
}

fn pin_request(cid: &Cid) -> Vec<u8> {
    request("POST", &format!("/pins/{cid}"))
}

/// `POST /pins/{cid}` by so many clients, each with one request under way.
///
/// # Errors
/// When any answer is not 200.
pub(crate) async fn post_each(
    address: SocketAddr,
    clients: usize,
    until: Until,
    cid_of: impl Fn() -> Cid + Clone + Send + 'static,
) -> anyhow::Result<Load> {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Connection::open(address).await?);
    }
    let begin = Instant::now();
    let begun = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let (begun, cid_of) = (begun.clone(), cid_of.clone());
        tasks.spawn(async move {
            let mut accepted = 0_u32;
            loop {
                let over = match until {
                    Until::Time(time) => begin.elapsed() >= time,
                    Until::Count(count) => begun.fetch_add(1, Ordering::Relaxed) >= count,
                };
                if over {
                    return anyhow::Ok(accepted);
                }
                let (status, body) = connection.ask(&pin_request(&cid_of())).await?;
                ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(body));
                accepted += 1;
            }
        });
    }
    let mut accepted = 0;
    while let Some(client) = tasks.join_next().await {
        accepted += client??;
    }
    Ok(Load { accepted, time: begin.elapsed() })
}

/// So many clients at these peers that pin without end, whatever they are answered; who is not
/// answered goes to the next peer. They end when dropped.
pub(crate) fn keep_posting(
    addresses: &[SocketAddr],
    clients: usize,
    cid_of: impl Fn() -> Cid + Clone + Send + 'static,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (peers, cid_of) = (addresses.to_vec(), cid_of.clone());
        tasks.spawn(async move {
            for address in peers.into_iter().cycle().skip(client) {
                let Ok(mut connection) = Connection::open(address).await else {
                    sleep(AWAY_WAIT).await;
                    continue;
                };
                while connection.ask(&pin_request(&cid_of())).await.is_ok() {}
            }
        });
    }
    tasks
}

/// One `POST /pins` with a line of NDJSON for each CID, sent as fast as they are taken.
///
/// # Errors
/// When a line is not accepted.
pub(crate) async fn post_all(address: SocketAddr, cids: &[Cid]) -> anyhow::Result<Load> {
    /// Lines in one piece of the body.
    const PIECE: usize = 256;
    let piece = |cids: &[Cid]| {
        let text: String = cids.iter().map(|cid| format!("{{\"cid\":\"{cid}\"}}\n")).collect();
        format!("{:x}\r\n{text}\r\n", text.len())
    };
    let pieces: Vec<String> = cids.chunks(PIECE).map(piece).collect();
    let count = u32::try_from(cids.len())?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let begin = Instant::now();
    let sender = tokio::spawn(async move {
        let head = "POST /pins HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        write.write_all(head.as_bytes()).await?;
        for piece in pieces {
            write.write_all(piece.as_bytes()).await?;
        }
        write.write_all(b"0\r\n\r\n").await?;
        anyhow::Ok(write)
    });
    let mut answers = BufReader::with_capacity(256 * 1024, read);
    let mut line = Vec::new();
    let mut accepted = 0;
    while accepted < count {
        line.clear();
        ensure!(answers.read_until(b'\n', &mut line).await? > 0, "{accepted} answers came");
        // Beside answers there are the head and the chunks' lengths.
        if line.starts_with(b"{") {
            let text = String::from_utf8_lossy(&line);
            ensure!(!text.contains("\"error\""), "a line was refused: {text}");
            accepted += 1;
        }
    }
    let time = begin.elapsed();
    sender.await??;
    let mut rest = Vec::new();
    answers.read_to_end(&mut rest).await?;
    Ok(Load { accepted, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_make_different_cids_of_the_usual_size() {
        let cids: std::collections::BTreeSet<Cid> = (0..10_000).map(cid).collect();
        assert_eq!(cids.len(), 10_000);
        assert!(cids.iter().all(|cid| cid.to_bytes().len() == 36));
    }
}
