//! Keeps calls within a quota, by letting them wait a little or rejecting them.
//!
//! Use it where the callee sells or enforces a rate. It limits calls per time, not how many are
//! under way; for that see [`load_shed`](crate::load_shed). It knows only the calls of this
//! process.
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
//! // The next turn comes in 3 s, which is more than a call waits.
//! let Err(Error::Rejected(Rejection::RateLimited { retry_after, .. })) = service.oneshot(1).await else {
//!     panic!("granted");
//! };
//! assert!(retry_after > Some(Duration::from_secs(2)));
//! # }
//! ```
//!
//! | setting | setter | default |
//! |---|---|---|
//! | calls per time | [`Quota`], in `new` and `builder`; later [`set_quota`](RateLimiter::set_quota) | required |
//! | calls at once | [`Quota::burst`] | the calls of 1 s up to 10, or of 100 ms if those are more; with [`Quota::at_most`] 1 |
//! | the longest wait for a turn, from the call | `max_wait` | 1 s |
//! | what a call costs | `cost` | `()`: 1 |
//! | where calls carry their [deadline](crate::deadline) | `carrier` | `()`: nowhere |
//! | name in events, snapshots and `Debug` | `name` | unnamed |
//!
//! **The algorithm** is the generic cell rate algorithm (GCRA, ITU-T I.371): a leaky bucket in one
//! word, in nanoseconds. With an interval `T`, the time per call rounded up, it hands out at most
//! `burst + ⌊W / T⌋` turns in any window of length `W`; with [`Quota::at_most`] at most `n` in any
//! window of `per`. A call is sent right after it was given its turn, or as soon as its task runs and
//! the inner service is ready.
//!
//! **One limiter per layer value.** Services made by one layer, and their clones, share its
//! limiter; so it holds in servers that apply layers once per connection.
//!
//! **Waiting.** Calls that wait stand in a queue, first come, first served: nobody overtakes, however
//! little it costs. Each sleeps until its turn. A call whose turn would come after `max_wait`, or not
//! before its [deadline](crate::deadline), is rejected at once and takes nothing. If the quota changes
//! or a pause comes, those who wait are served accordingly, and those for whom that is now too late
//! are rejected. A call that waits takes an unready clone of the inner service, and readies it when its
//! turn has come. The instance that was readied is replaced by a fresh clone, so that a permit which it
//! has reserved is free while the call waits. Readiness takes no turn: services that are ready and
//! never called cost nothing.
//!
//! **A 429** of the upstream can pause the limiter for as long as it asks: see
//! [`http::PauseOn429`](crate::http::PauseOn429).
//!
//! **Cancellation.** A waiting call that is dropped gives its place to those behind it. If it had its
//! turn but was not sent, the turn goes to the next call that waits, or back to the limiter. It is
//! lost if it is older than what a burst holds and later turns were handed out, since the quota would
//! be exceeded otherwise.
//!
//! **Place.** Below retry, because the upstream counts attempts; above the circuit breaker, which would
//! count waiting as slowness. With [`unless_open`](RateLimitBuilder::unless_open) an open circuit rejects
//! a call before it takes a turn, and wakes the calls that wait.
//!
//! A rate limit protects an upstream only if the sum over all its clients is below what it can do.
//!
//! **Errors.** [`Rejection::RateLimited`](crate::Rejection::RateLimited),
//! [`Rejection::TooCostly`](crate::Rejection::TooCostly); the inner service's errors pass
//! unchanged. Retry and circuit breaker ignore both.
//!
//! **Events**, target `buttress::rate_limit`, at DEBUG: `rate_limited` with `name`, `cost` and
//! `retry_after_ms`; `too_costly` with `name`, `cost` and `burst`; `paused` with `name` and
//! `pause_ms`, where a 429 paused the limiter.
//!
//! Only a call that waits needs a tokio runtime with time enabled.

mod gcra;
mod layer;
mod limiter;
mod queue;
mod quota;
mod settings;

pub use layer::{Cost, Metered, RateLimit, RateLimitBuilder, RateLimitFuture, RateLimitLayer};
pub use limiter::{RateLimitSnapshot, RateLimiter, Turn};
pub use quota::Quota;
pub use settings::RateLimitSettings;
