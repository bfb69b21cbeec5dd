//! Time limits for clients: for the bytes of a request's body, and for reading an answer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::places::UnderWay;

/// Longest pause within a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time in which a client reads nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs during a wait.
#[derive(Default)]
struct Silence(Option<Pin<Box<Sleep>>>);

impl Silence {
    /// The polled value, or an error once it has been pending for `limit`.
    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        polled: Poll<T>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(value) = polled {
            self.0 = None;
            return Poll::Ready(Ok(value));
        }
        let silence = self.0.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(silence.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// A request's body, which fails when its client falls silent.
pub(super) struct Asked<B> {
    body: B,
    silence: Silence,
}

impl<B> Asked<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, silence: Silence::default() }
    }
}

impl<B> http_body::Body for Asked<B>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match ready!(this.silence.bound(cx, BODY_TIMEOUT, polled)) {
            Ok(frame) => Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other))),
            Err(silent) => Poll::Ready(Some(Err(silent))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; the request is under way until its end.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _under_way: UnderWay,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection, which fails when its client does not read what is sent.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Silence,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, silence: Silence::default() }
    }

    fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.silence.bound(cx, WRITE_TIMEOUT, polled).map(|result| result.flatten())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bound(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.bound(cx, polled)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::{StreamExt as _, stream};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_but_not_silent() {
        let piece = |n: u32| async move {
            sleep(if n < 5 { BODY_TIMEOUT / 2 } else { BODY_TIMEOUT * 2 }).await;
            Ok::<_, io::Error>(Bytes::from_static(b"x"))
        };
        let pieces = stream::iter(0..6).then(piece);
        let asked = Body::new(Asked::new(Body::from_stream(pieces)));
        let got: Vec<bool> =
            asked.into_data_stream().map(|piece| piece.is_ok()).take(6).collect().await;
        assert_eq!(got, [true, true, true, true, true, false]);
    }
}
