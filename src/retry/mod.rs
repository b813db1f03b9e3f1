//! Sends a failed call again, after a wait and within a budget.
//!
//! Use it for calls that may be sent twice and whose failures pass. Use it at one level of your
//! system only: with three attempts at each of three levels, one call becomes up to 27 sends. The
//! layer does not hedge: it sends an attempt only after the previous one has ended.
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
//!         if SENT.fetch_add(1, Relaxed) == 0 { Err("down") } else { Ok("response") }
//!     }));
//!
//! assert_eq!(service.oneshot("request").await, Ok("response"));
//! assert_eq!(SENT.load(Relaxed), 2);
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `attempts` | 3 | sends of one call in total, the first attempt included; at least 1 |
//! | `backoff` | [`Backoff::exponential`] from 50 ms to 5 s, [`Jitter::Full`] | the wait before each retry, measured from the end of the failed attempt |
//! | `budget`, `no_budget` | a budget of the layer's own | pays for retries: one retry per 10 successes of the last 5 s, with a floor of 2, which refills by 0.1 per second |
//! | `max_retry_after` | 60 s | the longest `Retry-After` that the layer obeys; if the upstream asks for more, the call is not retried |
//! | `classify` | `Ok` is healthy (a success), `Err` is transient | turns an outcome into its classification, the [`Verdict`](crate::Verdict) |
//! | `replay` | [`Idempotent`], for HTTP requests only | copies requests, and decides after a failure whether a copy may be sent |
//! | `discard` | [`Dropped`] | what happens to the response of a failed attempt |
//! | `seed` | random | seeds the jitter, so that waits are repeatable |
//! | `name` | none | the name in errors, events, snapshots and `Debug` |
//!
//! # What is retried
//!
//! A call is sent again if all of these hold:
//!
//! * its verdict is [`Transient`](crate::Verdict::Transient),
//!   [`Throttled`](crate::Verdict::Throttled) or [`Local`](crate::Verdict::Local);
//! * attempts are left;
//! * the [replay policy](Replay) copied the request and allows to send the copy;
//! * the upstream does not ask for a wait above `max_retry_after`;
//! * the wait would end before the [deadline](crate::deadline) that the request carries;
//! * the budget has a token.
//!
//! Otherwise the layer returns the response or error of the last attempt at once and unchanged, and
//! takes no token.
//!
//! **What may be sent twice.** The verdict of a failed attempt says whether the upstream may have
//! processed it ([`Sent`](crate::verdict::Sent)). [`Idempotent`] sends every request again that was
//! certainly not processed, for example after a refused connection or a refused HTTP/2 stream. A request
//! that may have been processed is sent again only if its method is idempotent or if it has an
//! `Idempotency-Key` (RFC 9110 §9.2.2). The [table of verdicts](crate::http#verdicts) has all cases.
//!
//! [`TimedOut`](crate::Rejection::TimedOut) is transient, and the upstream may have processed the call.
//! Every other rejection by a layer of this
//! crate ends the call. `Idempotent` finds the deadline in the request's extensions. For other
//! policies, [`Within`] says where the deadline is.
//!
//! # Waits
//!
//! The wait is the backoff, or the upstream's `retry_after` if that is longer. A `retry_after` is
//! never shortened. The layer lengthens it by a random part, at most a quarter and at most 5 s, so
//! that not all callers return at the same moment. A `retry_after` that cannot be parsed counts as
//! the cap of the backoff. A wait of zero needs no timer, but the call still yields once to other
//! tasks and to the timeouts around it.
//!
//! The next attempt also waits until the failed response is discarded. `Dropped` discards it before
//! the wait; this closes an HTTP/1.1 connection whose response was not read to its end. `http::Drain`
//! (feature `http-body`) reads the response instead, so that its connection can be reused.
//!
//! # Budget
//!
//! One token pays for one retry. Over its whole life, a budget grants at most `floor + ratio ·
//! successful first attempts + reserve · seconds` retries. Tokens above `floor` decay, so that a
//! long healthy time does not pay for a retry storm. Successful retries earn nothing. By
//! default, a client without other traffic has two retries. If you raise `attempts`, raise `floor` too.
//!
//! All services of a layer value and their clones share the budget. So do several layers that are
//! given the same [`Budget`].
//!
//! A token goes back to the budget if its retry is not sent, because the caller cancelled the call or
//! because another layer of this crate rejected it. A retry that a timeout ended counts as sent. If
//! retry layers are nested, the outer one learns only about the last send of the inner one, so the
//! inner budget is the one that bounds the sends.
//!
//! # Readiness
//!
//! The instance that the caller readied makes the first attempt. A fresh clone makes the retries. The
//! layer readies the clone after each wait, so a call holds no permit while it waits. A retry that waits needs
//! a tokio runtime with time enabled. The future is `Send` if the classifier and the replay policy
//! are `Send` and `Sync`.
//!
//! # Order of layers
//!
//! Put retry inside the timeout of the whole call, and outside the per-attempt layers: load shed,
//! rate limit, circuit breaker and the attempt timeout.
//!
//! # Errors
//!
//! The inner service's errors pass unchanged, those of its readiness too. The layer has one error of
//! its own: [`DeadlinePassed`](crate::Rejection::DeadlinePassed), if the request's deadline passes
//! after the wait has begun and before the retry is sent.
//!
//! # Cancellation
//!
//! Dropping the future drops the current attempt or wait, and nothing is sent after that. The token
//! of a retry that was not sent goes back to the budget. This covers a retry that waits for its
//! backoff, for readiness, or in a rate limit or load shed of this crate below.
//!
//! Two kinds of layers below retry hide whether a retry was sent. If a layer moves calls to another
//! task (tower's `Buffer`), the token stays spent. If a layer of yours makes several calls for one, the
//! token goes back even if one of them was sent.
//!
//! # Events and counters
//!
//! Events have the target `buttress::retry` and the level DEBUG:
//!
//! | event | when | fields |
//! |---|---|---|
//! | `retrying` | a retry was granted, before its wait | `name`, `attempt` (the one that ended, from 1), `wait_ms`, `verdict` |
//! | `gave_up` | a failed call is not retried although its verdict allows it | `name`, `attempt`, `verdict`, `reason` (`attempts`, `not_replayable`, `retry_after`, `deadline`, `budget`) |
//!
//! [`RetryLayer::snapshot`] returns the counters, [`RetryLayer::budget`] the budget.

mod backoff;
mod discard;
mod layer;
mod measured;
mod policy;
mod retrying;
mod service;
mod settings;

pub use crate::budget::{Budget, BudgetBuilder, BudgetSettings, Withdrawal};
pub use crate::event::GiveUps;
pub use crate::replay::{Cloned, Idempotent, Replay, Within};
pub use backoff::{Backoff, Jitter};
pub use discard::{Discard, Dropped, Never};
pub use layer::{RetryBuilder, RetryLayer};
pub(crate) use measured::Measured;
pub use policy::RetrySnapshot;
pub(crate) use policy::RetryState;
pub use service::{Retry, RetryFuture};
pub use settings::RetrySettings;
