//! Sends again what failed and may work the next time, within a budget.
//!
//! Use it for calls that may be sent twice. Use it in one layer of a system, not in every one:
//! three retries at each of three levels are 64 sends. It does not hedge: an attempt is sent when
//! the one before it has ended.
//!
//! ```
//! use buttress::{ErrorLayer, RetryLayer, retry::Cloned};
//! use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! static SENT: AtomicU32 = AtomicU32::new(0);
//! let service = ServiceBuilder::new()
//!     .layer(RetryLayer::builder().replay(Cloned).build().unwrap())
//!     .layer(ErrorLayer)
//!     .service(service_fn(|_: &str| async {
//!         if SENT.fetch_add(1, Relaxed) == 0 { Err("down") } else { Ok("answer") }
//!     }));
//!
//! assert_eq!(service.oneshot("ask").await, Ok("answer"));
//! assert_eq!(SENT.load(Relaxed), 2);
//! # }
//! ```
//!
//! | setting | setter | default |
//! |---|---|---|
//! | sends of a call in all | `attempts` | 3 |
//! | waits between them | `backoff` | [`Backoff::exponential`] from 50 ms to 5 s, [`Jitter::Full`] |
//! | budget | `budget`, `no_budget` | the layer's own: 0.1 retries per success of the last 5 s, or 2 (0.1 more per second) if that is more |
//! | the longest wait that the callee may ask for | `max_retry_after` | 60 s |
//! | what an outcome says about the callee | `classify` | `Ok` healthy, `Err` transient |
//! | which requests are sent again | `replay` | [`Idempotent`], for HTTP requests only |
//! | what becomes of a response that is thrown away | `discard` | [`Dropped`], at once |
//! | seed of the waits' jitter | `seed` | random |
//! | name in events and `Debug` | `name` | unnamed |
//!
//! **What is sent again.** A call judged [`Transient`](crate::Verdict::Transient),
//! [`Throttled`](crate::Verdict::Throttled) or [`Local`](crate::Verdict::Local), if there are attempts left, its request can be
//! repeated (which its replay policy is asked again when the retry is due) and the budget has a token. Otherwise the outcome is returned as it is, response or
//! error, with no delay; retry has no errors of its own. A timeout of this crate's is transient;
//! its other rejections end the call.
//!
//! **Waits.** The backoff, or what the callee asks for if that is longer: its `retry_after` is a
//! floor that is never cut short, with up to a quarter (5 s at most) added so that not all callers
//! come back at once. A `retry_after` that cannot be read counts as the cap of the backoff. If it asks for more than `max_retry_after` the call is not retried, nor if the
//! wait would not end before the [deadline](crate::deadline) that the request carries: the outcome
//! is returned at once, and the budget keeps its token. `Idempotent` finds the deadline in the
//! request's extensions, [`Within`] where any other policy shall look for it. A wait of
//! zero needs no timer, but lets other tasks and the deadline outside have their turn.
//!
//! **Responses** that are thrown away for a retry are dropped before the wait, which closes an
//! HTTP/1.1 connection that has not been read to the end. With another [`Discard`] (the feature
//! `http-body` brings `http::Drain`) the next attempt is sent when both the wait and the discarding are over.
//!
//! **The budget** bounds what a client's retries add to the load of an upstream by the client's own
//! traffic. In any time since it was made, it grants at most this many retries:
//! `floor + ratio · successful first attempts + reserve · seconds`. What was earned above `floor`
//! decays, so that a long good time does not pay for a storm. Successes of retries earn nothing.
//! By default a call that is alone has two retries: set a higher `floor` for more `attempts`.
//!
//! A token that was taken for a retry which is not sent after all, because its caller left or a
//! layer of this crate rejected it, is put back; a retry that timed out counts as sent. (Of retries
//! within retries only the last send is known, so the bound is the inner one's.) The budget is
//! shared by all services of a layer and their clones, and by several layers if it is given to them.
//! See [`Budget`].
//!
//! **Readiness.** The first attempt is made by the instance that the caller readied. A clone, made
//! when the first retry is due, makes the others: it is readied when the wait is over, so that no
//! permit is held while waiting. An error of its readiness is returned. It is cloned from an
//! instance that is never polled, kept by the services of one application of the layer. The future
//! is `Send` if classifier and replay are `Send` and `Sync`.
//!
//! **Cancellation.** Dropping the future drops the attempt under way, or the wait; nothing is sent
//! after that. The token of a retry that was not sent is put back: while it waits for its backoff, for
//! readiness, or in a rate limit or load shed of this crate below. Behind a layer that moves calls to
//! another task (tower's `Buffer`) that cannot be known, and the token stays spent. Below a layer of
//! yours that makes several calls for one, a token comes back though one of them was sent.
//!
//! **Place.** Inside the deadline of the call, outside everything that is about attempts: load
//! shed, rate limit, circuit breaker, timeout of an attempt.
//!
//! **Errors.** None of its own.
//!
//! **Events**, target `buttress::retry`, at DEBUG: `retrying` with `name`, `attempt` (the one that
//! ended, from 1), `wait_ms` and `verdict`; `gave_up` with `name`, `attempt`, `verdict` and
//! `reason` (`attempts`, `not_replayable`, `retry_after`, `deadline`, `budget`).
//!
//! A retry that waits needs a tokio runtime with time enabled.

mod backoff;
mod discard;
mod layer;
mod policy;
mod service;
mod settings;

pub use crate::budget::{Budget, BudgetBuilder, BudgetSettings, Withdrawal};
pub use crate::event::GiveUps;
pub use crate::replay::{Cloned, Idempotent, Replay, Within};
pub use backoff::{Backoff, Jitter};
pub use discard::{Discard, Dropped, Never};
pub use layer::{RetryBuilder, RetryLayer};
pub use policy::RetrySnapshot;
pub use service::{Retry, RetryFuture};
pub use settings::RetrySettings;
