//! Injects faults on purpose: delays, outcomes of your own, and calls that never end.
//!
//! Use it to see what your timeouts, retries and circuits do before an upstream shows you: in tests, on a staging
//! system, or in production for a small share of the calls and a short time. It is off until you switch it on.
//!
//! ```
//! use buttress::chaos::Delay;
//! use buttress::{ChaosLayer, ErrorLayer, TimeoutLayer};
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let faults = ChaosLayer::builder()
//!     .latency(0.05, Delay::uniform(Duration::from_millis(50)..Duration::from_millis(200)))
//!     .outcome(0.01, |_: &&str| Err("injected"))
//!     .hang(1.0);
//! let layer = faults.build().unwrap();
//! let chaos = layer.chaos().clone();
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(Duration::from_secs(1)))
//!     .layer(ErrorLayer)
//!     .layer(layer)
//!     .service(service_fn(|_: &str| async { Ok("response") }));
//!
//! assert_eq!(service.clone().oneshot("request").await, Ok("response"));
//! chaos.for_the_next(Duration::from_secs(60));
//! assert!(service.oneshot("request").await.unwrap_err().to_string().contains("timeout"));
//! assert_eq!(chaos.snapshot().hang, 1);
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `latency` | 0 | the share of the answers that come later, and how much later: [`Delay`] |
//! | `latency_before` | 0 | the share of the calls that are sent later, by a fresh clone |
//! | `outcome` | 0 | the share of the calls that end with an outcome of your own, and that outcome |
//! | `hang` | 0 | the share of the calls that never end |
//! | `only` | all | which requests may get faults |
//! | `per` | the number of the call | what the draws depend on, if not on the number of the call |
//! | `seed` | random | makes the faults repeatable |
//! | `max_active` | no limit | the calls with a fault at once; a call beyond it gets none |
//! | `mark` | `()`, nowhere | marks responses: [`InExtensions`](crate::http::InExtensions) puts [`Injected`] into HTTP responses |
//! | `name` | none | the name in events and snapshots |
//!
//! A share is from 0, never, to 1, always. Each kind of fault has a draw of its own, so a call can get several: it is
//! sent later, then ends with your outcome or that of the call, and then its answer is delayed. A call that hangs gets
//! nothing else. Calls that hang or get your outcome are not sent.
//!
//! With a seed, the faults of the n-th call are the same in each run, whatever the threads. Which request is the n-th may
//! differ: if that matters, use `per`.
//!
//! # Switching
//!
//! The handle [`Chaos`] switches the faults [on](Chaos::on), [off](Chaos::off), or on
//! [for some time](Chaos::for_the_next), and changes the shares. A [`Registry`](crate::observe::Registry) that lists the
//! handle shows it on its page, with buttons. [`HeaderChaosLayer`](crate::http::HeaderChaosLayer) injects faults into
//! single requests by a header.
//!
//! # Order of layers
//!
//! Innermost, right above the client, and below `ErrorLayer`: what it injects is the client's own response or error, so
//! everything above is tested in earnest. It is no part of `stack()`: wrap the client before you give it to the stack.
//!
//! # Readiness
//!
//! That of the inner service. A call that is not sent, or sent later, does not use the readied instance: an unready clone
//! replaces it, so that it holds no permit of the layers below meanwhile.
//!
//! # Errors
//!
//! Those of the inner service, and those that you inject. It has none of its own.
//!
//! # Cancellation
//!
//! Dropping the future ends a delay, and drops the call. Delays need a tokio runtime with time enabled.
//!
//! # Events and counters
//!
//! Target `buttress::chaos`: `chaos_on` at WARN, with `name` and `for_ms` (absent if it has no end); `chaos_off` at INFO,
//! with `name`, but not when the time ends by itself; `injected` at INFO, with `name`, `fault` (`latency`,
//! `latency_before`, `outcome`, `hang`) and `delay_ms`. The counters are in [`ChaosSnapshot`].
//!
//! # Cost
//!
//! Off: one load. On, each call takes the next number and draws for each share above 0.

mod handle;
mod layer;
mod service;
mod settings;

pub use handle::{Chaos, ChaosSnapshot};
pub use layer::{ChaosBuilder, ChaosLayer};
pub use service::{ChaosFuture, ChaosService};
pub use settings::{Delay, Fault};

use std::time::Duration;

/// Marks a response of a call with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// `Outcome`, or else `Latency`.
    pub fault: Fault,
    /// All delays of the call together.
    pub delay: Duration,
}

/// Makes the outcomes that are injected. Functions from `&Req` to a result implement it; `()` makes none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot make an outcome for a `{Req}`",
    note = "a function must take `&{Req}` and return `Result<{Res}, {E}>`"
)]
pub trait Inject<Req, Res, E> {
    /// The outcome for this request.
    fn inject(&self, req: &Req) -> Option<Result<Res, E>>;
}

impl<Req, Res, E> Inject<Req, Res, E> for () {
    fn inject(&self, _: &Req) -> Option<Result<Res, E>> {
        None
    }
}

impl<F: Fn(&Req) -> Result<Res, E>, Req, Res, E> Inject<Req, Res, E> for F {
    fn inject(&self, req: &Req) -> Option<Result<Res, E>> {
        Some(self(req))
    }
}

/// Says which requests may get faults. Functions from `&Req` to `bool` implement it; `()` allows all.
pub trait Only<Req> {
    /// Whether this request may get faults.
    fn only(&self, req: &Req) -> bool;
}

impl<Req> Only<Req> for () {
    fn only(&self, _: &Req) -> bool {
        true
    }
}

impl<F: Fn(&Req) -> bool, Req> Only<Req> for F {
    fn only(&self, req: &Req) -> bool {
        self(req)
    }
}

/// What the draws of a call depend on. Functions from `&Req` to `u64` implement it; `()` stands for the number of the
/// call.
pub trait Per<Req> {
    /// The number of this request, or `None` for the number of the call.
    fn key(&self, req: &Req) -> Option<u64>;
}

impl<Req> Per<Req> for () {
    fn key(&self, _: &Req) -> Option<u64> {
        None
    }
}

impl<F: Fn(&Req) -> u64, Req> Per<Req> for F {
    fn key(&self, req: &Req) -> Option<u64> {
        Some(self(req))
    }
}

/// Marks responses. `()` does nothing, [`InExtensions`](crate::http::InExtensions) marks HTTP responses.
#[diagnostic::on_unimplemented(message = "`{Self}` cannot mark a `{Res}`")]
pub trait Mark<Res> {
    /// Called for each response of a call with a fault.
    fn mark(&self, response: &mut Res, injected: Injected);
}

impl<Res> Mark<Res> for () {
    fn mark(&self, _: &mut Res, _: Injected) {}
}
