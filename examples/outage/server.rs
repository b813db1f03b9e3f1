//! A server that can be overloaded, slowed down, made to answer 503, and shut.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::callee;
use crate::record::{Log, Sent};
use crate::script::Condition;

/// Says in which phase the call behind a request was due, so that a late retry is counted there.
pub const PHASE: HeaderName = HeaderName::from_static("outage-phase");

type Answer = Response<Empty<Bytes>>;

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
    /// On the way from one to the other.
    Ajar,
}

impl Server {
    pub fn start(sends: Arc<Log<Sent>>) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let desk = Arc::new(Desk::new(sends));
        let mut server = Self {
            address,
            desk,
            door: Door::Shut(socket),
        };
        server.open()?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn face(&mut self, condition: Condition) -> io::Result<()> {
        self.desk.set_condition(condition);
        if condition == Condition::Refused {
            self.shut().await
        } else {
            self.open()
        }
    }

    fn open(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.door, Door::Ajar) {
            Door::Shut(socket) => {
                let listener = socket.listen(1024)?;
                self.door = Door::Open(tokio::spawn(accept(listener, Arc::clone(&self.desk))));
            }
            other => self.door = other,
        }
        Ok(())
    }

    async fn shut(&mut self) -> io::Result<()> {
        if let Door::Open(accepting) = std::mem::replace(&mut self.door, Door::Ajar) {
            // The task owns the listener and every connection: they end with it.
            accepting.abort();
            let _ = accepting.await;
        }
        self.door = Door::Shut(bind(self.address)?);
        Ok(())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // The connections of the time before may still linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, Arc::clone(&desk)));
            }
            // It may be out of file descriptors: trying at once would only spin.
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(&request).await) }
    });
    // A connection that breaks is the business of its client.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Where requests are received, queued and worked on.
#[derive(Debug)]
struct Desk {
    condition: Mutex<Condition>,
    places: Arc<Semaphore>,
    workers: Semaphore,
    sends: Arc<Log<Sent>>,
}

impl Desk {
    fn new(sends: Arc<Log<Sent>>) -> Self {
        Self {
            condition: Mutex::new(Condition::Healthy),
            places: Arc::new(Semaphore::new((callee::WORKERS + callee::QUEUE) as usize)),
            workers: Semaphore::new(callee::WORKERS as usize),
            sends,
        }
    }

    fn condition(&self) -> Condition {
        *self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn set_condition(&self, condition: Condition) {
        *self
            .condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = condition;
    }

    async fn answer(self: Arc<Self>, request: &Request<Incoming>) -> Answer {
        self.sends.push(Sent {
            at: self.sends.now(),
            phase: phase_of(request),
        });
        if self.condition() == Condition::Unavailable {
            let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE);
            answer
                .headers_mut()
                .insert(RETRY_AFTER, callee::RETRY_AFTER.as_secs().into());
            return answer;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return answer(StatusCode::SERVICE_UNAVAILABLE);
        };
        // A task of its own, because a worker does not notice that its caller has left.
        let work = tokio::spawn(async move {
            self.work().await;
            drop(place);
        });
        match work.await {
            Ok(()) => answer(StatusCode::OK),
            Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    async fn work(&self) {
        let worker = self.workers.acquire().await;
        let slowdown = if self.condition() == Condition::Slow {
            callee::SLOWDOWN
        } else {
            1
        };
        sleep(callee::WORK * slowdown).await;
        drop(worker);
    }
}

fn answer(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = status;
    answer
}

fn phase_of(request: &Request<Incoming>) -> usize {
    let phase = request
        .headers()
        .get(PHASE)
        .and_then(|phase| phase.to_str().ok()?.parse().ok());
    phase.expect("every client sends the phase")
}
