//! A limit on calls in flight, with a short queue.

use buttress::{Error, ErrorLayer, LoadShedLayer, Name, Rejection};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};

// A paused clock jumps from timer to timer: the example waits for nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layer = LoadShedLayer::builder(2)
        .queue(1, Duration::from_secs(1))
        .build()?;
    let limit = layer.limit().clone();
    let client = ServiceBuilder::new()
        .layer(layer)
        .layer(ErrorLayer)
        .service(service_fn(|n: u32| async move {
            sleep(Duration::from_millis(20)).await;
            Ok::<_, Infallible>(n)
        }));

    // Two go at once, one waits, and one is too many.
    let calls: Vec<_> = (0..4)
        .map(|n| tokio::spawn(client.clone().oneshot(n)))
        .collect();
    sleep(Duration::from_millis(5)).await;
    println!("{limit:?}");
    assert_eq!(
        (limit.snapshot().in_flight, limit.snapshot().waiting),
        (2, 1)
    );

    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await?);
    }
    println!("{outcomes:?}");
    let shed = Err(Error::Rejected(Rejection::Overloaded {
        limit: 2,
        by: Name::UNNAMED,
    }));
    assert_eq!(outcomes, [Ok(0), Ok(1), Ok(2), shed]);

    // A limit can be changed while it is in use.
    limit.set_limit(0);
    assert!(client.oneshot(4).await.is_err());
    Ok(())
}
