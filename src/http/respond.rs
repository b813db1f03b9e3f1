use crate::error::{Error, Rejection};
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tower::{Layer, Service};

impl Rejection {
    /// The status for the caller of *this* server, if one of its calls to an upstream was rejected.
    ///
    /// | rejection | status (RFC 9110 §15.6) |
    /// |---|---|
    /// | `TimedOut`, `DeadlinePassed` | 504 Gateway Timeout |
    /// | all others | 503 Service Unavailable |
    ///
    /// For the rejections of this server's own layers, use [`RespondLayer`].
    ///
    /// ```
    /// use buttress::{Name, Rejection};
    ///
    /// let full = Rejection::Overloaded { limit: 8, by: Name::UNNAMED };
    /// assert_eq!(full.status(), 503);
    /// ```
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TimedOut { .. } | Self::DeadlinePassed { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The response for the caller of *this* server, if one of its calls to an upstream was rejected:
    /// the [`status`](Self::status), a `Retry-After` in seconds if a time is known, and no body. It
    /// does not name the upstream.
    ///
    /// ```
    /// use buttress::{Name, Rejection};
    /// use std::time::Duration;
    ///
    /// let retry_after = Some(Duration::from_millis(4_200));
    /// let open = Rejection::CircuitOpen { retry_after, by: Name::new("payments") };
    /// let response = open.to_response::<String>();
    /// assert_eq!(response.status(), 503);
    /// assert_eq!(response.headers()["retry-after"], "5");
    /// ```
    #[must_use]
    pub fn to_response<B: Default>(&self) -> Response<B> {
        self.respond(self.status())
    }

    fn respond<B: Default>(&self, status: StatusCode) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let Some(wait) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response
    }

    /// The status if a layer of this server rejected the call.
    const fn own_status(self) -> StatusCode {
        match self {
            Self::RateLimited { .. } | Self::TooCostly { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Whole seconds, rounded up, so that nobody comes back too early. At least 1.
fn seconds(wait: Duration) -> u64 {
    let more = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(more).max(1)
}

/// Turns the rejections of a *server's* layers into responses.
///
/// Put it above the layers, and [`ErrorLayer`](crate::ErrorLayer) below them. The error of the whole
/// is then that of the service below, such as axum's `Infallible`.
///
/// | rejection | status |
/// |---|---|
/// | `RateLimited`, `TooCostly` | 429 Too Many Requests (RFC 6585 §4) |
/// | all others | 503 Service Unavailable |
///
/// A timeout is a 503, and not a 408: a 408 says that the request came too slowly, and some clients
/// send it again at once. `Retry-After` is there if the time is known: in whole seconds, rounded up, at
/// least 1. The body is empty, and nothing in the response names a layer.
///
/// ```
/// use buttress::http::RespondLayer;
/// use buttress::{ErrorLayer, LoadShedLayer, TimeoutLayer};
/// use http::{Request, Response};
/// use std::{convert::Infallible, time::Duration};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let service = ServiceBuilder::new()
///     .layer(RespondLayer::new())
///     .layer(TimeoutLayer::new(Duration::from_secs(5)))
///     .layer(LoadShedLayer::new(0)) // as if it were full
///     .layer(ErrorLayer)
///     .service(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::new())) }));
/// let response = service.oneshot(Request::new(())).await?; // the error is `Infallible`
/// assert_eq!(response.status(), 503);
/// # Ok(())
/// # }
/// ```
///
/// [`with`](Self::with) adds a body.
#[derive(Clone, Copy, Debug, Default)]
pub struct RespondLayer<R = ()> {
    respond: R,
}

impl RespondLayer {
    /// Responds without a body.
    #[must_use]
    pub const fn new() -> Self {
        Self { respond: () }
    }
}

impl<R> RespondLayer<R> {
    /// Responds as `respond` does.
    pub(crate) const fn by(respond: R) -> Self {
        Self { respond }
    }
}

impl<F> RespondLayer<With<F>> {
    /// Calls `change` with each rejection and its response, for instance to add a body.
    ///
    /// A problem document (RFC 9457):
    ///
    /// ```
    /// use buttress::Rejection;
    /// use buttress::http::RespondLayer;
    /// use http::{HeaderValue, Response, header};
    ///
    /// fn problem(_: &Rejection, response: &mut Response<String>) {
    ///     let status = response.status();
    ///     let title = status.canonical_reason().unwrap_or("rejected");
    ///     *response.body_mut() = format!(r#"{{"title":"{title}","status":{}}}"#, status.as_u16());
    ///     let json = HeaderValue::from_static("application/problem+json");
    ///     response.headers_mut().insert(header::CONTENT_TYPE, json);
    /// }
    ///
    /// let layer = RespondLayer::with(problem);
    /// # let _ = layer;
    /// ```
    ///
    /// The header `Content-Length` is left to the server then.
    pub const fn with(change: F) -> Self {
        Self::by(With(change))
    }
}

/// How [`RespondLayer`] responds to a rejection: `()` as it says, [`With`] with changes, and
/// `grpc::TrailersOnly` as gRPC does.
pub trait Respond<B> {
    /// Makes the response.
    fn respond(&self, rejection: &Rejection) -> Response<B>;
}

impl<B: Default> Respond<B> for () {
    fn respond(&self, rejection: &Rejection) -> Response<B> {
        rejection.respond(rejection.own_status())
    }
}

/// Changes the response, for [`RespondLayer::with`].
#[derive(Clone, Copy, Debug)]
pub struct With<F>(F);

impl<B, F> Respond<B> for With<F>
where
    F: Fn(&Rejection, &mut Response<B>),
    B: Default,
{
    fn respond(&self, rejection: &Rejection) -> Response<B> {
        let mut response = rejection.respond(rejection.own_status());
        response.headers_mut().remove(CONTENT_LENGTH);
        (self.0)(rejection, &mut response);
        response
    }
}

impl<S, R: Clone> Layer<S> for RespondLayer<R> {
    type Service = RespondService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RespondService {
            inner,
            respond: self.respond.clone(),
            rejected: None,
        }
    }
}

/// The service that [`RespondLayer`] makes.
#[derive(Debug)]
pub struct RespondService<S, R = ()> {
    inner: S,
    respond: R,
    /// Why `poll_ready` of the inner service failed.
    rejected: Option<Rejection>,
}

impl<S: Clone, R: Clone> Clone for RespondService<S, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            respond: self.respond.clone(),
            rejected: None,
        }
    }
}

impl<S, R, Req, B, E> Service<Req> for RespondService<S, R>
where
    S: Service<Req, Response = Response<B>, Error = Error<E>>,
    R: Respond<B> + Clone,
{
    type Response = Response<B>;
    type Error = E;
    type Future = RespondFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.rejected = None;
        match ready!(self.inner.poll_ready(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Error::Service(error)) => Poll::Ready(Err(error)),
            Err(Error::Rejected(rejection)) => {
                self.rejected = Some(rejection);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, req: Req) -> Self::Future {
        RespondFuture {
            state: match self.rejected.take() {
                Some(rejection) => State::Rejected { rejection },
                None => State::Calling {
                    call: self.inner.call(req),
                },
            },
            respond: self.respond.clone(),
        }
    }
}

pin_project! {
    /// The future of a [`RespondService`] call.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct RespondFuture<C, R = ()> {
        #[pin]
        state: State<C>,
        respond: R,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProj]
    enum State<C> {
        Calling {
            #[pin]
            call: C,
        },
        Rejected { rejection: Rejection },
    }
}

impl<C, R, B, E> Future for RespondFuture<C, R>
where
    C: Future<Output = Result<Response<B>, Error<E>>>,
    R: Respond<B>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let rejection = match this.state.project() {
            StateProj::Rejected { rejection } => *rejection,
            StateProj::Calling { call } => match ready!(call.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(Error::Service(error)) => return Poll::Ready(Err(error)),
                Err(Error::Rejected(rejection)) => rejection,
            },
        };
        Poll::Ready(Ok(this.respond.respond(&rejection)))
    }
}
