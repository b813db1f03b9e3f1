//! The recommended stacks for HTTP and gRPC around a service in the process that responds at once. Each
//! call is awaited in a spawned task. `--quick` runs a tenth.

use buttress::http::stack;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::time::Instant;
use tower::{Service, ServiceExt, service_fn};

const CALLS: u32 = 100_000;

type Outcome = Result<Response<Empty<Bytes>>, Infallible>;

/// As a generated stub calls: a POST with a message and two headers.
fn request() -> Request<Full<Bytes>> {
    Request::post("http://orders.internal/orders.Orders/Get")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x05seven")))
        .expect("a valid request")
}

fn respond<R>(request: R) -> Ready<Outcome> {
    black_box(request);
    let response = Response::builder().header("grpc-status", "0");
    ready(Ok(response.body(Empty::new()).expect("a valid response")))
}

/// Nanoseconds per call.
async fn time<S>(service: &S) -> f64
where
    S: Service<Request<Full<Bytes>>> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
{
    let mut service = service.clone();
    let run = async move {
        let start = Instant::now();
        for _ in 0..CALLS {
            let request = request();
            if let Ok(ready) = service.ready().await {
                let _outcome = black_box(ready.call(request).await);
            }
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    tokio::spawn(run).await.expect("no call panics")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 3 } else { 31 };
    let bare = service_fn(respond::<Request<Full<Bytes>>>);
    let http = stack().service(bare).expect("valid");
    let grpc = buttress::grpc::stack().build().expect("valid");
    let grpc = buttress::grpc::service(&grpc, service_fn(respond), |body| body);
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        // In turn, so that a busy moment of the machine meets all of them. The first round warms up.
        let measured = [time(&bare).await, time(&http).await, time(&grpc).await];
        if round > 0 {
            times
                .iter_mut()
                .zip(measured)
                .for_each(|(times, time)| times.push(time));
        }
    }
    let [bare, http, grpc] = times.each_mut().map(|times| median(times));
    println!("| a unary call, in a task | ns | more than bare |\n|---|---|---|");
    for (what, nanos) in [
        ("bare", bare),
        ("http::stack()", http),
        ("grpc::stack()", grpc),
    ] {
        println!("| {what} | {nanos:.0} | {:.0} |", nanos - bare);
    }
    println!(
        "\ngRPC adds {:.0} ns to the stack for HTTP (target: 250).",
        grpc - http
    );
}
