//! Five layers, two threads, and everything that can go wrong at random moments; at the end, all that
//! is scarce is accounted for.
//!
//! It runs for a second, or for `BUTTRESS_SOAK_SECONDS`. A paused clock needs one thread, so this is
//! real time.

use buttress::circuit_breaker::{CircuitBreakerLayer, CircuitState, Window};
use buttress::load_shed::LoadShedLayer;
use buttress::rate_limit::RateLimitLayer;
use buttress::retry::{Backoff, Budget, Cloned};
use buttress::{Error, ErrorLayer, Quota, RetryLayer, TimeoutLayer, Verdict};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceBuilder, ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);
const TOKENS: u32 = 1_000_000;
const PROBES: usize = 3;

/// A request counts how often it was sent.
type Req = Arc<AtomicU64>;

/// The upstream: it responds, fails, dawdles, hangs or panics.
async fn upstream(request: Req, whim: u32) -> Result<u32, &'static str> {
    request.fetch_add(1, SeqCst);
    match whim % 100 {
        0..60 => Ok(whim),
        60..80 => Err("down"),
        80..90 => {
            sleep(MS * (whim % 5)).await;
            Ok(whim)
        }
        90..96 => std::future::pending().await,
        96..98 => {
            sleep(MS).await;
            panic!("while it works");
        }
        _ => panic!("at once"),
    }
}

fn whim() -> u32 {
    rand::rng().random()
}

/// The panics of the upstream are meant, and not worth a line each.
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
        .service(service_fn(|request: Req| upstream(request, whim())));

    let (resent, calls) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..32 {
        let (service, resent, calls) = (service.clone(), resent.clone(), calls.clone());
        callers.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(caller);
            while Instant::now() < end {
                let request = Req::default();
                let call = tokio::spawn(service.clone().oneshot(request.clone()));
                let stop = call.abort_handle();
                if rng.random_ratio(1, 4) {
                    // Leaves at a random moment.
                    let patience = Duration::from_micros(rng.random_range(0..6_000));
                    let _ = timeout(patience, call).await;
                } else if let Ok(Err(Error::Rejected(_))) = call.await {
                    sleep(Duration::from_micros(rng.random_range(0..500))).await;
                }
                stop.abort();
                while !stop.is_finished() {
                    tokio::task::yield_now().await;
                }
                resent.fetch_add(request.load(SeqCst).saturating_sub(1), SeqCst);
                calls.fetch_add(1, SeqCst);
            }
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let meddler = tokio::spawn({
        let (stop, circuit, limiter, slots) = (
            stop.clone(),
            circuit.clone(),
            limiter.clone(),
            slots.clone(),
        );
        async move {
            let mut rng = SmallRng::seed_from_u64(99);
            while !stop.load(SeqCst) {
                match rng.random_range(0..9) {
                    0 => circuit.force_open(),
                    1 => circuit.force_closed(),
                    2..5 => circuit.reset(),
                    5 => slots.set_limit(rng.random_range(0..24)),
                    6 => {
                        limiter.set_quota(Quota::per_second(rng.random_range(0..40_000)).burst(20))
                    }
                    7 => limiter.pause_until(Instant::now() + MS),
                    _ => limiter.resume(),
                }
                sleep(Duration::from_micros(rng.random_range(0..2_000))).await;
            }
        }
    });
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    stop.store(true, SeqCst);
    meddler.await.unwrap();

    let made = calls.load(SeqCst);
    assert!(made > 100 * seconds, "{made} calls in {seconds} s");

    // Slots
    slots.set_limit(16);
    let snapshot = slots.snapshot();
    assert_eq!(
        (snapshot.in_flight, snapshot.waiting),
        (0, 0),
        "{snapshot:?}"
    );
    let taken: Vec<_> = (0..17).map_while(|_| slots.try_acquire().ok()).collect();
    assert_eq!(taken.len(), 16);

    // Turns: the whole burst, and not one more.
    limiter.resume();
    limiter.set_quota(Quota::per_second(1_000_000).burst(7));
    assert_eq!(limiter.snapshot().waiting, 0);
    sleep(20 * MS).await;
    limiter.set_quota(Quota::new(1, Duration::from_secs(3_600)).burst(7));
    let turns = (0..9).filter(|_| limiter.try_acquire(1).is_ok()).count();
    assert!(turns <= 7, "{turns}");

    // Probes: as many as were set, and not one less.
    circuit.reset();
    let failures: Vec<_> = (0..20).map(|_| circuit.try_acquire().unwrap()).collect();
    failures
        .into_iter()
        .for_each(|permit| permit.settle(Verdict::TRANSIENT));
    assert_eq!(circuit.state(), CircuitState::Open);
    sleep(20 * MS).await;
    let probes: Vec<_> = (0..9).map_while(|_| circuit.try_acquire().ok()).collect();
    assert_eq!(probes.len(), PROBES);
    probes
        .into_iter()
        .for_each(|permit| permit.settle(Verdict::Healthy));
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!(circuit.snapshot().probes_out, 0);

    // Tokens: as many are gone as calls were sent again.
    let spent = f64::from(TOKENS) - budget.tokens();
    let resent = resent.load(SeqCst) as f64;
    assert!(
        (spent - resent).abs() < 0.5,
        "{spent} tokens for {resent} retries"
    );
}
