use super::InExtensions;
use crate::error::Rejection;
use crate::fallback::Mark;
use http::Response;
use std::time::Duration;

/// Marks a response that stands for that of the upstream. It is in the extensions of the response.
///
/// ```
/// use buttress::http::Degraded;
///
/// let mut response = http::Response::new(());
/// response.extensions_mut().insert(Degraded::new());
/// assert!(response.extensions().get::<Degraded>().is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Degraded {
    /// The rejection that ended the call to the upstream, if one did.
    pub because: Option<Rejection>,
    /// How old the response is, if it was kept from an earlier call.
    pub age: Option<Duration>,
}

impl Degraded {
    /// Without a rejection and an age.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            because: None,
            age: None,
        }
    }
}

impl<B> Mark<Response<B>> for InExtensions {
    fn mark(&self, response: &mut Response<B>, because: Option<Rejection>) {
        let degraded = Degraded { because, age: None };
        response.extensions_mut().insert(degraded);
    }
}

#[cfg(feature = "reqwest")]
impl Mark<reqwest::Response> for InExtensions {
    fn mark(&self, response: &mut reqwest::Response, because: Option<Rejection>) {
        let degraded = Degraded { because, age: None };
        response.extensions_mut().insert(degraded);
    }
}
