//! The three clients, which differ in nothing but what stands around the same HTTP client.

use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;

use crate::connector::Connector;
use crate::record::Outcome;
use crate::server::PHASE;
use crate::stack::Stack;
use crate::{bare, naive, stack};

pub type Http = legacy::Client<Connector, Empty<Bytes>>;
pub type Request = http::Request<Empty<Bytes>>;

#[derive(Clone, Debug)]
pub enum Client {
    Bare(Http),
    Naive(Http),
    Buttress(Stack),
}

impl Client {
    pub async fn call(&self, request: Request) -> Outcome {
        match self {
            Self::Bare(http) => bare::call(http, request).await,
            Self::Naive(http) => naive::call(http, request).await,
            Self::Buttress(stack) => stack::call(stack, request).await,
        }
    }
}

pub fn http(connector: Connector) -> Http {
    legacy::Client::builder(TokioExecutor::new())
        // Its own silent second try would be a send that no layer has seen.
        .retry_canceled_requests(false)
        .build(connector)
}

pub fn request(server: SocketAddr, phase: usize) -> Request {
    http::Request::get(format!("http://{server}/"))
        .header(PHASE, phase)
        .body(Empty::new())
        .expect("an address and a number make a request")
}
