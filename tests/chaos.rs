//! Faults on purpose: which calls get them, what they do, and that off is off.

#[path = "support/events.rs"]
mod events;

use buttress::chaos::{Chaos, ChaosBuilder, Delay, Fault, Injected, Per};
use buttress::event::{Event, Observe};
use buttress::http::{HeaderChaosLayer, InExtensions, stack};
use buttress::observe::Registry;
use buttress::{ChaosLayer, Error, ErrorLayer, Name, Rejection, TimeoutLayer};
use http::{HeaderName, Request, Response};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tower::limit::ConcurrencyLimitLayer;
use tower::util::ServiceFn;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Res = Result<u32, &'static str>;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Responds with the request.
fn echo(n: u32) -> Ready<Res> {
    ready(Ok(n))
}

fn inner() -> ServiceFn<fn(u32) -> Ready<Res>> {
    service_fn(echo)
}

fn on<O>(builder: ChaosBuilder<O>) -> ChaosLayer<O> {
    let layer = builder.build().unwrap();
    layer.chaos().on();
    layer
}

/// The outcome of a call and how long it took.
async fn timed<S: Service<u32, Response = u32, Error = &'static str>>(
    service: S,
) -> (Res, Duration) {
    let start = Instant::now();
    let call = timeout(ms(60_000), service.oneshot(7));
    (call.await.expect("it ends"), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn off_is_off() {
    let all = ChaosLayer::builder()
        .latency(1.0, Delay::fixed(ms(50)))
        .latency_before(1.0, Delay::fixed(ms(50)))
        .hang(1.0)
        .outcome(1.0, |_: &u32| Err("injected"))
        .build()
        .unwrap();
    assert_eq!(timed(all.layer(inner())).await, (Ok(7), ms(0)));
    all.chaos().on();
    all.chaos().off();
    assert_eq!(timed(all.layer(inner())).await, (Ok(7), ms(0)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_delayed_after_a_call_that_is_sent_at_once() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = sent.clone();
    let start = Instant::now();
    let slow = service_fn(move |n: u32| {
        log.lock().unwrap().push(start.elapsed());
        async move {
            sleep(ms(10)).await;
            Ok(n)
        }
    });
    let after = on(ChaosLayer::builder().latency(1.0, Delay::fixed(ms(50))));
    assert_eq!(timed(after.layer(slow.clone())).await, (Ok(7), ms(60)));
    let before = on(ChaosLayer::builder().latency_before(1.0, Delay::fixed(ms(50))));
    assert_eq!(timed(before.layer(slow)).await, (Ok(7), ms(60)));
    assert_eq!(*sent.lock().unwrap(), [ms(0), ms(110)]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_send_holds_no_permit_of_the_layers_below() {
    let layer = on(ChaosLayer::builder().latency_before(1.0, Delay::fixed(ms(50))));
    let limited = ConcurrencyLimitLayer::new(1).layer(inner());
    let service = layer.layer(limited.clone());
    let call = tokio::spawn(service.oneshot(7));
    sleep(ms(10)).await;
    // The permit is free meanwhile.
    assert_eq!(limited.oneshot(8).await, Ok(8));
    assert_eq!(call.await.unwrap(), Ok(7));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_kept_holds_no_permit_for_a_call_that_did_not_use_it() {
    let fails: Fails<&'static str> = |_| Err("injected");
    let limited = || ConcurrencyLimitLayer::new(1).layer(inner());
    let builder = || ChaosLayer::builder().outcome(0.0, fails);
    let delay = Delay::fixed(ms(50));

    // The delayed send itself needs the only permit.
    let layer = on(builder().latency_before(1.0, delay));
    let mut service = layer.layer(limited());
    let call = service.ready().await.unwrap().call(7);
    assert_eq!(timeout(ms(1_000), call).await, Ok(Ok(7)));

    for builder in [builder().hang(1.0), builder().outcome(1.0, fails)] {
        let limited = limited();
        let mut service = on(builder).layer(limited.clone());
        let _call = service.ready().await.unwrap().call(7);
        assert_eq!(timeout(ms(1_000), limited.oneshot(8)).await, Ok(Ok(8)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_of_your_own_is_not_sent_and_can_be_delayed() {
    let layer = ChaosLayer::builder()
        .outcome(1.0, |n: &u32| if *n == 7 { Err("injected") } else { Ok(0) })
        .latency(1.0, Delay::fixed(ms(50)))
        .build()
        .unwrap();
    layer.chaos().on();
    let unreachable = service_fn(|_: u32| -> Ready<Res> { panic!("it was sent") });
    assert_eq!(
        timed(layer.layer(unreachable)).await,
        (Err("injected"), ms(50))
    );
    assert_eq!(layer.layer(unreachable).oneshot(8).await, Ok(0));
    let snapshot = layer.chaos().snapshot();
    assert_eq!(
        (snapshot.outcome, snapshot.latency, snapshot.active),
        (2, 2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_ended_by_its_timeout() {
    let layer = on(ChaosLayer::builder().hang(1.0));
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(ms(500)))
        .layer(ErrorLayer)
        .layer(layer.clone())
        .service(inner());
    let call = tokio::spawn(service.oneshot(7));
    sleep(ms(10)).await;
    assert_eq!(layer.chaos().snapshot().active, 1);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Rejected(Rejection::TimedOut { .. })));
    assert_eq!(layer.chaos().snapshot().active, 0);
}

#[tokio::test(start_paused = true)]
async fn it_ends_by_itself() {
    let layer = ChaosLayer::builder()
        .latency(1.0, Delay::fixed(ms(50)))
        .build()
        .unwrap();
    let chaos = layer.chaos();
    chaos.for_the_next(ms(1_000));
    assert_eq!(timed(layer.layer(inner())).await.1, ms(50));
    sleep(ms(950)).await;
    assert!(!chaos.snapshot().is_on);
    assert_eq!(timed(layer.layer(inner())).await.1, ms(0));
    for length in [Duration::ZERO, Duration::MAX] {
        chaos.for_the_next(length);
        assert_eq!(chaos.snapshot().is_on, length == Duration::MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_calls_are_delayed_at_once() {
    let layer = on(ChaosLayer::builder().hang(1.0).max_active(2));
    let service = layer.layer(inner());
    let one = tokio::spawn(service.clone().oneshot(1));
    let _two = tokio::spawn(service.clone().oneshot(2));
    sleep(ms(10)).await;
    let three = timeout(ms(10), service.clone().oneshot(3));
    assert_eq!(three.await, Ok(Ok(3)));
    one.abort();
    sleep(ms(10)).await;
    let hangs = timeout(ms(10), service.oneshot(4)).await;
    hangs.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_most_gets_no_outcome_either() {
    let fails: Fails<&'static str> = |_| Err("injected");
    let delay = Delay::fixed(ms(50));
    let builder = ChaosLayer::builder().outcome(1.0, fails);
    let layer = on(builder.latency(1.0, delay).max_active(1));
    let service = layer.layer(inner());
    let one = tokio::spawn(service.clone().oneshot(1));
    sleep(ms(10)).await;
    assert_eq!(service.clone().oneshot(2).await, Ok(2));
    assert_eq!(one.await.unwrap(), Err("injected"));
    assert_eq!(service.oneshot(3).await, Err("injected"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_makes_no_outcome() {
    let unasked = |_: &u32| -> Res { panic!("an outcome was made") };
    let layer = on(ChaosLayer::builder().hang(1.0).outcome(1.0, unasked));
    let call = timeout(ms(10), layer.layer(inner()).oneshot(7));
    call.await.unwrap_err();
    let seen = layer.chaos().snapshot();
    assert_eq!((seen.hang, seen.outcome, seen.active), (1, 0, 0));
}

/// Before it is sent, while it is pending, and while its answer is delayed.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_at_any_time_is_no_longer_active() {
    let delay = Delay::fixed(ms(50));
    let builder = ChaosLayer::builder().latency_before(1.0, delay);
    let layer = on(builder.latency(1.0, delay));
    let slow = service_fn(|n: u32| async move {
        sleep(ms(50)).await;
        Ok::<_, &str>(n)
    });
    let limited = ConcurrencyLimitLayer::new(1).layer(slow);
    for after in [25, 75, 125] {
        let call = tokio::spawn(layer.layer(limited.clone()).oneshot(7));
        sleep(ms(after)).await;
        assert_eq!(layer.chaos().snapshot().active, 1);
        call.abort();
        call.await.unwrap_err();
        assert_eq!(layer.chaos().snapshot().active, 0, "after {after} ms");
        // It kept no permit either.
        assert_eq!(limited.clone().oneshot(8).await, Ok(8));
    }
}

#[tokio::test(start_paused = true)]
async fn only_some_requests_get_faults() {
    let layer = ChaosLayer::builder()
        .outcome(1.0, |_: &u32| Err("injected"))
        .only(|n: &u32| *n > 7)
        .build()
        .unwrap();
    layer.chaos().on();
    assert_eq!(layer.layer(inner()).oneshot(7).await, Ok(7));
    assert_eq!(layer.layer(inner()).oneshot(8).await, Err("injected"));
}

type Fails<E> = fn(&u32) -> Result<u32, E>;

/// Which of 8 000 calls fail, from so many tasks.
async fn failures<Y>(threads: u32, layer: ChaosLayer<Fails<u8>, (), Y>) -> Vec<u32>
where
    Y: Per<u32> + Send + Sync + 'static,
{
    layer.chaos().on();
    let tasks: Vec<_> = (0..threads)
        .map(|thread| {
            let layer = layer.clone();
            tokio::spawn(async move {
                let service = layer.layer(service_fn(|n: u32| ready(Ok::<_, u8>(n))));
                let mut failed: Vec<u32> = Vec::new();
                for n in (thread..8_000).step_by(threads as usize) {
                    if service.clone().oneshot(n).await.is_err() {
                        failed.push(n);
                    }
                }
                failed
            })
        })
        .collect();
    let mut failed = Vec::new();
    for task in tasks {
        failed.extend(task.await.unwrap());
    }
    failed.sort_unstable();
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_seed_repeats_the_faults_whatever_the_threads() {
    let layer = |seed| {
        let outcome: Fails<u8> = |_| Err(7);
        ChaosLayer::builder().outcome(0.1, outcome).seed(seed)
    };
    // The same calls get a fault; which requests these are, depends on the threads.
    let one = failures(1, layer(7).build().unwrap()).await;
    assert_eq!(failures(1, layer(7).build().unwrap()).await, one);
    assert_eq!(
        failures(8, layer(7).build().unwrap()).await.len(),
        one.len()
    );
    assert_ne!(failures(1, layer(8).build().unwrap()).await, one);
    assert!((700..900).contains(&one.len()));
    // By request, also the requests are the same.
    let per = |seed| layer(seed).per(|n: &u32| u64::from(*n)).build().unwrap();
    let one = failures(1, per(7)).await;
    assert_eq!(failures(8, per(7)).await, one);
    assert_ne!(failures(8, per(8)).await, one);
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);

impl Observe for Events {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(*event);
    }
}

#[tokio::test(start_paused = true)]
async fn switching_and_faults_are_told() {
    let layer = ChaosLayer::builder()
        .latency(1.0, Delay::fixed(ms(50)))
        .name("search")
        .build()
        .unwrap();
    let events = Events::default();
    layer.chaos().observe(events.clone());
    layer.chaos().on();
    layer.layer(inner()).oneshot(7).await.unwrap();
    layer.chaos().for_the_next(ms(9));
    layer.chaos().off();
    let name = Name::new("search");
    let expected = [
        Event::ChaosOn { name, length: None },
        Event::Injected {
            name,
            fault: "latency",
            delay: ms(50),
        },
        Event::ChaosOn {
            name,
            length: Some(ms(9)),
        },
        Event::ChaosOff { name },
    ];
    assert_eq!(events.0.lock().unwrap()[..], expected);
    assert_eq!(
        layer.to_string(),
        "chaos \"search\": off, latency of 1 (50ms)"
    );
}

#[test]
fn wrong_settings_are_refused_and_named() {
    let zero = Delay::fixed(Duration::ZERO);
    for share in [-0.1, 1.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let builders = [
            ("latency", ChaosLayer::builder().latency(share, zero)),
            (
                "latency_before",
                ChaosLayer::builder().latency_before(share, zero),
            ),
            ("hang", ChaosLayer::builder().hang(share)),
        ];
        for (field, builder) in builders {
            assert_eq!(builder.build().unwrap_err().field(), field, "{share}");
        }
        let layer = ChaosLayer::builder().build().unwrap();
        let chaos: &Chaos = layer.chaos();
        assert_eq!(
            chaos.set_latency(share, zero).unwrap_err().field(),
            "latency"
        );
        assert_eq!(chaos.set_outcome(share).unwrap_err().field(), "outcome");
        assert_eq!(chaos.set_hang(share).unwrap_err().field(), "hang");
    }
    for delay in [
        Delay::uniform(ms(2)..ms(1)),
        Delay::heavy(ms(2), ms(1)),
        Delay::heavy(ms(0), ms(1)),
    ] {
        let error = ChaosLayer::builder()
            .latency(0.1, delay)
            .build()
            .unwrap_err();
        assert_eq!(error.field(), "latency");
    }
}

#[tokio::test(start_paused = true)]
async fn shares_can_be_changed_while_it_runs() {
    let layer = on(ChaosLayer::builder());
    assert_eq!(timed(layer.layer(inner())).await.1, ms(0));
    layer
        .chaos()
        .set_latency(1.0, Delay::fixed(ms(20)))
        .unwrap();
    assert_eq!(timed(layer.layer(inner())).await.1, ms(20));
    layer
        .chaos()
        .set_latency_before(1.0, Delay::fixed(ms(30)))
        .unwrap();
    assert_eq!(timed(layer.layer(inner())).await.1, ms(50));
}

type Status = Ready<Result<Response<()>, Infallible>>;

fn http_client() -> (
    Arc<AtomicUsize>,
    ServiceFn<impl FnMut(Request<()>) -> Status + Clone>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let client = service_fn(move |req: Request<()>| {
        assert!(!req.headers().contains_key("x-chaos"));
        counted.fetch_add(1, SeqCst);
        ready(Ok(Response::new(())))
    });
    (calls, client)
}

#[tokio::test(start_paused = true)]
async fn what_is_above_it_is_tested_in_earnest_and_responses_are_marked() {
    let (calls, client) = http_client();
    let layer = ChaosLayer::builder()
        .outcome(1.0, |_: &Request<()>| {
            Ok(Response::builder().status(503).body(()).unwrap())
        })
        .mark(InExtensions)
        .build()
        .unwrap();
    layer.chaos().on();
    let stack = stack().build().unwrap();
    let service = stack.layer(layer.layer(client));
    let response = service.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 503);
    let injected = response.extensions().get::<Injected>().unwrap();
    assert_eq!(
        (injected.fault, injected.delay),
        (Fault::Outcome, Duration::ZERO)
    );
    assert_eq!(stack.retry_snapshot().unwrap().retries, 2);
    assert_eq!(calls.load(SeqCst), 0);
    layer.chaos().off();
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert!(response.extensions().get::<Injected>().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_header_needs_the_secret() {
    const SECRET: &str = "0123456789abcdef";
    let (calls, client) = http_client();
    let layer = HeaderChaosLayer::new(HeaderName::from_static("x-chaos"), SECRET).unwrap();
    assert!(!format!("{layer:?}").contains(SECRET));
    let service = layer.layer(client);
    let send = |header: String| {
        let request = Request::get("/")
            .header("x-chaos", header)
            .body(())
            .unwrap();
        let call = service.clone().oneshot(request);
        async move {
            let start = Instant::now();
            let response = timeout(ms(5_000), call).await;
            let status = response
                .ok()
                .map(|response| response.unwrap().status().as_u16());
            (status, start.elapsed())
        }
    };
    for (faults, status, takes, sent) in [
        (";delay=200ms", Some(200), ms(200), 1),
        (";delay=2s", Some(200), ms(2_000), 1),
        (";status=503", Some(503), ms(0), 0),
        (";delay=200ms;status=429", Some(429), ms(200), 0),
        (";hang", None, ms(5_000), 0),
        ("", Some(200), ms(0), 1),
        // Nothing of a header with an error is injected.
        (";delay=200ms;status=1", Some(200), ms(0), 1),
        (";delay=-1ms", Some(200), ms(0), 1),
        (";delay=99999999999999999999s", Some(200), ms(0), 1),
        (";delay=+1s", Some(200), ms(0), 1),
        (";explode", Some(200), ms(0), 1),
    ] {
        let before = calls.load(SeqCst);
        assert_eq!(
            send(format!("{SECRET}{faults}")).await,
            (status, takes),
            "{faults}"
        );
        assert_eq!(calls.load(SeqCst) - before, sent, "{faults}");
    }
    for wrong in [
        "",
        "0123456789abcdeF",
        "0123456789abcde",
        "0123456789abcdef0",
        "secret",
    ] {
        assert_eq!(
            send(format!("{wrong};status=503")).await,
            (Some(200), ms(0)),
            "{wrong}"
        );
    }
    for wrong in ["short", "0123456789 abcdef", "0123456789;abcdef"] {
        let error = HeaderChaosLayer::new(HeaderName::from_static("x-chaos"), wrong).unwrap_err();
        assert_eq!(error.field(), "secret");
        assert!(!error.to_string().contains(wrong));
    }
}

#[tokio::test(start_paused = true)]
async fn faults_by_header_are_told_and_marked() {
    const SECRET: &str = "0123456789abcdef";
    let (_, client) = http_client();
    let layer = HeaderChaosLayer::new(HeaderName::from_static("x-chaos"), SECRET).unwrap();
    let observed = Events::default();
    layer.observe(observed.clone());
    let service = layer.layer(client);
    let injected = |fault: &str, delay_ms: u32| {
        format!("INFO buttress::chaos injected fault=\"{fault}\" delay_ms={delay_ms}")
    };
    let refused = "WARN buttress::chaos chaos_refused".to_owned();
    let (latency, outcome, hang) = (
        injected("latency", 200),
        injected("outcome", 200),
        injected("hang", 0),
    );
    for (header, told, marked) in [
        (";delay=200ms", vec![latency.clone()], Some(Fault::Latency)),
        (
            ";delay=200ms;status=503",
            vec![latency, outcome],
            Some(Fault::Outcome),
        ),
        (";hang", vec![hang], None),
        ("", vec![], None),
        ("!;hang", vec![refused], None),
    ] {
        let request = Request::get("/").header("x-chaos", format!("{SECRET}{header}"));
        let call = service.clone().oneshot(request.body(()).unwrap());
        let seen = events::of(async {
            let response = timeout(ms(5_000), call).await.ok().map(Result::unwrap);
            let mark = response.and_then(|it| it.extensions().get::<Injected>().copied());
            assert_eq!(mark.map(|mark| mark.fault), marked, "{header}");
        });
        assert_eq!(seen.await, told, "{header}");
    }
    assert_eq!(observed.0.lock().unwrap().len(), 4);
}

#[test]
fn a_request_without_the_header_gets_a_small_future() {
    let (_, client) = http_client();
    let layer = HeaderChaosLayer::new(HeaderName::from_static("x-chaos"), "0123456789abcdef");
    let mut service = layer.unwrap().layer(client);
    let call = service.call(Request::new(()));
    let added = size_of_val(&call) - size_of::<Status>();
    assert!(added <= 8, "{added}");
}

#[tokio::test(start_paused = true)]
async fn a_page_can_switch_it() {
    let registry = Registry::new();
    let layer = ChaosLayer::builder()
        .hang(1.0)
        .name("search")
        .build()
        .unwrap();
    registry.add(layer.chaos());
    assert!(
        registry
            .text()
            .contains("buttress_chaos_on{name=\"search\"} 0\n")
    );
    let service = registry
        .service()
        .allow_actions("0123456789abcdef")
        .unwrap();
    let state: serde_json::Value = serde_json::from_str(&registry.json()).unwrap();
    let (instance, id) = (
        state["instance"].as_str().unwrap(),
        &state["upstreams"][0]["id"],
    );
    let post = |action: &str| {
        let path = format!("/actions/{instance}/{id}/{action}");
        let request = Request::post(path).header("authorization", "Bearer 0123456789abcdef");
        let call = service.clone().oneshot(request.body(()).unwrap());
        async move { call.await.unwrap().status().as_u16() }
    };
    assert_eq!(post("chaos_for/60").await, 204);
    assert!(layer.chaos().snapshot().is_on);
    assert!(
        registry
            .text()
            .contains("buttress_chaos_on{name=\"search\"} 1\n")
    );
    assert_eq!(post("chaos_off").await, 204);
    assert!(!layer.chaos().snapshot().is_on);
    assert_eq!(post("chaos_for/soon").await, 400);
    assert_eq!(post("force_open").await, 404);
}

#[tokio::test(start_paused = true)]
async fn a_fault_by_header_keeps_no_permit_of_the_layers_below() {
    let (_, client) = http_client();
    let limited = ConcurrencyLimitLayer::new(1).layer(client);
    let header = HeaderName::from_static("x-chaos");
    let layer = HeaderChaosLayer::new(header, "0123456789abcdef").unwrap();
    for fault in ["hang", "status=503"] {
        let mut kept = layer.layer(limited.clone());
        let request = Request::get("/").header("x-chaos", format!("0123456789abcdef;{fault}"));
        let request = request.body(()).unwrap();
        let call = kept.ready().await.unwrap().call(request);
        let free = tokio::time::timeout(ms(10), limited.clone().oneshot(Request::new(()))).await;
        assert!(free.is_ok(), "{fault}");
        drop(call);
    }
}
