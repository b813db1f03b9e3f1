use crate::deadline::{Carrier, Deadline};
use http::Request;
use std::time::Duration;

/// Carries the [`Deadline`] in the request's extensions, where any layer and the client find it by
/// its type. Extensions stay in the process: they are not sent. Leaving a deadline where there is
/// none allocates, as `http` boxes what it keeps there.
///
/// ```
/// use buttress::Deadline;
/// use std::time::Duration;
///
/// // This call may take 300 ms, whatever more the layers allow.
/// let mut request = http::Request::get("/").body(())?;
/// request.extensions_mut().insert(Deadline::after(Duration::from_millis(300)));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct InExtensions;

impl<B> Carrier<Request<B>> for InExtensions {
    fn get(&self, request: &Request<B>) -> Option<Deadline> {
        request.extensions().get().copied()
    }

    fn set(&self, request: &mut Request<B>, deadline: Deadline) {
        // In place where there is one: inserting allocates.
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

/// How long each attempt of one request may take, in place of the stack's
/// [`attempt_timeout`](super::StackBuilder::attempt_timeout). An extension of the request, for a slow
/// upload, for instance: sending the body counts as part of the attempt.
///
/// ```
/// use buttress::http::AttemptTimeout;
/// use std::time::Duration;
///
/// let mut upload = http::Request::put("/videos/7").body(())?;
/// upload.extensions_mut().insert(AttemptTimeout(Duration::from_secs(120)));
/// # Ok::<(), http::Error>(())
/// ```
///
/// The deadline of the whole call still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptTimeout(
    /// The timeout.
    pub Duration,
);

/// Carries nothing: the extensions of reqwest's requests are private.
#[cfg(feature = "reqwest")]
impl Carrier<reqwest::Request> for InExtensions {
    const CARRIES: bool = false;

    fn get(&self, _: &reqwest::Request) -> Option<Deadline> {
        None
    }

    fn set(&self, _: &mut reqwest::Request, _: Deadline) {}
}
