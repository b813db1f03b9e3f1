use http::{HeaderMap, Response, StatusCode};

/// The head of a response: what a verdict is taken of.
///
/// It exists for `http::Response<B>` and, with the feature `reqwest`, for `reqwest::Response`, so
/// that both share one classifier.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to be an HTTP response",
    note = "`StatusClassifier` judges `http::Response<B>` and, with the feature `reqwest` of buttress, the responses of reqwest 0.13"
)]
pub trait ResponseHead {
    /// Its status.
    fn status(&self) -> StatusCode;

    /// Its headers.
    fn headers(&self) -> &HeaderMap;
}

impl<B> ResponseHead for Response<B> {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }
}

#[cfg(feature = "reqwest")]
impl ResponseHead for reqwest::Response {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }
}
