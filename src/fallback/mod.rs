//! Answers a failed call in another way: with a function of yours, or by a second service.
//!
//! Use it where a poorer answer is better than none: a default, a smaller result, another provider. Do not use it to
//! hide that an upstream is down: count the answers.
//!
//! ```
//! use buttress::fallback::Failed;
//! use buttress::retry::Cloned;
//! use buttress::{ErrorLayer, Error, FallbackLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! type Fails = Failed<&'static str, String, Error<&'static str>>;
//!
//! let fallback = FallbackLayer::new(|failed: Fails| async move {
//!     Ok(format!("no {} today", failed.req.unwrap_or("news")))
//! });
//! let layer = fallback.replay(Cloned).name("news");
//! let service = ServiceBuilder::new()
//!     .layer(layer.clone())
//!     .layer(ErrorLayer)
//!     .service(service_fn(|_: &'static str| async { Err::<String, _>("down") }));
//!
//! assert_eq!(service.oneshot("sports").await, Ok("no sports today".to_owned()));
//! assert!(layer.snapshot().degraded);
//! # }
//! ```
//!
//! [`StackBuilder::fallback`](crate::http::StackBuilder::fallback) puts it into the recommended stack.
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `new` or `to` | required | a function of [`Failed`], or a second service with the same types |
//! | `both` | [`Last`]: the second error | the error of the call, if the second service fails too |
//! | `when` | see below | which calls the fallback answers |
//! | `classify` | `Ok` is healthy (a success), `Err` is transient | turns an outcome into its [`Verdict`] |
//! | `replay` | [`Idempotent`](crate::retry::Idempotent), for HTTP requests only | copies requests, and decides whether a copy may be sent |
//! | `mark` | `()`, nowhere | marks the answers: [`InExtensions`](crate::http::InExtensions) puts [`Degraded`](crate::http::Degraded) into HTTP responses |
//! | `name` | none | the name in events and snapshots |
//!
//! # Which calls it answers
//!
//! Those with the verdict [`Transient`](crate::Verdict::Transient) or [`Throttled`](crate::Verdict::Throttled), and
//! those that a layer of this crate rejected, with one exception: after
//! [`DeadlinePassed`](crate::Rejection::DeadlinePassed) nobody waits for an answer any more.
//!
//! The second service of [`FallbackLayer::to`] gets the request only if
//!
//! * the replay policy copied it, and allows to send it again after this verdict, or the request was certainly not sent;
//! * its deadline has not passed, if the replay policy finds one.
//!
//! Otherwise the call ends with the outcome it has. A function gets the copy whether it may be sent again or not.
//!
//! # Order of layers
//!
//! Put it right inside the timeout of the whole call, outside all other layers. Inside a retry it would hide the
//! failures, so that nothing is retried. Inside a circuit breaker it would make a failing upstream look healthy.
//!
//! The answer must fit into what the failed call left of the deadline. If the first call may use all of it, put a
//! second timeout right inside, which ends earlier. The stack for HTTP does so.
//!
//! # Readiness
//!
//! That of the inner service. A fresh clone of the second service is readied when it is needed.
//!
//! # Errors
//!
//! The inner service's errors, if the fallback does not answer. Errors of a function or of the second service are
//! returned as they are. There is no fallback of a fallback. The function sees the first outcome and
//! can keep it in its error; for a second service, `both` gets both errors.
//!
//! # Cancellation
//!
//! Dropping the future drops the call or its answer. The call is dropped, and gives back what it holds below, before
//! the fallback is asked.
//!
//! # Events and counters
//!
//! Target `buttress::fallback`: `fell_back` at DEBUG for each call, with `name`, `verdict` and `rejected_by` (the layer
//! that rejected the call, if one did); at INFO `degraded` when the first call after a success falls back, with `name`
//! and `verdict`, and `restored` when the next call succeeds, with `name`. The counters are in [`FallbackSnapshot`].

mod answer;
mod layer;
mod seen;
mod service;

pub use answer::{Answer, Both, Failed, Last, To, ToFuture};
pub use layer::FallbackLayer;
pub use seen::FallbackSnapshot;
pub use service::{Fallback, FallbackFuture};

use crate::error::Rejection;
use crate::verdict::Verdict;

/// Marks an answer as degraded. `()` does nothing, [`InExtensions`](crate::http::InExtensions) marks HTTP responses.
#[diagnostic::on_unimplemented(message = "`{Self}` cannot mark a `{Res}`")]
pub trait Mark<Res> {
    /// `because`: the rejection that ended the first call, if one did.
    fn mark(&self, response: &mut Res, because: Option<Rejection>);
}

impl<Res> Mark<Res> for () {
    fn mark(&self, _: &mut Res, _: Option<Rejection>) {}
}

/// The default of `when`.
fn if_failed(verdict: Verdict, rejection: Option<Rejection>) -> bool {
    match rejection {
        Some(rejection) => !matches!(rejection, Rejection::DeadlinePassed { .. }),
        None => matches!(
            verdict,
            Verdict::Transient { .. } | Verdict::Throttled { .. }
        ),
    }
}

const POLLED: &str = "a future must not be polled after it was ready";
