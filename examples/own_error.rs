//! Your own error enum holds the rejections, without `ErrorLayer`. `cargo run --example own_error`

use buttress::{CircuitBreakerLayer, Rejection, RetryLayer, StackError, Verdict, retry::Cloned};
use tower::{ServiceBuilder, ServiceExt, service_fn};

enum OrderError {
    NoSuchOrder,
    Unavailable,
    Rejected(Rejection),
}

impl StackError for OrderError {
    fn reject(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
    fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected(rejection) => Some(*rejection),
            _ => None,
        }
    }
}

/// Classifies outcomes, for retry and circuit breaker. It never sees a rejection.
fn judge(outcome: Result<&&str, &OrderError>) -> Verdict {
    match outcome {
        Ok(_) | Err(OrderError::NoSuchOrder) => Verdict::Healthy,
        Err(_) => Verdict::TRANSIENT,
    }
}

async fn upstream(order: u32) -> Result<&'static str, OrderError> {
    match order {
        1 => Ok("two books"),
        2 => Err(OrderError::NoSuchOrder),
        _ => Err(OrderError::Unavailable),
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let retry = RetryLayer::builder().classify(judge).replay(Cloned);
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(3);
    let client = ServiceBuilder::new()
        .layer(retry.build()?)
        .layer(breaker.classify(judge).build()?)
        .service(service_fn(upstream));
    for order in [1, 2, 3, 1] {
        match client.clone().oneshot(order).await {
            Ok(items) => println!("order {order}: {items}"),
            Err(OrderError::NoSuchOrder) => println!("order {order}: it does not exist"),
            Err(OrderError::Unavailable) => println!("order {order}: three attempts failed"),
            Err(OrderError::Rejected(rejection)) => println!("order {order}: {rejection}"),
        }
    }
    let rejection = client.oneshot(1).await.unwrap_err().rejection();
    assert!(rejection.is_some());
    Ok(())
}
