//! Which deadline ended a call: the caller's own, or the one that a timeout set.

use super::SECOND;
use buttress::retry::{Backoff, Budget, Cloned, Jitter, Within};
use buttress::{Carrier, Deadline, Error, ErrorLayer, Name, Rejection, RetryLayer, TimeoutLayer};
use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::task::{Context, Poll};
use tokio::time::sleep;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

#[derive(Clone)]
struct Itself;

type Carried = Option<Deadline>;

impl Carrier<Carried> for Itself {
    fn get(&self, carried: &Carried) -> Option<Deadline> {
        *carried
    }

    fn set(&self, carried: &mut Carried, deadline: Deadline) {
        *carried = Some(deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_a_carrier_does_not_report_the_callers_deadline_as_its_own() {
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(SECOND))
        .layer(
            TimeoutLayer::builder(60 * SECOND)
                .carrier(Itself)
                .build()
                .unwrap(),
        )
        .layer(ErrorLayer)
        .service(service_fn(|_: Carried| pending::<Result<(), Infallible>>()));
    let outcome = service.oneshot(Some(Deadline::after(SECOND))).await;
    assert_eq!(
        outcome,
        Err(Error::Rejected(Rejection::DeadlinePassed {
            by: Name::UNNAMED
        }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passed_while_waiting_for_readiness_is_reported_as_the_callers() {
    let timeout = TimeoutLayer::builder(10 * SECOND)
        .carrier(Itself)
        .build()
        .unwrap();
    let fine = service_fn(|_: Carried| ready(Ok::<(), Infallible>(())));
    let mut service = timeout.layer(ErrorLayer.layer(ConcurrencyLimit::new(fine, 0)));
    let request = Some(Deadline::after(2 * SECOND));
    let outcome = service.ready().await.unwrap().call(request).await;
    assert_eq!(
        outcome,
        Err(Error::Rejected(Rejection::DeadlinePassed {
            by: Name::UNNAMED
        }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_becomes_ready_after_the_deadline_is_not_sent_and_costs_no_token() {
    /// Ready immediately for the first attempt; each clone is ready after a minute.
    #[derive(Default)]
    struct SlowToReady {
        cloned: bool,
        wait: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
    }

    impl Clone for SlowToReady {
        fn clone(&self) -> Self {
            Self {
                cloned: true,
                wait: None,
            }
        }
    }

    impl Service<Carried> for SlowToReady {
        type Response = ();
        type Error = Error<&'static str>;
        type Future = Ready<Result<(), Self::Error>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if !self.cloned {
                return Poll::Ready(Ok(()));
            }
            let wait = self
                .wait
                .get_or_insert_with(|| Box::pin(sleep(60 * SECOND)));
            wait.as_mut().poll(cx).map(Ok)
        }

        fn call(&mut self, _: Carried) -> Self::Future {
            assert!(!self.cloned, "sent too late");
            ready(Err(Error::Service("down")))
        }
    }

    let budget = Budget::builder().floor(10).reserve(0.0).build().unwrap();
    let retry = RetryLayer::builder()
        .backoff(Backoff::constant(SECOND).jitter(Jitter::None))
        .budget(budget.clone())
        .replay(Within::new(Cloned, Itself));
    let mut service = retry.build().unwrap().layer(SlowToReady::default());
    let call = service
        .ready()
        .await
        .unwrap()
        .call(Some(Deadline::after(30 * SECOND)));
    assert_eq!(
        call.await,
        Err(Error::Rejected(Rejection::DeadlinePassed {
            by: Name::UNNAMED
        }))
    );
    assert!((budget.tokens() - 10.0).abs() < 0.001);
}
