//! A live page with upstreams that you can slow down and break: open the link that it prints.
//!
//! ```sh
//! cargo run --release --example dashboard
//! ```
//!
//! Each upstream gets 40 calls per second through a stack of its own. The page `/upstreams` has buttons that slow
//! an upstream, make it fail or make it refuse connections. Watch on the live page what each layer does. There, buttons
//! inject faults into the calls to `search`.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Request, Response, StatusCode};
use axum::response::Html;
use axum::routing::{get, post};
use buttress::chaos::Delay;
use buttress::http::{Authority, stack};
use buttress::observe::Registry;
use buttress::{ChaosLayer, Quota};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{interval, sleep};
use tower::{Layer, service_fn};

const NAMES: [&str; 3] = ["orders", "payments", "search"];
const MOODS: [&str; 4] = ["well", "slow", "fail", "refuse"];

/// How each upstream behaves: an index of [`MOODS`].
type Moods = Arc<[AtomicU8; 3]>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let port =
        std::env::var("PORT").map_or(Ok(if quick { 0 } else { 8080 }), |port| port.parse())?;
    let registry = Registry::new();
    let moods = Moods::default();
    for index in 0..NAMES.len() {
        call(index, &registry, moods.clone())?;
    }
    call_by_tenant(&registry)?;
    let token = format!("{:032x}", rand::random::<u128>());
    let page = registry.service().allow_actions(&token)?;
    let app = Router::new()
        .route("/upstreams", get(async || Html(buttons())))
        .route("/upstream/{name}/{mood}", post(set_mood))
        .with_state(moods)
        .fallback_service(page);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("the live page:  http://{address}/#token={token}");
    println!("the upstreams:  http://{address}/upstreams");
    if quick {
        sleep(Duration::from_secs(2)).await;
        let text = registry.text();
        let started = text.contains("buttress_attempts_total{name=\"orders\",outcome=\"success\"}");
        return if started {
            Ok(())
        } else {
            Err("no calls were counted".into())
        };
    }
    Ok(axum::serve(listener, app).await?)
}

/// Calls an upstream 40 times per second.
fn call(index: usize, registry: &Registry, moods: Moods) -> Result<(), Box<dyn Error>> {
    let upstream = service_fn(move |_: Request<()>| answer(moods[index].load(Relaxed)));
    // Off, until a button of the page switches it on.
    let faults = ChaosLayer::builder()
        .latency(0.05, Delay::fixed(Duration::from_millis(200)))
        .hang(0.01)
        .name(format!("{} faults", NAMES[index]))
        .build()?;
    if NAMES[index] == "search" {
        registry.add(faults.chaos());
    }
    let upstream = faults.layer(upstream);
    let stack = stack()
        .name(NAMES[index])
        .deadline(Duration::from_secs(2))
        .attempt_timeout(Duration::from_millis(300))
        .load_shed(32)
        .rate_limit(Quota::per_second(60).burst(60))
        .registered(registry)
        .service(upstream)?;
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(25));
        loop {
            ticks.tick().await;
            let request = Request::get("http://upstream.internal/")
                .body(())
                .expect("the request is valid");
            tokio::spawn(stack.clone().oneshot(request));
        }
    });
    Ok(())
}

/// Calls an upstream for 20 tenants, each with a circuit of its own. The last one always fails.
fn call_by_tenant(registry: &Registry) -> Result<(), Box<dyn Error>> {
    let last = |request: &Request<()>| request.uri().host() == Some("tenant19");
    let layer = stack().name("tenants").per_key(Authority).build()?;
    registry.add(&layer);
    let stack = layer.layer(service_fn(move |request| {
        answer(u8::from(last(&request)) * 2)
    }));
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(10));
        for tenant in (0..20).cycle() {
            ticks.tick().await;
            let request = Request::get(format!("http://tenant{tenant}/"));
            let request = request.body(()).expect("the request is valid");
            tokio::spawn(stack.clone().oneshot(request));
        }
    });
    Ok(())
}

/// What an upstream in this mood responds.
async fn answer(mood: u8) -> io::Result<Response<()>> {
    let slowness = Duration::from_millis(rand::random_range(5..40));
    sleep(slowness).await;
    let mut response = Response::new(());
    match MOODS[usize::from(mood)] {
        "slow" => sleep(slowness * 30).await,
        "fail" => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        "refuse" => return Err(io::ErrorKind::ConnectionRefused.into()),
        _ => {}
    }
    Ok(response)
}

/// A form for each upstream and mood. The response 204 leaves the browser where it is.
fn buttons() -> String {
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <link rel=icon href=data:,><title>upstreams</title><style>:root{color-scheme:light dark;font:1rem system-ui}\
         form{display:inline-block;margin:.2rem}button{font:inherit;padding:.4rem .8rem}</style>",
    );
    for name in NAMES {
        page.extend(["<h2>", name, "</h2>"]);
        for mood in MOODS {
            page.extend([
                "<form method=post action='/upstream/",
                name,
                "/",
                mood,
                "'>",
            ]);
            page.extend(["<button>", mood, "</button></form>"]);
        }
    }
    page
}

async fn set_mood(
    State(moods): State<Moods>,
    Path((name, mood)): Path<(String, String)>,
) -> StatusCode {
    let place = |words: &[&str], word: &str| words.iter().position(|known| *known == word);
    match (place(&NAMES, &name), place(&MOODS, &mood)) {
        (Some(upstream), Some(mood)) => {
            moods[upstream].store(mood as u8, Relaxed);
            StatusCode::NO_CONTENT
        }
        _ => StatusCode::NOT_FOUND,
    }
}
