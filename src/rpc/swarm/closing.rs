//! A connection whose closing is bounded.
//!
//! Invariant: closing takes at most [`CLOSE_TIMEOUT`]. A connection sends a goodbye before it closes.
//! If the other side is gone, the system would retry for a quarter of an hour, and the connection would
//! count towards its peer's limit until then.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::core::{StreamMuxer, muxing::StreamMuxerEvent};
use tokio::time::{Sleep, sleep};

/// Deadline of the goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection with a deadline for closing.
pub(super) struct ClosesInTime<M> {
    muxer: M,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<M> ClosesInTime<M> {
    pub(super) fn new(muxer: M) -> Self {
        Self { muxer, deadline: None }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for ClosesInTime<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.muxer).poll_inbound(cx)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.muxer).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.muxer).poll_close(cx) {
            return Poll::Ready(closed);
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(CLOSE_TIMEOUT)));
        // The connection is dropped then, which ends the retries.
        deadline.as_mut().poll(cx).map(Ok)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{convert::Infallible, future::poll_fn, io::Empty};

    use tokio::time::{Instant, timeout};

    use super::*;

    /// A connection whose other end reads nothing.
    struct Stuck;

    impl StreamMuxer for Stuck {
        type Substream = futures::io::AllowStdIo<Empty>;
        type Error = Infallible;

        fn poll_inbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_outbound(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<Self::Substream, Infallible>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Result<StreamMuxerEvent, Infallible>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_reads_is_closed_in_time() {
        let mut muxer = ClosesInTime::new(Stuck);
        let since = Instant::now();
        let closed = poll_fn(|cx| Pin::new(&mut muxer).poll_close(cx));
        timeout(CLOSE_TIMEOUT * 2, closed).await.expect("it waits for ever").unwrap();
        assert_eq!(since.elapsed(), CLOSE_TIMEOUT);
    }
}
