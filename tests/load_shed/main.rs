//! Load shed, through its handle and as a Tower service.

#[path = "../support/events.rs"]
mod events;
#[path = "../support/strict.rs"]
mod strict;

mod limit;
mod queue;
mod readiness;
mod seeing;
mod slot;

use buttress::load_shed::LoadShed;
use buttress::{LoadShedLayer, Name, Rejection, StackError};
use std::future::Future;
use std::time::Duration;
use strict::Strict;
use tokio_test::assert_ready_err;
use tokio_test::task::Spawn;
use tower::{BoxError, Layer};
use tower_test::mock::{self, Handle};

const SECOND: Duration = Duration::from_secs(1);

/// A layer with a queue of this length, in which a call waits for up to a second.
fn queueing(limit: usize, len: usize) -> LoadShedLayer {
    let builder = LoadShedLayer::builder(limit).queue(len, SECOND);
    builder.build().unwrap()
}

fn around_strict(layer: &LoadShedLayer) -> (LoadShed<Strict>, Handle<u32, u32>) {
    let (inner, handle) = mock::pair();
    (layer.layer(inner), handle)
}

/// The rejection that the call returns when it is polled.
fn rejection<F>(call: &mut Spawn<F>) -> Option<Rejection>
where
    F: Future<Output = Result<u32, BoxError>>,
{
    assert_ready_err!(call.poll()).rejection()
}

const OVERLOADED: Option<Rejection> = Some(Rejection::Overloaded {
    limit: 1,
    by: Name::UNNAMED,
});
