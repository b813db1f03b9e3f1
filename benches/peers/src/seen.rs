//! What it costs to see a stack: the recommended stack for HTTP alone, in a registry, with metrics and the recorder of
//! an exporter, and with a subscriber at INFO. Each call is awaited in a spawned task. `--quick` runs a tenth.

use buttress::http::stack;
use buttress::observe::Registry;
use http::{Request, Response};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tower::{Service, ServiceExt, service_fn};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::filter::LevelFilter;

const CALLS: u32 = 100_000;

fn respond(request: Request<()>) -> Ready<Result<Response<()>, Infallible>> {
    black_box(request);
    ready(Ok(Response::new(())))
}

/// Nanoseconds per call.
async fn time<S>(service: &S, subscriber: Dispatch) -> f64
where
    S: Service<Request<()>, Future: Send, Response: Send, Error: Send> + Clone + Send + 'static,
{
    let mut service = service.clone();
    let run = async move {
        let start = Instant::now();
        for _ in 0..CALLS {
            let request = Request::get("http://orders.internal/7").body(());
            if let Ok(ready) = service.ready().await {
                let _outcome = black_box(ready.call(request.expect("valid")).await);
            }
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    let run = run.with_subscriber(subscriber);
    tokio::spawn(run).await.expect("no call panics")
}

/// The 50th and 99th percentile of a million calls, in nanoseconds.
async fn percentiles<S>(service: &S) -> [u64; 2]
where
    S: Service<Request<()>, Future: Send, Response: Send, Error: Send> + Clone + Send + 'static,
{
    let mut service = service.clone();
    let run = async move {
        let mut nanos = Vec::with_capacity(1_000_000);
        for _ in 0..1_000_000 {
            let start = Instant::now();
            if let Ok(ready) = service.ready().await {
                let _outcome = black_box(ready.call(Request::new(())).await);
            }
            nanos.push(start.elapsed().as_nanos() as u64);
        }
        nanos.sort_unstable();
        [nanos[500_000], nanos[990_000]]
    };
    tokio::spawn(run).await.expect("no call panics")
}

/// Scrapes every 10 ms, on a thread of its own, until dropped.
struct Scraping {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scraping {
    fn of(registry: Registry) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                black_box(registry.text());
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Scraping {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("no scrape panics");
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 3 } else { 31 };
    let client = service_fn(respond);
    let orders = || stack().name("orders");
    // Its first call comes before there is a recorder, so its values go nowhere.
    let unrecorded = orders().metrics().service(client).expect("valid");
    time(&unrecorded, Dispatch::none()).await;
    let recorder = PrometheusBuilder::new()
        .with_recommended_naming(true)
        .set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0])
        .expect("buckets")
        .build_recorder();
    let exporter = recorder.handle();
    metrics::set_global_recorder(recorder).expect("there is no other recorder");

    let registry = Registry::new();
    let plain = orders().service(client).expect("valid");
    let listed = orders().registered(&registry).service(client);
    let listed = listed.expect("valid");
    let metered = orders().metrics().service(client).expect("valid");
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .finish();
    let at_info = Dispatch::new(subscriber);

    let rows = [
        "plain",
        "plain, again",
        "in a registry",
        "`metrics`, no recorder",
        "`metrics`, recorder of an exporter",
        "subscriber at INFO",
    ];
    let mut times = [const { Vec::new() }; 6];
    for round in 0..=rounds {
        // In turn, so that a busy moment of the machine meets all of them. The first round warms up.
        let measured = [
            time(&plain, Dispatch::none()).await,
            time(&plain, Dispatch::none()).await,
            time(&listed, Dispatch::none()).await,
            time(&unrecorded, Dispatch::none()).await,
            time(&metered, Dispatch::none()).await,
            time(&plain, at_info.clone()).await,
        ];
        exporter.run_upkeep();
        if round > 0 {
            let all = times.iter_mut().zip(measured);
            all.for_each(|(times, time)| times.push(time));
        }
    }
    let histogram = metrics::histogram!("of_its_own");
    let start = Instant::now();
    for _ in 0..CALLS {
        histogram.record(black_box(0.1));
    }
    let record = start.elapsed().as_nanos() as f64 / f64::from(CALLS);
    let text = exporter.render();
    assert!(
        text.contains("buttress_call_duration_seconds_bucket{"),
        "{text}"
    );
    let medians = times.each_mut().map(|times| median(times));
    println!("| a call through `http::stack()`, in a task | ns | more than plain |\n|---|---|---|");
    for (row, nanos) in rows.iter().zip(medians) {
        println!("| {row} | {nanos:.0} | {:.0} |", nanos - medians[0]);
    }
    let quiet = percentiles(&listed).await;
    let scraping = Scraping::of(registry.clone());
    let scraped = percentiles(&listed).await;
    drop(scraping);
    println!(
        "\nA million calls in a registry, p50 and p99: {quiet:?} ns; scraped every 10 ms: {scraped:?} ns."
    );
    println!("\nThe recorder takes {record:.0} ns for a value. A call records two.");
}
