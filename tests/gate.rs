//! The gate, which circuit breaker, rate limit and load shed share.

use buttress::circuit_breaker::{Circuit, CircuitState};
use buttress::error::Rejected;
use buttress::gate::{Admission, Admit, Admitted, Cloning, Finish, GateLayer, Look, Sent};
use buttress::http::stack;
use buttress::load_shed::ConcurrencyLimit;
use buttress::rate_limit::RateLimiter;
use buttress::retry::{Backoff, Budget, Cloned};
use buttress::{
    CircuitBreakerLayer, Deadline, Error, ErrorLayer, LoadShedLayer, Name, Quota, RateLimitLayer,
    Rejection, RetryLayer, StackError,
};
use std::convert::Infallible;
use std::future::{Pending, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{advance, sleep};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

type Failure = Error<&'static str>;

async fn hang(_: u32) -> Result<u32, Failure> {
    pending().await
}

fn open(retry_after: Option<Duration>) -> Rejection {
    let by = Name::UNNAMED;
    Rejection::CircuitOpen { retry_after, by }
}

// What a call holds

/// A circuit that opens on the first failure, stays open for a second, and closes on the first
/// successful probe.
fn brittle() -> Circuit {
    let circuit = Circuit::builder().consecutive_failures(1).probes(1);
    circuit.open_for(SECOND).seed(0).build().unwrap()
}

async fn half_open() -> Circuit {
    let circuit = brittle();
    circuit
        .try_acquire()
        .unwrap()
        .settle(buttress::Verdict::TRANSIENT);
    advance(SECOND).await;
    circuit
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_holds_no_probe() {
    let circuit = half_open().await;
    let limit = RateLimitLayer::builder(Quota::new(1, SECOND).burst(1)).unless_open(&circuit);
    let limit = limit.build().unwrap();
    limit.limiter().try_acquire(1).unwrap();
    let service = ServiceBuilder::new()
        .layer(limit)
        .layer(CircuitBreakerLayer::from(circuit.clone()))
        .service_fn(hang);
    let mut waiting = spawn(service.oneshot(1));
    assert_pending!(waiting.poll());
    assert_eq!(circuit.snapshot().probes_out, 0);
    advance(SECOND).await;
    assert_pending!(waiting.poll());
    assert_eq!(circuit.snapshot().probes_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_holds_its_slot() {
    let limiter = RateLimiter::new(Quota::new(1, SECOND).burst(1));
    limiter.try_acquire(1).unwrap();
    let stack = stack().load_shed(1).rate_limit(limiter).build().unwrap();
    let service = tower::Layer::layer(&stack, service_fn(ok));
    let mut waiting = spawn(service.oneshot(request()));
    assert_pending!(waiting.poll());
    assert_eq!(stack.limit().unwrap().in_flight(), 1);
    drop(waiting);
    assert_eq!(stack.limit().unwrap().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_rejected_after_it_took_a_slot_releases_the_slot() {
    // Both instances are ready before the first call takes the only probe.
    let circuit = half_open().await;
    let limit = ConcurrencyLimit::new(2);
    let layer = GateLayer::of((limit.clone(), guarded(&circuit)));
    let service = ServiceBuilder::new().layer(layer).service_fn(hang);
    let (mut one, mut two) = (service.clone(), service);
    one.ready().await.unwrap();
    two.ready().await.unwrap();
    let probe = one.call(1);
    let mut rejected = spawn(two.call(2));
    assert_eq!(
        assert_ready_err!(rejected.poll()).rejection(),
        Some(open(None))
    );
    assert_eq!((limit.in_flight(), circuit.snapshot().probes_out), (1, 1));
    drop(probe);
}

fn guarded(circuit: &Circuit) -> <Circuit as buttress::gate::Opens>::Admission {
    buttress::gate::Opens::admission(circuit)
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_a_call_starts_when_it_is_sent() {
    // Waiting for two seconds does not make the call slow.
    let circuit = Circuit::builder().min_calls(1).slow_calls(SECOND, 1.0);
    let breaker = CircuitBreakerLayer::from(circuit.build().unwrap());
    let circuit = breaker.circuit().clone();
    let limit = RateLimitLayer::builder(Quota::new(1, 2 * SECOND).burst(1)).max_wait(9 * SECOND);
    let limit = limit.build().unwrap();
    limit.limiter().try_acquire(1).unwrap();
    let service = ServiceBuilder::new()
        .layer(limit)
        .layer(breaker)
        .service_fn(|n: u32| async move {
            sleep(MS).await;
            Ok::<_, Failure>(n)
        });
    assert_eq!(service.oneshot(1).await, Ok(1));
    assert_eq!(circuit.snapshot().slow_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_retry_cancelled_while_it_waits_for_its_turn_is_returned() {
    let budget = Budget::default();
    let retry = RetryLayer::builder()
        .backoff(Backoff::constant(MS))
        .budget(budget.clone())
        .replay(Cloned);
    let limit = RateLimitLayer::builder(Quota::new(1, SECOND).burst(1)).max_wait(SECOND);
    let service = ServiceBuilder::new()
        .layer(retry.build().unwrap())
        .layer(limit.build().unwrap())
        .service_fn(|_: u32| async { Err::<u32, Failure>(Error::Service("down")) });
    let before = budget.tokens();
    let mut call = spawn(service.oneshot(1));
    assert_pending!(call.poll());
    advance(2 * MS).await;
    assert_pending!(call.poll()); // the retry waits for its turn
    assert!(budget.tokens() < before - 0.5, "spent");
    drop(call);
    assert!(budget.tokens() > before - 0.1, "put back");
}

// An open circuit rejects calls immediately

async fn ok(_: http::Request<()>) -> Result<http::Response<()>, Infallible> {
    Ok(http::Response::new(()))
}

fn request() -> http::Request<()> {
    http::Request::new(())
}

/// 400 calls/s to an upstream that fails, through limits of 200/s and 256 in flight.
struct Overload {
    circuit: Circuit,
    limiter: RateLimiter,
    limit: ConcurrencyLimit,
    sent: Arc<AtomicUsize>,
}

impl Overload {
    /// While the circuit is open, every call is rejected at its first poll and takes no slot and no
    /// turn.
    async fn run<S>(self, service: S)
    where
        S: Service<http::Request<()>, Response = http::Response<()>, Error = Error<Infallible>>,
        S: Clone,
    {
        let mut calls = Vec::new();
        let (mut open, mut let_through) = (0, 0);
        for _ in 0..2_000 {
            advance(2_500 * MS / 1_000).await;
            let was_open = matches!(self.circuit.state(), CircuitState::Open);
            let (slots, turns) = (self.limit.in_flight(), self.limiter.snapshot().available);
            let mut call = spawn(service.clone().oneshot(request()));
            let polled = call.poll();
            if was_open {
                open += 1;
                let error = assert_ready!(polled).unwrap_err();
                let rejection = error.rejection().unwrap();
                assert!(
                    matches!(rejection, Rejection::CircuitOpen { .. }),
                    "{rejection}"
                );
                let now = (self.limit.in_flight(), self.limiter.snapshot().available);
                assert_eq!(now, (slots, turns), "spent on a call that is not sent");
            } else {
                let_through += 1;
                if polled.is_pending() {
                    calls.push(call);
                }
            }
            // Calls that were already waiting when the circuit opened are rejected, too.
            if matches!(self.circuit.state(), CircuitState::Open) {
                for mut call in calls.drain(..) {
                    assert!(
                        call.poll().is_ready(),
                        "still waits though the circuit is open"
                    );
                }
            }
            calls.retain_mut(|call| !call.is_woken() || call.poll().is_pending());
        }
        assert!(open > 1_000 && let_through > 20, "{open} {let_through}");
        assert!(self.sent.load(SeqCst) < let_through + 1);
        assert_eq!(self.limit.snapshot().waiting, 0);
    }
}

fn failing(
    sent: &Arc<AtomicUsize>,
) -> impl Fn(http::Request<()>) -> ResponseFuture + Clone + use<> {
    let sent = sent.clone();
    move |_| {
        sent.fetch_add(1, SeqCst);
        let mut response = http::Response::new(());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        std::future::ready(Ok(response))
    }
}

type ResponseFuture = std::future::Ready<Result<http::Response<()>, Infallible>>;

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_at_once_through_the_recommended_stack() {
    let sent = Arc::default();
    let stack = stack()
        .no_retry()
        .load_shed(256)
        .rate_limit(Quota::per_second(200).burst(1))
        .build()
        .unwrap();
    let service = tower::Layer::layer(&stack, service_fn(failing(&sent)));
    let overload = Overload {
        circuit: stack.circuit().unwrap().clone(),
        limiter: stack.limiter().unwrap().clone(),
        limit: stack.limit().unwrap().clone(),
        sent,
    };
    overload.run(service).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_rejects_at_once_through_separate_layers() {
    let sent = Arc::default();
    let breaker = CircuitBreakerLayer::builder()
        .classify(buttress::http::StatusClassifier::default())
        .build()
        .unwrap();
    let circuit = breaker.circuit().clone();
    let shed = LoadShedLayer::builder(256).unless_open(&circuit);
    let limit = RateLimitLayer::builder(Quota::per_second(200).burst(1)).unless_open(&circuit);
    let (shed, limit) = (shed.build().unwrap(), limit.build().unwrap());
    let overload = Overload {
        circuit,
        limiter: limit.limiter().clone(),
        limit: shed.limit().clone(),
        sent,
    };
    let service = ServiceBuilder::new()
        .layer(shed)
        .layer(limit)
        .layer(breaker)
        .layer(ErrorLayer)
        .service(service_fn(failing(&overload.sent)));
    overload.run(service).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_slot_is_woken_when_the_circuit_opens() {
    let circuit = brittle();
    let shed = LoadShedLayer::builder(1)
        .queue(9, 60 * SECOND)
        .unless_open(&circuit);
    let shed = shed.build().unwrap();
    let limit = shed.limit().clone();
    let _slot = limit.try_acquire().unwrap();
    let service = ServiceBuilder::new().layer(shed).service_fn(hang);
    let mut waiting = spawn(service.oneshot(1));
    assert_pending!(waiting.poll());
    circuit.force_open();
    assert!(waiting.is_woken());
    let error = assert_ready_err!(waiting.poll());
    assert_eq!(error.rejection(), Some(open(None)));
    assert_eq!(limit.snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_reported_before_a_full_limit_or_a_used_up_quota() {
    let circuit = brittle();
    circuit.force_open();
    let full = LoadShedLayer::builder(0)
        .unless_open(&circuit)
        .build()
        .unwrap();
    let empty = RateLimitLayer::builder(Quota::per_second(0)).unless_open(&circuit);
    let full = ServiceBuilder::new().layer(full).service_fn(hang);
    let empty = ServiceBuilder::new()
        .layer(empty.build().unwrap())
        .service_fn(hang);
    assert_eq!(
        full.oneshot(1).await.unwrap_err().rejection(),
        Some(open(None))
    );
    assert_eq!(
        empty.oneshot(1).await.unwrap_err().rejection(),
        Some(open(None))
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_cancelled_while_it_waits_is_not_counted() {
    let circuit = Circuit::builder()
        .consecutive_failures(1)
        .abandoned_after(Duration::ZERO);
    let breaker = CircuitBreakerLayer::from(circuit.build().unwrap());
    let circuit = breaker.circuit().clone();
    let limit = RateLimitLayer::builder(Quota::new(1, SECOND).burst(1)).unless_open(&circuit);
    let limit = limit.max_wait(60 * SECOND).build().unwrap();
    limit.limiter().try_acquire(1).unwrap();
    let service = ServiceBuilder::new()
        .layer(limit)
        .layer(breaker)
        .service_fn(hang);
    let mut waiting = spawn(service.oneshot(1));
    assert_pending!(waiting.poll());
    drop(waiting);
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[test]
fn the_rejection_of_a_handle_can_be_read_from_a_boxed_error() {
    type BoxError = Box<dyn std::error::Error + Send + Sync>;
    fn taken(limit: &ConcurrencyLimit) -> Result<(), BoxError> {
        drop(limit.try_acquire()?);
        Ok(())
    }
    let Rejected(rejection) = ConcurrencyLimit::new(0).try_acquire().unwrap_err();
    assert_eq!(
        taken(&ConcurrencyLimit::new(0)).unwrap_err().rejection(),
        Some(rejection)
    );
}

// What an admission learns about each call

/// Records what it is told.
#[derive(Clone, Default)]
struct Witness {
    told: Arc<Mutex<Vec<&'static str>>>,
    queued: bool,
}

struct Told(Arc<Mutex<Vec<&'static str>>>, &'static str);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1);
    }
}

impl Witness {
    fn told(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Admission for Witness {
    type Local = u32;
    type Waits = Cloning;
    type Wait = Told;
    type Ticket = Told;
    type Sent = Told;

    fn poll_look(&self, local: &mut u32, _: &mut Context<'_>) -> Poll<Look> {
        *local += 1;
        assert_eq!(*local, 1, "another instance's state");
        Poll::Ready(Look::Go)
    }

    fn send(&self, mut ticket: Told) -> Result<Told, Rejection> {
        ticket.1 = "left after it was sent";
        Ok(ticket)
    }
}

impl Admit<u32> for Witness {
    fn admit(&self, _: &u32, _: Option<Deadline>) -> Admitted<Told, Told> {
        let told = Told(self.told.clone(), "left before it was sent");
        if self.queued {
            Admitted::Later(told)
        } else {
            Admitted::Now(told)
        }
    }

    fn poll_wait(
        &self,
        _: &mut Told,
        _: &u32,
        _: Option<Deadline>,
        _: &mut Context<'_>,
    ) -> Poll<Result<Told, Rejection>> {
        Poll::Pending
    }
}

impl Finish for Told {}

impl Sent<u32, Failure> for Told {
    fn enter(&mut self) {
        self.1 = "panicked";
    }

    fn leave(&mut self, _: bool) {
        self.1 = "left after it was sent";
    }

    fn settle(&mut self, outcome: Result<&u32, &Failure>, _: bool) {
        self.1 = match outcome {
            Ok(_) => "responded",
            Err(Error::Service(_)) => "failed",
            Err(Error::Rejected(_)) => "rejected further in",
        };
    }
}

fn witnessed<F>(
    witness: &Witness,
    inner: fn(u32) -> F,
) -> impl Service<u32, Response = u32, Error = Failure, Future: Unpin>
where
    F: Future<Output = Result<u32, Failure>>,
{
    let service = ServiceBuilder::new().layer(GateLayer::of(witness.clone()));
    service.service_fn(inner).map_future(Box::pin)
}

#[tokio::test]
async fn an_admission_learns_how_each_call_ended() {
    let witness = Witness::default();
    let _ = witnessed(&witness, |n| async move { Ok(n) })
        .oneshot(1)
        .await;
    assert_eq!(witness.told(), ["responded"]);
    let _ = witnessed(&witness, |_| async { Err(Error::Service("down")) })
        .oneshot(1)
        .await;
    assert_eq!(witness.told(), ["failed"]);
    let rejected = |_| async { Err(Error::Rejected(open(None))) };
    let _ = witnessed(&witness, rejected).oneshot(1).await;
    assert_eq!(witness.told(), ["rejected further in"]);

    let mut left = spawn(witnessed(&witness, hang).oneshot(1));
    assert_pending!(left.poll());
    drop(left);
    assert_eq!(witness.told(), ["left after it was sent"]);

    let panics = |_| async { panic!("at work") };
    let mut call = witnessed(&witness, panics);
    let mut call = call.ready().await.ok().unwrap().call(1);
    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| {
        std::pin::Pin::new(&mut call).poll(&mut cx).is_ready()
    }));
    assert!(polled.is_err());
    drop(call);
    assert_eq!(witness.told(), ["panicked"]);

    let waits = Witness {
        queued: true,
        ..witness.clone()
    };
    let mut left = spawn(witnessed(&waits, hang).oneshot(1));
    assert_pending!(left.poll());
    drop(left);
    assert_eq!(witness.told(), ["left before it was sent"]);
}

#[tokio::test]
async fn each_instance_of_a_service_has_a_state_of_its_own() {
    let layer = GateLayer::of(Witness::default());
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .service_fn(|_: u32| -> Pending<Result<u32, Failure>> { pending() });
    service.ready().await.unwrap();
    service.clone().ready().await.unwrap();
}
