//! Sends a second copy of a call that is late, and returns the answer that comes first.
//!
//! Use it where a few calls take much longer than the rest for reasons of their own: a pause, a busy replica, a lost
//! packet. It cuts the slowest per cent of the calls for a few per cent more sends. It does not help against an
//! upstream that is slow as a whole, and only idempotent calls can be sent twice.
//!
//! ```
//! use buttress::hedge::HedgeAt;
//! use buttress::retry::Cloned;
//! use buttress::{ErrorLayer, HedgeLayer};
//! use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! static SENT: AtomicU32 = AtomicU32::new(0);
//! let at = HedgeAt::after(Duration::from_millis(50));
//! let layer = HedgeLayer::builder().at(at).replay(Cloned).build().unwrap();
//! let service = ServiceBuilder::new()
//!     .layer(layer.clone())
//!     .layer(ErrorLayer)
//!     .service(service_fn(|_: &str| async {
//!         let number = SENT.fetch_add(1, Relaxed) + 1;
//!         let takes = if number == 1 { 3_000 } else { 10 };
//!         tokio::time::sleep(Duration::from_millis(takes)).await;
//!         Ok::<_, &str>(number)
//!     }));
//!
//! assert_eq!(service.oneshot("request").await, Ok(2));
//! assert_eq!(layer.hedging().snapshot().won_by_hedge, 1);
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `at` | [`HedgeAt::quantile(0.95)`](HedgeAt::quantile) | when a copy is sent: at a learnt quantile, or [after](HedgeAt::after) a fixed time |
//! | `hedges` | 1 | copies besides the call itself, 1 to 3 |
//! | `budget`, `budget_of_retry` | a budget of the layer's own | pays for copies: one per 10 successes of the last 5 s, with a floor of 10 |
//! | `classify` | `Ok` is healthy (a success), `Err` is transient | turns an outcome into its [`Verdict`](crate::Verdict) |
//! | `replay` | [`Idempotent`](crate::retry::Idempotent), for HTTP requests only | copies the requests that may be processed twice |
//! | `name` | none | the name in events and snapshots |
//!
//! # When a copy is sent
//!
//! The delay is a quantile of the durations of the calls before, as in "The Tail at Scale" (Dean and Barroso, 2013). The
//! layer learns it by counting how many calls take longer, and keeps no durations: so calls that are cancelled or beaten
//! count as they should. It starts at 100 ms, is at least 1 ms and at most half of what is left of the deadline, and
//! sends nothing before it has seen 20 calls. If all calls become ten times slower, the delay follows within about 100
//! calls; if they become faster again, within about 1100.
//!
//! If more than a share of `1 − q` of the calls is late, the delay settles among the late calls, and copies are of no
//! use. The snapshot shows it: `won_by_hedge` is small against `hedged`. Then choose a lower quantile.
//!
//! A copy is also sent at once when the call fails with [`Transient`](crate::Verdict::Transient), as in gRPC (gRFC A6).
//! No copy is sent
//!
//! * after [`Throttled`](crate::Verdict::Throttled), a `Retry-After`, or a rejection by a layer of this crate;
//! * if the budget has no token. The call itself goes on;
//! * after the deadline that the request carries;
//! * of a request that the replay policy does not copy.
//!
//! # Which answer counts
//!
//! The first one that is [`Healthy`](crate::Verdict::Healthy), [`Permanent`](crate::Verdict::Permanent) or
//! [`Ignored`](crate::Verdict::Ignored). If all copies fail, the outcome of the call itself is returned.
//!
//! The other copies are dropped before the answer is returned. Below, a circuit breaker of this crate does not count
//! them, however old they are. Over HTTP/2, a copy may take the same connection;
//! [`Attempt`](crate::http::Attempt) tells the layers below that a request is a copy.
//!
//! # Budget
//!
//! Sends are at most `calls · (1 + ratio) + floor`. With a retry around it, share its budget
//! ([`budget_of_retry`](HedgeBuilder::budget_of_retry)): then both together send no more than the budget pays for.
//!
//! # Order of layers
//!
//! Inside retry, which then sees one outcome for each hedged call, and outside load shed, rate limit, circuit breaker and
//! attempt timeout, which see each copy.
//!
//! # Readiness
//!
//! The instance that the caller readied sends the call. A copy uses a fresh clone, which is readied when the copy is
//! due: nothing is reserved before. A call that is pending needs a tokio runtime with time enabled.
//!
//! # Errors
//!
//! The inner service's errors pass unchanged. It has none of its own.
//!
//! # Cancellation
//!
//! Dropping the future drops all copies, and nothing is sent after that. The token of a copy that was not sent goes back
//! to the budget: also if a layer of this crate below rejected it or let it wait.
//!
//! # Events and counters
//!
//! Target `buttress::hedge`, at DEBUG: `hedged` with `name`, `hedge` (the number of the copy, from 1) and `after_ms`;
//! `hedge_won` with `name` and `hedge`; `hedge_denied` with `name` and `reason` (`budget`, `not_replayable`). The
//! counters are in [`HedgeSnapshot`].

mod hedging;
mod layer;
mod quantile;
mod race;
mod service;
mod settings;

pub use crate::event::HedgeDenials;
pub use hedging::{HedgeSnapshot, Hedging};
pub use layer::{HedgeBuilder, HedgeLayer};
pub use service::{Hedge, HedgeFuture};
pub use settings::{HedgeAt, HedgeSettings};
