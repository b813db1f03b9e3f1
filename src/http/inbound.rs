use super::deadline::InExtensions;
use crate::deadline::{Carrier, Deadline};
use http::{HeaderMap, HeaderName, Request};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::futures::TaskLocalFuture;
use tower::{Layer, Service};

tokio::task_local! {
    static DEADLINE: Deadline;
}

/// Gives each inbound request of a *server* a [`Deadline`], so that its handler and the calls that the
/// handler makes end when the caller has stopped waiting.
///
/// The caller may send the time that it waits in a header, in milliseconds. The deadline is that time
/// from now, and at most `max`. Only digits count, at most 8 of them; of several headers the smallest
/// counts. Without a readable header, the deadline is `max` from now. An earlier deadline of the request or
/// of the task stays.
///
/// The handler finds the deadline in two places:
///
/// * in the extensions of its request, from which it can copy the deadline into its own requests;
/// * around its task: a stack with the carrier [`InTask`] finds the deadline there without any help.
///
/// The layer itself ends no call. A [`TimeoutLayer`](crate::TimeoutLayer) below it, with the carrier
/// [`InExtensions`], does.
///
/// ```
/// use buttress::http::{InTask, InboundDeadlineLayer, stack};
/// use http::{Request, Response};
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let upstream = service_fn(|_: Request<()>| async {
///     tokio::time::sleep(Duration::from_secs(60)).await;
///     Ok::<_, Infallible>(Response::new(()))
/// });
/// let client = stack().carrier(InTask).service(upstream)?;
/// let handler = service_fn(move |_: Request<()>| {
///     let call = client.clone().oneshot(Request::new(()));
///     async { Ok::<_, Infallible>(call.await.unwrap_err().to_string()) }
/// });
///
/// let server = ServiceBuilder::new()
///     .layer(InboundDeadlineLayer::new(Duration::from_secs(10)))
///     .service(handler);
/// let request = Request::get("/").header("x-request-timeout-ms", "250").body(())?;
/// let start = tokio::time::Instant::now();
/// assert_eq!(server.oneshot(request).await?, "deadline passed at timeout");
/// assert_eq!(start.elapsed(), Duration::from_millis(250));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct InboundDeadlineLayer {
    max: Duration,
    header: HeaderName,
    parse: fn(&[u8]) -> Option<Duration>,
}

impl InboundDeadlineLayer {
    /// At most `max` for each request, from when the layer receives it. `Duration::MAX` means no limit
    /// for requests without the header. The header is `x-request-timeout-ms`.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        let header = HeaderName::from_static("x-request-timeout-ms");
        Self::with(max, header, milliseconds)
    }

    pub(crate) const fn with(
        max: Duration,
        header: HeaderName,
        parse: fn(&[u8]) -> Option<Duration>,
    ) -> Self {
        Self { max, header, parse }
    }

    /// The header with the caller's time in milliseconds. Default: `x-request-timeout-ms`.
    #[must_use]
    pub fn header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    fn time(&self, headers: &HeaderMap) -> Duration {
        let values = headers.get_all(&self.header).into_iter();
        let readable = values.filter_map(|value| (self.parse)(value.as_bytes()));
        readable.min().map_or(self.max, |time| time.min(self.max))
    }
}

/// At most 8 digits, which are 27 hours.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || value.len() > 8 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let millis = value
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(Duration::from_millis(millis))
}

impl<S> Layer<S> for InboundDeadlineLayer {
    type Service = InboundDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InboundDeadline {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`InboundDeadlineLayer`] makes.
#[derive(Clone, Debug)]
pub struct InboundDeadline<S> {
    inner: S,
    layer: InboundDeadlineLayer,
}

impl<S, B> Service<Request<B>> for InboundDeadline<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TaskLocalFuture<Deadline, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> Self::Future {
        let mut deadline = Deadline::after(self.layer.time(req.headers()));
        if let Some(found) = InTask.get(&req) {
            deadline = deadline.min(found);
        }
        InExtensions.set(&mut req, deadline);
        // The handler may make calls before its future is polled.
        let call = DEADLINE.sync_scope(deadline, || self.inner.call(req));
        DEADLINE.scope(deadline, call)
    }
}

/// The [`Carrier`] for calls that a server makes while it handles a request: as [`InExtensions`], but no
/// later than the deadline of the task.
///
/// [`InboundDeadlineLayer`] sets the deadline of the task, and so does [`scope`](Self::scope). It does not
/// cross `tokio::spawn`, nor a layer that moves calls to another task, such as tower's `Buffer`: copy the
/// deadline into the request there.
#[derive(Clone, Copy, Debug, Default)]
pub struct InTask;

impl InTask {
    /// The deadline of this task, if it has one.
    #[must_use]
    pub fn deadline() -> Option<Deadline> {
        DEADLINE.try_with(|deadline| *deadline).ok()
    }

    /// Runs `work` with a deadline for the calls that it makes, for servers other than HTTP servers. A
    /// scope within a scope keeps the earlier deadline.
    ///
    /// ```
    /// use buttress::{Deadline, http::InTask};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let soon = Deadline::after(Duration::from_secs(1));
    /// let seen = InTask::scope(soon, async { InTask::deadline() }).await;
    /// assert_eq!(seen, Some(soon));
    /// # }
    /// ```
    pub async fn scope<F: Future>(deadline: Deadline, work: F) -> F::Output {
        let outer = Self::deadline().unwrap_or(Deadline::NEVER);
        DEADLINE.scope(deadline.min(outer), work).await
    }
}

fn earlier(found: Option<Deadline>) -> Option<Deadline> {
    match (found, InTask::deadline()) {
        (Some(found), Some(of_task)) => Some(found.min(of_task)),
        (found, of_task) => found.or(of_task),
    }
}

impl<B> Carrier<Request<B>> for InTask {
    fn get(&self, request: &Request<B>) -> Option<Deadline> {
        earlier(InExtensions.get(request))
    }

    fn set(&self, request: &mut Request<B>, deadline: Deadline) {
        InExtensions.set(request, deadline);
    }

    fn timeout(&self, request: &Request<B>) -> Option<Duration> {
        InExtensions.timeout(request)
    }
}

/// Only the deadline of the task, because the extensions of reqwest's requests are private.
#[cfg(feature = "reqwest")]
impl Carrier<reqwest::Request> for InTask {
    fn get(&self, _: &reqwest::Request) -> Option<Deadline> {
        InTask::deadline()
    }

    fn set(&self, _: &mut reqwest::Request, _: Deadline) {}
}
