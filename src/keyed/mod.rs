//! One circuit, rate limiter, concurrency limit or whole stack for each key: per host, tenant or route.
//!
//! Use it if one client calls many upstreams, and one that fails must not affect the others; or if each
//! tenant has a quota of its own. Do not use it for a fixed handful of upstreams: a stack for each has a
//! name of its own in errors and events.
//!
//! ```
//! use buttress::http::{Authority, stack};
//! use http::{Request, Response};
//! use std::io;
//! use tower::service_fn;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let http_client = service_fn(|request: Request<String>| async move {
//!     match request.uri().host() {
//!         Some("users.internal") => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
//!         _ => Ok(Response::new(())),
//!     }
//! });
//! let client = stack()
//!     .no_retry()
//!     .circuit_breaker(|breaker| breaker.consecutive_failures(1))
//!     .per_key(Authority)
//!     .service(http_client)?;
//!
//! let get = |host| Request::get(format!("http://{host}/7")).body(String::new());
//! client.clone().oneshot(get("users.internal")?).await.unwrap_err();
//! // The circuit of one host is open. The others do not notice.
//! let error = client.clone().oneshot(get("users.internal")?).await.unwrap_err();
//! assert!(error.to_string().starts_with("circuit open"));
//! assert!(client.oneshot(get("orders.internal")?).await.is_ok());
//! # Ok(())
//! # }
//! ```
//!
//! `per_key` of [`http::stack`](crate::http::stack()), of the circuit breaker, the rate limit and the load
//! shed starts a [`KeyedBuilder`]. In a stack, one look-up per call finds the circuit, the limits and the
//! retry budget of a key.
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `per_key` | required | the [`Key`] of a request: [`http::Authority`](crate::http::Authority), or a function |
//! | `keys` | 1024 keys, 10 minutes | how many [`Keys`] are kept, and for how long without a call |
//! | `quota_of` | `()`: none | a function or closure: the quota of a key, if it is not that of the others; for the rate limit |
//!
//! All other settings are those of the layer, and hold for each key. Set them before `per_key`. Requests
//! without a key share one state.
//!
//! # Memory
//!
//! A layer keeps at most so many keys as you allow. A new key displaces one that nobody can miss: its
//! state cannot be told from that of a new key, no call of it is in flight, and you hold no handle of it.
//! That is a key whose circuit is closed without a failure in its window, whose burst is whole and
//! whose budget is full. So a flood of new keys neither closes an open circuit nor resets a limit. It can
//! only make the window of a well circuit start over without its successes. A count window and a row of
//! consecutive failures never empty by themselves, and a circuit whose open time is over closes only by
//! calls. They can be dropped when the key has had no call for [`Keys::idle`].
//!
//! **Overflow.** A layer looks at 16 keys at most. If none of them can be dropped, or if the key has more than
//! 1024 bytes, it shares one state with all other such keys: a common limiter, limit and budget, and no circuit breaker. Its next
//! call looks again. [`ByKey::overflows`] counts these calls. The name of the overflow in errors and events
//! ends with `overflow`.
//!
//! There is no background task. The cost of a call does not depend on the number of keys.
//!
//! # Readiness
//!
//! Only `call` knows the key. Until then the layer is ready when the inner service is. A circuit breaker with
//! [`WhenOpen::NotReady`](crate::circuit_breaker::WhenOpen::NotReady) cannot have keys.
//!
//! # Errors
//!
//! The rejections of the layer, with its name. A rejection carries no key: the caller has the request.
//! `build` returns the errors of the layer's settings; [`InvalidConfig`](crate::error::InvalidConfig) also for
//! `Keys::at_most(0)` and for `WhenOpen::NotReady`.
//!
//! # Cancellation
//!
//! As with the layer without keys.
//!
//! # Events and counters
//!
//! The events of the layer, with its name. Keys may be data of your users, so no event has one.
//! [`ByKey`] gives the handle of each key with its snapshot. The counters of a key end with the key.

mod admission;
mod builder;
mod keys;
mod request;
mod shard;
mod store;

pub use admission::{Key, KeyedTicket, KeyedWait, Lookup, PerKey};
pub use builder::KeyedBuilder;
pub use keys::Keys;
pub(crate) use request::{Budgeted, Inside, OfRequest, Route, Unkeyed};
pub use store::{ByKey, Make, State, Store};
