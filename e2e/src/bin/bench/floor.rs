//! The least that a server must do which acknowledges only what is on disk: floors for what peers
//! accept.
//!
//! One process, no other peers, no state, no daemon: each request's line is written to a file and
//! answered once that is synced, as many requests to one sync as wait for it. Requests, connections
//! and the size of answers are those of the peers' measurement, and so is the HTTP server (axum).

use std::{fs::File, io::Write as _, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    routing::post,
};
use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{AbortHandle, spawn_blocking},
};

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 1024;

/// The answer to a pin, of the length that a peer's has.
const ANSWER: [u8; 540] = [b'x'; 540];

type Line = (Vec<u8>, oneshot::Sender<()>);

/// A running floor; it ends when dropped.
pub(crate) struct Floor {
    pub(crate) address: SocketAddr,
    server: AbortHandle,
    _folder: TempDir,
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Floor {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let file = File::create(folder.path().join("log"))?;
        let (lines, queue) = mpsc::channel(WAITING_MAX);
        spawn_blocking(move || sync_lines(file, queue));
        let router = Router::new()
            .route("/pins", post(many))
            .route("/pins/{cid}", post(one))
            .with_state(Arc::new(lines));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, server: server.abort_handle(), _folder: folder })
    }
}

/// Ends when nobody can send lines any more.
fn sync_lines(mut file: File, mut queue: mpsc::Receiver<Line>) -> std::io::Result<()> {
    let mut lines = Vec::new();
    while queue.blocking_recv_many(&mut lines, WAITING_MAX) > 0 {
        let bytes: Vec<u8> = lines.iter().flat_map(|(line, _)| line.iter().copied()).collect();
        file.write_all(&bytes)?;
        file.sync_data()?;
        for (_, synced) in lines.drain(..) {
            let _ = synced.send(());
        }
    }
    Ok(())
}

async fn sync(lines: &mpsc::Sender<Line>, line: Vec<u8>) {
    let (synced, wait) = oneshot::channel();
    if lines.send((line, synced)).await.is_ok() {
        let _ = wait.await;
    }
}

async fn one(State(lines): State<Arc<mpsc::Sender<Line>>>, Path(cid): Path<String>) -> Vec<u8> {
    sync(&lines, cid.into_bytes()).await;
    ANSWER.to_vec()
}

/// Each line of a piece of the body is answered by one.
async fn many(State(lines): State<Arc<mpsc::Sender<Line>>>, body: Body) -> Body {
    let answers = body.into_data_stream().then(move |piece| {
        let lines = lines.clone();
        async move {
            let piece = piece?.to_vec();
            sync(&lines, piece.clone()).await;
            Ok::<_, axum::Error>(piece)
        }
    });
    Body::from_stream(answers)
}
