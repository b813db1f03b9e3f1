//! Layers around an axum `Router`. Calls above its limit get a 503. Its handler calls an upstream through
//! a stack, and no longer than the caller waits.
//!
//! `cargo run --example axum`

use axum::{Router, body::Body, extract::Path, extract::State, routing::get};
use buttress::http::{Idempotent, InTask, InboundDeadlineLayer, RespondLayer, Stack};
use buttress::{Error, ErrorLayer, LoadShedLayer, http::StatusClassifier};
use http::{Request, Response};
use std::{future::pending, time::Duration};
use tower::{ServiceBuilder, ServiceExt};

/// A stack around an upstream, which is a `Router` here, and a client of hyper or reqwest elsewhere.
type Orders = Stack<Router, StatusClassifier, Idempotent, InTask>;

async fn order(State(orders): State<Orders>, Path(id): Path<String>) -> Response<Body> {
    let request = Request::get(format!("/{id}")).body(String::new());
    match orders.oneshot(request.expect("a valid URI")).await {
        Ok(response) => response,
        Err(Error::Rejected(rejection)) => rejection.to_response(), // 503 or 504
        Err(Error::Service(error)) => match error {},               // a 502 elsewhere
    }
}

// With a paused clock, a machine that stalls changes nothing.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upstream = Router::new()
        .route("/7", get("two books"))
        .route("/8", get(pending::<()>));
    let orders = buttress::http::stack().carrier(InTask);
    let orders: Orders = orders.name("orders").service(upstream)?;

    let shed = LoadShedLayer::new(256);
    let limit = shed.limit().clone();
    let layers = ServiceBuilder::new()
        .layer(RespondLayer::new())
        .layer(InboundDeadlineLayer::new(Duration::from_secs(10)))
        .layer(shed)
        .layer(ErrorLayer);
    let app = Router::new().route("/orders/{id}", get(order));
    let app = app.with_state(orders).layer(layers);

    for (id, max, status) in [(7, 256, 200), (8, 256, 504), (7, 0, 503)] {
        limit.set_limit(max);
        let request = Request::get(format!("/orders/{id}"));
        let request = request.header("x-request-timeout-ms", "300");
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        let found = response.status();
        println!("order {id}, at most {max} calls at once: {found}");
        assert_eq!(found, status);
    }
    Ok(())
}
