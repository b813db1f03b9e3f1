//! What callers, subscribers, classifiers and clocks can do at the worst moment.

use buttress::circuit_breaker::{Circuit, CircuitState, WhenOpen, Window};
use buttress::load_shed::Slot;
use buttress::rate_limit::RateLimiter;
use buttress::retry::{Backoff, Budget, Cloned, Jitter, Within};
use buttress::{
    Carrier, CircuitBreakerLayer, Deadline, Error, ErrorLayer, LoadShedLayer, Name, Quota,
    Rejection, RetryLayer, TimeoutLayer, Verdict,
};
use std::convert::Infallible;
use std::future::{Ready, pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::time::{Instant, advance, sleep};
use tokio_test::task;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tracing_subscriber::layer::SubscriberExt;

const SECOND: Duration = Duration::from_secs(1);

// A caller that keeps a future after it is done

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

#[tokio::test(start_paused = true)]
async fn a_load_shed_frees_what_an_answered_call_held() {
    let limited = ConcurrencyLimit::new(Fine, 1);
    let mut other = limited.clone();
    let mut service = LoadShedLayer::new(9).layer(limited);
    let mut call = Box::pin(service.ready().await.unwrap().call(()));
    (&mut call).await.unwrap();
    let readied = task::spawn(()).enter(|cx, _| other.poll_ready(cx));
    assert!(readied.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_an_answered_call_wakes_nobody() {
    let (answer, answered) = tokio::sync::oneshot::channel::<()>();
    let mut answered = Some(answered);
    let mut service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(ErrorLayer)
        .service(service_fn(move |()| answered.take().unwrap()));
    let mut call = task::spawn(service.ready().await.unwrap().call(()));
    assert!(call.poll().is_pending());
    answer.send(()).unwrap();
    assert!(call.poll().is_ready());
    let woken_by_the_answer = call.is_woken();
    sleep(2 * SECOND).await;
    assert_eq!(call.is_woken(), woken_by_the_answer);
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_wait_that_ended_wakes_nobody() {
    let (mock, mut handle) = tower_test::mock::pair::<(), ()>();
    handle.allow(0);
    let mut service = TimeoutLayer::new(SECOND).layer(mock);
    let mut task = task::spawn(());
    let mut poll = || task.enter(|cx, _| Service::<()>::poll_ready(&mut service, cx));
    assert!(poll().is_pending());
    handle.allow(1);
    assert!(poll().is_ready());
    sleep(2 * SECOND).await;
    assert!(!task.is_woken());
}

// Panics in what the user brings

/// Panics at the event of this name.
struct Panics(&'static str);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Panics {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        assert_ne!(event.metadata().name(), self.0);
    }
}

/// Whether the subscriber panicked.
fn told_to(subscriber: Panics, act: impl FnOnce()) -> bool {
    // While tracing knows of one subscriber alone, it asks the thread that meets an event first,
    // which may be another test's, whether anybody listens.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(subscriber);
    tracing::subscriber::with_default(subscriber, || {
        tracing::callsite::rebuild_interest_cache();
        catch_unwind(AssertUnwindSafe(act)).is_err()
    })
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_leaks_no_probe() {
    let circuit = Circuit::builder()
        .consecutive_failures(1)
        .probes(1)
        .build()
        .unwrap();
    circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
    advance(6 * SECOND).await;
    assert!(told_to(Panics("half_opened"), || drop(
        circuit.try_acquire()
    )));
    assert!(circuit.try_acquire().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_loses_no_wakeup() {
    let layer = CircuitBreakerLayer::builder()
        .when_open(WhenOpen::NotReady)
        .build()
        .unwrap();
    layer.circuit().force_open();
    let mut service = layer.layer(Fine);
    let mut readying = task::spawn(poll_fn(move |cx| service.poll_ready(cx)));
    assert!(readying.poll().is_pending());
    assert!(told_to(Panics("closed"), || layer.circuit().reset()));
    assert!(readying.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_is_no_failure_of_the_callee() {
    fn judge(_: Result<&(), &Error<Infallible>>) -> Verdict {
        panic!("classifier")
    }
    let layer = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .classify(judge)
        .build()
        .unwrap();
    let circuit = layer.circuit().clone();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|()| async {
            sleep(2 * SECOND).await; // longer than a cancelled call stays young
            Ok::<_, Infallible>(())
        }));
    assert!(tokio::spawn(service.oneshot(())).await.is_err());
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_panics_costs_no_token() {
    let budget = Budget::builder().floor(5).reserve(0.0).build().unwrap();
    let copies = AtomicU32::new(0);
    let replay = Arc::new(move |(): &()| {
        assert_eq!(
            copies.fetch_add(1, SeqCst),
            0,
            "only the first attempt is copied for"
        );
        Some(())
    });
    let service = ServiceBuilder::new()
        .layer(
            RetryLayer::builder()
                .budget(budget.clone())
                .replay(move |request: &()| replay(request))
                .build()
                .unwrap(),
        )
        .layer(ErrorLayer)
        .service(service_fn(|()| ready(Err::<(), _>("down"))));
    assert!(tokio::spawn(service.oneshot(())).await.is_err());
    assert!((budget.tokens() - 5.0).abs() < f64::EPSILON);
}

// Clocks and durations

fn of_nanos(nanos: u128) -> Duration {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Duration::new(seconds.try_into().unwrap(), nanos.try_into().unwrap())
}

/// The longest that the clock can count, less this many nanoseconds.
fn longest_but(nanos: u128) -> Duration {
    let countable = |nanos| Instant::now().checked_add(of_nanos(nanos)).is_some();
    let (mut least, mut most) = (0, Duration::MAX.as_nanos());
    while least + 1 < most {
        let middle = least.midpoint(most);
        *(if countable(middle) {
            &mut least
        } else {
            &mut most
        }) = middle;
    }
    of_nanos(least.saturating_sub(nanos))
}

#[tokio::test(start_paused = true)]
async fn the_longest_waits_there_are_do_not_panic() {
    let never = || service_fn(|()| pending::<Result<(), Infallible>>());
    for length in [0, 1, 1_000_000, 1_000_000_000].map(longest_but) {
        let timed = ServiceBuilder::new()
            .layer(TimeoutLayer::new(length))
            .layer(ErrorLayer);
        assert!(
            task::spawn(timed.service(never()).oneshot(()))
                .poll()
                .is_pending()
        );
        let queue = LoadShedLayer::builder(0).queue(1, length).build().unwrap();
        let queued = ServiceBuilder::new().layer(queue).layer(ErrorLayer);
        assert!(
            task::spawn(queued.service(never()).oneshot(()))
                .poll()
                .is_pending()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_ages_can_be_ended() {
    let limiter = RateLimiter::new(Quota::per_second(1));
    limiter.pause_until(Instant::now() + longest_but(0) / 2);
    limiter.try_acquire(1).unwrap_err();
    limiter.resume();
    limiter.try_acquire(1).unwrap();
}

#[tokio::test(start_paused = true)]
async fn retries_without_a_wait_let_a_deadline_have_its_turn() {
    let sends = Arc::new(AtomicU32::new(0));
    let sent = sends.clone();
    let retry = RetryLayer::builder()
        .attempts(u32::MAX)
        .no_budget()
        .backoff(Backoff::constant(Duration::ZERO))
        .replay(Cloned)
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(retry)
        .layer(ErrorLayer)
        .service(service_fn(move |()| {
            sent.fetch_add(1, SeqCst);
            ready(Err::<(), _>("down"))
        }));
    assert!(task::spawn(service.oneshot(())).poll().is_pending());
    assert_eq!(sends.load(SeqCst), 1);
}

// Threads

#[test]
fn a_snapshot_never_shows_more_failures_than_calls() {
    let circuit = Circuit::builder()
        .window(Window::count(100))
        .build()
        .unwrap();
    circuit.force_closed();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
            }
        });
        let odd = (0..200_000)
            .map(|_| circuit.snapshot())
            .find(|seen| seen.failures > seen.calls);
        stop.store(true, SeqCst);
        assert_eq!(odd, None);
    });
}

/// Lets other threads run while it is cloned.
#[derive(Debug)]
struct SlowToClone {
    sends: Arc<AtomicU32>,
}

impl Clone for SlowToClone {
    fn clone(&self) -> Self {
        std::thread::yield_now();
        Self {
            sends: self.sends.clone(),
        }
    }
}

impl Service<()> for SlowToClone {
    type Response = ();
    type Error = Error<&'static str>;
    type Future = Ready<Result<(), Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        self.sends.fetch_add(1, SeqCst);
        ready(Err(Error::Service("down")))
    }
}

#[test]
fn retries_on_many_threads_all_get_their_clone() {
    let sends = Arc::new(AtomicU32::new(0));
    let retry = RetryLayer::builder()
        .no_budget()
        .backoff(Backoff::constant(Duration::ZERO))
        .replay(Cloned)
        .build()
        .unwrap();
    let service = retry.layer(SlowToClone {
        sends: sends.clone(),
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let service = service.clone();
            scope.spawn(move || {
                for _ in 0..100 {
                    let outcome = tokio_test::block_on(service.clone().oneshot(()));
                    assert_eq!(outcome, Err(Error::Service("down")));
                }
            });
        }
    });
    assert_eq!(sends.load(SeqCst), 4 * 100 * 3);
}

// What happens between two looks

/// Gives a slot back whenever a deadline is looked for, as another thread may at any time.
#[derive(Clone)]
struct GivesBack(Arc<Mutex<Option<Slot>>>);

impl Carrier<()> for GivesBack {
    fn get(&self, (): &()) -> Option<Deadline> {
        self.0.lock().unwrap().take();
        None
    }

    fn set(&self, (): &mut (), _: Deadline) {}
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_freed_in_time_goes_to_the_instance_that_was_readied() {
    let slot = Arc::new(Mutex::new(None));
    let shed = LoadShedLayer::builder(1).carrier(GivesBack(slot.clone()));
    let shed = shed.build().unwrap();
    let mut service = shed.layer(ConcurrencyLimit::new(Fine, 1));
    let readied = service.ready().await.unwrap();
    *slot.lock().unwrap() = Some(shed.limit().try_acquire().unwrap());
    assert_eq!(readied.call(()).await, Ok(()));
}

/// Panics the first time.
struct BadWaker(AtomicBool);

impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        assert!(self.0.swap(true, SeqCst), "a waker that panics");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_ran_out_of_time_comes_back_once_even_if_a_waker_panics() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_for(Duration::ZERO)
        .probes(2)
        .when_open(WhenOpen::NotReady)
        .build()
        .unwrap();
    let circuit = breaker.circuit().clone();
    circuit.try_acquire().unwrap().settle(Verdict::TRANSIENT);
    let no_time = |()| {
        ready(Err::<(), _>(Error::<&str>::Rejected(
            Rejection::DeadlinePassed { by: Name::UNNAMED },
        )))
    };
    let service = breaker.layer(service_fn(no_time));

    let mut first = service.clone();
    let mut probe = Box::pin(first.ready().await.unwrap().call(()));
    let _other = circuit.try_acquire().unwrap();
    let waker = Waker::from(Arc::new(BadWaker(AtomicBool::new(false))));
    let mut third = service.clone();
    let waits = third.poll_ready(&mut Context::from_waker(&waker));
    assert!(waits.is_pending());

    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| probe.as_mut().poll(&mut cx).is_ready()));
    assert!(polled.is_err());
    drop(probe);
    assert_eq!(circuit.snapshot().probes_out, 1);
}

// Whose deadline it was

#[derive(Clone)]
struct Itself;

type Carried = Option<Deadline>;

impl Carrier<Carried> for Itself {
    fn get(&self, carried: &Carried) -> Option<Deadline> {
        *carried
    }

    fn set(&self, carried: &mut Carried, deadline: Deadline) {
        *carried = Some(deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_leaves_no_deadline_takes_none_for_its_own() {
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(
            TimeoutLayer::builder(60 * SECOND)
                .carrier(Itself)
                .build()
                .unwrap(),
        )
        .layer(ErrorLayer)
        .service(service_fn(|_: Carried| pending::<Result<(), Infallible>>()));
    let outcome = service.oneshot(Some(Deadline::after(SECOND))).await;
    assert_eq!(
        outcome,
        Err(Error::Rejected(Rejection::DeadlinePassed {
            by: Name::UNNAMED
        }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passed_during_readiness_is_the_callers() {
    let timeout = TimeoutLayer::builder(10 * SECOND)
        .carrier(Itself)
        .build()
        .unwrap();
    let fine = service_fn(|_: Carried| ready(Ok::<(), Infallible>(())));
    let mut service = timeout.layer(ErrorLayer.layer(ConcurrencyLimit::new(fine, 0)));
    let request = Some(Deadline::after(2 * SECOND));
    let outcome = service.ready().await.unwrap().call(request).await;
    assert_eq!(
        outcome,
        Err(Error::Rejected(Rejection::DeadlinePassed {
            by: Name::UNNAMED
        }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_gets_ready_too_late_is_not_sent_and_costs_no_token() {
    /// Ready at once for the first attempt, and a minute later for the others.
    #[derive(Default)]
    struct SlowToReady {
        cloned: bool,
        wait: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
    }

    impl Clone for SlowToReady {
        fn clone(&self) -> Self {
            Self {
                cloned: true,
                wait: None,
            }
        }
    }

    impl Service<Carried> for SlowToReady {
        type Response = ();
        type Error = Error<&'static str>;
        type Future = Ready<Result<(), Self::Error>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if !self.cloned {
                return Poll::Ready(Ok(()));
            }
            let wait = self
                .wait
                .get_or_insert_with(|| Box::pin(sleep(60 * SECOND)));
            wait.as_mut().poll(cx).map(Ok)
        }

        fn call(&mut self, _: Carried) -> Self::Future {
            assert!(!self.cloned, "sent too late");
            ready(Err(Error::Service("down")))
        }
    }

    let budget = Budget::builder().floor(10).reserve(0.0).build().unwrap();
    let retry = RetryLayer::builder()
        .backoff(Backoff::constant(SECOND).jitter(Jitter::None))
        .budget(budget.clone())
        .replay(Within::new(Cloned, Itself));
    let mut service = retry.build().unwrap().layer(SlowToReady::default());
    let call = service
        .ready()
        .await
        .unwrap()
        .call(Some(Deadline::after(30 * SECOND)));
    assert_eq!(
        call.await,
        Err(Error::Rejected(Rejection::DeadlinePassed {
            by: Name::UNNAMED
        }))
    );
    assert!((budget.tokens() - 10.0).abs() < 0.001);
}

// What is left of a call

#[tokio::test(start_paused = true)]
async fn what_a_call_held_is_free_with_its_answer_even_if_its_future_is_kept() {
    let slow = service_fn(|()| async {
        sleep(SECOND).await;
        Ok::<_, Infallible>(())
    });
    let timeout = TimeoutLayer::new(60 * SECOND);
    let mut service = timeout.layer(ErrorLayer.layer(ConcurrencyLimit::new(slow, 1)));
    let mut kept = Box::pin(service.ready().await.unwrap().call(()));
    assert_eq!(kept.as_mut().await, Ok(()));
    assert_eq!(service.ready().await.unwrap().call(()).await, Ok(()));
}

#[cfg(feature = "http-body")]
#[test]
fn a_future_that_was_polled_once_too_often_can_be_dropped() {
    let breaker = CircuitBreakerLayer::builder()
        .until(buttress::http::UntilBodyEnd)
        .build()
        .unwrap();
    let body = || http_body_util::Full::new(bytes::Bytes::from("x"));
    let answer = move |()| async move { Ok::<_, Infallible>(http::Response::new(body())) };
    let mut service = breaker.layer(ErrorLayer.layer(service_fn(answer)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut call = Box::pin(service.call(()));
    assert!(call.as_mut().poll(&mut cx).is_ready());
    let again = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx).is_ready()));
    assert!(again.is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(call))).is_ok());
}
