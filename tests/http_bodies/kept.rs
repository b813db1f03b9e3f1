//! What is kept of a request body, and how the body is framed.

use super::{body_of, data, framing, kept, read, rest, streaming, text, trailers};
use buttress::Replay;
use buttress::http::{Idempotent, ReplayBodyLayer};
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full, StreamBody};
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_test::{assert_ready, task};
use tower::{Layer, Service, service_fn};

// What is kept

#[test]
fn a_copy_sends_the_same_data() {
    let request = kept(64, body_of(&["to ", "be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(text(rest(&mut task::spawn(copy.into_body()))), "to be");
}

#[test]
fn a_copy_sends_the_same_trailers() {
    let request = kept(64, body_of(&["to be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    let last = rest(&mut task::spawn(copy.into_body())).pop().unwrap();
    assert_eq!(last.unwrap().into_trailers().unwrap(), trailers());
}

#[test]
fn a_copy_replays_what_was_sent_and_then_continues() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    sender.try_send(Ok(data("to "))).unwrap();
    rest(&mut task::spawn(request.into_body()));
    sender.try_send(Ok(data("be"))).unwrap();
    assert_eq!(text(rest(&mut task::spawn(copy.into_body()))), "to be");
}

#[test]
fn a_copy_made_halfway_starts_at_the_beginning() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let _copy = Idempotent.replay(&request).unwrap();
    sender.try_send(Ok(data("to "))).unwrap();
    let mut reading = task::spawn(request.into_body());
    rest(&mut reading);
    let copy = reading.clone();
    sender.try_send(Ok(data("be"))).unwrap();
    assert_eq!(text(rest(&mut task::spawn(copy))), "to be");
}

#[test]
fn the_bytes_are_kept_in_memory_only_once() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    let sent = Bytes::from(vec![7; 32]);
    let place = sent.as_ptr();
    sender.try_send(Ok(Frame::data(sent))).unwrap();
    for request in [request, copy] {
        let Poll::Ready(Some(Ok(frame))) = read(&mut task::spawn(request.into_body())) else {
            panic!("nothing to read");
        };
        assert_eq!(frame.into_data().unwrap().as_ptr(), place);
    }
}

#[test]
fn nothing_is_kept_of_a_request_without_a_copy() {
    let (sender, body) = streaming();
    let mut reading = task::spawn(kept(64, body).into_body());
    let sent = Bytes::from(vec![7; 32]);
    sender.try_send(Ok(Frame::data(sent.clone()))).unwrap();
    rest(&mut reading);
    assert!(sent.is_unique());
}

#[test]
fn the_kept_bytes_are_released_when_the_body_is_too_long() {
    let (sender, body) = streaming();
    let request = kept(40, body);
    let _copy = Idempotent.replay(&request).unwrap();
    let mut reading = task::spawn(request.into_body());
    let sent = Bytes::from(vec![7; 32]);
    for _ in 0..2 {
        sender.try_send(Ok(Frame::data(sent.clone()))).unwrap();
    }
    rest(&mut reading);
    assert!(sent.is_unique());
}

#[test]
fn a_body_that_is_too_long_is_still_streamed() {
    let request = kept(4, body_of(&["to be ", "or not ", "to be"]));
    let _copy = Idempotent.replay(&request).unwrap();
    let sent = text(rest(&mut task::spawn(request.into_body())));
    assert_eq!(sent, "to be or not to be");
}

/// Whether a body with five bytes of data and 14 bytes of trailers can be replayed after it was
/// sent.
fn repeats(keep: usize) -> bool {
    let request = kept(keep, body_of(&["to ", "be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    Idempotent.replayable(&copy)
}

#[test]
fn a_body_exactly_as_long_as_the_limit_can_be_sent_again() {
    assert!(repeats(19));
}

#[test]
fn a_body_whose_trailers_are_one_byte_too_long_cannot_be_sent_again() {
    assert!(!repeats(18));
}

#[test]
fn a_body_in_very_many_parts_counts_as_too_long() {
    for (parts, repeated) in [(1_024, true), (1_025, false)] {
        let part = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")));
        let body = StreamBody::new(tokio_stream::iter((0..parts).map(move |_| part())));
        let request = kept(64 * 1024, body);
        let copy = Idempotent.replay(&request).unwrap();
        let mut reading = task::spawn(request.into_body());
        // The stream yields to other tasks from time to time.
        let read = (0..100)
            .map(|_| text(rest(&mut reading)).len())
            .sum::<usize>();
        assert_eq!(read, parts);
        assert_eq!(Idempotent.replayable(&copy), repeated, "{parts}");
    }
}

#[test]
fn a_body_of_which_nothing_was_read_can_be_sent_again_whatever_its_size() {
    let request = kept(0, body_of(&["to be"]));
    let copy = Idempotent.replay(&request).unwrap();
    drop(request);
    assert!(Idempotent.replayable(&copy));
}

#[test]
fn by_default_64_kib_are_kept() {
    for (len, repeated) in [(65_536, true), (65_537, false)] {
        let hand_out = service_fn(|request| ready(Ok::<_, Infallible>(request)));
        let mut service = ReplayBodyLayer::default().layer(hand_out);
        let body = Full::new(Bytes::from(vec![7; len]));
        let mut call = task::spawn(service.call(Request::new(body)));
        let request = assert_ready!(call.poll()).unwrap();
        let copy = Idempotent.replay(&request).unwrap();
        rest(&mut task::spawn(request.into_body()));
        assert_eq!(Idempotent.replayable(&copy), repeated, "{len}");
    }
}

#[test]
fn empty_data_is_not_kept() {
    let (sender, body) = streaming();
    let request = kept(64, body);
    let copy = Idempotent.replay(&request).unwrap();
    for frame in [data(""), data("to be"), data("")] {
        sender.try_send(Ok(frame)).unwrap();
    }
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(rest(&mut task::spawn(copy.into_body())).len(), 1);
}

// Framing

#[test]
fn each_attempt_reports_the_length_of_the_whole_body() {
    let request = kept(64, Full::new(Bytes::from("to be")));
    let copy = Idempotent.replay(&request).unwrap();
    let mut reading = task::spawn(request.into_body());
    assert_eq!(framing(&reading), (false, Some(5)));
    rest(&mut reading);
    assert_eq!(framing(copy.body()), (false, Some(5)));
}

#[test]
fn the_remaining_length_shrinks_to_zero() {
    let request = kept(64, Full::new(Bytes::from("to be")));
    let copy = Idempotent.replay(&request).unwrap();
    for request in [request, copy] {
        let mut reading = task::spawn(request.into_body());
        assert_ready!(read(&mut reading)).unwrap().unwrap();
        assert_eq!(framing(&reading), (true, Some(0)));
    }
}

#[test]
fn an_empty_body_is_at_its_end_from_the_start() {
    let request = kept(64, Empty::<Bytes>::new());
    let copy = Idempotent.replay(&request).unwrap();
    for request in [request, copy] {
        assert_eq!(framing(request.body()), (true, Some(0)));
    }
}

#[test]
fn a_body_of_unknown_length_has_no_length_in_any_attempt() {
    let request = kept(64, body_of(&["to be"]));
    let copy = Idempotent.replay(&request).unwrap();
    rest(&mut task::spawn(request.into_body()));
    assert_eq!(framing(copy.body()), (false, None));
}

#[test]
fn a_body_longer_than_its_size_hint_does_not_panic() {
    struct WrongSizeHint(u8);
    impl Body for WrongSizeHint {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            Poll::Ready((self.0 <= 2).then(|| Ok(data("more"))))
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(5)
        }
    }
    let mut reading = task::spawn(kept(64, WrongSizeHint(0)).into_body());
    rest(&mut reading);
    assert_eq!(reading.size_hint().exact(), Some(0));
}
