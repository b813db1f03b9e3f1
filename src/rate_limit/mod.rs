//! Keeps calls within a quota: a call waits a little for its turn, or is rejected.
//!
//! Use it if the upstream enforces or bills a rate. For a quota per tenant, see [`keyed`](crate::keyed). It limits calls per time, not calls in flight: for
//! these see [`load_shed`](crate::load_shed). It counts the calls of this process only; for one quota of many processes
//! see [`fleet`](crate::fleet). Place it
//! below retry, because upstream quotas count attempts, and above the circuit breaker, because a
//! breaker with `slow_calls` would count a wait as a slow call.
//!
//! ```
//! use buttress::{Error, ErrorLayer, Quota, RateLimitLayer, Rejection};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let service = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new(Quota::new(1, Duration::from_secs(3))))
//!     .layer(ErrorLayer)
//!     .service(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }));
//!
//! assert_eq!(service.clone().oneshot(1).await, Ok(1));
//! // The next turn comes in 3 s, and a call waits at most 1 s.
//! let Err(Error::Rejected(Rejection::RateLimited { retry_after, .. })) = service.oneshot(1).await else {
//!     panic!("not rejected");
//! };
//! assert!(retry_after > Some(Duration::from_secs(2)));
//! # }
//! ```
//!
//! A *turn* is a permit of the limiter: the right to make one call.
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `new`, `builder` | required | the [`Quota`], calls per time; change it by [`set_quota`](RateLimiter::set_quota) |
//! | [`Quota::burst`] | the calls of 1 s up to 10, or of 100 ms if those are more; 1 with [`Quota::at_most`] | the calls that may go at once after a rest |
//! | `max_wait` | 1 s | the longest wait for a turn, from the call |
//! | `cost` | `()`: 1 | the units of the quota that a call costs |
//! | `carrier` | `()`: none | where requests carry their [deadline](crate::deadline) |
//! | `unless_open` | none | the circuit of a breaker below: while it is open, calls are rejected before they take a turn; when it opens, waiting calls are rejected too |
//! | `name` | none | the name in errors, events, snapshots and `Debug` |
//!
//! # Algorithm
//!
//! The generic cell rate algorithm (GCRA, ITU-T I.371), a form of the leaky bucket, in
//! nanoseconds. Let `T` be the time per call, rounded up. Any window of length `W` gets at most
//! `burst + ⌊W / T⌋` turns; with [`Quota::at_most`], any window of `per` gets at most `n`. A call
//! is sent when it has its turn, its task runs, and the inner service is ready.
//!
//! **Waiting** is first come, first served: no call overtakes a waiting one, however little it
//! costs. A call is rejected at once, and takes nothing, if its turn would come after `max_wait` or not
//! before its deadline. If the quota changes or a pause begins, the waiting calls keep their order, and
//! those whose turn would now come too late are rejected.
//!
//! # Readiness
//!
//! A waiting call keeps an unready clone of the inner service, and readies it when its turn
//! comes. So it holds no permit of the inner service while it waits. `call` takes the turn, not
//! `poll_ready`: a ready service that is never called costs nothing.
//!
//! # Shared state
//!
//! All services made by one layer value, and their clones, share its limiter. So a
//! server that applies its layers once per connection has one quota.
//!
//! # Several quotas, and costs that are known afterwards
//!
//! [`Quotas`] take from several quotas at once, such as requests and tokens per minute. What a call really cost can be
//! settled after it: [`Charge::settle`]. They work for one quota too.
//!
//! # Pauses
//!
//! A 429 can pause the limiter for the time that the upstream asks for, see
//! [`http::PauseOn429`](crate::http::PauseOn429), and so can headers that say that the quota is used up.
//! [`RateLimiter::pause_until`] pauses it by hand.
//!
//! # Errors
//!
//! [`Rejection::RateLimited`](crate::Rejection::RateLimited) and
//! [`Rejection::TooCostly`](crate::Rejection::TooCostly), if a call costs more than the burst. Retry
//! does not send the call again, and circuit breakers do not count it. Errors of the inner service
//! pass unchanged.
//!
//! # Cancellation
//!
//! A waiting call that is dropped gives its place to the calls behind it. If it had
//! its turn but was not sent, the turn goes to the next waiting call or back to the limiter. One kind of
//! turn is lost, because its return would exceed the quota: later turns were handed out, and it is
//! older than a burst can hold.
//!
//! # Events and counters
//!
//! Target `buttress::rate_limit`, at DEBUG. [`RateLimiter::snapshot`] counts
//! the same three.
//!
//! | event | when | fields |
//! |---|---|---|
//! | `rate_limited` | a call was rejected: its turn would come too late | `name`, `cost`, `retry_after_ms` |
//! | `too_costly` | a call was rejected: it costs more than the burst | `name`, `cost`, `burst` |
//! | `paused` | a 429 paused the limiter | `name`, `pause_ms` |
//!
//! Only a call that waits needs a tokio runtime with time enabled.

mod demand;
#[cfg(all(test, not(buttress_loom)))]
mod fleet_test;
mod gcra;
mod keyed;
mod layer;
mod lease;
mod leases;
mod ledger;
mod limiter;
mod queue;
mod quota;
mod quotas;
mod settings;
mod visit;

pub use keyed::{KeptLimiter, KeyedRateLimitLayer, MakeLimiter, QuotaOf};
pub use layer::{Cost, Metered, RateLimit, RateLimitBuilder, RateLimitFuture, RateLimitLayer};
pub(crate) use lease::LeaseSettings;
pub use lease::WithoutStore;
#[cfg(feature = "redis")]
pub(crate) use ledger::micros;
pub use ledger::{Ask, Granted, Ledger, Peer, Reply};
pub use limiter::{RateLimitSnapshot, RateLimiter, Turn};
pub use quota::Quota;
pub use quotas::{
    Charge, Charged, MeteredBy, Place, Quotas, QuotasBuilder, QuotasLayer, QuotasService,
    QuotasSnapshot, RealCosts,
};
pub use settings::RateLimitSettings;
