//! Limits the calls in flight (a concurrency limit, or bulkhead) and rejects the others at once.
//!
//! Use it for an upstream that slows down for everybody when it gets too many calls at once. By
//! Little's law, a good limit is the rate of calls times the duration of a call in normal operation:
//! 200 calls/s × 0.1 s = 20. It does not limit the rate: for a quota of calls per time see
//! [`rate_limit`](crate::rate_limit). Place it below retry, so that no slot is held between two
//! attempts, and above the rate limit, so that calls that wait there count as in flight.
//!
//! ```
//! use buttress::{Error, ErrorLayer, LoadShedLayer, Rejection};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let layer = LoadShedLayer::new(1);
//! let limit = layer.limit().clone();
//! let service = ServiceBuilder::new()
//!     .layer(layer)
//!     .layer(ErrorLayer)
//!     .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
//!
//! let slot = limit.try_acquire().unwrap(); // another call is in flight
//! let shed = service.clone().oneshot(1).await;
//! assert!(matches!(shed, Err(Error::Rejected(Rejection::Overloaded { limit: 1, .. }))));
//! drop(slot);
//! assert_eq!(service.oneshot(1).await, Ok(1));
//! # }
//! ```
//!
//! A *slot* is one place of the limit. Each call in flight holds one.
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `new`, `builder` | required | the calls in flight, 0 to 2^24 − 1; change it by [`set_limit`](ConcurrencyLimit::set_limit) |
//! | `queue` | 0: no call waits | how many calls may wait for a slot, 0 to 65 535, and how long, from the call |
//! | `carrier` | `()`: none | where requests carry their [deadline](crate::deadline) |
//! | `until` | `UntilHead` | when a call frees its slot: with the response head, or with `UntilBodyEnd` (feature `http-body`) |
//! | `unless_open` | none | the circuit of a breaker below: while it is open, calls are rejected before they take a slot or a place in the queue; when it opens, waiting calls are rejected too |
//! | `name` | none | the name in errors, events, snapshots and `Debug` |
//!
//! # Shared state
//!
//! All services made by one layer value, and their clones, share its limit. So a
//! server that applies its layers once per connection has one limit.
//!
//! # Readiness
//!
//! If no slot is free, the service is ready at once, in order to reject the call, and
//! does not poll the inner service. If the inner service is not ready, the call is rejected too, even
//! with a queue. A clone then replaces the instance, which would otherwise get a permit of the inner
//! service that it does not use. `call` takes the slot, not `poll_ready`: a ready service that
//! is never called holds none.
//!
//! What an instance had reserved in the inner service before it rejected a call stays reserved until
//! the instance is polled, called or dropped. Do not put load shed above a service whose
//! instance must be polled several times before it is ready: each replacement starts over.
//!
//! **The queue** is first come, first served: no call overtakes a waiting one. A waiting call keeps an
//! unready clone of the inner service, and readies it when it gets its slot. So it holds no permit of
//! the inner service while it waits. If a slot becomes free in the poll in which the wait ends, the call
//! is sent. No call waits beyond its deadline. A call whose deadline has passed is rejected at once.
//!
//! # Errors
//!
//! [`Rejection::Overloaded`](crate::Rejection::Overloaded). Retry does not send the call
//! again, and circuit breakers do not count it. Errors of the inner service pass unchanged.
//!
//! # Cancellation
//!
//! Dropping the future of a call frees its slot or its place in the queue. With
//! `UntilBodyEnd` a slot is free when the body ends, fails or is dropped.
//!
//! # Events and counters
//!
//! `overloaded` at DEBUG, target `buttress::load_shed`, with `name`, `limit`
//! and `reason`: `full`, `inner_not_ready`, `waited_too_long` or `deadline`.
//! `limit_changed` at INFO, with `from` and `to`. [`ConcurrencyLimit::snapshot`] counts the rejections by reason.
//!
//! Only a call that waits in the queue needs a tokio runtime with time enabled.

mod keyed;
mod layer;
mod limit;
mod queue;
mod settings;
mod slots;

pub use crate::event::Overloads;
pub use keyed::{KeyedLoadShedLayer, MakeLimit};
pub use layer::{LoadShed, LoadShedBuilder, LoadShedFuture, LoadShedLayer};
pub use limit::{ConcurrencyLimit, LoadShedSnapshot, Slot, Wait};
pub use settings::LoadShedSettings;
