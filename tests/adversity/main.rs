//! Callers, subscribers, classifiers and clocks that misbehave at the worst moment.

mod clocks;
mod deadlines;
mod futures;
mod panics;
mod threads;
#[cfg(feature = "http-body")]
mod until_body_end;

use buttress::Error;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Fine;

impl Service<()> for Fine {
    type Response = ();
    type Error = Error<Infallible>;
    type Future = Ready<Result<(), Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}
