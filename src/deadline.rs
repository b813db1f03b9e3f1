//! Deadlines: the moment by which a call must end, and how it travels with the request.
//!
//! Use a deadline so that no layer waits for a result that would come too late. A
//! [`timeout`](crate::timeout) with a [`Carrier`] puts its deadline into the request. The layers
//! below that have a carrier read it there, and so can your own services.
//!
//! A deadline stays in this process. To tell the upstream, send [`Deadline::remaining`] in a header.
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
//! # Settings
//!
//! A layer without a carrier neither reads nor sets a deadline.
//!
//! | layer | setting | what it does with the deadline in the request |
//! |---|---|---|
//! | [`timeout`](crate::timeout) | `carrier` | ends the call at the deadline, if that is before its own; if it has passed, does not call the inner service |
//! | [`retry`](crate::retry) | none for `Idempotent`; [`Within`](crate::retry::Within) for other policies | gives up at once if the next attempt would start too late |
//! | [`load_shed`](crate::load_shed) | `carrier` | waits in the queue until the deadline at most |
//! | [`rate_limit`](crate::rate_limit) | `carrier` | rejects at once, and takes nothing, if the call's turn (its permit) would come too late |
//! | [`circuit_breaker`](crate::circuit_breaker) | none needed | treats a call that its deadline ended as a call that its caller cancelled |
//!
//! **The earlier deadline wins.** A timeout replaces a later deadline by its own, and keeps an
//! earlier one. So a caller who puts a deadline into its request can get less time than the layers
//! allow, but never more. The deadline of one attempt ends with the attempt: the copy that retry
//! sends next carries the deadline of the whole call.
//!
//! **A deadline has passed** as soon as its instant is reached. A timeout then rejects the call
//! without a timer, and does not call the inner service. The other layers check the deadline only
//! when a call would have to wait: a call with a free turn or slot goes on to the timeout below. Only
//! a timeout ends a call in flight, so deadlines need at least one timeout with a carrier.
//!
//! **Readiness.** A deadline does not limit `poll_ready`, because there is no request yet. A timeout
//! subtracts the time that readiness took from its own time.
//!
//! # Errors
//!
//! * The timeout that set the deadline returns [`TimedOut`](crate::Rejection::TimedOut).
//! * A timeout that found the deadline in the request returns
//!   [`DeadlinePassed`](crate::Rejection::DeadlinePassed). So does a retry that can no longer be sent
//!   in time. This is not a failure of the upstream and is not retried.
//! * Rate limit and load shed return [`RateLimited`](crate::Rejection::RateLimited) and
//!   [`Overloaded`](crate::Rejection::Overloaded).
//!
//! # Events and counters
//!
//! A deadline has none of its own. The layers report it: `timed_out`, `deadline_passed`, and the
//! reason `deadline` of `gave_up` and `overloaded` ([all events](crate::event)).

use std::time::Duration;
use tokio::time::Instant;

use crate::time::later;

/// The moment by which a call must end, on tokio's clock.
///
/// Deadlines are ordered by time, so `min` returns the one that applies. The [module page](self) says
/// which layers read a deadline.
///
/// ```
/// use buttress::Deadline;
/// use std::time::Duration;
///
/// let soon = Deadline::after(Duration::from_millis(300));
/// assert_eq!(soon.min(Deadline::NEVER), soon);
/// assert!(soon.remaining() <= Duration::from_millis(300));
///
/// // One HTTP call with less time than the layers allow:
/// let mut request = http::Request::get("/orders/7").body(())?;
/// request.extensions_mut().insert(soon);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Until);

// The variants' order matters: `Never` is later than any instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Until {
    At(Instant),
    Never,
}

impl Deadline {
    /// A deadline that never passes.
    pub const NEVER: Self = Self(Until::Never);

    /// A deadline at this instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(Until::At(instant))
    }

    /// A deadline `wait` from now. From 30 years on it is [`NEVER`](Self::NEVER).
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self::from(Instant::now(), wait)
    }

    /// The instant of the deadline. `None` for [`NEVER`](Self::NEVER).
    #[must_use]
    pub const fn instant(&self) -> Option<Instant> {
        match self.0 {
            Until::At(instant) => Some(instant),
            Until::Never => None,
        }
    }

    /// The time from now to the deadline: zero if it has passed, [`Duration::MAX`] for
    /// [`NEVER`](Self::NEVER).
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

    /// Whether something that starts `wait` after `now` would start at the deadline or later.
    pub(crate) fn rules_out(self, now: Instant, wait: Duration) -> bool {
        self.instant()
            .is_some_and(|instant| instant.saturating_duration_since(now) <= wait)
    }

    /// When a timer must fire. `None` if the deadline is too far away for a timer.
    pub(crate) fn end(self, now: Instant) -> Option<Instant> {
        later(now, self.remaining_at(now)).and(self.instant())
    }
}

/// Reads and sets the [`Deadline`] that a request carries.
///
/// [`InExtensions`](crate::http::InExtensions) is the carrier for HTTP requests. `()` carries
/// nothing; it is the default of every layer. For requests of your own, implement this trait:
///
/// ```
/// use buttress::{Carrier, Deadline};
///
/// # #[derive(Debug)]
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
///
/// let mut query = Query { text: "orders".into(), deadline: None };
/// InQuery.set(&mut query, Deadline::NEVER);
/// assert_eq!(InQuery.get(&query), Some(Deadline::NEVER));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` finds no deadline in a `{Req}`",
    note = "`buttress::http::InExtensions` is for `http::Request<B>` and, with the feature `reqwest` of buttress, for requests of reqwest 0.13; for other requests implement `buttress::Carrier`"
)]
pub trait Carrier<Req> {
    /// Whether requests can carry a deadline. If not, timeouts need not read the clock when they are
    /// called. Default: `true`.
    const CARRIES: bool = true;

    /// Returns the deadline that the request carries.
    fn get(&self, req: &Req) -> Option<Deadline>;

    /// Sets the deadline that the request carries. It replaces any earlier one.
    fn set(&self, req: &mut Req, deadline: Deadline);

    /// Returns the attempt timeout that the request carries. Only timeouts that are built with
    /// [`per_request`](crate::timeout::TimeoutBuilder::per_request) ask for it; they apply it in
    /// place of their own. Default: none.
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
