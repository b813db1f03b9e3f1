//! Stops calling a callee that fails, and finds out when it is well again.
//!
//! Use it around calls that cost something when they fail: a thread of the callee's, a timeout of
//! the caller's. One breaker stands for one callee; behind several callees at once it would let the
//! sick ones cut off the well ones. Do not use it where a failure is cheap and an answer from
//! another source is not at hand.
//!
//! ```
//! use buttress::{CircuitBreakerLayer, Error, ErrorLayer, Rejection};
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let layer = CircuitBreakerLayer::builder().consecutive_failures(2).build().unwrap();
//! let circuit = layer.circuit().clone();
//! let service = ServiceBuilder::new()
//!     .layer(layer)
//!     .layer(ErrorLayer)
//!     .service(service_fn(|up: bool| async move { if up { Ok("answer") } else { Err("down") } }));
//!
//! for _ in 0..2 {
//!     assert_eq!(service.clone().oneshot(false).await, Err(Error::Service("down")));
//! }
//! let Err(Error::Rejected(Rejection::CircuitOpen { retry_after, .. })) = service.clone().oneshot(true).await
//! else {
//!     panic!("closed");
//! };
//!
//! tokio::time::advance(retry_after.unwrap()).await;
//! for _ in 0..2 {
//!     assert_eq!(service.clone().oneshot(true).await, Ok("answer")); // probes
//! }
//! assert_eq!(circuit.state(), buttress::circuit_breaker::CircuitState::Closed);
//! # }
//! ```
//!
//! ```text
//!                 too many failed or slow                  open time over, a call comes
//!      ┌────────┐ ───────────────────────► ┌────────┐ ───────────────────────────────► ┌───────────┐
//!   ──►│ closed │                          │  open  │                                  │ half-open │
//!      └────────┘ ◄─────────────────┐      └────────┘ ◄─────────────────────────────── └───────────┘
//!                                   │             probes + 1 − probe_successes bad ones      │
//!                                   └────────────────────────────────────────────────────────┘
//!                                                   probe_successes good ones
//! ```
//!
//! and [`force_open`](Circuit::force_open), [`force_closed`](Circuit::force_closed) and
//! [`reset`](Circuit::reset) from everywhere.
//!
//! | setting | setter | default |
//! |---|---|---|
//! | share of failed calls that opens | `failure_rate` | 0.5 |
//! | fewest calls in the window that a rate is taken of | `min_calls` | 20, or the count window if smaller |
//! | calls a rate is taken of | `window` | [`Window::time`] of 10 s |
//! | failures in a row that open | `consecutive_failures` | off; set alone it replaces the rates |
//! | duration and share of slow calls that open | `slow_calls` | off |
//! | open time, doubled each time a probe re-opens, less a random tenth at most | `open_for` | 500 ms |
//! | the longest open time | `max_open_for` | 1 s, or `open_for` if longer |
//! | calls let through while half-open, 1 to 127 | `probes` | 3 |
//! | good ones that close | `probe_successes` | the majority |
//! | when probes that do not come back are written off, after the latest went out | `probe_lease` | 30 s |
//! | age at which a cancelled call counts as failed | `abandoned_after` | 10 s |
//! | what a service does while open | `when_open` | [`WhenOpen::Reject`] |
//! | what an outcome says about the callee | `classify` | `Ok` healthy, `Err` transient |
//! | seed of the open times' shortening | `seed` | random |
//! | name in events, snapshots and `Debug` | `name` | unnamed |
//!
//! **What counts.** [`Transient`](crate::Verdict::Transient) and
//! [`Permanent`](crate::Verdict::Permanent) calls have failed, [`Healthy`](crate::Verdict::Healthy)
//! ones have not, and [`Throttled`](crate::Verdict::Throttled), [`Local`](crate::Verdict::Local) and
//! [`Ignored`](crate::Verdict::Ignored) ones are not counted. A call that panics has failed. A
//! timeout of this crate's is transient, its other rejections are ignored, and no classifier is
//! asked. Only a failed or a slow call opens the circuit, never a fast success. An outcome counts
//! for the epoch its call was let through in: late answers change nothing.
//!
//! **Windows.** A time window is kept in ten buckets and costs the same however many calls it
//! holds. A count window holds the last N calls, exactly as long as calls do not overlap; of those
//! that do, one may read as good for a moment.
//!
//! **Open times.** The verdict that opens the circuit may ask for longer by its `retry_after`, up
//! to `max_open_for`. Above 2^35 ms (1.09 years) `open_for` means until it is reset. Otherwise a
//! probe may go when the time is over: `state()` says half-open then, even if no call has come.
//!
//! **One circuit per layer value.** Services made by one layer, and their clones, share its
//! circuit; so it holds in servers that apply layers once per connection.
//! [`CircuitBreakerLayer::new`] puts a circuit of your own under several layers.
//!
//! **Readiness.** The service of an open circuit is ready, to reject, and does not poll the inner
//! service. Below a balancer such a service looks like the fastest endpoint and attracts the
//! traffic: there, give each endpoint a breaker with [`WhenOpen::NotReady`]. A probe is taken by
//! `call`: services that are ready and never called hold none. Callers who already wait for the
//! inner service to become ready are not woken when the circuit opens: put what queues outside the
//! breaker, or a timeout around it. `retry_after` is measured when `poll_ready` finds the circuit
//! open.
//!
//! **Cancellation.** A call whose caller leaves, or whose own [deadline](crate::deadline) passes, is
//! ignored if it is younger than `abandoned_after`, and a probe then gives its place back at once. An
//! older one counts as failed. So callers in a hurry do not open the circuit of a slow upstream; an
//! upstream that hangs is noticed by the attempt's timeout, inside the breaker. Raise `abandoned_after`
//! for calls that callers stop although they are well, such as long streams or calls of language models.
//!
//! **Bodies.** A call ends when the response head arrives or, with
//! [`until`](CircuitBreakerBuilder::until) (feature `http-body`), with the body: a body that fails is then
//! a failure, and one that is dropped before its end a cancelled call. A probe is settled by its head
//! all the same; if that closes the circuit, its body is judged as that of any other call.
//!
//! **Readiness errors** of the inner service are returned and not counted: a service that cannot become
//! ready has usually failed for good, and says nothing about one call.
//!
//! **Place.** Innermost but for the timeout of an attempt, so that it sees every attempt and
//! nothing else; see the order of layers in the crate's documentation.
//!
//! **Errors.** [`Rejection::CircuitOpen`](crate::Rejection::CircuitOpen); the inner service's
//! errors pass unchanged.
//!
//! **Events**, target `buttress::circuit_breaker`: `opened` at WARN, `half_opened` and `closed` at
//! INFO, once per transition, with `name`, `from`, `to` (`closed`, `open`, `half_open`,
//! `forced_open`, `forced_closed`), `reason` (`failure_rate`, `slow_calls`,
//! `consecutive_failures`, `open_time_over`, `probes_failed`, `probes_succeeded`, `lease_lapsed`,
//! `forced`, `reset`), `calls`, `failures` and `slow_calls` (those of the window, or with
//! `probes_failed` and `probes_succeeded` the probes that came back, slow ones among the failures);
//! `rejected` at DEBUG with `name` and `retry_after_ms`.
//!
//! Only [`WhenOpen::NotReady`] needs a tokio runtime with time enabled.

mod breaker;
mod circuit;
mod count_window;
mod layer;
#[cfg(all(test, buttress_loom))]
mod models;
mod permit;
#[cfg(all(test, not(buttress_loom)))]
mod reference;
mod row;
mod settings;
mod state;
mod time_window;
mod window;

pub use crate::event::CircuitState;
pub use circuit::{Circuit, CircuitBuilder, CircuitSnapshot, Opening};
pub use layer::{
    CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerFuture, CircuitBreakerLayer, Guarded,
    Watch,
};
pub use permit::{Judged, Permit};
pub use settings::{CircuitBreakerSettings, SlowCalls, WhenOpen, Window};
