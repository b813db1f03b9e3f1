//! What the services of one layer share.

use crate::setups::{Outcome, box_of, seen};
use crate::strict::Strict;
use buttress::retry::Cloned;
use buttress::{
    CircuitBreakerLayer, Error, LoadShedLayer, Quota, RateLimitLayer, RetryLayer, Verdict,
};
use std::time::Duration;
use tower::{Layer, ServiceExt};

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_share_its_state() {
    let inner = || box_of(Strict::new(false));

    let shed = LoadShedLayer::new(1);
    let _slot = shed.limit().try_acquire().unwrap();
    assert_eq!(
        seen(shed.clone().layer(inner()).oneshot(7).await),
        Outcome::Overloaded
    );

    let limit = RateLimitLayer::builder(Quota::per_minute(1)).max_wait(Duration::ZERO);
    let limit = limit.build().unwrap();
    assert_eq!(seen(limit.layer(inner()).oneshot(7).await), Outcome::Ok);
    assert_eq!(
        seen(limit.clone().layer(inner()).oneshot(7).await),
        Outcome::RateLimited
    );

    let breaker = CircuitBreakerLayer::default();
    let service = breaker.layer(inner());
    breaker.clone().circuit().force_open();
    assert_eq!(seen(service.clone().oneshot(7).await), Outcome::CircuitOpen);
    assert_eq!(
        seen(breaker.layer(inner()).oneshot(7).await),
        Outcome::CircuitOpen
    );

    let retry = RetryLayer::builder()
        .replay(Cloned)
        .classify(fails)
        .build()
        .unwrap();
    for _ in 0..2 {
        assert_eq!(
            seen(retry.clone().layer(inner()).oneshot(7).await),
            Outcome::Ok
        );
    }
    // Two retries have spent the two tokens: one of each call, or both of one call.
    assert!(retry.budget().unwrap().tokens() < 0.1);
}

fn fails(_: Result<&u32, &Error<&'static str>>) -> Verdict {
    Verdict::TRANSIENT
}
