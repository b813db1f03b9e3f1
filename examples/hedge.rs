//! One response in thirty takes a second. A second copy of such a call cuts the slowest per cent to a fraction.
//!
//! `cargo run --example hedge`

use buttress::retry::Cloned;
use buttress::{ErrorLayer, HedgeLayer};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

const CALLS: usize = 2_000;

/// The time that 99 of 100 calls stay below.
async fn p99<S>(service: S) -> Duration
where
    S: Service<u32, Response = u32, Error: std::fmt::Debug> + Clone,
{
    let mut taken = Vec::new();
    for _ in 0..CALLS {
        let sent = Instant::now();
        service
            .clone()
            .oneshot(7)
            .await
            .expect("the upstream works");
        taken.push(sent.elapsed());
    }
    taken.sort_unstable();
    taken[CALLS * 99 / 100]
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let requests = Arc::new(AtomicU32::new(0));
    let counted = requests.clone();
    let upstream = service_fn(move |n: u32| {
        let stalls = counted.fetch_add(1, Relaxed) % 30 == 29;
        async move {
            sleep(Duration::from_millis(if stalls { 1_000 } else { 10 })).await;
            Ok::<_, Infallible>(n)
        }
    });
    let upstream = ErrorLayer.layer(upstream);
    let without = p99(upstream.clone()).await;

    let layer = HedgeLayer::builder()
        .replay(Cloned)
        .name("search")
        .build()?;
    let with = p99(layer.layer(upstream)).await;
    let snapshot = layer.hedging().snapshot();
    println!("p99 without copies: {without:?}, with copies: {with:?}");
    println!(
        "copies sent: {} for {CALLS} calls, of which {} had the answer",
        snapshot.hedged, snapshot.won_by_hedge
    );
    assert!(with * 4 <= without);
    assert!(snapshot.hedged <= CALLS as u64 / 10);
    Ok(())
}
