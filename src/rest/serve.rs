//! Listening and serving, with limits on connections and on a client's silence.
//!
//! Invariants: a client that does not send or read holds resources for seconds at most; connections
//! without a request under way never keep another one out (`places`). The handlers decide how long an
//! answer takes.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use axum::{Router, body::Body, response::Response, serve::Listener};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    patience::{Answer, Asked, Connection},
    places::{Place, Places, UnderWay},
};

/// Most open connections of one server.
const CONNECTIONS_MAX: usize = 512;
/// Most open connections of one address: everything through a port-forward has one address.
const CONNECTIONS_PER_CLIENT_MAX: usize = 256;
/// Deadline for the whole head of a request, and for the next request of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for requests under way when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {source}")]
pub struct BindError {
    /// The setting with the address.
    key: &'static str,
    /// The address.
    address: SocketAddr,
    /// The system's error.
    source: io::Error,
}

/// Listens on the address of a setting. `[::]` is every address, including IPv4; without IPv6 it is
/// every IPv4 address.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = match (TcpListener::bind(address).await, address.ip()) {
        (Err(error), IpAddr::V6(Ipv6Addr::UNSPECIFIED))
            if error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        (bound, _) => bound,
    };
    bound.map_err(|source| BindError { key, address, source })
}

/// Serves until the token is cancelled; requests under way may then finish.
pub async fn serve(mut listener: TcpListener, router: Router, token: CancellationToken) {
    let places = Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_CLIENT_MAX);
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = tokio::select! {
            biased;
            () = token.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            // Waits by itself while the system has no file descriptors left.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        match places.take(client.ip()) {
            Some(place) => {
                connections.spawn(connection(stream, router.clone(), place, token.clone()));
            }
            None => {
                tracing::debug!(%client, "closed a connection: too many requests are under way")
            }
        }
    }
    drop(listener);
    let ended = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} });
    if ended.await.is_err() {
        tracing::debug!("stopped with requests under way");
    }
}

/// Serves one connection until it ends or must give way.
async fn connection(stream: TcpStream, router: Router, place: Place, stop: CancellationToken) {
    // Answers are small and written at once.
    let _ = stream.set_nodelay(true);
    let end = place.end();
    let service = service_fn(|request| answer(router.clone(), request, place.begin()));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(Connection::new(stream)), service)
    );
    let ended = tokio::select! {
        biased;
        () = end.cancelled() => return,
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            if place.is_idle() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Calls the routes. The request is under way until the last byte of its answer was handed over.
async fn answer(
    router: Router,
    request: Request<Incoming>,
    under_way: UnderWay,
) -> Result<Response, Infallible> {
    let request = request.map(|body| Body::new(Asked::new(body)));
    let response = TowerToHyperService::new(router).call(request).await?;
    Ok(response.map(|body| Body::new(Answer { body, _under_way: under_way })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    struct Server {
        address: SocketAddr,
        token: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = bind("health_listen", ([127, 0, 0, 1], 0).into()).await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().route("/healthz", get(async || "ok\n"));
            let token = CancellationToken::new();
            let task = tokio::spawn(serve(listener, router, token.clone()));
            Self { address, token, task }
        }

        async fn open(&self, sent: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            stream
        }

        async fn stop(self) {
            self.token.cancel();
            self.task.await.unwrap();
        }
    }

    async fn rest_of(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_probe_is_answered_beside_hundreds_of_idle_connections() {
        let server = Server::start().await;
        let mut idle = Vec::new();
        for n in 0..700 {
            idle.push(server.open([&b""[..], &PROBE[..20]][n % 2]).await);
        }
        let probe = async { rest_of(server.open(PROBE).await).await };
        let answer = timeout(Duration::from_secs(1), probe).await.expect("no answer in time");
        assert!(answer.ends_with("ok\n"), "{answer}");
        // None of them is waited for at the stop either.
        timeout(STOP_TIMEOUT / 2, server.stop()).await.unwrap();
    }

    #[tokio::test]
    async fn probes_come_by_either_family() {
        let listener = bind("health_listen", "[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok());
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            assert!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.is_ok());
        }
        // If another process has the port on IPv6, IPv4 alone is not taken.
        if let Ok(other) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await {
            let taken =
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, other.local_addr().unwrap().port()));
            assert!(bind("health_listen", taken).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_is_not_waited_for() {
        let server = Server::start().await;
        let keep_alive = String::from_utf8(PROBE.to_vec()).unwrap().replace("close", "keep-alive");
        let mut open = Vec::new();
        for sent in [&b""[..], &PROBE[..20], keep_alive.as_bytes()] {
            open.push(server.open(sent).await);
        }
        // Slowly, in pieces that keep coming.
        let mut slow = server.open(b"GET / HTTP/1.1\r\n").await;
        let slow = async {
            while slow.write_all(b"a").await.is_ok() {
                tokio::time::sleep(HEAD_TIMEOUT / 10).await;
            }
        };
        let ends = async {
            for stream in open {
                rest_of(stream).await;
            }
            slow.await;
        };
        timeout(HEAD_TIMEOUT * 2, ends).await.expect("it is waited for");
        server.stop().await;
    }
}
