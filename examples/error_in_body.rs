//! The upstream responds 200, and the body says that the call failed. The response is decoded below the
//! stack, so that retry and circuit breaker see an error. `cargo run --example error_in_body`

use buttress::{Error, Verdict, http::ClientError, http::stack};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tower::{ServiceExt, service_fn};

type Body = Full<hyper::body::Bytes>;
static SENDS: AtomicU32 = AtomicU32::new(0);

/// An HTTP client. Its upstream is busy at first, and has one order.
async fn send(request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
    let body = match (request.uri().path(), SENDS.fetch_add(1, Relaxed)) {
        ("/orders/7", 0) => "error: busy",
        ("/orders/7", _) => "two books",
        _ => "error: no such order",
    };
    Ok(Response::new(Full::from(body)))
}

#[derive(Debug)]
enum OrderError {
    Busy,
    NoSuchOrder,
    Client(std::io::Error),
}

async fn decode(response: Response<Body>) -> Result<String, OrderError> {
    let Ok(body) = response.into_body().collect().await;
    match &body.to_bytes()[..] {
        b"error: busy" => Err(OrderError::Busy),
        b"error: no such order" => Err(OrderError::NoSuchOrder),
        order => Ok(String::from_utf8_lossy(order).into_owned()),
    }
}

fn judge(outcome: Result<&String, &Error<OrderError>>) -> Verdict {
    match outcome {
        Ok(_) | Err(Error::Service(OrderError::NoSuchOrder)) => Verdict::Healthy,
        Err(Error::Service(OrderError::Client(error))) => error.verdict(),
        Err(_) => Verdict::TRANSIENT,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = service_fn(send).map_err(OrderError::Client);
    let client = client.and_then(decode);
    let client = stack().classify(judge).service(client)?;
    for (path, sends) in [("/orders/7", 2), ("/orders/8", 1)] {
        let request = Request::get(path).body(Body::default())?;
        let outcome = client.clone().oneshot(request).await;
        println!("{path}: {outcome:?}, sends: {sends}");
        assert_eq!(SENDS.swap(0, Relaxed), sends);
    }
    Ok(())
}
