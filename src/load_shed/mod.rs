//! Rejects calls at once while too many are in flight.
//!
//! Use it where more calls at a time than the callee bears make every call slow: by Little's law
//! the right limit is about the rate of calls times how long one takes in good times. It limits
//! concurrency, not the rate; for a quota of calls per time see [`rate_limit`](crate::rate_limit).
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
//! let slot = limit.try_acquire().unwrap(); // a call in flight, elsewhere
//! let shed = service.clone().oneshot(1).await;
//! assert!(matches!(shed, Err(Error::Rejected(Rejection::Overloaded { limit: 1, .. }))));
//! drop(slot);
//! assert_eq!(service.oneshot(1).await, Ok(1));
//! # }
//! ```
//!
//! | setting | setter | default |
//! |---|---|---|
//! | calls in flight, 0 to 2^24 − 1 | `new`, `builder`; later [`set_limit`](ConcurrencyLimit::set_limit) | required |
//! | calls that may wait for a slot, 0 to 65 535, and how long, from the call | `queue` | 0: none waits |
//! | where calls carry their [deadline](crate::deadline) | `carrier` | `()`: nowhere |
//! | name in events, snapshots and `Debug` | `name` | unnamed |
//!
//! **One limit per layer value.** Services made by one layer, and their clones, share its limit;
//! so it holds in servers that apply layers once per connection.
//!
//! **Readiness.** A service that is full is ready, to reject, and does not poll the inner service.
//! If the inner service is not ready the call is rejected too, queue or not. The instance that was
//! not ready is then replaced by a fresh clone, so that it does not capture a permit it will not
//! use; a service that becomes ready by being polled again and again, without sharing that with its
//! clones, must not stand below. A slot is taken by `call`: services that are ready and never
//! called hold none. What an instance had reserved inside before it rejected stays reserved until
//! it is polled, called or dropped.
//!
//! **The queue** is first come, first served: nobody overtakes those who wait. A waiting call takes
//! an unready clone, and readies it when its turn comes; a permit that the caller's instance had
//! reserved is free meanwhile. It waits for as long as `queue` says, but not beyond its
//! [deadline](crate::deadline); with one that has passed it is rejected at once.
//!
//! **Ties.** A slot and the end of the wait due in one poll: the slot.
//!
//! **Cancellation.** Dropping the future gives its slot, or its place in the queue, back. A slot is
//! held until the response head arrives or, if asked by [`until`](LoadShedBuilder::until) (feature
//! `http-body`), to the end of the body, its failure or its drop.
//!
//! **Place.** Below retry, so that a wait between attempts holds no slot; above the rate limit. With
//! [`unless_open`](LoadShedBuilder::unless_open) an open circuit below rejects a call before it takes a
//! slot or a place in the queue, and wakes the calls that wait.
//!
//! **Errors.** [`Rejection::Overloaded`](crate::Rejection::Overloaded); the inner service's errors
//! pass unchanged. Retry and circuit breaker ignore it.
//!
//! **Events.** `overloaded` at DEBUG, target `buttress::load_shed`, with `name`, `reason` (`full`,
//! `inner_not_ready`, `waited_too_long`, `deadline`) and `limit`.
//!
//! Only a call that waits in the queue needs a tokio runtime with time enabled.

mod layer;
mod limit;
mod queue;
mod settings;
mod slots;

pub use crate::event::Overloads;
pub use layer::{LoadShed, LoadShedBuilder, LoadShedFuture, LoadShedLayer};
pub use limit::{ConcurrencyLimit, LoadShedSnapshot, Slot, Wait};
pub use settings::LoadShedSettings;
