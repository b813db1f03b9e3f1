//! Errors of reqwest's client.

use super::servers::{Does, failing, server, servers, uri_of};
use super::{BoxError, Met};
use buttress::http::{ClientError, StatusClassifier};
use buttress::{Classify, Verdict};
use http::Response;
use std::io;
use std::time::Duration;
use tower::Service;

pub(crate) async fn met() -> Met {
    let mut met = Met::new();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut call = async |row, request: reqwest::RequestBuilder| {
        // Call it through `Service`, as the layers do. A request that cannot be built fails before
        // that.
        let mut client = client.clone();
        let called = async { Service::call(&mut client, request.build()?).await };
        met.push((row, called.await.unwrap_err().into()));
    };
    let get = |uri: &str| client.get(uri);
    for (row, address) in servers().await {
        call(row, get(&uri_of(address))).await;
    }
    let late = get(&uri_of(server(Does::Nothing).await));
    call(
        "client's own timeout",
        late.timeout(Duration::from_millis(20)),
    )
    .await;
    let circle = Does::Say("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
    call("too many redirects", get(&uri_of(server(circle).await))).await;
    call("URI without a host", get("http://")).await;
    call(
        "scheme that the client cannot use",
        get("https://127.0.0.1:9/"),
    )
    .await;
    call(
        "header or URI that cannot be built",
        get("http://127.0.0.1:9/").header("a b", "c"),
    )
    .await;
    let body = reqwest::Body::wrap(failing());
    let post = client.post(uri_of(server(Does::Nothing).await)).body(body);
    call("request's body stream failed", post).await;
    met
}

#[tokio::test]
async fn the_classifier_recognizes_a_clients_error_bare_wrapped_and_boxed() {
    fn verdict<E: ClientError>(error: &E) -> Verdict {
        StatusClassifier::default().classify(Err::<&Response<()>, _>(error))
    }
    let build = || reqwest::Client::new().get("http://").build().unwrap_err();
    assert_eq!(verdict(&build()), Verdict::Ignored);
    assert_eq!(
        verdict(&buttress::Error::Service(build())),
        Verdict::Ignored
    );
    assert_eq!(verdict(&BoxError::from(build())), Verdict::Ignored);
    let boxed = buttress::Error::Service(BoxError::from(build()));
    assert_eq!(verdict(&boxed), Verdict::Ignored);
    for (status, expected) in [(503, Verdict::TRANSIENT), (501, Verdict::Permanent)] {
        let response = Response::builder().status(status).body("").unwrap();
        let error = reqwest::Response::from(response).error_for_status();
        let error = error.unwrap_err();
        assert_eq!(verdict(&error), expected);
        assert_eq!(verdict(&BoxError::from(error)), expected);
    }
    let wrapped = BoxError::from(io::Error::other(build()));
    assert_eq!(verdict(&wrapped), Verdict::Ignored);
}
