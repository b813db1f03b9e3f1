//! A game day: 5 % of the responses are late and 1 % are errors, on purpose. The deadline and the retry budget hold.
//!
//! ```sh
//! cargo run --release --example game_day            # a minute, on a simulated clock, with checks
//! cargo run --release --example game_day -- --page  # a live page with buttons that switch the faults
//! ```

use buttress::ChaosLayer;
use buttress::chaos::Delay;
use buttress::http::{InExtensions, StackLayer, stack};
use buttress::observe::Registry;
use http::{Request, Response, StatusCode};
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, sleep};
use tower::{Layer, Service, service_fn};

const DEADLINE: Duration = Duration::from_secs(1);
const CALLS_PER_SECOND: u32 = 100;

/// The upstream itself is well: 10 ms for each request.
async fn upstream(_: Request<()>) -> Result<Response<()>, Infallible> {
    sleep(Duration::from_millis(10)).await;
    Ok(Response::new(()))
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "an injected outcome may be an error"
)]
fn unavailable(_: &Request<()>) -> Result<Response<()>, Infallible> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    Ok(response)
}

type Faults =
    ChaosLayer<fn(&Request<()>) -> Result<Response<()>, Infallible>, (), (), InExtensions>;

fn faults() -> Result<Faults, Box<dyn Error>> {
    let late = Delay::heavy(Duration::from_millis(200), Duration::from_secs(2));
    let outcome: fn(&Request<()>) -> _ = unavailable;
    let builder = ChaosLayer::builder()
        .latency(0.05, late)
        .outcome(0.01, outcome);
    Ok(builder
        .mark(InExtensions)
        .seed(7)
        .name("orders faults")
        .build()?)
}

fn orders(registry: &Registry) -> Result<StackLayer, Box<dyn Error>> {
    let stack = stack().name("orders").deadline(DEADLINE);
    let stack = stack.attempt_timeout(Duration::from_millis(300));
    Ok(stack.registered(registry).build()?)
}

/// What callers saw in one phase.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    failed: AtomicU64,
    slowest_ms: AtomicU64,
}

/// Makes calls for so long, and waits for the last of them.
async fn make_calls<S>(service: S, length: Duration) -> Arc<Seen>
where
    S: Service<Request<()>, Response = Response<()>, Future: Send> + Clone + Send + 'static,
    S::Error: Send,
{
    let seen = Arc::new(Seen::default());
    let mut ticks = interval(Duration::from_secs(1) / CALLS_PER_SECOND);
    for _ in 0..length.as_secs().saturating_mul(CALLS_PER_SECOND.into()) {
        ticks.tick().await;
        let (mut service, seen) = (service.clone(), seen.clone());
        tokio::spawn(async move {
            let sent = Instant::now();
            let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let well = match ready {
                Ok(()) => service
                    .call(Request::new(()))
                    .await
                    .is_ok_and(|it| it.status().is_success()),
                Err(_) => false,
            };
            seen.calls.fetch_add(1, Relaxed);
            seen.failed.fetch_add(u64::from(!well), Relaxed);
            let took = sent.elapsed().as_millis() as u64;
            seen.slowest_ms.fetch_max(took, Relaxed);
        });
    }
    sleep(DEADLINE).await;
    seen
}

/// Three phases of 20 s: without faults, with them, and without again.
async fn check() -> Result<(), Box<dyn Error>> {
    let (registry, faults) = (Registry::new(), faults()?);
    let layer = orders(&registry)?;
    let service = layer.layer(faults.layer(service_fn(upstream)));
    let phase = Duration::from_secs(20);
    println!(
        "{:>10} {:>6} {:>7} {:>12} {:>8}",
        "faults", "calls", "failed", "slowest call", "retries"
    );
    for on in [false, true, false] {
        if on {
            faults.chaos().for_the_next(phase);
        }
        let before = layer.retry_snapshot().map_or(0, |seen| seen.retries);
        let seen = make_calls(service.clone(), phase).await;
        let retries = layer.retry_snapshot().map_or(0, |seen| seen.retries) - before;
        let calls = seen.calls.load(Relaxed);
        let failed = seen.failed.load(Relaxed);
        let slowest = seen.slowest_ms.load(Relaxed);
        let name = if on { "on" } else { "off" };
        println!("{name:>10} {calls:>6} {failed:>7} {slowest:>9} ms {retries:>8}");

        assert_eq!(calls, u64::from(CALLS_PER_SECOND) * phase.as_secs());
        assert!(
            u128::from(slowest) <= DEADLINE.as_millis() + 1,
            "the deadline holds"
        );
        assert!(
            retries <= calls / 10 + 2 + phase.as_secs(),
            "the budget holds"
        );
        if on {
            assert!(
                retries > 0 && failed * 500 <= calls,
                "retries answer for the faults"
            );
        } else {
            assert_eq!((failed, retries), (0, 0), "without faults nothing fails");
        }
    }
    let snapshot = faults.chaos().snapshot();
    println!(
        "injected: {} late responses, {} errors",
        snapshot.latency, snapshot.outcome
    );
    println!(
        "ok: no call was longer than {DEADLINE:?}, and the retries stayed within their budget"
    );
    Ok(())
}

async fn show() -> Result<(), Box<dyn Error>> {
    let (registry, faults) = (Registry::new(), faults()?);
    registry.add(faults.chaos());
    let service = orders(&registry)?.layer(faults.layer(service_fn(upstream)));
    tokio::spawn(make_calls(service, Duration::MAX));
    let token = format!("{:032x}", rand::random::<u128>());
    let page = registry.service().allow_actions(&token)?;
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!(
        "switch the faults at http://{}/#token={token}",
        listener.local_addr()?
    );
    Ok(axum::serve(listener, axum::Router::new().fallback_service(page)).await?)
}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|arg| arg == "--page") {
        return tokio::runtime::Runtime::new()?.block_on(show());
    }
    // Simulated time: a minute takes a second, and a machine that stalls changes nothing.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime
        .enable_all()
        .start_paused(true)
        .build()?
        .block_on(check())
}
