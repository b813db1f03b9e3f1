//! Clients with boxed errors: calls through the layers that classify outcomes can be spawned.

use buttress::http::{PauseOn429, StatusClassifier, stack};
use buttress::{CircuitBreakerLayer, ErrorLayer, Quota, RateLimitLayer, RetryLayer};
use http::{Request, Response};
use std::future::ready;
use std::io;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Client = BoxCloneSyncService<Request<()>, Response<()>, BoxError>;

/// The client's type names the boxed error. Inside a spawned future the compiler forgets its
/// lifetime.
fn client() -> Client {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    Client::new(service_fn(move |_| ready(Err(BoxError::from(reset())))))
}

/// Spawns a call from an `async` block, as programs do. This is a macro because the `where` bounds
/// of a function would hide the problem.
macro_rules! assert_spawns {
    ($service:expr) => {
        let service = $service;
        let call = tokio::spawn(async move { service.oneshot(Request::new(())).await });
        assert!(call.await.unwrap().is_err());
    };
}

#[tokio::test(start_paused = true)]
async fn the_stack_around_a_boxed_error_can_be_spawned() {
    assert_spawns!(stack().service(client()).unwrap());
    let limited = stack().load_shed(1).rate_limit(Quota::per_second(1));
    assert_spawns!(limited.service(client()).unwrap());
}

#[tokio::test(start_paused = true)]
async fn every_layer_that_classifies_can_be_spawned_around_a_boxed_error() {
    let limit = RateLimitLayer::new(Quota::per_second(1_000));
    let pausing = PauseOn429::new(StatusClassifier::default(), limit.limiter());
    let retry = RetryLayer::builder().classify(pausing).build().unwrap();
    let breaker = CircuitBreakerLayer::builder().classify(StatusClassifier::default());
    let breaker = breaker.build().unwrap();

    assert_spawns!(ServiceBuilder::new().layer(&retry).service(client()));
    assert_spawns!(ServiceBuilder::new().layer(&breaker).service(client()));
    let layers = ServiceBuilder::new().layer(&retry).layer(&breaker);
    assert_spawns!(layers.layer(ErrorLayer).service(client()));
}

/// A reset connection is a transient failure, so the error of the client was recognized in its box.
#[tokio::test(start_paused = true)]
async fn the_boxed_stack_judges_the_error_in_the_box() {
    let layer = stack().boxed().build().unwrap();
    let circuit = layer.circuit().unwrap().clone();
    let stack = ServiceBuilder::new().layer(layer).service(client());
    assert_spawns!(BoxCloneSyncService::new(stack));
    assert!(circuit.snapshot().failures > 0);
}

/// A socket that cannot be opened is a local shortage, which says nothing about the upstream.
#[tokio::test(start_paused = true)]
async fn the_boxed_stack_does_not_count_a_local_shortage() {
    let shortage = || BoxError::from(io::Error::from_raw_os_error(24));
    let layer = stack().boxed().build().unwrap();
    let circuit = layer.circuit().unwrap().clone();
    let client = Client::new(service_fn(move |_| ready(Err(shortage()))));
    let stack = ServiceBuilder::new().layer(layer).service(client);
    assert_spawns!(BoxCloneSyncService::new(stack));
    assert_eq!(circuit.snapshot().failures, 0);
}

#[cfg(feature = "http-body")]
#[tokio::test(start_paused = true)]
async fn a_body_whose_error_is_boxed_can_be_held_in_a_task() {
    use buttress::LoadShedLayer;
    use buttress::http::UntilBodyEnd;
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Empty};

    type Body = UnsyncBoxBody<bytes::Bytes, BoxError>;
    type Client = BoxCloneSyncService<Request<()>, Response<Body>, BoxError>;

    let body = || Empty::new().map_err(|never| match never {});
    let client = service_fn(move |_| ready(Ok(Response::new(body().boxed_unsync()))));
    let breaker = CircuitBreakerLayer::builder().classify(StatusClassifier::default());
    let service = ServiceBuilder::new()
        .layer(breaker.build().unwrap().until(UntilBodyEnd))
        .layer(LoadShedLayer::new(1).until(UntilBodyEnd))
        .service(Client::new(client));
    let call = tokio::spawn(async move {
        let response = service.oneshot(Request::new(())).await?;
        response.into_body().collect().await
    });
    assert!(call.await.unwrap().unwrap().to_bytes().is_empty());
}
