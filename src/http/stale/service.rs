use super::body::{StaleBody, Tape, aged};
use super::handle::Stale;
use super::rules::{self, Key};
use super::store::Kept;
use crate::error::{Rejection, StackError};
use crate::http::Degraded;
use crate::verdict::{Classify, Verdict, judge};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Instant;
use tower::Service;

/// The service that [`StaleLayer`](super::StaleLayer) makes.
#[derive(Clone)]
pub struct StaleService<S, C> {
    inner: S,
    stale: Stale,
    classify: Arc<C>,
}

impl<S, C> StaleService<S, C> {
    pub(super) const fn new(inner: S, stale: Stale, classify: Arc<C>) -> Self {
        Self {
            inner,
            stale,
            classify,
        }
    }
}

/// What is remembered of a request.
struct Asked {
    key: Key,
    /// Its method and headers, if its response may be kept and it may be answered by one.
    head: Option<Request<()>>,
    changes: bool,
}

impl<S, C, B, Out> Service<Request<B>> for StaleService<S, C>
where
    S: Service<Request<B>, Response = Response<Out>>,
    S::Error: StackError,
    C: Classify<Response<Out>, S::Error>,
    Out: Body<Data = Bytes>,
{
    type Response = Response<StaleBody<Out>>;
    type Error = S::Error;
    type Future = StaleFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, req: Request<B>) -> Self::Future {
        let takes_part = rules::takes_part(&req, self.stale.shared.authorized);
        let changes = rules::changes(req.method());
        let asked = (takes_part || changes).then(|| Asked {
            key: rules::key(&req),
            head: takes_part.then(|| head(req.headers())),
            changes,
        });
        StaleFuture {
            call: self.inner.call(req),
            asked,
            stale: self.stale.clone(),
            classify: self.classify.clone(),
        }
    }
}

fn head(headers: &HeaderMap) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = Method::GET;
    headers.clone_into(head.headers_mut());
    head
}

pin_project! {
    /// The future of a [`StaleService`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct StaleFuture<F, C> {
        #[pin]
        call: F,
        asked: Option<Asked>,
        stale: Stale,
        classify: Arc<C>,
    }
}

impl<F, C, E, Out> Future for StaleFuture<F, C>
where
    F: Future<Output = Result<Response<Out>, E>>,
    E: StackError,
    C: Classify<Response<Out>, E>,
    Out: Body<Data = Bytes>,
{
    type Output = Result<Response<StaleBody<Out>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = ready!(this.call.poll(cx));
        let verdict = judge(&**this.classify, outcome.as_ref());
        let rejection = outcome.as_ref().err().and_then(StackError::rejection);
        let asked = this.asked.take();
        if failed(verdict, rejection) {
            if let Some(kept) =
                asked.and_then(|asked| this.stale.answer(&asked, verdict, rejection))
            {
                // Drops the failed response, which may hold a connection or a slot.
                drop(outcome);
                return Poll::Ready(Ok(kept));
            }
            return Poll::Ready(outcome.map(|res| res.map(|body| StaleBody::upstream(body, None))));
        }
        this.stale.shared.well();
        Poll::Ready(outcome.map(|res| match asked {
            Some(asked) => this.stale.note(asked, verdict, res),
            None => res.map(|body| StaleBody::upstream(body, None)),
        }))
    }
}

/// Whether a call is answered by a kept response. After `DeadlinePassed` nobody waits any more.
fn failed(verdict: Verdict, rejection: Option<Rejection>) -> bool {
    match rejection {
        Some(rejection) => !matches!(rejection, Rejection::DeadlinePassed { .. }),
        None => matches!(
            verdict,
            Verdict::Transient { .. } | Verdict::Throttled { .. }
        ),
    }
}

impl Stale {
    /// The response for a failed call, if one is kept.
    fn answer<Out: Body<Data = Bytes>>(
        &self,
        asked: &Asked,
        verdict: Verdict,
        because: Option<Rejection>,
    ) -> Option<Response<StaleBody<Out>>> {
        let kept = self
            .shared
            .find(&asked.key, asked.head.as_ref()?.headers())?;
        let mut response = Response::new(StaleBody::kept(kept.body.clone()));
        let (headers, age) = aged(&kept);
        *response.headers_mut() = headers;
        *response.version_mut() = kept.version;
        let mark = Degraded {
            because,
            age: Some(age),
        };
        response.extensions_mut().insert(mark);
        self.shared.served(verdict, age);
        Some(response)
    }

    /// Looks at a response of the upstream: keeps it, or forgets the one before.
    fn note<Out: Body<Data = Bytes>>(
        &self,
        asked: Asked,
        verdict: Verdict,
        response: Response<Out>,
    ) -> Response<StaleBody<Out>> {
        let shared = &self.shared;
        let status = response.status();
        let plain = |response: Response<Out>| response.map(|body| StaleBody::upstream(body, None));
        if verdict != Verdict::Healthy || status == http::StatusCode::NOT_MODIFIED {
            return plain(response);
        }
        let Some(req) = asked.head else {
            // RFC 9111 §4.4: what the request changed is no longer what was kept.
            if asked.changes && (status.is_success() || status.is_redirection()) {
                shared.forget_all(asked.key);
            }
            return plain(response);
        };
        let headers = response.headers();
        let Some((usable, varied)) = rules::keeps(&req, status, headers, shared.stale_for) else {
            shared.forget(&asked.key);
            return plain(response);
        };
        let length = response.body().size_hint().lower();
        if length > shared.max_body as u64 {
            shared.forget(&asked.key);
            return plain(response);
        }
        let tape = Tape {
            shared: shared.clone(),
            key: asked.key,
            kept: Kept {
                headers: rules::kept(headers),
                version: response.version(),
                body: Bytes::new(),
                varied,
                at: Instant::now(),
                age: rules::age(headers),
                usable,
            },
            // It grows as the body comes: an announced length may be a lie.
            bytes: Vec::new(),
        };
        response.map(|body| StaleBody::upstream(body, Some(tape)))
    }
}

impl<S: fmt::Debug, C> fmt::Debug for StaleService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaleService")
            .field("inner", &self.inner)
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

impl<F, C> fmt::Debug for StaleFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaleFuture").finish_non_exhaustive()
    }
}
