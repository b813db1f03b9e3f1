//! How the clients connect: like any other, but refusals are counted, and sockets are bounded.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use crate::callee::MAX_SOCKETS;
use crate::record::{Log, Sent};
use crate::script::Script;

#[derive(Clone, Debug)]
pub struct Connector {
    server: SocketAddr,
    script: Arc<Script>,
    sends: Arc<Log<Sent>>,
    sockets: Arc<Sockets>,
}

/// The sockets of one client.
#[derive(Debug)]
pub struct Sockets {
    free: Arc<Semaphore>,
    most: AtomicUsize,
}

impl Sockets {
    pub fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_SOCKETS as usize)),
            most: AtomicUsize::new(0),
        }
    }

    /// The most that were held at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    async fn acquire(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let held = MAX_SOCKETS as usize - self.free.available_permits();
        // Relaxed: a figure of its own, which orders nothing.
        self.most.fetch_max(held, Ordering::Relaxed);
        permit.expect("the semaphore is never closed")
    }
}

impl Connector {
    pub fn new(
        server: SocketAddr,
        script: Arc<Script>,
        sends: Arc<Log<Sent>>,
        sockets: Arc<Sockets>,
    ) -> Self {
        Self {
            server,
            script,
            sends,
            sockets,
        }
    }

    async fn connect(self) -> io::Result<TokioIo<Socket>> {
        let permit = self.sockets.acquire().await;
        match TcpStream::connect(self.server).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                Ok(TokioIo::new(Socket {
                    stream,
                    _permit: permit,
                }))
            }
            Err(error) => {
                // A connector does not see the request, so its phase is that of the moment.
                let at = self.sends.now();
                self.sends.push(Sent {
                    at,
                    phase: self.script.phase_at(at),
                });
                Err(error)
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Socket>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection that counts among the sockets of its client until it is dropped.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
