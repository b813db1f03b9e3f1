//! gRPC support, on `http` and `http-body` alone: for tonic and any other client or server that is a
//! Tower service. Needs the feature `http-body`.
//!
//! Use it around the channel of a gRPC client: an HTTP stack sees a 200 whatever the status of the call.
//! Use [`respond`] and [`inbound_deadline`] in a server.
//!
//! ```no_run
//! use buttress::grpc;
//! # mod pb { // stands for the generated code
//! #     pub struct OrdersClient<T>(tonic::client::Grpc<T>);
//! #     impl<T> OrdersClient<T>
//! #     where
//! #         T: tonic::client::GrpcService<tonic::body::Body>,
//! #         T::Error: Into<tower::BoxError>,
//! #         T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
//! #         <T::ResponseBody as http_body::Body>::Error: Into<tower::BoxError> + Send,
//! #     {
//! #         pub fn new(inner: T) -> Self { Self(tonic::client::Grpc::new(inner)) }
//! #     }
//! # }
//! # use pb::OrdersClient;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = tonic::transport::Endpoint::from_static("http://orders.internal:50051").connect_lazy();
//! let reads = grpc::Methods::new().retry("/orders.Orders/Get");
//! let stack = grpc::stack().name("orders").replay(reads).build()?;
//! let orders = OrdersClient::new(grpc::service(&stack, channel, tonic::body::Body::new));
//! # let _ = orders;
//! # Ok(())
//! # }
//! ```
//!
//! | you want | use |
//! |---|---|
//! | all layers around a channel | [`stack`] and [`service`] |
//! | verdicts for statuses | [`StatusClassifier`] |
//! | to retry the methods that you choose | [`Methods`] |
//! | retries as a service config in JSON says | `ServiceConfig` (feature `grpc-config`) |
//! | the status of calls whose server sends it in trailers | [`PeekTrailersLayer`] |
//! | verdicts and slots until the end of a stream | [`UntilTrailers`] |
//! | to tell the upstream how much time is left | [`TimeoutHeaderLayer`] |
//! | a server that keeps to the time of its callers | [`inbound_deadline`] |
//! | rejections as statuses, in a client or a server | [`respond`] |
//!
//! # Settings
//!
//! [`stack`] has the settings of [`http::StackBuilder`](crate::http::StackBuilder), with these defaults:
//!
//! | setting | default |
//! |---|---|
//! | `deadline` | 10 s |
//! | `attempt_timeout` | 2 s |
//! | `circuit_breaker` | opens at 50 % failures of at least 20 calls in 10 s, or at 10 failures in a row |
//! | `classify` | [`StatusClassifier`] |
//! | `replay` | [`Methods::new()`](Methods): only calls that were certainly not processed are sent again |
//!
//! # Errors
//!
//! A rejection is a response with the right [code](crate::Rejection::grpc_code) and a message that names
//! the layer. An error of the channel stays as it is.
//!
//! # Cancellation
//!
//! As with the layers: a dropped call sends nothing more.
//!
//! # Events and counters
//!
//! Those of the layers.

mod classify;
mod code;
#[cfg(feature = "grpc-config")]
mod config;
mod methods;
mod pushback;
mod respond;
mod service;
mod tag;
mod timeout;
mod trailers;
mod until;

pub use classify::StatusClassifier;
pub use code::Code;
#[cfg(feature = "grpc-config")]
pub use config::{ByConfig, Configured, ServiceConfig};
pub use methods::Methods;
pub use respond::{TrailersOnly, respond};
pub use service::{Channel, MapBody, service, stack};
pub use timeout::{TimeoutHeader, TimeoutHeaderFuture, TimeoutHeaderLayer, inbound_deadline};
pub use trailers::{PeekFuture, PeekTrailers, PeekTrailersLayer, PeekedBody};
pub use until::UntilTrailers;
