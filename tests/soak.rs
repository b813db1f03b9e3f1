//! Five layers on two threads, with every kind of failure at random moments. At the end, all
//! permits, slots, turns and tokens must be accounted for.
//!
//! It runs for a second, or for `BUTTRESS_SOAK_SECONDS`. It runs in real time, because a paused
//! clock supports only one thread.

use buttress::circuit_breaker::{Circuit, CircuitBreakerLayer, CircuitState, Window};
use buttress::load_shed::{ConcurrencyLimit, LoadShedLayer};
use buttress::rate_limit::{RateLimitLayer, RateLimiter};
use buttress::retry::{Backoff, Budget, Cloned};
use buttress::{Error, ErrorLayer, Quota, RetryLayer, TimeoutLayer, Verdict};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);
const TOKENS: u32 = 1_000_000;
const PROBES: usize = 3;

/// A request counts how many times it was sent.
type Req = Arc<AtomicU64>;

/// The upstream: it responds, fails, is slow, hangs or panics.
async fn upstream(request: Req, draw: u32) -> Result<u32, &'static str> {
    request.fetch_add(1, SeqCst);
    match draw % 100 {
        0..60 => Ok(draw),
        60..80 => Err("down"),
        80..90 => {
            sleep(MS * (draw % 5)).await;
            Ok(draw)
        }
        90..96 => std::future::pending().await,
        96..98 => {
            sleep(MS).await;
            panic!("while it works");
        }
        _ => panic!("at once"),
    }
}

fn draw() -> u32 {
    rand::rng().random()
}

/// Hides the messages of the panics that the upstream causes on purpose.
fn hush() {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let meant = ["while it works", "at once"];
            let payload = info.payload().downcast_ref::<&str>();
            if !payload.is_some_and(|payload| meant.contains(payload)) {
                hook(info);
            }
        }));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_permits_slots_turns_and_tokens_are_accounted_for() {
    hush();
    let seconds = std::env::var("BUTTRESS_SOAK_SECONDS").map_or(1, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);

    let budget = Budget::builder()
        .floor(TOKENS)
        .ratio(0.0)
        .reserve(0.0)
        .build()
        .unwrap();
    let retry = RetryLayer::builder()
        .backoff(Backoff::exponential(MS / 4, MS))
        .budget(budget.clone())
        .replay(Cloned);
    let breaker = CircuitBreakerLayer::builder()
        .window(Window::time(100 * MS))
        .min_calls(10)
        .failure_rate(0.6)
        .open_for(3 * MS)
        .max_open_for(10 * MS)
        .probes(PROBES as u32)
        .abandoned_after(4 * MS)
        .build()
        .unwrap();
    let circuit = breaker.circuit().clone();
    let limit = RateLimitLayer::builder(Quota::per_second(20_000).burst(50)).max_wait(4 * MS);
    let limit = limit.unless_open(&circuit).build().unwrap();
    let shed = LoadShedLayer::builder(16)
        .queue(16, 4 * MS)
        .unless_open(&circuit);
    let shed = shed.build().unwrap();
    let (limiter, slots) = (limit.limiter().clone(), shed.limit().clone());
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(12 * MS))
        .layer(retry.build().unwrap())
        .layer(shed)
        .layer(limit)
        .layer(breaker)
        .layer(TimeoutLayer::new(5 * MS))
        .layer(ErrorLayer)
        .service(service_fn(|request: Req| upstream(request, draw())));

    let tally = Arc::new(Tally::default());
    let mut callers = tokio::task::JoinSet::new();
    for seed in 0..32 {
        callers.spawn(call_at_random(service.clone(), seed, end, tally.clone()));
    }
    let handles = Handles {
        circuit,
        limiter,
        slots,
    };
    let meddler = tokio::spawn(change_settings(handles.clone()));
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    meddler.abort();
    assert!(meddler.await.unwrap_err().is_cancelled());

    let made = tally.calls.load(SeqCst);
    assert!(made > 100 * seconds, "{made} calls in {seconds} s");
    // The budget has spent one token per retry.
    let spent = f64::from(TOKENS) - budget.tokens();
    let resent = tally.resent.load(SeqCst) as f64;
    assert!(
        (spent - resent).abs() < 0.5,
        "{spent} tokens for {resent} retries"
    );
    handles.account().await;
}

#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    resent: AtomicU64,
}

/// Makes calls in a loop, and drops some of them at a random moment.
async fn call_at_random<S>(service: S, seed: u64, end: Instant, tally: Arc<Tally>)
where
    S: Service<Req, Response = u32, Error = Error<&'static str>, Future: Send>,
    S: Clone + Send + 'static,
{
    let mut rng = SmallRng::seed_from_u64(seed);
    while Instant::now() < end {
        let request = Req::default();
        let call = tokio::spawn(service.clone().oneshot(request.clone()));
        let stop = call.abort_handle();
        if rng.random_ratio(1, 4) {
            let patience = Duration::from_micros(rng.random_range(0..6_000));
            let _ = timeout(patience, call).await;
        } else if let Ok(Err(Error::Rejected(_))) = call.await {
            sleep(Duration::from_micros(rng.random_range(0..500))).await;
        }
        stop.abort();
        while !stop.is_finished() {
            tokio::task::yield_now().await;
        }
        let resent = request.load(SeqCst).saturating_sub(1);
        tally.resent.fetch_add(resent, SeqCst);
        tally.calls.fetch_add(1, SeqCst);
    }
}

#[derive(Clone)]
struct Handles {
    circuit: Circuit,
    limiter: RateLimiter,
    slots: ConcurrencyLimit,
}

/// Changes limits and quotas and forces the circuit open or closed, in a loop.
async fn change_settings(handles: Handles) {
    let Handles {
        circuit,
        limiter,
        slots,
    } = handles;
    let mut rng = SmallRng::seed_from_u64(99);
    loop {
        match rng.random_range(0..9) {
            0 => circuit.force_open(),
            1 => circuit.force_closed(),
            2..5 => circuit.reset(),
            5 => slots.set_limit(rng.random_range(0..24)),
            6 => limiter.set_quota(Quota::per_second(rng.random_range(0..40_000)).burst(20)),
            7 => limiter.pause_until(Instant::now() + MS),
            _ => limiter.resume(),
        }
        sleep(Duration::from_micros(rng.random_range(0..2_000))).await;
    }
}

impl Handles {
    /// Asserts that nothing was lost and nothing was released twice.
    async fn account(self) {
        let Self {
            circuit,
            limiter,
            slots,
        } = self;
        slots.set_limit(16);
        let snapshot = slots.snapshot();
        assert_eq!(
            (snapshot.in_flight, snapshot.waiting),
            (0, 0),
            "{snapshot:?}"
        );
        let taken: Vec<_> = (0..17).map_while(|_| slots.try_acquire().ok()).collect();
        assert_eq!(taken.len(), 16);

        limiter.resume();
        limiter.set_quota(Quota::per_second(1_000_000).burst(7));
        assert_eq!(limiter.snapshot().waiting, 0);
        sleep(20 * MS).await;
        assert_eq!(limiter.snapshot().available, 7);
        limiter.set_quota(Quota::new(1, Duration::from_secs(3_600)).burst(7));
        let turns = (0..9).filter(|_| limiter.try_acquire(1).is_ok()).count();
        assert!(turns <= 7, "{turns}");

        circuit.reset();
        let calls: Vec<_> = (0..20).map(|_| circuit.try_acquire().unwrap()).collect();
        for call in calls {
            call.settle(Verdict::TRANSIENT);
        }
        assert_eq!(circuit.state(), CircuitState::Open);
        sleep(20 * MS).await;
        let probes: Vec<_> = (0..9).map_while(|_| circuit.try_acquire().ok()).collect();
        assert_eq!(probes.len(), PROBES);
        for probe in probes {
            probe.settle(Verdict::Healthy);
        }
        assert_eq!(circuit.state(), CircuitState::Closed);
        assert_eq!(circuit.snapshot().probes_out, 0);
    }
}
