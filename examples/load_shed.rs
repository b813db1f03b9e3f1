//! A limit on the calls in flight, with a short queue.
//!
//! `cargo run --example load_shed`

use buttress::{Error, ErrorLayer, LoadShedLayer, Rejection};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};

// One thread, so that the calls start in order.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = LoadShedLayer::builder(2)
        .name("orders")
        .queue(1, Duration::from_millis(200))
        .build()?;
    let limit = layer.limit().clone();
    let client = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|number: u32| async move {
            sleep(Duration::from_millis(50)).await;
            Ok::<_, Infallible>(number)
        }));

    // Four calls at once: two are sent, one waits in the queue, and one is rejected.
    let calls: Vec<_> = (1..=4)
        .map(|number| tokio::spawn(client.clone().oneshot(number)))
        .collect();
    let mut responses = 0;
    for call in calls {
        match call.await? {
            Ok(number) => {
                println!("call {number}: a response");
                responses += 1;
            }
            Err(Error::Rejected(rejection)) => {
                println!("a call was not sent: {rejection}");
                assert!(matches!(rejection, Rejection::Overloaded { limit: 2, .. }));
            }
            Err(Error::Service(error)) => match error {},
        }
    }
    assert_eq!(responses, 3);

    // The handle changes the limit at any time. This call waits in the queue for 200 ms, and is rejected.
    limit.set_limit(0);
    let rejected = client.oneshot(5).await.unwrap_err();
    println!("with a limit of 0: {rejected}");
    Ok(())
}
