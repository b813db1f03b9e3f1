//! The kinds of clients. They differ in what stands around the same HTTP client, and in nothing else.

mod bare;
mod careful;
mod naive;
mod stack;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use buttress::Rejection;
use buttress::circuit_breaker::Circuit;
use buttress::error::InvalidConfig;
use http::Response;
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder};

pub type Request = http::Request<Empty<Bytes>>;
pub type Http = BoxCloneSyncService<Request, Response<Incoming>, BoxError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bare,
    Naive,
    Careful,
    Defaults,
    Buttress,
}

impl Kind {
    /// In the order of every table.
    pub const ALL: [Self; 5] = [
        Self::Bare,
        Self::Naive,
        Self::Careful,
        Self::Defaults,
        Self::Buttress,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Naive => "naive retry",
            Self::Careful => "careful retry",
            Self::Defaults => "stack() alone",
            Self::Buttress => "buttress",
        }
    }

    /// What stands around the HTTP client.
    pub fn in_words(self) -> String {
        match self {
            Self::Bare => bare::in_words(),
            Self::Naive => naive::in_words(),
            Self::Careful => careful::in_words(),
            Self::Defaults => stack::defaults_in_words(),
            Self::Buttress => stack::limited_in_words(),
        }
    }

    /// A new client of this kind.
    pub fn client(self) -> Result<Client, InvalidConfig> {
        let http = http();
        Ok(match self {
            Self::Bare => Client::Bare(http),
            Self::Naive => Client::Naive(http),
            Self::Careful => Client::Careful(http),
            Self::Defaults => Client::Stack(stack::defaults(http)?),
            Self::Buttress => Client::Stack(stack::limited(http)?),
        })
    }
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one client of each kind")]
pub enum Client {
    Bare(Http),
    Naive(Http),
    Careful(Http),
    Stack(stack::Client),
}

impl Client {
    pub async fn call(&self, request: Request) -> Outcome {
        match self {
            Self::Bare(http) => bare::call(http, request).await,
            Self::Naive(http) => naive::call(http, request).await,
            Self::Careful(http) => careful::call(http, request).await,
            Self::Stack(client) => client.call(request).await,
        }
    }

    pub fn circuit(&self) -> Option<&Circuit> {
        match self {
            Self::Stack(client) => Some(client.circuit()),
            _ => None,
        }
    }
}

/// What a caller got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// A response that is no success, or an error of the connection.
    Failed,
    TimedOut,
    /// A layer of this crate ended the call, and its last attempt was not sent.
    Rejected(Rejection),
}

/// How often one call was sent. It travels in the extensions of the request, of which every attempt
/// has a copy.
#[derive(Clone, Debug, Default)]
pub struct Sends(Arc<AtomicU32>);

impl Sends {
    pub fn count(&self) -> u32 {
        // Relaxed: a count, which orders nothing.
        self.0.load(Relaxed)
    }
}

pub fn request(server: SocketAddr, sends: &Sends) -> Request {
    http::Request::get(format!("http://{server}/"))
        .extension(sends.clone())
        .body(Empty::new())
        .expect("a request for an address is valid")
}

/// The HTTP client below all of them. It speaks HTTP/2, so that thousands of abandoned calls need
/// few sockets.
fn http() -> Http {
    let client = legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        // Its own retries would be sends that nobody sees.
        .retry_canceled_requests(false)
        .build_http();
    let counted = ServiceBuilder::new()
        .map_request(|request: Request| {
            if let Some(Sends(count)) = request.extensions().get() {
                count.fetch_add(1, Relaxed);
            }
            request
        })
        .map_err(BoxError::from)
        .service(client);
    Http::new(counted)
}
