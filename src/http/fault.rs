//! Whose fault an error is.

use super::StatusClassifier;
use crate::error::{Error as Lifted, Rejection};
use crate::verdict::{Verdict, of_rejection};
use http::StatusCode;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Write};
use std::io::{self, ErrorKind};
use std::sync::Once;
use tracing::Level;

/// An error of an HTTP client, which says what it means for the upstream.
///
/// [`StatusClassifier`] judges the errors that implement it:
///
/// | error | verdict |
/// |---|---|
/// | those of `hyper` and `hyper-util` (feature `hyper-util`) and of `reqwest` (feature `reqwest`), `std::io::Error` | as [`judge_error`] |
/// | `Box<dyn Error + Send + Sync>` | as [`judge_error`], with a warning if no known client made it |
/// | [`Error<E>`](crate::Error) | a rejection as the layers judge it, else that of `E` |
/// | your own | what you say |
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
/// # assert_eq!(OrdersError::BadOrder.verdict(), Verdict::Ignored);
/// # let reset = std::io::ErrorKind::ConnectionReset.into();
/// # assert_eq!(OrdersError::Connection(reset).verdict(), Verdict::TRANSIENT);
/// ```
///
/// An error of any other kind does not compile, so that a missing feature never changes a verdict:
///
/// ```compile_fail
/// # use buttress::{Classify, http::StatusClassifier};
/// struct OtherError;
/// StatusClassifier::default().classify(Err::<&http::Response<()>, _>(&OtherError));
/// ```
///
/// **Event**, target `buttress::http`: `unknown_client_error` at WARN with `error`, once in a
/// process, for the first boxed error that no known client made. All of them are transient.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not known to be an error of an HTTP client",
    note = "buttress knows the errors of hyper and hyper-util with its feature `hyper-util`, and those of reqwest 0.13 with its feature `reqwest`",
    note = "for an error of your own implement `buttress::http::ClientError`; for another client's set a classifier of your own with `.classify(…)`"
)]
pub trait ClientError {
    /// What this error says about the upstream.
    fn verdict(&self) -> Verdict;
}

impl<E: ClientError> ClientError for Lifted<E> {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Rejected(rejection) => of_rejection(*rejection),
            Self::Service(error) => error.verdict(),
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
}

// For every lifetime: an impl for `'static` alone makes stacks that cannot be spawned. The price is
// that the outermost error cannot be downcast, so that only what it prints tells its type.
impl ClientError for Box<dyn Error + Send + Sync + '_> {
    fn verdict(&self) -> Verdict {
        judge_chain(by_words(&**self), self.source()).unwrap_or_else(|| {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| {
                tracing::event!(
                    name: "unknown_client_error",
                    target: "buttress::http",
                    Level::WARN,
                    error = %self,
                    "unknown_client_error"
                );
            });
            Verdict::TRANSIENT
        })
    }
}

/// Judges the upstream by an error of an HTTP client, or by one that has it among its sources.
///
/// The caller's own faults are [`Ignored`](Verdict::Ignored): a request that could not be built,
/// addressed or sent, a body stream that failed. A shortage of the caller's own is
/// [`Local`](Verdict::Local): no file descriptor, port, buffer or memory for a connection. A response
/// that is not HTTP and a certificate that is not trusted (as rustls and OpenSSL report it) are
/// [`Permanent`](Verdict::Permanent). All else is transient: a call that could not connect, was
/// reset, cut off or too late may succeed the next time. The [table](super#verdicts) has them all.
///
/// For a classifier of your own; [`StatusClassifier`] calls it through [`ClientError`]. Without the
/// features `hyper-util` and `reqwest` it recognizes the errors of these clients by what they print.
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
    judge_chain(by_type(error), below(error)).unwrap_or(Verdict::TRANSIENT)
}

/// What one error of a chain says by itself.
#[derive(Clone, Copy)]
enum Link {
    /// Enough for a verdict.
    Says(Verdict),
    /// A known client made it, and its sources may tell more.
    Known,
    Unknown,
}
use Link::{Known, Says, Unknown};

/// The verdict of the outermost error that says enough; transient if there is none and a known
/// client made the chain.
fn judge_chain(outermost: Link, mut next: Option<&(dyn Error + 'static)>) -> Option<Verdict> {
    let mut link = outermost;
    let mut known = false;
    loop {
        match link {
            Says(verdict) => return Some(verdict),
            Known => known = true,
            Unknown => {}
        }
        let Some(error) = next else {
            return known.then_some(Verdict::TRANSIENT);
        };
        link = by_type(error);
        next = below(error);
    }
}

fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        // Its `source` is that of the error within, which would be skipped.
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
    by_words(error)
}

/// A shortage of the caller's own; else the error within may tell more.
fn of_io(error: &io::Error) -> Link {
    // Those that have no kind: EMFILE, ENFILE and ENOBUFS.
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
        Known
    }
}

#[cfg(feature = "hyper-util")]
fn of_hyper(error: &hyper::Error) -> Link {
    match by_words(error) {
        // A kind that is printed in a new way.
        Known if error.is_user() => Says(Verdict::Ignored),
        Known if error.is_parse() => Says(Verdict::Permanent),
        link => link,
    }
}

/// How clients' errors begin, as `Debug` prints them, and what they say. The first match counts. For
/// kinds that no method tells, and for errors that cannot be downcast: the outermost of a box, and
/// all of a client whose feature is off.
const KINDS: &[(&str, Link)] = &[
    ("reqwest::Error { kind: Builder", Says(Verdict::Ignored)),
    ("reqwest::Error { kind: Redirect", Says(Verdict::Permanent)),
    ("reqwest::Error { kind: Upgrade", Says(Verdict::Permanent)),
    ("reqwest::Error { kind: Decode", Says(Verdict::Permanent)),
    ("reqwest::Error {", Known),
    (
        "hyper_util::client::legacy::Error(User",
        Says(Verdict::Ignored),
    ),
    ("hyper_util::client::legacy::Error(", Known),
    ("hyper::Error(Parse(", Says(Verdict::Permanent)),
    (
        "hyper::Error(User(DispatchGone), \"user code panicked",
        Says(Verdict::Ignored),
    ),
    // The runtime that drove the connection has ended, and the connection with it.
    ("hyper::Error(User(DispatchGone", Says(Verdict::TRANSIENT)),
    ("hyper::Error(User(", Says(Verdict::Ignored)),
    ("hyper::Error(", Known),
    // The shapes of an `io::Error`.
    ("Kind(AddrNotAvailable)", Says(Verdict::Local)),
    ("Kind(OutOfMemory)", Says(Verdict::Local)),
    ("Kind(", Known),
    ("Error { kind: ", Known),
];

/// How the sources of clients' errors begin, as `Display` prints them.
const CAUSES: &[(&str, Link)] = &[
    // Connectors of hyper-util and hyper-rustls.
    ("invalid URL, ", Says(Verdict::Ignored)),
    ("unsupported scheme ", Says(Verdict::Ignored)),
    ("missing scheme", Says(Verdict::Ignored)),
    // h2: the caller's body failed, which resets its stream; its request cannot be sent.
    ("stream error sent by user", Says(Verdict::Ignored)),
    ("user error: malformed headers", Says(Verdict::Ignored)),
    ("user error: request URI missing", Says(Verdict::Ignored)),
];

/// A certificate that one of the two does not trust, as rustls and OpenSSL print it.
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
    // An `io::Error` that wraps another error prints that one, too.
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

/// Of reqwest's `error_for_status`.
fn of_status(status: StatusCode) -> Link {
    Says(StatusClassifier::default().status(status, None))
}

fn words(printed: fmt::Arguments<'_>) -> String {
    let mut words = String::new();
    // If the error fails to print itself, what it has printed must do.
    let _ = words.write_fmt(printed);
    words
}
