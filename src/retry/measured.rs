//! The retry of a stack, which measures its calls if `metrics` is on. Without the feature it adds nothing.

use super::discard::{Discard, Dropped};
use super::layer::RetryLayer;
use super::service::{Retry, RetryFuture};
use crate::error::StackError;
use crate::metrics::Moment;
use crate::replay::{Idempotent, Replay};
use crate::verdict::{Classify, Outcome};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{Layer, Service};

#[derive(Debug)]
pub struct Measured<S, C = Outcome, R = Idempotent, D = Dropped> {
    retry: Retry<S, C, R, D>,
}

impl<S: Clone, C, R, D> Measured<S, C, R, D> {
    /// With the retry of `layer`, or with none.
    pub(crate) fn new(layer: Option<&RetryLayer<C, R, D>>, inner: S) -> Self
    where
        C: Clone,
        R: Clone,
        D: Clone,
    {
        let retry = match layer {
            Some(layer) => layer.layer(inner),
            None => Retry::off(inner),
        };
        Self { retry }
    }
}

impl<S: Clone, C, R, D> Clone for Measured<S, C, R, D> {
    fn clone(&self) -> Self {
        Self {
            retry: self.retry.clone(),
        }
    }
}

impl<S, C, R, D, Req> Service<Req> for Measured<S, C, R, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MeasuredFuture<S, C, R, Req, D>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.retry.poll_ready(cx)
    }

    fn call(&mut self, req: Req) -> Self::Future {
        MeasuredFuture {
            since: self.retry.now(),
            call: self.retry.call(req),
        }
    }
}

pin_project! {
    pub struct MeasuredFuture<S, C, R, Req, D>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        #[pin]
        call: RetryFuture<S, C, R, Req, D>,
        // When the call began, until its first attempt has ended.
        since: Moment,
    }

    impl<S, C, R, Req, D> PinnedDrop for MeasuredFuture<S, C, R, Req, D>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        fn drop(this: Pin<&mut Self>) {
            if this.since.is_some() {
                this.call.cancelled(this.since);
            }
        }
    }
}

impl<S, C, R, Req, D> Future for MeasuredFuture<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.call.poll_since(this.since, cx)
    }
}
