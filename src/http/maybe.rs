//! A layer that may be left out, without a box and without a cost.

use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Applies the layer, if there is one.
pub(super) fn maybe<L: Layer<S>, S>(layer: Option<&L>, service: S) -> Maybe<L::Service, S> {
    match layer {
        Some(layer) => Maybe::With(layer.layer(service)),
        None => Maybe::Without(service),
    }
}

/// A service with a layer around it, or without.
#[derive(Clone, Debug)]
pub enum Maybe<A, B> {
    With(A),
    Without(B),
}

impl<A, B, Req> Service<Req> for Maybe<A, B>
where
    A: Service<Req>,
    B: Service<Req, Response = A::Response, Error = A::Error>,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = MaybeFuture<A::Future, B::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::With(service) => service.poll_ready(cx),
            Self::Without(service) => service.poll_ready(cx),
        }
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        match self {
            Self::With(service) => MaybeFuture::With {
                call: service.call(req),
            },
            Self::Without(service) => MaybeFuture::Without {
                call: service.call(req),
            },
        }
    }
}

pin_project! {
    #[project = MaybeProj]
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub enum MaybeFuture<A, B> {
        With {
            #[pin]
            call: A,
        },
        Without {
            #[pin]
            call: B,
        },
    }
}

impl<A, B> Future for MaybeFuture<A, B>
where
    A: Future,
    B: Future<Output = A::Output>,
{
    type Output = A::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            MaybeProj::With { call } => call.poll(cx),
            MaybeProj::Without { call } => call.poll(cx),
        }
    }
}
