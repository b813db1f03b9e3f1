//! Hedging: when a copy is sent, which answer counts, and what it costs the upstream.

use buttress::circuit_breaker::{Circuit, CircuitState};
use buttress::event::{Event, Observe};
use buttress::hedge::{HedgeAt, HedgeBuilder, HedgeSettings};
use buttress::http::Attempt;
use buttress::retry::{Budget, Cloned, Within};
use buttress::{
    Carrier, CircuitBreakerLayer, Deadline, Error, ErrorLayer, HedgeLayer, Name, RetryAfter,
    Verdict,
};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Res = Result<u32, Error<&'static str>>;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What each send does, in order: it takes so long, and ends so.
type Script = Vec<(Duration, Res)>;

/// Plays a script. Notes when each send came, and when it was dropped or ended.
#[derive(Clone)]
struct Upstream {
    script: Arc<Script>,
    log: Arc<Mutex<Log>>,
    start: Instant,
}

#[derive(Default)]
struct Log {
    sent: Vec<Duration>,
    in_flight: usize,
}

/// Counts a send as in flight until it is dropped.
struct InFlight(Arc<Mutex<Log>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().unwrap().in_flight -= 1;
    }
}

impl Upstream {
    fn new(script: impl Into<Script>) -> Self {
        Self {
            script: Arc::new(script.into()),
            log: Arc::default(),
            start: Instant::now(),
        }
    }

    fn service(
        &self,
    ) -> impl Service<u32, Response = u32, Error = Error<&'static str>, Future: Send>
    + Clone
    + Send
    + use<> {
        let this = self.clone();
        service_fn(move |_: u32| {
            let mut log = this.log.lock().unwrap();
            let (takes, outcome) = this.script[log.sent.len()];
            log.sent.push(this.start.elapsed());
            log.in_flight += 1;
            let in_flight = InFlight(this.log.clone());
            async move {
                if takes == Duration::MAX {
                    pending::<()>().await;
                }
                sleep(takes).await;
                drop(in_flight);
                outcome
            }
        })
    }

    fn sent(&self) -> Vec<Duration> {
        self.log.lock().unwrap().sent.clone()
    }
}

fn after(delay: Duration) -> HedgeBuilder<buttress::verdict::Outcome, Cloned> {
    HedgeLayer::builder()
        .at(HedgeAt::after(delay))
        .replay(Cloned)
}

const DOWN: Res = Err(Error::Service("down"));

#[tokio::test(start_paused = true)]
async fn a_call_that_is_fast_enough_is_sent_once() {
    let upstream = Upstream::new([(ms(49), Ok(1))]);
    let layer = after(ms(50)).build().unwrap();
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Ok(1));
    assert_eq!(upstream.sent(), [ms(0)]);
    assert_eq!(layer.hedging().snapshot().hedged, 0);
}

#[tokio::test(start_paused = true)]
async fn a_late_call_gets_a_copy_and_the_loser_is_dropped_before_the_answer() {
    let upstream = Upstream::new([(Duration::MAX, Ok(1)), (ms(10), Ok(2))]);
    let layer = after(ms(50)).name("search").build().unwrap();
    let events = Events::default();
    layer.hedging().observe(events.clone());
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Ok(2));
    assert_eq!(upstream.log.lock().unwrap().in_flight, 0);
    assert_eq!(upstream.sent(), [ms(0), ms(50)]);
    let snapshot = layer.hedging().snapshot();
    assert_eq!((snapshot.hedged, snapshot.won_by_hedge), (1, 1));
    let name = Name::new("search");
    let expected = [
        Event::Hedged {
            name,
            hedge: 1,
            after: ms(50),
        },
        Event::HedgeWon { name, hedge: 1 },
    ];
    assert_eq!(events.0.lock().unwrap()[..], expected);
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);

impl Observe for Events {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

#[tokio::test(start_paused = true)]
async fn the_call_itself_may_still_win() {
    let upstream = Upstream::new([(ms(60), Ok(1)), (ms(100), Ok(2))]);
    let layer = after(ms(50)).build().unwrap();
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Ok(1));
    assert_eq!(upstream.log.lock().unwrap().in_flight, 0);
    assert_eq!(layer.hedging().snapshot().won_by_hedge, 0);
}

#[tokio::test(start_paused = true)]
async fn up_to_three_copies_are_sent_one_delay_apart() {
    let hangs = (Duration::MAX, Ok(0));
    let upstream = Upstream::new([hangs, hangs, hangs, (ms(1), Ok(4))]);
    let layer = after(ms(50)).hedges(3).build().unwrap();
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Ok(4));
    assert_eq!(upstream.sent(), [ms(0), ms(50), ms(100), ms(150)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_sends_the_next_copy_at_once() {
    let upstream = Upstream::new([(ms(5), DOWN), (ms(5), DOWN), (ms(5), Ok(3))]);
    let layer = after(ms(50)).hedges(2).build().unwrap();
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Ok(3));
    assert_eq!(upstream.sent(), [ms(0), ms(5), ms(10)]);
    // Also if it comes on the first poll.
    let upstream = Upstream::new([(ms(0), Ok(0)), (ms(5), Ok(2))]);
    let fails = service_fn({
        let (inner, first) = (upstream.service(), Arc::new(Mutex::new(true)));
        move |req| {
            let fails = std::mem::take(&mut *first.lock().unwrap());
            let call = inner.clone().oneshot(req);
            async move { if fails { DOWN } else { call.await } }
        }
    });
    assert_eq!(
        after(ms(50)).build().unwrap().layer(fails).oneshot(7).await,
        Ok(0)
    );
}

#[tokio::test(start_paused = true)]
async fn if_all_fail_the_outcome_is_that_of_the_call_itself() {
    let first = Err(Error::Service("first"));
    for (takes, second_takes) in [(5, 5), (60, 1), (60, 100)] {
        let upstream = Upstream::new([(ms(takes), first), (ms(second_takes), DOWN)]);
        let layer = after(ms(50)).build().unwrap();
        assert_eq!(layer.layer(upstream.service()).oneshot(7).await, first);
        assert_eq!(upstream.sent().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_asks_for_less_gets_no_copies() {
    let wait = RetryAfter::Delay(Duration::from_secs(1));
    for verdict in [
        Verdict::THROTTLED,
        Verdict::Transient {
            retry_after: wait,
            sent: buttress::verdict::Sent::Unknown,
        },
        Verdict::Local,
    ] {
        let upstream = Upstream::new([(ms(5), DOWN), (ms(5), Ok(2))]);
        let judge = move |outcome: Result<&u32, &Error<&'static str>>| match outcome {
            Ok(_) => Verdict::Healthy,
            Err(_) => verdict,
        };
        let layer = after(ms(50)).classify(judge).build().unwrap();
        assert_eq!(layer.layer(upstream.service()).oneshot(7).await, DOWN);
        assert_eq!(upstream.sent().len(), 1, "{verdict:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_is_not_sent_again_and_a_rejected_copy_does_not_end_the_call() {
    let circuit = Circuit::builder().build().unwrap();
    let upstream = Upstream::new([(ms(80), Ok(1))]);
    let layer = after(ms(50)).build().unwrap();
    let service = layer.layer(CircuitBreakerLayer::from(circuit.clone()).layer(upstream.service()));
    let call = tokio::spawn(service.clone().oneshot(7));
    sleep(ms(10)).await;
    circuit.force_open();
    assert_eq!(call.await.unwrap(), Ok(1));
    assert_eq!(layer.hedging().snapshot().hedged, 1);
    service.oneshot(7).await.unwrap_err();
    assert_eq!(layer.hedging().snapshot().hedged, 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_sends_no_copy_and_ends_no_call() {
    let budget = Budget::builder()
        .floor(1)
        .ratio(0.0)
        .reserve(0.0)
        .build()
        .unwrap();
    let call = (ms(80), Ok(1));
    let upstream = Upstream::new([call, call, call, call]);
    let layer = after(ms(50)).budget(budget.clone()).build().unwrap();
    let service = layer.layer(upstream.service());
    for _ in 0..3 {
        assert_eq!(service.clone().oneshot(7).await, Ok(1));
    }
    assert_eq!(upstream.sent().len(), 4);
    let snapshot = layer.hedging().snapshot();
    assert_eq!((snapshot.hedged, snapshot.denied.budget), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_processed_twice_is_sent_once() {
    let calls = Arc::new(Mutex::new(0));
    let counted = calls.clone();
    let slow = service_fn(move |_: Request<()>| {
        *counted.lock().unwrap() += 1;
        async {
            sleep(ms(80)).await;
            Ok::<_, Infallible>(Response::new(()))
        }
    });
    let layer = HedgeLayer::builder()
        .at(HedgeAt::after(ms(50)))
        .build()
        .unwrap();
    let service = layer.layer(ErrorLayer.layer(slow));
    let post = Request::post("/").body(()).unwrap();
    service.clone().oneshot(post).await.unwrap();
    assert_eq!(*calls.lock().unwrap(), 1);
    let get = Request::get("/").body(()).unwrap();
    service.oneshot(get).await.unwrap();
    assert_eq!(*calls.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_copy_has_a_number() {
    let numbers = Arc::new(Mutex::new(Vec::new()));
    let seen = numbers.clone();
    let slow = service_fn(move |req: Request<()>| {
        seen.lock()
            .unwrap()
            .push(Attempt::of(req.extensions()).number());
        async {
            sleep(ms(500)).await;
            Ok::<_, Infallible>(Response::new(()))
        }
    });
    let layer = HedgeLayer::builder()
        .at(HedgeAt::after(ms(50)))
        .hedges(2)
        .build()
        .unwrap();
    let get = Request::get("/").body(()).unwrap();
    layer
        .layer(ErrorLayer.layer(slow))
        .oneshot(get)
        .await
        .unwrap();
    assert_eq!(*numbers.lock().unwrap(), [1, 2, 3]);
}

/// Every request has this deadline.
#[derive(Clone)]
struct Until(Deadline);

impl Carrier<u32> for Until {
    fn get(&self, _: &u32) -> Option<Deadline> {
        Some(self.0)
    }

    fn set(&self, _: &mut u32, _: Deadline) {}
}

#[tokio::test(start_paused = true)]
async fn the_delay_leaves_a_copy_half_of_the_time_and_no_copy_is_sent_too_late() {
    let hangs = (Duration::MAX, Ok(0));
    let upstream = Upstream::new([hangs, hangs, hangs, hangs]);
    let until = Until(Deadline::after(ms(100)));
    let layer = after(ms(80))
        .hedges(3)
        .replay(Within::new(Cloned, until))
        .build()
        .unwrap();
    let call = layer.layer(upstream.service()).oneshot(7);
    timeout(ms(1_000), call).await.unwrap_err();
    assert_eq!(upstream.sent(), [ms(0), ms(50)]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_ends_all_copies_and_keeps_no_token() {
    let hangs = (Duration::MAX, Ok(0));
    for leaves in [10, 60, 110, 160] {
        let upstream = Upstream::new([hangs, hangs, hangs, hangs]);
        let layer = after(ms(50)).hedges(3).build().unwrap();
        let call = layer.layer(upstream.service()).oneshot(7);
        timeout(ms(leaves), call).await.unwrap_err();
        let sent = upstream.sent().len();
        assert_eq!(upstream.log.lock().unwrap().in_flight, 0);
        sleep(ms(1_000)).await;
        assert_eq!(upstream.sent().len(), sent);
        let tokens = layer.hedging().budget().tokens();
        assert_eq!(tokens.round() as usize, 11 - sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_reserves_nothing_before_it_is_due_and_waits_for_its_turn_beside_the_call() {
    let upstream = Upstream::new([(ms(80), Ok(1)), (ms(1), Ok(2))]);
    let layer = after(ms(50)).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(upstream.service());
    // The only permit is held by the call itself.
    assert_eq!(service.clone().oneshot(7).await, Ok(1));
    assert_eq!(upstream.sent(), [ms(0)]);
    assert!(layer.hedging().budget().tokens() > 9.9);
    // It was given back.
    assert_eq!(service.oneshot(7).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_beaten_call_is_no_failure_for_the_circuit_below() {
    let circuit = || {
        let builder = Circuit::builder().consecutive_failures(1);
        builder.abandoned_after(ms(10)).build().unwrap()
    };
    let slow = [(ms(500), Ok(1)), (ms(1), Ok(2))];
    let upstream = Upstream::new(slow);
    let beaten = circuit();
    let breaker = CircuitBreakerLayer::from(beaten.clone());
    let service = after(ms(50))
        .build()
        .unwrap()
        .layer(breaker.layer(upstream.service()));
    assert_eq!(service.oneshot(7).await, Ok(2));
    assert_eq!(beaten.state(), CircuitState::Closed);
    // One that its caller cancelled is.
    let upstream = Upstream::new(slow);
    let cancelled = circuit();
    let breaker = CircuitBreakerLayer::from(cancelled.clone());
    timeout(ms(50), breaker.layer(upstream.service()).oneshot(7))
        .await
        .unwrap_err();
    assert_eq!(cancelled.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_learnt_delay_sends_nothing_before_it_has_seen_20_calls() {
    let layer = HedgeLayer::builder().replay(Cloned).build().unwrap();
    for call in 1..=21 {
        let takes = if call < 20 { ms(10) } else { ms(10_000) };
        let upstream = Upstream::new([(takes, Ok(1)), (ms(1), Ok(2))]);
        let outcome = layer.layer(upstream.service()).oneshot(7).await;
        let expected = if call <= 20 { 1 } else { 2 };
        assert_eq!(outcome, Ok(expected), "call {call}");
        assert_eq!(layer.hedging().snapshot().delay.is_some(), call >= 20);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_and_rejections_teach_nothing() {
    let layer = HedgeLayer::builder().replay(Cloned).build().unwrap();
    for _ in 0..40 {
        let upstream = Upstream::new([(ms(1), DOWN), (ms(1), DOWN)]);
        layer
            .layer(upstream.service())
            .oneshot(7)
            .await
            .unwrap_err();
    }
    assert_eq!(layer.hedging().snapshot().delay, None);
}

#[test]
fn wrong_settings_are_refused() {
    for q in [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = HedgeLayer::builder()
            .at(HedgeAt::quantile(q))
            .build()
            .unwrap_err();
        assert_eq!(error.field(), "at", "{q}");
    }
    for hedges in [0, 4, u32::MAX] {
        let error = HedgeLayer::builder().hedges(hedges).build().unwrap_err();
        assert_eq!(error.field(), "hedges");
    }
    let settings = HedgeSettings {
        hedges: 2,
        ..HedgeSettings::default()
    };
    let layer = HedgeLayer::builder()
        .settings(settings)
        .name("search")
        .build()
        .unwrap();
    let text = layer.to_string();
    assert!(
        text.starts_with("hedge \"search\": 2 more at quantile 0.95, "),
        "{text}"
    );
    for delay in [Duration::ZERO, Duration::MAX] {
        after(delay).build().unwrap();
    }
}

/// Log-normal latencies with a median of 10 ms, of which 3 % are 20 times as long.
struct Latencies(u64);

impl Latencies {
    /// In `[0, 1)`: splitmix64.
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> Duration {
        let (a, b) = (1.0 - self.draw(), self.draw());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let straggles = if self.draw() < 0.03 { 20.0 } else { 1.0 };
        Duration::from_secs_f64(0.010 * (0.3 * normal).exp() * straggles)
    }
}

/// A call at a second of the run: how long it took.
type Taken = (usize, Duration);

/// 1000 calls per second for 60 s; from 20 s to 50 s everything takes ten times as long. The durations of the calls,
/// and the sends in each second.
async fn brown_out(
    layer: Option<HedgeLayer<buttress::verdict::Outcome, Cloned>>,
) -> (Vec<Taken>, Vec<usize>) {
    let start = Instant::now();
    let sends = Arc::new(Mutex::new((vec![0; 70], Latencies(7))));
    let counted = sends.clone();
    let upstream = service_fn(move |n: u32| {
        let second = start.elapsed().as_secs() as usize;
        let mut counted = counted.lock().unwrap();
        counted.0[second] += 1;
        let factor = if (20..50).contains(&second) { 10 } else { 1 };
        let takes = counted.1.next() * factor;
        async move {
            sleep(takes).await;
            Ok::<_, Error<&'static str>>(n)
        }
    });
    let mut calls = Vec::new();
    for n in 0..60_000_u64 {
        tokio::time::sleep_until(start + Duration::from_micros(1_000 * n)).await;
        let (upstream, layer) = (upstream.clone(), layer.clone());
        calls.push(tokio::spawn(async move {
            let (second, sent) = (start.elapsed().as_secs() as usize, Instant::now());
            match layer {
                Some(layer) => layer.layer(upstream).oneshot(1).await.unwrap(),
                None => upstream.oneshot(1).await.unwrap(),
            };
            (second, sent.elapsed())
        }));
    }
    let mut taken = Vec::new();
    for call in calls {
        taken.push(call.await.unwrap());
    }
    let sends = sends.lock().unwrap().0.clone();
    (taken, sends)
}

fn p99(taken: &[Taken], seconds: std::ops::Range<usize>) -> Duration {
    let within = taken.iter().filter(|(second, _)| seconds.contains(second));
    let mut taken: Vec<_> = within.map(|(_, taken)| *taken).collect();
    taken.sort_unstable();
    taken[taken.len() * 99 / 100]
}

/// What the simulator of the design promises, of the layer itself.
#[tokio::test(start_paused = true)]
async fn the_slowest_per_cent_is_cut_to_a_quarter_and_a_brown_out_is_no_storm() {
    let (without, _) = brown_out(None).await;
    let layer = HedgeLayer::builder().replay(Cloned).build().unwrap();
    let (with, sends) = brown_out(Some(layer)).await;
    let (well, brown) = (5..20, 22..50);
    println!(
        "p99 well: {:?} without, {:?} with; brown-out: {:?}, {:?}",
        p99(&without, well.clone()),
        p99(&with, well.clone()),
        p99(&without, brown.clone()),
        p99(&with, brown.clone())
    );
    assert!(
        p99(&with, well.clone()) * 4 <= p99(&without, well.clone()),
        "{:?}, {:?}",
        p99(&with, well.clone()),
        p99(&without, well.clone())
    );
    assert!(p99(&with, brown.clone()) * 4 <= p99(&without, brown));
    let extra = |seconds: std::ops::Range<usize>| {
        let all: usize = sends[seconds.clone()].iter().sum();
        all as f64 / (1_000 * seconds.len()) as f64 - 1.0
    };
    assert!(extra(well.clone()) <= 0.06, "{}", extra(well));
    let worst = (20..50).map(|second| extra(second..second + 1));
    println!(
        "extra sends well {}, worst second {}",
        extra(well),
        worst.fold(0.0, f64::max)
    );
    for second in 20..50 {
        let extra = extra(second..second + 1);
        assert!(extra <= 0.12, "second {second}: {extra}");
    }
}

/// A server that stalls on 3 % of its requests, if it is to.
async fn server(stalls: bool) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let latencies = Arc::new(Mutex::new(Latencies(11)));
    let handler = move || {
        let stalls = stalls && latencies.lock().unwrap().draw() < 0.03;
        async move {
            sleep(if stalls { ms(800) } else { Duration::ZERO }).await;
            "seven"
        }
    };
    let app = axum::Router::new().route("/", axum::routing::get(handler));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// The real clock and real sockets, for about three seconds. The bounds are those of the stall, not of the machine.
#[cfg(feature = "hyper-util")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_real_servers_one_may_stall() {
    use buttress::http::StatusClassifier;
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    const CALLS: usize = 2_000;
    let servers = [server(true).await, server(false).await];
    let sends = Arc::new(AtomicUsize::new(0));
    let counted = sends.clone();
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    // In turn, so that a copy mostly goes to the other server.
    let balanced = service_fn(move |req: Request<Empty<bytes::Bytes>>| {
        let server = servers[counted.fetch_add(1, Relaxed) % 2];
        let (mut parts, body) = req.into_parts();
        parts.uri = format!("http://{server}/").parse().unwrap();
        client.request(Request::from_parts(parts, body))
    });
    let layer = HedgeLayer::builder()
        .classify(StatusClassifier::default())
        .build()
        .unwrap();
    let hedged = layer.layer(ErrorLayer.layer(balanced.clone()));
    let plain = ErrorLayer.layer(balanced);
    let get = || Request::get("/").body(Empty::new()).unwrap();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let next = Arc::new(AtomicUsize::new(0));
    let callers = (0..20).map(|_| {
        let (plain, hedged, next) = (plain.clone(), hedged.clone(), next.clone());
        tokio::spawn(async move {
            let (mut without, mut with) = (Vec::new(), Vec::new());
            while next.fetch_add(1, Relaxed) < CALLS {
                let sent = Instant::now();
                plain.clone().oneshot(get()).await.unwrap();
                without.push((0, sent.elapsed()));
                let sent = Instant::now();
                let response = hedged.clone().oneshot(get()).await.unwrap();
                with.push((0, sent.elapsed()));
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, "seven");
            }
            (without, with)
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        let taken = caller.await.unwrap();
        without.extend(taken.0);
        with.extend(taken.1);
    }
    let (without, with) = (p99(&without, 0..1), p99(&with, 0..1));
    let extra = (sends.load(Relaxed) - 2 * CALLS) as f64 / CALLS as f64;
    println!("p99 {without:?} without, {with:?} with, {extra} extra sends");
    assert!(with * 4 <= without, "{without:?} without, {with:?} with");
    assert!(extra <= 0.06, "{extra}");
}

#[tokio::test(start_paused = true)]
async fn sends_stay_within_calls_and_budget() {
    // Every call is late.
    let log = Arc::new(Mutex::new(0_u32));
    let sent = log.clone();
    let late = service_fn(move |n: u32| {
        *sent.lock().unwrap() += 1;
        async move {
            sleep(ms(100)).await;
            Ok::<_, Error<&'static str>>(n)
        }
    });
    let layer = after(ms(10)).hedges(3).build().unwrap();
    let service = layer.layer(late);
    for calls in 1..=300_u32 {
        service.clone().oneshot(1).await.unwrap();
        let sends = *log.lock().unwrap();
        assert!(
            sends <= calls + calls / 10 + 10,
            "{sends} sends of {calls} calls"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_grpc_pays_for_failures() {
    let budget = Budget::grpc(10, 0.5).unwrap();
    let upstream = Upstream::new([(ms(5), DOWN), (ms(5), DOWN), (ms(5), Ok(1))]);
    let layer = after(ms(50)).budget(budget.clone()).build().unwrap();
    let service = layer.layer(upstream.service());
    service.clone().oneshot(7).await.unwrap_err();
    assert!((budget.tokens() - 8.0).abs() < 0.01);
    service.oneshot(7).await.unwrap();
    assert!((budget.tokens() - 8.5).abs() < 0.01);
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_deadline_passed_has_no_answer() {
    let late = Error::Rejected(buttress::Rejection::DeadlinePassed { by: Name::UNNAMED });
    let upstream = Upstream::new([(ms(90), Ok(1)), (ms(10), Err(late))]);
    let layer = after(ms(50)).build().unwrap();
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Ok(1));
    assert_eq!(layer.hedging().snapshot().won_by_hedge, 0);
    // The call itself ends with it.
    let upstream = Upstream::new([(ms(10), Err(late))]);
    assert_eq!(layer.layer(upstream.service()).oneshot(7).await, Err(late));
    assert_eq!(upstream.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_above_learns_that_neither_copy_was_sent() {
    use buttress::{Quota, RateLimitLayer, RetryLayer};
    // The first attempt is sent and fails. Then calls wait.
    let limit = RateLimitLayer::builder(Quota::new(1, ms(60_000)).burst(1)).max_wait(Duration::MAX);
    let upstream = Upstream::new([(ms(0), DOWN)]);
    let retry = RetryLayer::builder()
        .replay(Cloned)
        .attempts(2)
        .build()
        .unwrap();
    let hedge = after(ms(10)).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.clone())
        .layer(hedge.clone())
        .layer(limit.build().unwrap())
        .service(upstream.service());
    let retry_tokens = retry.budget().unwrap().tokens();
    let mut call = Box::pin(service.oneshot(7));
    // The first attempt starts a copy at once, which waits for its turn. It never ends.
    timeout(ms(5_000), &mut call).await.unwrap_err();
    drop(call);
    assert_eq!(upstream.sent().len(), 1);
    assert!(hedge.hedging().budget().tokens() > 9.9);
    assert!(retry.budget().unwrap().tokens() >= retry_tokens);
}

#[tokio::test(start_paused = true)]
async fn a_retry_whose_attempt_and_copy_both_wait_keeps_its_token() {
    use buttress::{Quota, RateLimitLayer, RetryLayer};
    let limit = RateLimitLayer::builder(Quota::per_second(1_000)).max_wait(Duration::MAX);
    let limit = limit.build().unwrap();
    let pausing = limit.limiter().clone();
    // Each send pauses the limiter for a minute, and fails.
    let upstream = service_fn(move |_: u32| {
        pausing.pause_until(Instant::now() + ms(60_000));
        async { Err::<u32, _>(Error::Service("down")) }
    });
    let judge = |outcome: Result<&u32, &Error<&'static str>>| match outcome {
        Ok(_) => Verdict::Healthy,
        // No copy of the attempt that failed, but a retry.
        Err(_) => Verdict::Local,
    };
    let budget = Budget::builder()
        .floor(2)
        .ratio(0.0)
        .reserve(0.0)
        .build()
        .unwrap();
    let retry = RetryLayer::builder()
        .replay(Cloned)
        .classify(judge)
        .budget(budget);
    let retry = retry.build().unwrap();
    let hedge = after(ms(10)).classify(judge).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(retry.clone())
        .layer(hedge.clone())
        .layer(limit)
        .service(upstream);
    timeout(ms(30_000), service.oneshot(7)).await.unwrap_err();
    let waiting = hedge.hedging().snapshot();
    assert_eq!((waiting.hedged, waiting.denied.budget), (1, 0));
    assert!(hedge.hedging().budget().tokens() > 9.9);
    assert!(retry.budget().unwrap().tokens() > 1.9);
}
