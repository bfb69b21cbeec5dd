//! A cheap HTTP/1.1 client: it shares the processors with what it measures.
//!
//! One connection, one request at a time, requests built by the caller; answers with a length or in
//! chunks of which only the text matters.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An answer's head, at most.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// A kept connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request without a body and reads the answer: its status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(self.buffer.len() < HEAD_LEN_MAX, "an answer without an end of its head");
            self.read().await?;
        };
        let text = std::str::from_utf8(&self.buffer[..head])?;
        let status = text.get(9..12).context("no status")?.parse()?;
        let field = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if let Some(length) = field("content-length") {
            let end = head + length.parse::<usize>()?;
            while self.buffer.len() < end {
                self.read().await?;
            }
        } else if field("transfer-encoding").is_some() {
            while !self.buffer.ends_with(b"\r\n0\r\n\r\n") && !self.ends_with_trailers(head) {
                self.read().await?;
            }
        }
        Ok((status, &self.buffer[head..]))
    }

    /// Whether the last chunk has come, with trailers after it.
    fn ends_with_trailers(&self, head: usize) -> bool {
        find(&self.buffer[head..], b"\r\n0\r\n").is_some() && self.buffer.ends_with(b"\r\n\r\n")
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
        Ok(())
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// A request without a body.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").into_bytes()
}
