//! The moment by which a call must have ended, and how it travels with the request.
//!
//! A timeout that is given a [`Carrier`] leaves its deadline in the request; the layers below that
//! are given one too, and your own services, find it there. So none of them waits for what would
//! come too late.
//!
//! ```
//! use buttress::http::InExtensions;
//! use buttress::{Deadline, TimeoutLayer};
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let second = Duration::from_secs(1);
//! let service = ServiceBuilder::new()
//!     .layer(TimeoutLayer::builder(second).carrier(InExtensions).build().unwrap())
//!     .layer(buttress::ErrorLayer)
//!     .service(service_fn(|request: http::Request<()>| async move {
//!         Ok::<_, Infallible>(request.extensions().get().map(Deadline::remaining))
//!     }));
//!
//! let left = service.oneshot(http::Request::new(())).await;
//! assert_eq!(left, Ok(Some(second)));
//! # }
//! ```
//!
//! | layer | how it is given a carrier | what it does with the deadline that it finds |
//! |---|---|---|
//! | [`timeout`](crate::timeout) | `carrier` | ends the call there if its own time ends later; calls nothing if it has passed |
//! | [`retry`](crate::retry) | none for `Idempotent`; [`Within`](crate::retry::Within) | gives up at once if the next attempt could not be sent before it |
//! | [`load_shed`](crate::load_shed) | `carrier` | waits in the queue no longer than to there |
//! | [`rate_limit`](crate::rate_limit) | `carrier` | rejects at once, and takes nothing, if the turn does not come before it |
//! | [`circuit_breaker`](crate::circuit_breaker) | not needed | takes a call that a deadline ended for one that its caller gave up |
//!
//! A layer without a carrier neither reads nor leaves a deadline.
//!
//! **Only ever earlier.** A timeout replaces a deadline that is later than its own and keeps one
//! that is earlier. A caller that puts a deadline into its request so gets less time than the
//! layers allow, never more. An attempt's own deadline stays in the attempt: the copy that retry
//! sends next carries that of the whole call.
//!
//! **A deadline that has passed** is decided without a timer. A timeout does not call the inner
//! service. The other layers look at the deadline only where they would have to wait: a call for
//! which there is a turn or a slot goes on to the timeout below. Only a timeout ends a call that is
//! under way, so a caller's deadline needs at least one with a carrier. An instant counts as passed
//! when it has come.
//!
//! **Readiness** is waited for before there is a request, so no deadline cuts that wait short. The
//! timeout takes it off its own time, as ever.
//!
//! **Who says so.** The timeout that set the deadline says [`TimedOut`](crate::Rejection::TimedOut).
//! One that found it says [`DeadlinePassed`](crate::Rejection::DeadlinePassed), which is no fault of
//! the callee's and is not retried. Rate limit and load shed say that they had no turn and no slot.

use std::time::Duration;
use tokio::time::Instant;

use crate::time::later;

/// The moment by which a call must have ended, on tokio's clock.
///
/// Ordered by time: the least of several is the one that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Until);

/// The order matters: never is later than any instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Until {
    At(Instant),
    Never,
}

impl Deadline {
    /// The deadline that never passes.
    pub const NEVER: Self = Self(Until::Never);

    /// That instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(Until::At(instant))
    }

    /// So long from now. What lies 30 years away or more is [`NEVER`](Self::NEVER).
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self::from(Instant::now(), wait)
    }

    /// The instant; `None` if it never comes.
    #[must_use]
    pub const fn instant(&self) -> Option<Instant> {
        match self.0 {
            Until::At(instant) => Some(instant),
            Until::Never => None,
        }
    }

    /// How long from now: zero once it has passed, [`Duration::MAX`] if it never does.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.remaining_at(Instant::now())
    }

    pub(crate) fn from(now: Instant, wait: Duration) -> Self {
        later(now, wait).map_or(Self::NEVER, Self::at)
    }

    pub(crate) fn remaining_at(self, now: Instant) -> Duration {
        self.instant().map_or(Duration::MAX, |instant| {
            instant.saturating_duration_since(now)
        })
    }

    /// Whether something that starts `wait` from `now` would start too late.
    pub(crate) fn rules_out(self, now: Instant, wait: Duration) -> bool {
        self.instant()
            .is_some_and(|instant| instant.saturating_duration_since(now) <= wait)
    }

    /// When to wake up for it. `None` for what lies ages away, where timers do not reach.
    pub(crate) fn end(self, now: Instant) -> Option<Instant> {
        later(now, self.remaining_at(now)).and(self.instant())
    }
}

/// Where requests carry their [`Deadline`].
///
/// [`InExtensions`](crate::http::InExtensions) is the carrier of HTTP requests. `()` carries
/// nothing, and is what layers have that are given no carrier. For other requests write one:
///
/// ```
/// use buttress::{Carrier, Deadline};
///
/// struct Query {
///     text: String,
///     deadline: Option<Deadline>,
/// }
///
/// #[derive(Clone)]
/// struct InQuery;
///
/// impl Carrier<Query> for InQuery {
///     fn get(&self, query: &Query) -> Option<Deadline> { query.deadline }
///     fn set(&self, query: &mut Query, deadline: Deadline) { query.deadline = Some(deadline) }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` finds no deadline in a `{Req}`",
    note = "`buttress::http::InExtensions` is for `http::Request<B>` and, with the feature `reqwest` of buttress, for requests of reqwest 0.13; for other requests implement `buttress::Carrier`"
)]
pub trait Carrier<Req> {
    /// Whether requests carry anything at all. Only `()` says no, which spares timeouts the clock.
    const CARRIES: bool = true;

    /// The deadline that the request carries.
    fn get(&self, req: &Req) -> Option<Deadline>;

    /// Makes the request carry this deadline, in place of any other.
    fn set(&self, req: &mut Req, deadline: Deadline);

    /// The timeout of one attempt that the request carries, asked for by timeouts that are built
    /// [`per_request`](crate::timeout::TimeoutBuilder::per_request). Default: none.
    fn timeout(&self, req: &Req) -> Option<Duration> {
        let _ = req;
        None
    }
}

impl<Req> Carrier<Req> for () {
    const CARRIES: bool = false;

    fn get(&self, _: &Req) -> Option<Deadline> {
        None
    }

    fn set(&self, _: &mut Req, _: Deadline) {}
}
