//! HTTP support: the recommended [`stack`], verdicts for statuses and client errors, `Retry-After`,
//! and which requests may be sent again.
//!
//! Use it with any client whose requests are `http::Request` (hyper-util, tonic, axum, …) or, with
//! the feature `reqwest`, with reqwest. Start with [`stack`]. If you choose the layers yourself,
//! give retry and circuit breaker the [`StatusClassifier`], and retry a policy such as
//! [`Idempotent`].
//!
//! Import the items, not the module: its name is also that of the `http` crate.
//!
//! ```
//! use buttress::RetryLayer;
//! use buttress::http::{Idempotent, StatusClassifier};
//!
//! let layer =
//!     RetryLayer::builder().classify(StatusClassifier::default()).replay(Idempotent).build()?;
//! assert!(layer.to_string().starts_with("retry: 3 attempts"));
//! # Ok::<(), buttress::error::InvalidConfig>(())
//! ```
//!
//! | you want | use | feature |
//! |---|---|---|
//! | all layers in the recommended order | [`stack`] | |
//! | verdicts for responses and errors | [`StatusClassifier`], [`ClientError`] | `hyper-util` or `reqwest` for their errors |
//! | to retry idempotent requests, or those that you choose | [`Idempotent`], [`RepeatIf`] | |
//! | to retry requests whose body is not `Clone` | `ReplayBodyLayer` | `http-body` |
//! | to reuse connections after a failed response | `Drain` | `http-body` |
//! | to send a retry over another connection | `FreshConnectionLayer` | `hyper-util` |
//! | an old response while the upstream fails | `StaleLayer` | `http-body` |
//! | calls that last until the end of the response body | `UntilBodyEnd` | `http-body` |
//! | a 429, or a quota that is used up, that pauses the rate limit | [`PauseOn429`], [`quota_pause`] | |
//! | a server whose layers respond with 429 and 503 | [`RespondLayer`] | |
//! | faults on purpose, by a header | [`HeaderChaosLayer`] | |
//! | a tracing span for each attempt | [`AttemptSpanLayer`] | |
//! | a server that ends its calls when its caller stops waiting | [`InboundDeadlineLayer`], [`InTask`] | |
//! | a deadline or an attempt timeout in one request | [`Deadline`](crate::Deadline), [`AttemptTimeout`] | |
//!
//! # Verdicts
//!
//! A verdict is the classification of an outcome. The table says how [`StatusClassifier`] classifies,
//! and why. [`Verdict`](crate::Verdict) says what each verdict leads to. "Processed?" says whether the
//! upstream may have processed the request: after a "no", retry sends even a POST again. For reqwest, which
//! follows redirects, a "no" counts only with [`StatusClassifier::no_redirects`].
//!
#![doc = include_str!("verdicts.md")]
//!
//! The errors are those of hyper, hyper-util and reqwest. A feature tells the compiler about a
//! client's errors, and never changes a verdict: see [`ClientError`].
//!
//! Two errors cannot be told apart from others. If a server speaks a protocol other than HTTP and
//! speaks first, the error looks like a connection that was closed while idle (transient). If a
//! response redirects to a scheme that reqwest cannot use, the error looks like a request for that
//! scheme (ignored).
//!
//! # Events
//!
//! [`ClientError`] describes the event `unknown_client_error`, and [`HeaderChaosLayer`] the event `chaos_refused`.

mod attempt;
mod attempt_span;
mod authority;
#[cfg(feature = "http-body")]
mod body_end;
mod chaos;
mod classify;
mod deadline;
mod degraded;
#[cfg(feature = "http-body")]
mod drain;
mod fault;
#[cfg(feature = "hyper-util")]
mod fresh;
mod head;
mod inbound;
mod pause;
mod quota_headers;
mod replay;
#[cfg(feature = "http-body")]
mod replay_body;
mod respond;
mod retry_after;
mod stack;
#[cfg(feature = "http-body")]
mod stale;

pub use crate::gate::{CallEnd, UntilHead};
pub use crate::replay::Idempotent;
pub use attempt::Attempt;
pub use attempt_span::{AttemptSpan, AttemptSpanFuture, AttemptSpanLayer, Described};
pub use authority::Authority;
#[cfg(feature = "http-body")]
pub use body_end::{HeldBody, JudgeEnd, UntilBodyEnd};
pub use chaos::{HeaderChaos, HeaderChaosFuture, HeaderChaosLayer};
pub use classify::StatusClassifier;
pub use deadline::{AttemptTimeout, InExtensions};
pub use degraded::Degraded;
#[cfg(feature = "http-body")]
pub use drain::{Drain, Draining};
pub use fault::{ClientError, judge_error};
#[cfg(feature = "hyper-util")]
pub use fresh::{FreshConnection, FreshConnectionLayer};
pub use head::ResponseHead;
pub use inbound::{InTask, InboundDeadline, InboundDeadlineLayer};
pub use pause::{ByHeaders, On429, PauseOn429, Pauses};
pub use quota_headers::quota_pause;
pub use replay::RepeatIf;
#[cfg(feature = "http-body")]
pub use replay_body::{ReplayBody, ReplayBodyLayer, ReplayBodyService};
pub use respond::{Respond, RespondFuture, RespondLayer, RespondService, With};
pub use retry_after::retry_after;
pub use stack::{
    FallbackStack, FallbackStackBuilder, FallbackStackLayer, KeyedParts, KeyedStack,
    KeyedStackLayer, Part, Stack, StackBuilder, StackLayer, stack,
};
#[cfg(feature = "http-body")]
pub use stale::{
    Stale, StaleBody, StaleBuilder, StaleFuture, StaleLayer, StaleService, StaleSnapshot,
};
