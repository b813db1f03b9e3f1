//! A fleet with a store in memory, on the paused clock.

#[path = "support/events.rs"]
mod events;

use buttress::fleet::{
    Ask, Fleet, FleetBuilder, Granted, Ledger, Reply, Store, StoreError, StoreState, WithoutStore,
};
use buttress::http::stack;
use buttress::observe::Registry;
use buttress::{Deadline, Error, ErrorLayer, Quota, RateLimitLayer, Rejection};
use http::{Request, Response};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

const ANSWERS: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;
const PANICS: u8 = 3;
/// Answers that no ledger gives.
const NONSENSE: [Granted; 4] = [
    Granted::Turns {
        turns: 1,
        ahead: i64::MAX,
    },
    Granted::Turns {
        turns: u32::MAX,
        ahead: i64::MIN,
    },
    Granted::Full(u64::MAX),
    Granted::Full(i64::MAX as u64),
];

/// One ledger for all clones, on tokio's clock.
#[derive(Clone)]
struct InMemory {
    ledger: Arc<Mutex<Ledger>>,
    start: Instant,
    does: Arc<AtomicU8>,
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
}

impl InMemory {
    fn new() -> Self {
        Self {
            ledger: Arc::default(),
            start: Instant::now(),
            does: Arc::default(),
            open: Arc::default(),
            most_open: Arc::default(),
        }
    }

    fn set(&self, does: u8) {
        self.does.store(does, SeqCst);
    }

    async fn answer(&self, ask: &Ask) -> Result<Reply, StoreError> {
        sleep(Duration::from_millis(2)).await;
        match self.does.load(SeqCst) {
            ANSWERS => {}
            FAILS => return Err(StoreError::new("no")),
            HANGS => pending().await,
            PANICS => panic!("a bug of the store"),
            other => {
                return Ok(Reply {
                    grant: NONSENSE[usize::from(other) - 4],
                    level: f64::NAN,
                    peers: u32::MAX,
                    now: u64::MAX,
                    tat: u64::MAX,
                });
            }
        }
        let now = 1_800_000_000_000_000 + self.start.elapsed().as_micros() as u64;
        Ok(self.ledger.lock().unwrap().lease(ask, now))
    }
}

struct Open(InMemory);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Store for InMemory {
    async fn lease(&self, ask: Ask) -> Result<Reply, StoreError> {
        let open = self.open.fetch_add(1, SeqCst) + 1;
        let _open = Open(self.clone());
        self.most_open.fetch_max(open, SeqCst);
        self.answer(&ask).await
    }
}

fn builder(store: &InMemory) -> FleetBuilder<InMemory> {
    Fleet::builder(Quota::per_second(1_000).burst(100), store.clone()).key("test")
}

/// The longest wait of calls that come every `gap`.
async fn longest(fleet: &Fleet, calls: u32, gap: Duration) -> Duration {
    let mut tasks = Vec::new();
    for _ in 0..calls {
        let limiter = fleet.limiter();
        tasks.push(tokio::spawn(async move {
            let called = Instant::now();
            limiter.acquire(1).await.unwrap();
            called.elapsed()
        }));
        sleep(gap).await;
    }
    let mut longest = Duration::ZERO;
    for task in tasks {
        longest = longest.max(task.await.unwrap());
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn a_process_has_one_request_under_way() {
    let store = InMemory::new();
    let fleet = builder(&store).build().unwrap();
    let calls = (0..900).map(|_| {
        let limiter = fleet.limiter();
        tokio::spawn(async move { limiter.acquire(1).await })
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(store.most_open.load(SeqCst), 1);
    // 100 at once, and the others one per millisecond.
    let elapsed = store.start.elapsed().as_millis();
    assert!((800..=830).contains(&elapsed), "{elapsed}");
}

/// What is said of an outage, without how long it took.
const SAID: [&str; 2] = [
    "WARN buttress::rate_limit store_down name=\"test\"",
    "INFO buttress::rate_limit store_up name=\"test\"",
];

#[tokio::test(start_paused = true)]
async fn no_call_waits_longer_for_the_store_than_its_time_out() {
    let nonsense = (0..NONSENSE.len() as u8).map(|kind| 4 + kind);
    for does in [FAILS, HANGS, PANICS].into_iter().chain(nonsense) {
        for without in [WithoutStore::Share(0.5), WithoutStore::Open] {
            let store = InMemory::new();
            let fleet = builder(&store).without_store(without).build().unwrap();
            let said = events::of(async {
                longest(&fleet, 100, Duration::from_millis(10)).await;
                store.set(does);
                let waited = longest(&fleet, 300, Duration::from_millis(10)).await;
                assert!(waited <= Duration::from_millis(62), "{does}: {waited:?}");
                assert_ne!(fleet.snapshot().store, StoreState::Up, "{does}");
                store.set(ANSWERS);
                longest(&fleet, 1_200, Duration::from_millis(10)).await;
                assert_eq!(fleet.snapshot().store, StoreState::Up, "{does}");
            });
            let said = said.await;
            let said = said
                .iter()
                .map(|line| line.split(" down_ms=").next().unwrap());
            assert_eq!(said.collect::<Vec<_>>(), SAID, "{does}");
            assert_eq!(store.most_open.load(SeqCst), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_calls_are_refused_at_once_if_asked() {
    let store = InMemory::new();
    store.set(FAILS);
    let fleet = builder(&store).without_store(WithoutStore::Refuse);
    let fleet = fleet.build().unwrap();
    for waits in [2, 0] {
        let called = Instant::now();
        let rejected = fleet.limiter().acquire(1).await.unwrap_err();
        assert!(rejected.0.retry_after().is_some());
        assert_eq!(called.elapsed().as_millis(), waits);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_lease_is_not_asked_for_before_the_time_that_the_store_gave() {
    let store = InMemory::new();
    let quota = Quota::new(1, Duration::from_secs(5));
    let fleet = Fleet::builder(quota, store).key("slow").build().unwrap();
    fleet.limiter().acquire(1).await.unwrap();
    for trips in [1, 1, 1, 2] {
        let rejected = fleet.limiter().acquire(1).await;
        assert_eq!(
            (rejected.is_err(), fleet.snapshot().trips),
            (trips == 1, trips)
        );
        sleep(Duration::from_millis(1_400)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_said_about_an_old_quota_does_not_hold_for_the_new_one() {
    for answered in [false, true] {
        let store = InMemory::new();
        let hourly = Quota::new(1, Duration::from_secs(3_600)).burst(1);
        let process = || {
            let fleet = Fleet::builder(hourly, store.clone()).key("changed");
            fleet.build().unwrap().limiter()
        };
        process().acquire(1).await.unwrap();
        let limiter = process();
        if answered {
            limiter.acquire(1).await.unwrap_err();
        }
        let waiting = limiter.clone();
        let waiting = tokio::spawn(async move { waiting.acquire(1).await });
        // In the first round, the request is under way.
        sleep(Duration::from_millis(1)).await;
        limiter.set_quota(Quota::per_second(1_000));
        sleep(Duration::from_millis(2)).await;
        *store.ledger.lock().unwrap() = Ledger::default();
        assert_eq!(waiting.await.unwrap().is_err(), answered);
        let called = Instant::now();
        limiter.acquire(1).await.unwrap();
        assert!(called.elapsed() < Duration::from_millis(100));
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_that_nobody_polls_holds_up_no_other() {
    let store = InMemory::new();
    let fleet = builder(&store).build().unwrap();
    let limiters = [fleet.limiter(), fleet.limiter()];
    let mut stuck = pin!(limiters[0].acquire(1));
    // Polled once, before the store answers, and never again.
    assert!(
        stuck
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    let called = Instant::now();
    limiters[1].acquire(1).await.unwrap();
    assert!(
        called.elapsed() < Duration::from_millis(10),
        "{:?}",
        called.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_keep_nothing() {
    let store = InMemory::new();
    let fleet = builder(&store).build().unwrap();
    for _ in 0..50 {
        let limiter = fleet.limiter();
        // Before the answer of the store comes.
        let left = tokio::time::timeout(Duration::from_millis(1), limiter.acquire(100)).await;
        assert!(left.is_err());
        sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(fleet.limiter().snapshot().waiting, 0);
    let called = Instant::now();
    fleet.limiter().acquire(100).await.unwrap();
    assert!(
        called.elapsed() < Duration::from_millis(10),
        "{:?}",
        called.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_layer_has_costs_deadlines_and_a_snapshot() {
    let store = InMemory::new();
    let fleet = builder(&store).build().unwrap();
    let layer = RateLimitLayer::from(fleet.limiter()).cost(|units: &u32| *units);
    let service =
        (layer, ErrorLayer).layer(service_fn(|n| async move { Ok::<u32, Infallible>(n) }));
    service.clone().oneshot(100).await.unwrap();
    let called = Instant::now();
    service.clone().oneshot(50).await.unwrap();
    assert!((40..=60).contains(&called.elapsed().as_millis()));
    let Err(Error::Rejected(Rejection::TooCostly {
        cost: 101,
        burst: 100,
        by,
    })) = service.oneshot(101).await
    else {
        panic!("not rejected")
    };
    assert_eq!(by.as_str(), Some("test"));
    let snapshot = fleet.limiter().snapshot();
    assert_eq!((snapshot.too_costly, snapshot.name), (1, by));
    let seen = fleet.snapshot();
    assert!(seen.leased >= 150 && seen.peers == 1, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stack_takes_the_limiter() {
    let store = InMemory::new();
    let fleet =
        Fleet::builder(Quota::new(1, Duration::from_millis(500)).burst(1), store).key("stacked");
    let fleet = fleet.build().unwrap();
    let stack = stack().rate_limit(fleet.limiter()).build().unwrap();
    let registry = Registry::new();
    registry.add(&fleet.limiter());
    let client = stack.layer(service_fn(|_: Request<String>| async {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let request = || {
        Request::get("http://upstream/")
            .body(String::new())
            .unwrap()
    };
    client.clone().oneshot(request()).await.unwrap();
    // Its turn would come after its deadline.
    let mut late = request();
    late.extensions_mut()
        .insert(Deadline::after(Duration::from_millis(100)));
    let called = Instant::now();
    client.clone().oneshot(late).await.unwrap_err();
    assert!(
        called.elapsed() < Duration::from_millis(60),
        "{:?}",
        called.elapsed()
    );
    client.oneshot(request()).await.unwrap();
    assert_eq!(fleet.limiter().snapshot().rate_limited, 1);
    assert!(registry.text().contains("stacked"));
}

#[test]
fn a_call_after_its_runtime_has_ended_asks_on_another() {
    let store = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { InMemory::new() })
    };
    store.set(HANGS);
    let fleet = builder(&store).build().unwrap();
    for does in [HANGS, ANSWERS] {
        store.set(does);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async { fleet.limiter().acquire(1).await.unwrap() });
    }
    // Outside of a runtime there is nobody to ask: the share of the process.
    let outside = Fleet::builder(Quota::per_second(1_000), store).key("k");
    let outside = outside.build().unwrap();
    let granted = (0..1_000_000).any(|_| outside.limiter().try_acquire(1).is_ok());
    assert!(granted);
}
