//! Listening and serving, with bounds on connections and on how long they may be idle.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, serve::Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// Connections one server has open; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 512;
/// A connection without a byte in either direction is closed: longer than any request takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests under way when the process stops have so long to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {source}")]
pub struct BindError {
    /// The setting it comes from.
    key: &'static str,
    /// The address.
    address: SocketAddr,
    /// What the system says.
    source: io::Error,
}

/// Listens on the address of a setting.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { key, address, source })
}

/// Serves until the token is cancelled; requests under way may end.
pub async fn serve(listener: TcpListener, router: Router, token: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stop = token.clone();
    let server = axum::serve(Limited { listener, places }, router)
        .with_graceful_shutdown(async move { stop.cancelled().await });
    let late = async {
        token.cancelled().await;
        sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        served = server => {
            if let Err(error) = served {
                tracing::error!(%error, "an HTTP server ended");
            }
        }
        () = late => tracing::debug!("requests were cut off at the end"),
    }
}

/// Accepts while there are places.
struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Answers are small and written whole.
        let _ = stream.set_nodelay(true);
        let idle = Box::pin(sleep(IDLE_TIMEOUT));
        (Connection { stream, idle, _place: place.ok() }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails after [`IDLE_TIMEOUT`] without a byte.
struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn checked<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
            return poll;
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.checked(cx, poll)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.checked(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.checked(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
