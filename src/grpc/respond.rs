use super::code::Code;
use crate::error::Rejection;
use crate::http::{Respond, RespondLayer};
use http::{HeaderValue, Response};
use std::fmt::Write;

impl Rejection {
    /// The gRPC code of the rejection.
    ///
    /// | rejection | code |
    /// |---|---|
    /// | `TimedOut`, `DeadlinePassed` | `DEADLINE_EXCEEDED` |
    /// | `CircuitOpen`, `Overloaded` | `UNAVAILABLE` |
    /// | `RateLimited`, `TooCostly` | `RESOURCE_EXHAUSTED` |
    #[must_use]
    pub const fn grpc_code(&self) -> Code {
        match self {
            Self::TimedOut { .. } | Self::DeadlinePassed { .. } => Code::DeadlineExceeded,
            Self::CircuitOpen { .. } | Self::Overloaded { .. } => Code::Unavailable,
            Self::RateLimited { .. } | Self::TooCostly { .. } => Code::ResourceExhausted,
        }
    }
}

/// Responds with a status of gRPC in the head (a *trailers-only* response), for [`respond`].
#[derive(Clone, Copy, Debug, Default)]
pub struct TrailersOnly;

/// Turns rejections into gRPC responses: HTTP 200 with [`grpc-status`](Rejection::grpc_code),
/// `grpc-message` with the sentence that the rejection prints, `grpc-retry-pushback-ms` if a time is known,
/// and no body.
///
/// For clients and servers alike. A client such as tonic's reads the response as an error with this code
/// and message. [`grpc::service`](super::service) has the layer. In a server, put it above the layers.
///
/// ```
/// use buttress::{ErrorLayer, LoadShedLayer, grpc};
/// use http::{Request, Response};
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let server = ServiceBuilder::new()
///     .layer(grpc::respond())
///     .layer(LoadShedLayer::new(0)) // as if it were full
///     .layer(ErrorLayer)
///     .service(service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) }));
/// let response = server.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.headers()["grpc-status"], "14");
/// assert_eq!(response.headers()["grpc-message"], "load shed full, at most 0 calls in flight");
/// # }
/// ```
#[must_use]
pub const fn respond() -> RespondLayer<TrailersOnly> {
    RespondLayer::by(TrailersOnly)
}

impl<B: Default> Respond<B> for TrailersOnly {
    fn respond(&self, rejection: &Rejection) -> Response<B> {
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(http::header::CONTENT_TYPE, grpc);
        headers.insert(
            "grpc-status",
            HeaderValue::from(rejection.grpc_code() as u16),
        );
        let message = percent_encoded(&rejection.to_string());
        headers.insert("grpc-message", message);
        if let Some(wait) = rejection.retry_after() {
            // Rounded up, so that nobody comes back too early. gRPC reads an `i32`.
            let millis = wait.as_nanos().div_ceil(1_000_000);
            let millis = i32::try_from(millis).unwrap_or(i32::MAX);
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from(millis));
        }
        response
    }
}

/// As gRPC encodes `grpc-message`: every byte but printable ASCII, and the percent sign.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    HeaderValue::try_from(encoded).expect("printable ASCII")
}
