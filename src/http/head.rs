use http::{HeaderMap, Response, StatusCode};

/// The head of a response: the part that [`StatusClassifier`](super::StatusClassifier) looks at.
///
/// `http::Response<B>` implements it and, with the feature `reqwest`, `reqwest::Response`. So one
/// classifier works for both.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to be an HTTP response",
    note = "`StatusClassifier` judges `http::Response<B>` and, with the feature `reqwest` of buttress, the responses of reqwest 0.13"
)]
pub trait ResponseHead {
    /// The status of the response.
    fn status(&self) -> StatusCode;

    /// The headers of the response.
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
