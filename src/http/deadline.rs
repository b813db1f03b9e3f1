use crate::deadline::{Carrier, Deadline};
use http::Request;
use std::time::Duration;

/// The [`Carrier`] for HTTP requests: keeps the [`Deadline`] in the request's extensions.
///
/// Any layer, and the client, can read it there by its type. Extensions are not sent to the
/// upstream. Setting a deadline in a request without one allocates, because `http` boxes
/// extensions. Requests of reqwest carry no deadline, because their extensions are private.
///
/// ```
/// use buttress::Deadline;
/// use std::time::Duration;
///
/// // This call may take 300 ms at most, even if the layers allow more.
/// let mut request = http::Request::get("/").body(())?;
/// request.extensions_mut().insert(Deadline::after(Duration::from_millis(300)));
/// # use buttress::{Carrier, http::InExtensions};
/// # assert!(InExtensions.get(&request).is_some());
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct InExtensions;

impl<B> Carrier<Request<B>> for InExtensions {
    fn get(&self, request: &Request<B>) -> Option<Deadline> {
        request.extensions().get().copied()
    }

    fn set(&self, request: &mut Request<B>, deadline: Deadline) {
        // Overwrites an existing deadline in place, because an insertion allocates.
        match request.extensions_mut().get_mut() {
            Some(found) => *found = deadline,
            None => {
                request.extensions_mut().insert(deadline);
            }
        }
    }

    fn timeout(&self, request: &Request<B>) -> Option<Duration> {
        let found: Option<&AttemptTimeout> = request.extensions().get();
        found.map(|timeout| timeout.0)
    }
}

/// The timeout for each attempt of one request. It replaces the stack's
/// [`attempt_timeout`](super::StackBuilder::attempt_timeout).
///
/// Insert it into the request's extensions, for instance for a slow upload: the time to send the
/// request's body counts as part of the attempt. The deadline of the whole call still applies.
/// Outside of a stack, it needs an attempt timeout that is built
/// [`per_request`](crate::timeout::TimeoutBuilder::per_request).
///
/// ```
/// use buttress::http::AttemptTimeout;
/// use std::time::Duration;
///
/// let mut upload = http::Request::put("/videos/7").body(())?;
/// upload.extensions_mut().insert(AttemptTimeout(Duration::from_secs(120)));
/// # use buttress::{Carrier, http::InExtensions};
/// # assert_eq!(InExtensions.timeout(&upload), Some(Duration::from_secs(120)));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTimeout(
    /// The timeout. It covers the same time as the stack's `attempt_timeout`.
    pub Duration,
);

/// Carries nothing, because the extensions of reqwest's requests are private.
#[cfg(feature = "reqwest")]
impl Carrier<reqwest::Request> for InExtensions {
    const CARRIES: bool = false;

    fn get(&self, _: &reqwest::Request) -> Option<Deadline> {
        None
    }

    fn set(&self, _: &mut reqwest::Request, _: Deadline) {}
}
