//! A server on a real socket, which can be slow, fail, and refuse connections.

mod desk;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use self::desk::Desk;
use crate::run::Log;
use crate::scenario::Trouble;

/// What a worker did.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// When it ended.
    pub at: Duration,
    pub took: Duration,
    /// A successful response that the caller still waited for.
    pub useful: bool,
}

#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    desk: Arc<Desk>,
    door: Door,
}

#[derive(Debug)]
enum Door {
    Open(JoinHandle<()>),
    /// Bound, so that nobody else gets the port, but not listening, so that it refuses.
    Shut(TcpSocket),
}

impl Server {
    pub fn start(work: Arc<Log<Work>>) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let desk = Desk::open(work);
        let door = open(socket, &desk)?;
        Ok(Self {
            address,
            desk,
            door,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the server has this trouble, or none.
    pub async fn suffer(&mut self, trouble: Option<Trouble>) -> io::Result<()> {
        self.desk.suffer(trouble);
        let refuses = trouble == Some(Trouble::Refused);
        match &mut self.door {
            Door::Open(accepting) if refuses => {
                // The task owns the listener and every connection: they end with it.
                accepting.abort();
                let _ = accepting.await;
                self.door = Door::Shut(bind(self.address)?);
            }
            Door::Shut(_) if !refuses => {
                let shut = std::mem::replace(&mut self.door, Door::Open(tokio::spawn(async {})));
                if let Door::Shut(socket) = shut {
                    self.door = open(socket, &self.desk)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the time before may still linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn open(socket: TcpSocket, desk: &Arc<Desk>) -> io::Result<Door> {
    let listener = socket.listen(1024)?;
    Ok(Door::Open(tokio::spawn(accept(listener, Arc::clone(desk)))))
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&desk)));
            }
            // Perhaps there are no file descriptors left: an immediate retry would only spin.
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |_| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.respond().await) }
    });
    // A broken connection concerns its client alone.
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
