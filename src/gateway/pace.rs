//! How long a client takes for the head of a request, on a connection of HTTP/1.
//!
//! hyper's own timer runs from the end of the last answer, so it cannot tell a slow client from one that has nothing to
//! ask: short, it would close connections that a load balancer keeps for its next request. Here a head's time begins with
//! its first byte, and hyper's timer bounds how long a connection may be idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No head is being read.
const IDLE: u64 = u64::MAX;
/// A request is being answered.
const SERVING: u64 = u64::MAX - 1;

/// What a connection is doing; shared by its stream, its requests and its watch.
pub(super) struct Pace {
    began: Instant,
    /// [`IDLE`], [`SERVING`], or when the head at hand began, in milliseconds since `began`.
    head: AtomicU64,
}

impl Pace {
    pub(super) fn new() -> Arc<Pace> {
        Arc::new(Pace { began: Instant::now(), head: AtomicU64::new(IDLE) })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(0)
    }

    /// Bytes came: they begin a head if nothing else is going on.
    fn bytes(&self) {
        if self.head.load(Ordering::Relaxed) == IDLE {
            self.head.store(self.now(), Ordering::Relaxed);
        }
    }

    /// The head is whole, and is being answered.
    pub(super) fn serving(&self) {
        self.head.store(SERVING, Ordering::Relaxed);
    }

    /// It has been answered.
    pub(super) fn idle(&self) {
        self.head.store(IDLE, Ordering::Relaxed);
    }

    /// Returns when a head has taken longer than `within`; up to half as long again may pass until it is seen.
    pub(super) async fn late(&self, within: Duration) {
        let limit = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        loop {
            tokio::time::sleep(within / 2).await;
            let head = self.head.load(Ordering::Relaxed);
            if head < SERVING && self.now().saturating_sub(head) >= limit {
                return;
            }
        }
    }
}

/// A stream that tells its [`Pace`] when bytes come.
pub(super) struct Paced<S> {
    pub(super) stream: S,
    pub(super) pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pace.bytes();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
