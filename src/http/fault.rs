//! Whose fault an error is.

use super::StatusClassifier;
use crate::error::{BoxedError, Error as Lifted, Rejection};
use crate::verdict::{Verdict, of_rejection};
use http::StatusCode;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Write};
use std::io::{self, ErrorKind};
use std::sync::Once;
use tracing::Level;

/// An error of an HTTP client that has a verdict on the upstream.
///
/// [`StatusClassifier`] accepts the errors that implement this trait:
///
/// | error | verdict |
/// |---|---|
/// | those of `hyper` and `hyper-util` (feature `hyper-util`) and of `reqwest` (feature `reqwest`), `std::io::Error` | that of [`judge_error`] |
/// | `Box<dyn Error + Send + Sync>` | that of [`judge_error`]; if no known client made the error, `Transient` and a warning |
/// | [`Error<E>`](crate::Error) | for a rejection, that of the [layers](crate::Classify), else that of `E` |
/// | your own | the one that you return |
///
/// ```
/// use buttress::Verdict;
/// use buttress::http::ClientError;
///
/// enum OrdersError {
///     BadOrder,
///     Connection(std::io::Error),
/// }
///
/// impl ClientError for OrdersError {
///     fn verdict(&self) -> Verdict {
///         match self {
///             Self::BadOrder => Verdict::Ignored,
///             Self::Connection(error) => error.verdict(),
///         }
///     }
/// }
///
/// assert_eq!(OrdersError::BadOrder.verdict(), Verdict::Ignored);
/// let reset = std::io::ErrorKind::ConnectionReset.into();
/// assert_eq!(OrdersError::Connection(reset).verdict(), Verdict::TRANSIENT);
/// ```
///
/// Any other error type does not compile. So a missing feature cannot silently change a verdict:
///
/// ```compile_fail
/// # use buttress::{Classify, http::StatusClassifier};
/// struct OtherError;
/// StatusClassifier::default().classify(Err::<&http::Response<()>, _>(&OtherError));
/// ```
///
/// **Event.** `unknown_client_error`, target `buttress::http`, level WARN, field `error`. It is
/// emitted once per process, for the first boxed error that no known client made. All such errors
/// are transient.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to be an error of an HTTP client",
    note = "buttress knows the errors of hyper and hyper-util with its feature `hyper-util`, and those of reqwest 0.13 with its feature `reqwest`",
    note = "for an error of your own implement `buttress::http::ClientError`; for another client's set a classifier of your own with `.classify(…)`"
)]
pub trait ClientError {
    /// The verdict of this error on the upstream. It says [not sent](crate::verdict::Sent::No) only if no
    /// part of the call was: a client that follows redirects may have sent a part of it.
    fn verdict(&self) -> Verdict;

    /// The verdict if the client follows no redirects. [`StatusClassifier::no_redirects`] asks for it.
    /// Default: [`verdict`](Self::verdict).
    fn verdict_without_redirects(&self) -> Verdict {
        self.verdict()
    }
}

impl<E: ClientError> ClientError for Lifted<E> {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Rejected(rejection) => of_rejection(*rejection),
            Self::Service(error) => error.verdict(),
        }
    }

    fn verdict_without_redirects(&self) -> Verdict {
        match self {
            Self::Rejected(rejection) => of_rejection(*rejection),
            Self::Service(error) => error.verdict_without_redirects(),
        }
    }
}

impl ClientError for Infallible {
    fn verdict(&self) -> Verdict {
        match *self {}
    }
}

impl ClientError for io::Error {
    fn verdict(&self) -> Verdict {
        judge_error(self)
    }
}

#[cfg(feature = "hyper-util")]
impl ClientError for hyper::Error {
    fn verdict(&self) -> Verdict {
        judge_error(self)
    }
}

#[cfg(feature = "hyper-util")]
impl ClientError for hyper_util::client::legacy::Error {
    fn verdict(&self) -> Verdict {
        judge_error(self)
    }
}

#[cfg(feature = "reqwest")]
impl ClientError for reqwest::Error {
    fn verdict(&self) -> Verdict {
        judge_error(self)
    }

    fn verdict_without_redirects(&self) -> Verdict {
        judge_chain(by_type(self), below(self), false).unwrap_or(Verdict::TRANSIENT)
    }
}

// Implemented for every lifetime: an impl for `'static` alone makes stacks that cannot be spawned.
// The price: the outermost error cannot be downcast, so it is recognized by the text that it
// prints.
impl ClientError for Box<dyn Error + Send + Sync + '_> {
    fn verdict(&self) -> Verdict {
        judge_chain(by_words(&**self), self.source(), true).unwrap_or_else(|| unknown(self))
    }

    fn verdict_without_redirects(&self) -> Verdict {
        judge_chain(by_words(&**self), self.source(), false).unwrap_or_else(|| unknown(self))
    }
}

impl ClientError for BoxedError {
    fn verdict(&self) -> Verdict {
        let error = self.get_ref();
        judge_chain(by_type(error), below(error), true).unwrap_or_else(|| unknown(&error))
    }

    fn verdict_without_redirects(&self) -> Verdict {
        let error = self.get_ref();
        judge_chain(by_type(error), below(error), false).unwrap_or_else(|| unknown(&error))
    }
}

/// Reports the first boxed error that no known client made.
fn unknown(error: &dyn fmt::Display) -> Verdict {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::event!(
            name: "unknown_client_error",
            target: "buttress::http",
            Level::WARN,
            error = %error,
            "unknown_client_error"
        );
    });
    Verdict::TRANSIENT
}

/// Returns the verdict on an error of an HTTP client, or on an error that has one among its sources.
///
/// | error | verdict |
/// |---|---|
/// | the caller's fault: a request that could not be built, addressed or sent; a body stream that failed | [`Ignored`](Verdict::Ignored) |
/// | the caller is out of file descriptors, ports, buffers or memory | [`Local`](Verdict::Local) |
/// | a response that is not HTTP; a certificate that is not trusted (as rustls and OpenSSL report it); too many redirects | [`Permanent`](Verdict::Permanent) |
/// | the upstream certainly did not process the request: it could not be connected to, or it refused the stream | [`Transient`](Verdict::Transient), [not sent](crate::verdict::Sent::No) |
/// | all others: reset, cut off, too slow | [`Transient`](Verdict::Transient) |
///
/// The [full table](super#verdicts) lists them all. Call the function from a classifier of your own;
/// [`StatusClassifier`] calls it through [`ClientError`]. Without the features `hyper-util` and
/// `reqwest`, it recognizes the errors of these clients by the text that they print.
///
/// ```
/// use buttress::{Verdict, http::judge_error};
/// use std::io;
///
/// let reset = io::Error::from(io::ErrorKind::ConnectionReset);
/// assert_eq!(judge_error(&reset), Verdict::TRANSIENT);
/// ```
#[must_use]
pub fn judge_error(error: &(dyn Error + 'static)) -> Verdict {
    judge_chain(by_type(error), below(error), true).unwrap_or(Verdict::TRANSIENT)
}

/// What one error of a chain of sources tells on its own.
#[derive(Clone, Copy)]
enum Link {
    /// The error is enough for a verdict.
    Says(Verdict),
    /// A known client made the error, and its sources may tell more.
    Known,
    /// As `Known`, and the request was certainly not processed.
    NotSent,
    /// As `Known`. The client may have followed a redirect, so the sources tell of its last send alone.
    Redirects,
    Unknown,
}
use Link::{Known, NotSent, Redirects, Says, Unknown};

/// Returns the verdict of the outermost error that is enough for one. If there is none: transient
/// if a known client made the chain, else `None`. One error of the chain is enough to say that the
/// request was not sent.
fn judge_chain(
    outermost: Link,
    mut next: Option<&(dyn Error + 'static)>,
    redirects: bool,
) -> Option<Verdict> {
    let mut link = outermost;
    let mut transient = None;
    let mut redirected = false;
    loop {
        match link {
            Says(verdict) => return Some(verdict),
            NotSent if !redirected => transient = Some(Verdict::NOT_SENT),
            NotSent | Known | Redirects => transient = transient.or(Some(Verdict::TRANSIENT)),
            Unknown => {}
        }
        redirected |= redirects && matches!(link, Redirects);
        let Some(error) = next else {
            return transient;
        };
        link = by_type(error);
        next = below(error);
    }
}

fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        // `io::Error::source` returns the source of the error within, and would skip that error.
        Some(error) => error.get_ref().map(|within| within as _),
        None => error.source(),
    }
}

fn by_type(error: &(dyn Error + 'static)) -> Link {
    if let Some(rejection) = error.downcast_ref::<Rejection>() {
        return Says(of_rejection(*rejection));
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return of_io(error);
    }
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return of_reqwest(error);
    }
    #[cfg(feature = "hyper-util")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return of_hyper(error);
    }
    #[cfg(feature = "hyper-util")]
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return of_h2(error);
    }
    by_words(error)
}

/// `Local` if the caller is out of resources. Otherwise the error within may tell more.
fn of_io(error: &io::Error) -> Link {
    // The codes without an `ErrorKind`: EMFILE, ENFILE and ENOBUFS.
    const CODES: &[i32] = if cfg!(windows) {
        &[10_024, 10_055]
    } else if cfg!(any(target_os = "linux", target_os = "android")) {
        &[24, 23, 105]
    } else {
        &[24, 23, 55]
    };
    let by_code = |code| CODES.contains(&code);
    match error.kind() {
        ErrorKind::AddrNotAvailable | ErrorKind::OutOfMemory => Says(Verdict::Local),
        _ if error.raw_os_error().is_some_and(by_code) => Says(Verdict::Local),
        // Only a connection that is being made can be refused.
        ErrorKind::ConnectionRefused => NotSent,
        _ => Known,
    }
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &reqwest::Error) -> Link {
    if error.is_builder() {
        Says(Verdict::Ignored)
    } else if error.is_redirect() || error.is_upgrade() || error.is_decode() {
        Says(Verdict::Permanent)
    } else if let Some(status) = error.status() {
        of_status(status)
    } else {
        Redirects
    }
}

/// RFC 9113 §8.7: a server that refuses a stream, or ends the connection with a `GOAWAY` below it, has
/// not processed the request. h2 gives the error of a remote `GOAWAY` only to streams above its last id.
#[cfg(feature = "hyper-util")]
fn of_h2(error: &h2::Error) -> Link {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && (refused || error.is_go_away()) {
        NotSent
    } else {
        by_words(error)
    }
}

#[cfg(feature = "hyper-util")]
fn of_hyper(error: &hyper::Error) -> Link {
    match by_words(error) {
        // hyper prints this kind in a new way, so ask its methods.
        Known if error.is_user() => Says(Verdict::Ignored),
        Known if error.is_parse() => Says(Verdict::Permanent),
        link => link,
    }
}

/// The first words of clients' errors, as `Debug` prints them, and what they mean. The first match
/// counts. The table is for kinds that no method of the error reveals, and for errors that cannot be
/// downcast: the outermost error of a box, and all errors of a client whose feature is off.
const KINDS: &[(&str, Link)] = &[
    ("reqwest::Error { kind: Builder", Says(Verdict::Ignored)),
    ("reqwest::Error { kind: Redirect", Says(Verdict::Permanent)),
    ("reqwest::Error { kind: Upgrade", Says(Verdict::Permanent)),
    ("reqwest::Error { kind: Decode", Says(Verdict::Permanent)),
    ("reqwest::Error {", Redirects),
    (
        "hyper_util::client::legacy::Error(User",
        Says(Verdict::Ignored),
    ),
    // hyper-util could not connect, or it still has the request.
    ("hyper_util::client::legacy::Error(Connect", NotSent),
    ("hyper_util::client::legacy::Error(Canceled", NotSent),
    ("hyper_util::client::legacy::Error(", Known),
    ("hyper::Error(Parse(", Says(Verdict::Permanent)),
    (
        "hyper::Error(User(DispatchGone), \"user code panicked",
        Says(Verdict::Ignored),
    ),
    // The runtime that drove the connection has shut down.
    ("hyper::Error(User(DispatchGone", Says(Verdict::TRANSIENT)),
    ("hyper::Error(User(", Says(Verdict::Ignored)),
    // The response to an upgrade has arrived.
    ("hyper::Error(Canceled, UpgradeExpected", Known),
    // hyper cancels only requests that it has not begun to write.
    ("hyper::Error(Canceled", NotSent),
    ("hyper::Error(", Known),
    // How an `io::Error` prints.
    ("Kind(AddrNotAvailable)", Says(Verdict::Local)),
    ("Kind(OutOfMemory)", Says(Verdict::Local)),
    ("Kind(ConnectionRefused)", NotSent),
    ("Kind(", Known),
    ("Error { kind: ", Known),
];

/// The first words of the sources of clients' errors, as `Display` prints them.
const CAUSES: &[(&str, Link)] = &[
    // The connectors of hyper-util and hyper-rustls.
    ("invalid URL, ", Says(Verdict::Ignored)),
    ("unsupported scheme ", Says(Verdict::Ignored)),
    ("missing scheme", Says(Verdict::Ignored)),
    // h2: the caller's body failed, which resets the stream; or the request cannot be sent.
    ("stream error sent by user", Says(Verdict::Ignored)),
    ("user error: malformed headers", Says(Verdict::Ignored)),
    ("user error: request URI missing", Says(Verdict::Ignored)),
    // h2: the server refused the stream, or its `GOAWAY` names an earlier one as the last.
    (
        "stream error received: refused stream before processing any application logic",
        NotSent,
    ),
    ("connection error received: ", NotSent),
];

/// Whether client or server does not trust the other's certificate, as rustls and OpenSSL print it.
fn is_distrust(cause: &str) -> bool {
    let alert = cause.starts_with("received fatal alert: ") || cause.contains(":SSL alert number ");
    let of_certificate = || {
        let alert = cause.to_ascii_lowercase();
        let words = ["certificate", "unknownca", "unknown ca"];
        words.iter().any(|words| alert.contains(words))
    };
    cause.starts_with("invalid peer certificate")
        || cause.contains(":certificate verify failed:")
        || (alert && of_certificate())
}

fn by_words(error: &dyn Error) -> Link {
    let (kind, cause) = (
        words(format_args!("{error:?}")),
        words(format_args!("{error}")),
    );
    let (mut kind, mut link) = (&*kind, Unknown);
    // An `io::Error` that wraps another error prints that error as well.
    while let Some((_, within)) = kind
        .strip_prefix("Custom { kind: ")
        .and_then(|custom| custom.split_once(", error: "))
    {
        (kind, link) = (within, Known);
    }
    if let Some(code) = kind.strip_prefix("Os { code: ") {
        let code = code.split_once(',').and_then(|(code, _)| code.parse().ok());
        return code.map_or(Known, |code| of_io(&io::Error::from_raw_os_error(code)));
    }
    if let Some(status) = kind.strip_prefix("reqwest::Error { kind: Status(") {
        let status = status.as_bytes().get(..3).map(StatusCode::from_bytes);
        if let Some(Ok(status)) = status {
            return of_status(status);
        }
    }
    let find = |known: &[(&str, Link)], words: &str| {
        let known = known.iter().find(|(start, _)| words.starts_with(start));
        known.map(|(_, link)| *link)
    };
    if is_distrust(&cause) {
        return Says(Verdict::Permanent);
    }
    find(CAUSES, &cause)
        .or_else(|| find(KINDS, kind))
        .unwrap_or(link)
}

/// The verdict of an error that reqwest's `error_for_status` made.
fn of_status(status: StatusCode) -> Link {
    Says(StatusClassifier::default().status(status, None))
}

fn words(printed: fmt::Arguments<'_>) -> String {
    let mut words = String::new();
    // If the error fails to print itself, use the part that it has printed.
    let _ = words.write_fmt(printed);
    words
}
