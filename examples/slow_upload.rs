//! A slow upload and the attempt timeout, which covers sending the body. `AttemptTimeout` raises it for
//! one request, `attempt_timeout` for all.
//!
//! `cargo run --example slow_upload`

use buttress::http::{AttemptTimeout, stack};
use buttress::{Error, Rejection};
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::sleep;
use tower::service_fn;

static SENDS: AtomicU32 = AtomicU32::new(0);

/// Responds when the body has arrived, after 20 s.
async fn upstream(_: Request<String>) -> Result<Response<()>, Infallible> {
    SENDS.fetch_add(1, Relaxed);
    sleep(Duration::from_secs(20)).await;
    Ok(Response::new(()))
}

fn upload() -> Result<Request<String>, http::Error> {
    Request::put("/videos/7").body("a long video".to_owned())
}

// A paused clock jumps from timer to timer: the example does not wait for 20 s.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // By default an attempt times out after 5 s. A PUT is then sent again, in vain.
    let client = stack().name("videos").service(service_fn(upstream))?;
    let outcome = client.clone().oneshot(upload()?).await;
    let Err(Error::Rejected(rejection @ Rejection::TimedOut { .. })) = outcome else {
        panic!("{outcome:?}");
    };
    let sends = SENDS.swap(0, Relaxed);
    println!("by default: {rejection}, sends: {sends}");
    assert_eq!(sends, 3);

    // More time for the attempts of one request. The deadline of the whole call is still 30 s.
    let mut request = upload()?;
    let timeout = AttemptTimeout(Duration::from_secs(25));
    request.extensions_mut().insert(timeout);
    let status = client.oneshot(request).await?.status();
    println!("with `AttemptTimeout` in the request: {status}");

    // More time for the attempts of every request, and a later deadline.
    let stack = stack()
        .attempt_timeout(Duration::from_secs(60))
        .deadline(Duration::from_secs(120));
    let client = stack.service(service_fn(upstream))?;
    let status = client.oneshot(upload()?).await?.status();
    println!("with `attempt_timeout` on the stack: {status}");
    assert_eq!(SENDS.load(Relaxed), 2);
    Ok(())
}
