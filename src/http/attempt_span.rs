use super::head::ResponseHead;
use super::{Attempt, ClientError, InExtensions};
use crate::deadline::{Carrier, Deadline};
use http::Request;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower::{Layer, Service};
use tracing::Span;
use tracing::field::Empty;

/// Makes a [tracing span](tracing::Span) for each attempt. Put it right around the client, below the retry.
///
/// The span `attempt` has the level INFO and the target `buttress::http`. It is entered whenever the client is
/// polled, so spans and events of the client are inside it. Its fields have the names of
/// [OpenTelemetry](https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client):
///
/// | field | value |
/// |---|---|
/// | `otel.kind` | `client` |
/// | `http.request.method` | the method |
/// | `server.address`, `server.port` | host and port of the URI; the port only if the URI has one |
/// | `http.request.resend_count` | 1 for the first retry; absent in first attempts, and for reqwest |
/// | `http.response.status_code` | the status, if there was a response |
/// | `error.type` | absent after a status below 400; else the status, or the [`Verdict`](crate::Verdict) on the client's error in lower case; `timed_out` if the request's deadline passed; `cancelled` if the attempt was dropped before |
///
/// The requests of reqwest carry neither the number of the attempt nor the deadline.
///
/// ```
/// use buttress::http::{AttemptSpanLayer, stack};
/// use std::convert::Infallible;
/// use tower::{Layer, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let client = service_fn(|_: http::Request<()>| async {
///     tracing::info!("inside the span `attempt`");
///     Ok::<_, Infallible>(http::Response::new(()))
/// });
/// let service = stack().name("orders").service(AttemptSpanLayer.layer(client)).unwrap();
/// service.oneshot(http::Request::new(())).await.unwrap();
/// # }
/// ```
///
/// # Errors and cancellation
///
/// Passes all outcomes on. The span ends with the head of the response, or when the attempt is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttemptSpanLayer;

/// The service that [`AttemptSpanLayer`] makes.
#[derive(Clone, Debug)]
pub struct AttemptSpan<S> {
    inner: S,
}

impl<S> Layer<S> for AttemptSpanLayer {
    type Service = AttemptSpan<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AttemptSpan { inner }
    }
}

/// A request that a span can describe.
pub trait Described: sealed::Sealed {}

impl<T: sealed::Sealed> Described for T {}

mod sealed {
    use super::{Deadline, Span};

    pub trait Sealed {
        fn span(&self) -> Span;
        fn deadline(&self) -> Option<Deadline>;
    }
}

fn span(method: &http::Method, host: Option<&str>, port: Option<u16>, attempt: u32) -> Span {
    tracing::info_span!(
        target: "buttress::http",
        "attempt",
        otel.kind = "client",
        http.request.method = method.as_str(),
        server.address = host,
        server.port = port,
        http.request.resend_count = (attempt > 1).then(|| attempt - 1),
        http.response.status_code = Empty,
        error.type = Empty,
    )
}

impl<B> sealed::Sealed for Request<B> {
    fn span(&self) -> Span {
        let attempt = Attempt::of(self.extensions()).number();
        span(
            self.method(),
            self.uri().host(),
            self.uri().port_u16(),
            attempt,
        )
    }

    fn deadline(&self) -> Option<Deadline> {
        InExtensions.get(self)
    }
}

#[cfg(feature = "reqwest")]
impl sealed::Sealed for reqwest::Request {
    fn span(&self) -> Span {
        span(self.method(), self.url().host_str(), self.url().port(), 1)
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

impl<S, Req> Service<Req> for AttemptSpan<S>
where
    S: Service<Req, Response: ResponseHead, Error: ClientError>,
    Req: Described,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AttemptSpanFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        let in_flight = InFlight {
            span: req.span(),
            deadline: req.deadline(),
            ended: false,
        };
        let inner = in_flight.span.in_scope(|| self.inner.call(req));
        AttemptSpanFuture { inner, in_flight }
    }
}

pin_project! {
    /// The future of an [`AttemptSpan`] call.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct AttemptSpanFuture<F> {
        // Dropped after `inner`.
        #[pin]
        inner: F,
        in_flight: InFlight,
    }
}

#[derive(Debug)]
struct InFlight {
    span: Span,
    deadline: Option<Deadline>,
    ended: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.ended {
            let timed_out = self.deadline.is_some_and(|it| it.remaining().is_zero());
            let error = if timed_out { "timed_out" } else { "cancelled" };
            self.span.record("error.type", error);
        }
    }
}

impl<F, Res, E> Future for AttemptSpanFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    Res: ResponseHead,
    E: ClientError,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let InFlight { span, ended, .. } = this.in_flight;
        let outcome = ready!(span.in_scope(|| this.inner.poll(cx)));
        *ended = true;
        match &outcome {
            Ok(response) => {
                let status = response.status();
                span.record("http.response.status_code", status.as_u16());
                if status.is_client_error() || status.is_server_error() {
                    span.record("error.type", status.as_str());
                }
            }
            Err(error) => _ = span.record("error.type", error.verdict().as_str()),
        }
        Poll::Ready(outcome)
    }
}
