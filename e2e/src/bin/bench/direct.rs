//! Daemons driven directly, with the calls that a peer makes for each new pin: the floor of pinning.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, ensure};
use pinkeeper::types::Cid;
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

use crate::{
    http::{Connection, request},
    load::Load,
};

/// Pins in work at once: as many as a peer has by default (`concurrent_pins`).
pub(crate) const AT_ONCE: usize = 10;

/// Asks for each CID whether it is pinned (it must not be), then pins it, on all daemons at once.
pub(crate) async fn pin(daemons: &[String], cids: Vec<Cid>) -> anyhow::Result<Load> {
    let accepted = u32::try_from(cids.len())?;
    let cids: Arc<[Cid]> = cids.into();
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for url in daemons {
        let address: SocketAddr = url.strip_prefix("http://").context("no http URL")?.parse()?;
        let next = Arc::new(Mutex::new(0));
        for _ in 0..AT_ONCE {
            let mut connection = Connection::open(address).await?;
            let (next, cids) = (next.clone(), cids.clone());
            tasks.spawn(async move {
                loop {
                    let number = {
                        let mut next = next.lock().await;
                        *next += 1;
                        *next - 1
                    };
                    let Some(cid) = cids.get(number) else { return anyhow::Ok(()) };
                    pin_one(&mut connection, cid).await?;
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(Load { accepted, time: begin.elapsed() })
}

async fn pin_one(connection: &mut Connection, cid: &Cid) -> anyhow::Result<()> {
    let ask = format!("/api/v0/pin/ls?arg={cid}&type=recursive&stream=true");
    let (status, body) = connection.ask(&request("POST", &ask)).await?;
    let body = String::from_utf8_lossy(body);
    ensure!(status == 500 && body.contains("is not pinned"), "pin/ls: {status}: {body}");
    let add = format!("/api/v0/pin/add?arg={cid}&recursive=true&progress=true");
    let (status, body) = connection.ask(&request("POST", &add)).await?;
    let body = String::from_utf8_lossy(body);
    ensure!(status == 200 && body.contains("Pins"), "pin/add: {status}: {body}");
    Ok(())
}
