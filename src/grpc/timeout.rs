use crate::deadline::Carrier;
use crate::http::{InExtensions, InboundDeadlineLayer};
use crate::time::nanos;
use http::{HeaderName, HeaderValue, Request};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Tells the upstream how much time is left: writes the header `grpc-timeout` from the
/// [`Deadline`](crate::Deadline) in the request's extensions, at the moment when the call is sent.
///
/// A shorter `grpc-timeout` that is there already stays. Put the layer right above the client, below a
/// timeout. [`grpc::service`](super::service) does.
///
/// A client may end the call by a timer of its own: tonic's channel reads the header, and reports
/// `CANCELLED`. So an error that comes within 2 ms of the deadline waits for the timeout above, which
/// reports `DEADLINE_EXCEEDED`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeoutHeaderLayer;

/// The service that [`TimeoutHeaderLayer`] makes.
#[derive(Clone, Debug)]
pub struct TimeoutHeader<S> {
    inner: S,
}

impl<S> Layer<S> for TimeoutHeaderLayer {
    type Service = TimeoutHeader<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutHeader { inner }
    }
}

impl<S, B> Service<Request<B>> for TimeoutHeader<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TimeoutHeaderFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut req: Request<B>) -> Self::Future {
        let deadline = InExtensions
            .get(&req)
            .filter(|deadline| deadline.instant().is_some());
        if let Some(deadline) = deadline {
            let left = deadline.remaining();
            let found = req.headers().get(&GRPC_TIMEOUT);
            let found = found.and_then(|value| parse(value.as_bytes()));
            if found.is_none_or(|found| left < found) {
                req.headers_mut().insert(&GRPC_TIMEOUT, print(left));
            }
        }
        TimeoutHeaderFuture {
            call: self.inner.call(req),
            deadline: deadline.and_then(|deadline| deadline.instant()),
            late: None,
        }
    }
}

pin_project! {
    /// The future of a [`TimeoutHeader`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct TimeoutHeaderFuture<F, E> {
        #[pin]
        call: F,
        deadline: Option<Instant>,
        late: Option<Late<E>>,
    }
}

/// An outcome that came at the deadline, and waits for the timeout above. If there is none, the outcome is
/// returned 10 ms after the deadline.
#[derive(Debug)]
pub(super) struct Late<T> {
    outcome: Option<T>,
    sleep: Pin<Box<Sleep>>,
}

impl<T> Late<T> {
    /// How early a timer elsewhere may be, because of rounding and the resolution of timers.
    const EARLY: Duration = Duration::from_millis(2);
    const GRACE: Duration = Duration::from_millis(10);

    /// Returns the outcome at once if the deadline is not here yet.
    pub(super) fn new(outcome: T, deadline: Option<Instant>) -> Result<Self, T> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let Some(deadline) = deadline.filter(|deadline| left(*deadline) <= Self::EARLY) else {
            return Err(outcome);
        };
        let end = deadline.checked_add(Self::GRACE).unwrap_or(deadline);
        Ok(Self {
            outcome: Some(outcome),
            sleep: Box::pin(sleep_until(end)),
        })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        ready!(self.sleep.as_mut().poll(cx));
        Poll::Ready(self.outcome.take().expect("polled after it was ready"))
    }
}

impl<F, Res, E> Future for TimeoutHeaderFuture<F, E>
where
    F: Future<Output = Result<Res, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(late) = this.late {
            return late.poll(cx).map(Err);
        }
        let error = match ready!(this.call.poll(cx)) {
            Err(error) => error,
            done => return Poll::Ready(done),
        };
        match Late::new(error, *this.deadline) {
            Ok(late) => this.late.insert(late).poll(cx).map(Err),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<F, E> fmt::Debug for TimeoutHeaderFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutHeaderFuture")
            .finish_non_exhaustive()
    }
}

/// Gives each inbound call of a gRPC server the deadline of its `grpc-timeout`, at most `max` from now.
/// See [`InboundDeadlineLayer`] for where the handler and its own calls find it.
///
/// ```
/// use buttress::grpc::inbound_deadline;
/// use std::time::Duration;
///
/// let layer = inbound_deadline(Duration::from_secs(30));
/// # let _ = layer;
/// ```
#[must_use]
pub fn inbound_deadline(max: Duration) -> InboundDeadlineLayer {
    InboundDeadlineLayer::with(max, GRPC_TIMEOUT.clone(), parse)
}

/// The units of `grpc-timeout`, in nanoseconds.
const UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// At most 8 digits and a unit.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (_, nanos) = UNITS.iter().find(|(letter, _)| letter == unit)?;
    let number = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let nanos = u128::from(number) * u128::from(*nanos);
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// In the finest unit that 8 digits can hold. Rounded down, so that the upstream never has more time than
/// there is; but at least 1 ns, because 0 is not positive.
fn print(left: Duration) -> HeaderValue {
    // At most 5 124 095 hours.
    let nanos = nanos(left).max(1);
    let fits = |(_, unit): &&(u8, u64)| nanos / unit < 100_000_000;
    let (letter, unit) = UNITS.iter().find(fits).expect("hours fit");
    let mut number = nanos / unit;
    let mut text = [*letter; 9];
    let mut start = text.len() - 1;
    while number > 0 {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    HeaderValue::from_bytes(&text[start..]).expect("digits and a letter")
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_timeout_is_eight_digits_and_a_unit() {
        for (value, expected) in [
            ("1n", Some(Duration::from_nanos(1))),
            ("250000u", Some(Duration::from_millis(250))),
            ("100m", Some(Duration::from_millis(100))),
            ("00000007S", Some(Duration::from_secs(7))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999H", Some(Duration::from_secs(359_999_996_400))),
            ("0S", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("7", None),
            ("7s", None),
            ("-7S", None),
            ("+7S", None),
            ("1.5S", None),
            (" 7S", None),
            ("123456789m", None),
        ] {
            assert_eq!(parse(value.as_bytes()), expected, "{value:?}");
        }
        assert_eq!(print(Duration::MAX), "5124095H");
        assert_eq!(print(Duration::ZERO), "1n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_no_more_than_is_left(nanos in any::<u64>()) {
            let left = Duration::from_nanos(nanos);
            let read = parse(print(left).as_bytes()).unwrap();
            prop_assert!(read <= left.max(Duration::from_nanos(1)));
            // 8 digits hold at least 6 places of every time.
            prop_assert!(left.saturating_sub(read) <= left / 100_000 + Duration::from_nanos(1));
        }

        #[test]
        fn no_timeout_panics(value in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _read = parse(&value);
        }
    }
}
