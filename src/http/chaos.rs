use super::InExtensions;
use crate::chaos::{Fault, Injected, Mark};
use crate::error::InvalidConfig;
use crate::event::{Event, Observe, Observers};
use crate::name::Name;
use crate::secret::Secret;
use http::header::HeaderName;
use http::{HeaderValue, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

impl<B> Mark<Response<B>> for InExtensions {
    fn mark(&self, response: &mut Response<B>, injected: Injected) {
        response.extensions_mut().insert(injected);
    }
}

#[cfg(feature = "reqwest")]
impl Mark<reqwest::Response> for InExtensions {
    fn mark(&self, response: &mut reqwest::Response, injected: Injected) {
        response.extensions_mut().insert(injected);
    }
}

/// Injects faults into the requests that ask for them in a header, and know a secret. Put it right above the client.
///
/// The header is `SECRET;delay=200ms;status=503` or `SECRET;hang`, with one or both of `delay` (in `ms` or `s`) and
/// `status`. A call with a status or with `hang` is not sent. The header is always removed before a request is sent.
/// With a wrong secret or an unknown fault, nothing is injected, and the event `chaos_refused` (WARN, target
/// `buttress::chaos`) says so. Each fault is an event `injected`, as those of a `ChaosLayer`, without a name. Responses are
/// marked with [`Injected`]. The secret is compared in constant time.
///
/// ```
/// use buttress::http::HeaderChaosLayer;
/// use http::{HeaderName, Request, Response};
/// use std::convert::Infallible;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let header = HeaderName::from_static("x-chaos");
/// let layer = HeaderChaosLayer::new(header, "not-a-real-secret-7").unwrap();
/// let service = layer.layer(service_fn(|_: Request<()>| async {
///     Ok::<_, Infallible>(Response::new(()))
/// }));
///
/// let request = Request::get("/").header("x-chaos", "not-a-real-secret-7;delay=200ms;status=503");
/// let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
/// assert_eq!(response.status(), 503);
/// # }
/// ```
///
/// # Errors and cancellation
///
/// Errors of the client pass unchanged. Dropping the future ends a delay.
#[derive(Clone)]
pub struct HeaderChaosLayer {
    header: HeaderName,
    secret: Secret,
    observers: Observers,
}

impl HeaderChaosLayer {
    /// Reads faults from `header`.
    ///
    /// # Errors
    /// The secret has fewer than 16 bytes, other characters than visible ASCII, or a `;`.
    pub fn new(header: HeaderName, secret: impl AsRef<str>) -> Result<Self, InvalidConfig> {
        let secret = secret.as_ref();
        if secret.contains(';') {
            return Err(InvalidConfig::new("secret", "one with a `;`", "no `;`"));
        }
        Ok(Self {
            header,
            secret: Secret::new("secret", secret)?,
            observers: Observers::default(),
        })
    }

    /// Adds an observer of the events of all services of this layer. It cannot be removed.
    pub fn observe(&self, observer: impl Observe + 'static) {
        self.observers.add(Arc::new(observer));
    }

    /// Counts the events of this layer through the facade `metrics` (feature `metrics`). The
    /// [module `metrics`](crate::metrics) lists the metrics. It cannot be switched off.
    #[cfg(feature = "metrics")]
    pub fn metrics(&self) {
        self.observers.add(crate::metrics::Events::observer());
    }

    /// The faults that a header asks for. `None` if it must be refused.
    fn faults(&self, value: &HeaderValue) -> Option<Asked> {
        let mut parts = value.as_bytes().split(|byte| *byte == b';');
        if !self.secret.is(parts.next()?) {
            return None;
        }
        let mut asked = Asked::default();
        for part in parts {
            let part = std::str::from_utf8(part).ok()?.trim();
            match part.split_once('=') {
                None if part == "hang" => asked.hang = true,
                Some(("delay", delay)) => asked.delay = delay_of(delay)?,
                Some(("status", status)) => asked.status = Some(status.parse().ok()?),
                _ => return None,
            }
        }
        Some(asked)
    }
}

fn delay_of(text: &str) -> Option<Duration> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(millis) = text.strip_suffix("ms").filter(|text| digits(text)) {
        return Some(Duration::from_millis(millis.parse().ok()?));
    }
    let seconds = text.strip_suffix('s').filter(|text| digits(text))?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    delay: Duration,
    status: Option<StatusCode>,
    hang: bool,
}

impl Asked {
    fn tell(&self, observers: &Observers) {
        let tell = |fault: Fault, delay| {
            let (name, fault) = (Name::UNNAMED, fault.as_str());
            observers.tell(Event::Injected { name, fault, delay });
        };
        if self.hang {
            return tell(Fault::Hang, Duration::ZERO);
        }
        if !self.delay.is_zero() {
            tell(Fault::Latency, self.delay);
        }
        if self.status.is_some() {
            tell(Fault::Outcome, self.delay);
        }
    }
}

/// The service that [`HeaderChaosLayer`] makes.
#[derive(Clone, Debug)]
pub struct HeaderChaos<S> {
    inner: S,
    layer: HeaderChaosLayer,
}

impl<S> Layer<S> for HeaderChaosLayer {
    type Service = HeaderChaos<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HeaderChaos {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S, B, Out> Service<Request<B>> for HeaderChaos<S>
where
    S: Service<Request<B>, Response = Response<Out>> + Clone,
    Out: Default,
{
    type Response = Response<Out>;
    type Error = S::Error;
    type Future = HeaderChaosFuture<S::Future, Result<Response<Out>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> Self::Future {
        let mut asked = Asked::default();
        if let Some(value) = req.headers_mut().remove(&self.layer.header) {
            if let Some(faults) = self.layer.faults(&value) {
                asked = faults;
            } else {
                tracing::event!(
                    name: "chaos_refused", target: "buttress::chaos", tracing::Level::WARN,
                    "chaos_refused"
                );
            }
        }
        asked.tell(&self.layer.observers);
        if asked == Asked::default() {
            let call = self.inner.call(req);
            return HeaderChaosFuture {
                state: State::Plain { call },
            };
        }
        let sends = !asked.hang && asked.status.is_none();
        if !sends {
            // An unready clone takes the place of the readied instance, so that nothing stays reserved.
            self.inner = self.inner.clone();
        }
        let faulty = Faulty {
            call: sends.then(|| self.inner.call(req)),
            asked,
            after: None,
            outcome: None,
        };
        HeaderChaosFuture {
            state: State::Faulty {
                faulty: Box::pin(faulty),
            },
        }
    }
}

pin_project! {
    /// The future of a [`HeaderChaos`] call. A call with a fault allocates one box.
    #[must_use = "futures do nothing unless polled"]
    pub struct HeaderChaosFuture<F, T> {
        #[pin]
        state: State<F, T>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, T> {
        Plain {
            #[pin]
            call: F,
        },
        Faulty { faulty: Pin<Box<Faulty<F, T>>> },
    }
}

pin_project! {
    struct Faulty<F, T> {
        // `None` if the call is not sent.
        #[pin]
        call: Option<F>,
        asked: Asked,
        after: Option<Pin<Box<Sleep>>>,
        outcome: Option<T>,
    }
}

impl<F, E, Out> Future for HeaderChaosFuture<F, Result<Response<Out>, E>>
where
    F: Future<Output = Result<Response<Out>, E>>,
    Out: Default,
{
    type Output = Result<Response<Out>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Plain { call } => call.poll(cx),
            StateProj::Faulty { faulty } => faulty.as_mut().poll(cx),
        }
    }
}

impl<F, E, Out> Faulty<F, Result<Response<Out>, E>>
where
    F: Future<Output = Result<Response<Out>, E>>,
    Out: Default,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Response<Out>, E>> {
        let mut this = self.project();
        let Asked {
            delay,
            status,
            hang,
        } = *this.asked;
        if hang {
            return Poll::Pending;
        }
        if this.outcome.is_none() {
            // The call is sent at once. Its answer comes later.
            let outcome = if let Some(call) = this.call.as_mut().as_pin_mut() {
                ready!(call.poll(cx))
            } else {
                let mut response = Response::new(Out::default());
                *response.status_mut() = status.unwrap_or_default();
                Ok(response)
            };
            *this.outcome = Some(outcome);
            this.call.set(None);
        }
        if !delay.is_zero() {
            let after = this.after.get_or_insert_with(|| Box::pin(sleep(delay)));
            ready!(after.as_mut().poll(cx));
        }
        let mut outcome = this.outcome.take().expect(POLLED);
        if let Ok(response) = &mut outcome {
            let fault = if status.is_some() {
                Fault::Outcome
            } else {
                Fault::Latency
            };
            InExtensions.mark(response, Injected { fault, delay });
        }
        Poll::Ready(outcome)
    }
}

/// Does not show the secret.
impl fmt::Debug for HeaderChaosLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderChaosLayer")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<F, T> fmt::Debug for HeaderChaosFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderChaosFuture").finish_non_exhaustive()
    }
}

const POLLED: &str = "a future must not be polled after it was ready";
