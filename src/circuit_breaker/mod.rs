//! A circuit breaker: stops calling an upstream that fails, and probes it until it recovers.
//!
//! Use it where a failed call is expensive: it holds a thread of the upstream, or keeps your caller
//! waiting for a timeout. Give each upstream a breaker of its own: a breaker for several upstreams
//! also rejects the calls to the healthy ones. Do not use it where failures are cheap and you have
//! no fallback. Place it above the attempt timeout, so that hangs count as failures, and below
//! retry and the limits, so that it sees every attempt.
//!
//! ```
//! use buttress::{CircuitBreakerLayer, Error, ErrorLayer, Rejection, circuit_breaker::CircuitState};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let layer = CircuitBreakerLayer::builder().consecutive_failures(2).build().unwrap();
//! let circuit = layer.circuit().clone();
//! let service = ServiceBuilder::new()
//!     .layer(layer)
//!     .layer(ErrorLayer)
//!     .service(service_fn(|up: bool| async move { if up { Ok("response") } else { Err("down") } }));
//!
//! for _ in 0..2 {
//!     assert_eq!(service.clone().oneshot(false).await, Err(Error::Service("down")));
//! }
//! let Err(Error::Rejected(Rejection::CircuitOpen { retry_after, .. })) = service.clone().oneshot(true).await
//! else {
//!     panic!("the circuit is not open");
//! };
//!
//! tokio::time::advance(retry_after.unwrap()).await;
//! for _ in 0..2 {
//!     assert_eq!(service.clone().oneshot(true).await, Ok("response")); // probes
//! }
//! assert_eq!(circuit.state(), CircuitState::Closed);
//! # }
//! ```
//!
//! A *probe* is a trial call through a half-open circuit:
//!
//! ```text
//!                 too many failed or slow             the open time ends, a call comes
//!      ┌────────┐ ───────────────────────► ┌────────┐ ───────────────────────────────► ┌───────────┐
//!   ──►│ closed │                          │  open  │                                  │ half-open │
//!      └────────┘ ◄─────────────────┐      └────────┘ ◄─────────────────────────────── └───────────┘
//!                                   │             probes + 1 − probe_successes fail         │
//!                                   └───────────────────────────────────────────────────────┘
//!                                                    probe_successes succeed
//! ```
//!
//! [`force_open`](Circuit::force_open), [`force_closed`](Circuit::force_closed) and
//! [`reset`](Circuit::reset) change the state by hand, from every state.
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `failure_rate` | 0.5 | the share of failed calls in the window that opens the circuit, above 0 to 1 |
//! | `min_calls` | 20, or the size of a smaller count window | the calls that the window must hold before rates apply |
//! | `window` | [`Window::time`] of 10 s | the calls that rates are computed from |
//! | `consecutive_failures` | off | the failures in a row that open the circuit; if it is the only limit that is set, it replaces the rates |
//! | `slow_calls` | off | the duration from which a call is slow, from its first pending poll, and the share of slow calls in the window that opens the circuit |
//! | `open_for` | 500 ms | the open time; it doubles each time the probes fail, and a random part of up to 10 % is subtracted |
//! | `max_open_for` | 1 s, or `open_for` if longer | the longest open time |
//! | `probes` | 3 | the calls that may pass while half-open, 1 to 127 |
//! | `probe_successes` | the majority | the successful probes that close the circuit, 1 to `probes` |
//! | `probe_lease` | 30 s | the time after which probes without a result are written off, from the sending of the latest probe |
//! | `abandoned_after` | 10 s | a cancelled call counts as failed if it was in flight this long, from its first pending poll |
//! | `when_open` | [`WhenOpen::Reject`] | what a service does while the circuit is open |
//! | `classify` | `Ok` healthy, `Err` transient | the classifier: what an outcome says about the upstream |
//! | `until` | `UntilHead` | when a call ends: with the response head, or with `UntilBodyEnd` (feature `http-body`) |
//! | `seed` | random | makes the random part of open times repeatable |
//! | `name` | none | the name in errors, events, snapshots and `Debug` |
//!
//! # What counts
//!
//! The verdict, the classification of an outcome, decides:
//!
//! | outcome | counts as |
//! |---|---|
//! | [`Healthy`](crate::Verdict::Healthy) | a success |
//! | [`Transient`](crate::Verdict::Transient), [`Permanent`](crate::Verdict::Permanent), a panic of the inner service | a failure |
//! | [`Throttled`](crate::Verdict::Throttled), [`Local`](crate::Verdict::Local), [`Ignored`](crate::Verdict::Ignored) | nothing |
//! | [`TimedOut`](crate::Rejection::TimedOut) by a layer of this crate (the classifier is not asked) | a failure |
//! | [`DeadlinePassed`](crate::Rejection::DeadlinePassed) by a layer of this crate | a cancelled call, see below |
//! | another rejection by a layer of this crate | nothing |
//!
//! Only a failed or slow call opens the circuit, never a fast success. An outcome counts only if the
//! circuit has not changed its state since it let the call through: late outcomes change nothing. An
//! error of the inner service's `poll_ready` passes and counts as nothing, because there was no call.
//!
//! # Windows
//!
//! A time window advances by a tenth of its length. Its cost does not depend on the
//! number of calls. A count window holds exactly the last N calls if no two calls end at the same time.
//! If two do, a failure may count as a success for a moment.
//!
//! # Open times
//!
//! If the verdict that opens the circuit has a longer `retry_after` than the open time, the circuit
//! stays open for that long, up to `max_open_for`. With an `open_for` above 2^35 ms (1.09 years) the circuit
//! stays open until it is reset. Otherwise a probe may pass as soon as the open time ends: `state()`
//! returns half-open from then on, even if no call has come yet.
//!
//! # Shared state
//!
//! All services made by one layer value, and their clones, share its circuit. So a
//! server that applies its layers once per connection has one circuit.
//! [`CircuitBreakerLayer::new`] puts several layers on one circuit.
//!
//! # Readiness
//!
//! While the circuit is open, the service is ready at once, in order to reject the
//! call, and does not poll the inner service. A load balancer sees such an endpoint as the fastest
//! one and sends it more calls: below a balancer, give each endpoint its own breaker with
//! [`WhenOpen::NotReady`].
//!
//! `call` takes the probe, not `poll_ready`: a ready service that is never called holds none. The
//! `retry_after` of a rejection is measured when `poll_ready` finds the circuit open. A caller that
//! already waits for the inner service to become ready is not woken when the circuit opens: put
//! services that queue above the breaker, or a timeout around it.
//!
//! # Bodies
//!
//! By default a call ends when the response head arrives. With
//! [`until`](CircuitBreakerBuilder::until) it ends with the body: a body that fails is a failure,
//! and a body that is dropped before its end is a cancelled call. The head alone still decides a
//! probe; if that closes the circuit, the body counts as the body of any other call.
//!
//! # Errors
//!
//! [`Rejection::CircuitOpen`](crate::Rejection::CircuitOpen). Errors of the inner
//! service pass unchanged.
//!
//! # Cancellation
//!
//! A call counts as cancelled if its future is dropped or if the
//! [deadline](crate::deadline) of its request passes. A cancelled call that is younger than
//! `abandoned_after` counts as nothing, and its probe becomes free at once. An older one counts as
//! failed. So impatient callers do not open the circuit of a slow upstream. An upstream that hangs is
//! detected by the attempt timeout, which belongs inside the breaker.
//!
//! Raise `abandoned_after` if your callers stop healthy calls, such as long streams and calls of
//! language models.
//!
//! # Events and counters
//!
//! The target is `buttress::circuit_breaker`. `opened` (WARN),
//! `half_opened` and `closed` (INFO) are emitted once per transition; `rejected` (DEBUG) once per
//! rejected call.
//!
//! | event | fields |
//! |---|---|
//! | `opened`, `half_opened`, `closed` | `name`, `from`, `to`, `reason`, `calls`, `failures`, `slow_calls` |
//! | `rejected` | `name`, `retry_after_ms` |
//!
//! `from` and `to` are `closed`, `open`, `half_open`, `forced_open` or `forced_closed`. `reason` is
//! `failure_rate`, `slow_calls`, `consecutive_failures`, `open_time_over`, `probes_failed`,
//! `probes_succeeded`, `lease_lapsed`, `forced` or `reset`. The counts are those of the window; with
//! `probes_failed` and `probes_succeeded` they are those of the probes that have a result, and
//! `failures` includes the slow ones.
//!
//! [`Circuit::snapshot`] returns the state, the counts, and the rejections, probes and transitions
//! since the circuit was made.
//!
//! Only [`WhenOpen::NotReady`] needs a tokio runtime with time enabled.

mod breaker;
mod circuit;
mod count_window;
mod keyed;
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
pub use keyed::{KeyedCircuitBreakerLayer, MakeCircuit};
pub use layer::{
    CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerFuture, CircuitBreakerLayer, Guarded,
    Watch,
};
pub use permit::{Judged, Permit};
pub use settings::{CircuitBreakerSettings, SlowCalls, WhenOpen, Window};
