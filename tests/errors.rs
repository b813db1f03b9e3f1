//! The three kinds of errors that a stack can have: `Error<E>`, a boxed error, and the user's own
//! type.

use buttress::retry::Cloned;
use buttress::{
    CircuitBreakerLayer, Error, ErrorLayer, LoadShedLayer, Name, Quota, RateLimitLayer, Rejection,
    RetryLayer, StackError, TimeoutLayer,
};
use std::time::Duration;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

const LONG: Duration = Duration::from_secs(9);

/// The five layers around any service whose error can hold a rejection, as a library would write
/// it.
fn stacked<S>(
    inner: S,
    limit: usize,
) -> impl Service<u32, Response = u32, Error = S::Error, Future: Send> + Clone + Send + Sync + 'static
where
    S: Service<u32, Response = u32> + Clone + Send + Sync + 'static,
    S::Error: StackError + Send + 'static,
    S::Future: Send,
{
    ServiceBuilder::new()
        .layer(TimeoutLayer::new(LONG))
        .layer(RetryLayer::builder().replay(Cloned).build().unwrap())
        .layer(LoadShedLayer::new(limit))
        .layer(RateLimitLayer::new(Quota::per_second(100)))
        .layer(CircuitBreakerLayer::default())
        .layer(TimeoutLayer::new(LONG))
        .service(inner)
}

const FULL: Rejection = Rejection::Overloaded {
    limit: 0,
    by: Name::UNNAMED,
};

#[tokio::test(start_paused = true)]
async fn a_wrapped_error_can_be_spawned_boxed_and_matched() {
    let client = service_fn(|n: u32| async move { n.checked_sub(1).ok_or(std::fmt::Error) });
    let client = ServiceBuilder::new().layer(ErrorLayer).service(client);

    let service = BoxCloneSyncService::new(stacked(client.clone(), 9));
    let call = |n| tokio::spawn(service.clone().oneshot(n));
    assert_eq!(call(8).await.unwrap(), Ok(7));
    assert_eq!(call(0).await.unwrap(), Err(Error::Service(std::fmt::Error)));

    let full = stacked(client, 0);
    match tokio::spawn(full.oneshot(8)).await.unwrap() {
        Err(Error::Rejected(rejection)) => assert_eq!(rejection, FULL),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_boxed_error_can_be_spawned_boxed_and_asked_for_its_rejection() {
    let client = service_fn(|n: u32| async move { n.checked_sub(1).ok_or(BoxError::from("none")) });

    let service = BoxCloneSyncService::new(stacked(client, 9));
    let error = tokio::spawn(service.oneshot(0)).await.unwrap().unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.rejection()),
        ("none", None)
    );

    let error = tokio::spawn(stacked(client, 0).oneshot(8))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.rejection(), Some(FULL));
}

#[tokio::test(start_paused = true)]
async fn a_boxed_error_keeps_its_rejection_through_towers_layers() {
    let client = service_fn(|n: u32| async move { Ok::<_, BoxError>(n) });
    let service = ServiceBuilder::new()
        .buffer(8)
        .load_shed()
        .timeout(LONG)
        .service(stacked(client, 0));
    let error = tokio::spawn(service.oneshot(8)).await.unwrap().unwrap_err();
    assert_eq!(error.rejection(), Some(FULL));
}

#[derive(Debug, PartialEq)]
enum ClientError {
    Rejected(Rejection),
    Empty,
}

impl StackError for ClientError {
    fn reject(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }

    fn rejection(&self) -> Option<Rejection> {
        if let Self::Rejected(rejection) = self {
            Some(*rejection)
        } else {
            None
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_error_can_be_spawned_boxed_and_matched() {
    let client = service_fn(|n: u32| async move { n.checked_sub(1).ok_or(ClientError::Empty) });

    let service = BoxCloneSyncService::new(stacked(client, 9));
    assert_eq!(
        tokio::spawn(service.oneshot(0)).await.unwrap(),
        Err(ClientError::Empty)
    );

    let full = tokio::spawn(stacked(client, 0).oneshot(8)).await.unwrap();
    assert_eq!(full, Err(ClientError::Rejected(FULL)));
}
