//! Only one attempt reads the body at a time; bodies that fail.

use super::{
    BoxError, DiskGone, Part, Polled, Reading, Streaming, body_of, data, error, kept, read, rest,
    streaming, text,
};
use buttress::Replay;
use buttress::http::{Idempotent, ReplayBody};
use buttress::retry::Cloned;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio_test::{assert_pending, task};

const SUPERSEDED: &str = "the request body is sent by a newer attempt";

// One reader at a time

#[test]
fn a_superseded_attempt_fails_instead_of_ending_its_body() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    sender.try_send(Ok(data("to "))).unwrap();
    rest(&mut older);
    assert!(Idempotent.replayable(&copy));
    assert_eq!(error(read(&mut older)), SUPERSEDED);
}

#[test]
fn a_superseded_attempt_that_waits_is_woken() {
    let (_sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    assert_pending!(read(&mut older));
    assert!(Idempotent.replayable(&copy));
    assert!(older.is_woken());
}

#[test]
fn without_replayable_the_first_poll_of_the_newer_attempt_ends_the_older_one() {
    let (_sender, body) = streaming();
    let request = kept(64, body);
    let copy = Cloned.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    assert_pending!(read(&mut older));
    assert_pending!(read(&mut task::spawn(copy.into_body())));
    assert!(older.is_woken());
    assert_eq!(error(read(&mut older)), SUPERSEDED);
}

#[test]
fn a_superseded_attempt_reads_nothing_before_the_next_one_starts() {
    let (sender, body) = streaming();
    let request = kept(1, body);
    let mut copy = Idempotent.replay(&request).unwrap();
    // The older attempt is not polled yet, as if its connection were busy.
    let mut older = task::spawn(request.into_body());
    assert!(Idempotent.replayable(&copy));
    sender.try_send(Ok(data("to be"))).unwrap();
    assert_eq!(error(read(&mut older)), SUPERSEDED);
    Idempotent.resend(&mut copy, 2);
    assert_eq!(text(rest(&mut task::spawn(copy.into_body()))), "to be");
}

#[test]
fn a_copy_that_cannot_be_sent_does_not_disturb_the_current_attempt() {
    let (sender, body) = streaming();
    let request = kept(1, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut reading = task::spawn(request.into_body());
    sender.try_send(Ok(data("to "))).unwrap();
    rest(&mut reading);
    assert!(!Idempotent.replayable(&copy));
    assert!(read(&mut task::spawn(copy.into_body())).is_ready());
    sender.try_send(Ok(data("be"))).unwrap();
    assert_eq!(text(rest(&mut reading)), "be");
}

#[test]
fn without_replayable_a_copy_of_a_body_that_is_too_long_fails() {
    let request = kept(1, body_of(&["to be"]));
    let copy = Cloned.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(
        error(read(&mut task::spawn(copy.into_body()))),
        "the request body cannot be sent again: more was sent of it than is kept"
    );
}

#[test]
fn a_reader_that_moves_to_another_task_is_woken_there() {
    let (sender, body) = streaming();
    let mut reading = task::spawn(kept(64, body).into_body());
    assert_pending!(read(&mut reading));
    let mut moved = task::spawn(reading.into_inner());
    assert_pending!(read(&mut moved));
    sender.try_send(Ok(data("to be"))).unwrap();
    assert!(moved.is_woken());
}

#[test]
fn a_newer_reader_that_waits_is_woken_by_new_data() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    assert_pending!(read(&mut older));
    let mut newer = task::spawn(copy.into_body());
    assert_pending!(read(&mut newer));
    sender.try_send(Ok(data("to be"))).unwrap();
    assert!(newer.is_woken());
}

/// A body that a second reader polls while the first one is inside its own poll.
struct Reentrant {
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
    frame: Poll<Option<Part>>,
}

impl Body for Reentrant {
    type Data = Bytes;
    type Error = DiskGone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DiskGone>>> {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        std::mem::replace(&mut self.frame, Poll::Pending)
    }
}

type Newer = Arc<Mutex<Option<Reading<Reentrant>>>>;

/// Lets a second reader poll the body while the first one is polling it. Returns what the first one
/// read, and the second reader.
fn overlapping(keep: usize, frame: Poll<Option<Part>>) -> (Polled, Reading<Reentrant>) {
    let newer = Newer::default();
    let inside = newer.clone();
    let meanwhile = move || {
        assert_pending!(read(inside.lock().unwrap().as_mut().unwrap()));
    };
    let request = kept(
        keep,
        Reentrant {
            meanwhile: Some(Box::new(meanwhile)),
            frame,
        },
    );
    let copy = Cloned.replay(&request).unwrap();
    *newer.lock().unwrap() = Some(task::spawn(copy.into_body()));
    let polled = read(&mut task::spawn(request.into_body()));
    let newer = newer.lock().unwrap().take().unwrap();
    (polled, newer)
}

#[test]
fn a_reader_that_arrives_while_the_body_is_polled_is_woken_after_that_poll() {
    for frame in [
        Poll::Pending,
        Poll::Ready(None),
        Poll::Ready(Some(Ok(data("to be")))),
        Poll::Ready(Some(Err(DiskGone))),
    ] {
        let case = format!("{frame:?}");
        let (_, newer) = overlapping(64, frame);
        assert!(newer.is_woken(), "{case}");
    }
}

#[test]
fn a_reader_superseded_inside_its_poll_ends_with_an_error() {
    for frame in [
        Poll::Pending,
        Poll::Ready(None),
        Poll::Ready(Some(Ok(data("to be")))),
        Poll::Ready(Some(Err(DiskGone))),
    ] {
        let (polled, _) = overlapping(64, frame);
        assert_eq!(error(polled), SUPERSEDED);
    }
}

#[test]
fn what_a_superseded_reader_read_is_not_lost_however_long() {
    let (_, mut newer) = overlapping(1, Poll::Ready(Some(Ok(data("to be")))));
    assert_eq!(text(rest(&mut newer)), "to be");
}

#[test]
fn two_threads_that_read_at_once_lose_nothing_and_do_not_hang() {
    for _ in 0..200 {
        let (sender, body) = streaming();
        let request = kept(64, body);
        let copy = Cloned.replay(&request).unwrap();
        let readers = [request, copy].map(|request| {
            let body = request.into_body();
            std::thread::spawn(|| whole(body))
        });
        for part in ["to ", "be ", "or ", "not"] {
            sender.try_send(Ok(data(part))).unwrap();
            std::thread::yield_now();
        }
        drop(sender);
        let got = readers.map(|reader| reader.join().unwrap());
        // The last reader gets the whole body.
        assert!(got.iter().flatten().any(|body| body == "to be or not"));
    }
}

/// Reads the whole body on a runtime of its own.
fn whole(body: ReplayBody<Streaming>) -> Result<Bytes, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    runtime.block_on(async { Ok(body.collect().await?.to_bytes()) })
}

// Bodies that fail

#[test]
fn an_error_of_the_body_is_passed_on_unchanged() {
    let (sender, body) = streaming();
    sender.try_send(Err(DiskGone)).unwrap();
    let polled = read(&mut task::spawn(kept(64, body).into_body()));
    let Poll::Ready(Some(Err(error))) = polled else {
        panic!("no error: {polled:?}");
    };
    assert!(error.is::<DiskGone>());
}

#[test]
fn a_body_that_failed_cannot_be_sent_again() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    sender.try_send(Err(DiskGone)).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert!(!Idempotent.replayable(&copy));
}

#[test]
fn a_body_that_panics_leaves_no_reader_waiting() {
    let request = kept(
        64,
        Reentrant {
            meanwhile: Some(Box::new(|| panic!("in the body"))),
            frame: Poll::Pending,
        },
    );
    let copy = Cloned.replay(&request).unwrap();
    let mut older = task::spawn(request.into_body());
    let poll = std::panic::AssertUnwindSafe(|| read(&mut older));
    std::panic::catch_unwind(poll).unwrap_err();
    let polled = read(&mut task::spawn(copy.into_body()));
    assert_eq!(
        error(polled),
        "the request body cannot be sent again: it failed"
    );
}

#[test]
fn the_body_is_dropped_with_its_last_handle() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let extensions = request.extensions().clone();
    drop(request);
    assert!(sender.is_closed());
    drop(extensions);
}

#[test]
fn a_replay_body_of_a_send_body_is_send_sync_and_unpin() {
    fn shared<T: Send + Sync + Unpin>() {}
    shared::<ReplayBody<Streaming>>();
}
