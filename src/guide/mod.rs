//! Whole programs: one page per client, and pages on tests and traps. Every program is compiled with
//! the crate's tests.
//!
//! | you have | you want | page |
//! |---|---|---|
//! | hyper or hyper-util | the stack around its client | [`hyper_util`][page hyper_util] |
//! | reqwest | the stack around its client | [`reqwest`][page reqwest] |
//! | tonic, or another gRPC client | the stack around a `Channel`, below a generated stub | [`tonic`][page tonic] |
//! | axum, or another server | handlers that call an upstream; layers around a `Router` | [`axum`][page axum] |
//! | a plain async function, an `async_trait`, reqwest 0.12 | a service of it, with a classifier of its own | [`functions`](mod@self::functions) |
//! | tower's layers or balancer | to combine them with these layers | [`tower`](mod@self::tower) |
//! | code that uses this crate | to test it, fast and without real time | [`tests`](mod@self::tests) |
//! | a stack for production | to avoid known mistakes | [`traps`](mod@self::traps) |
//!
//! A page whose program needs a feature appears only with that feature: `http-body` for `tonic`,
//! `hyper-util` for `axum`, both for `hyper_util`, and `reqwest` for `reqwest`.
//!
//! # Reference
//!
//! | question | answer |
//! |---|---|
//! | What does the recommended stack contain? How do I change a part? | [`http::stack`](crate::http::stack()) |
//! | What does a layer do, and what are its settings and defaults? | [`timeout`](crate::timeout), [`retry`](crate::retry), [`load_shed`](crate::load_shed), [`rate_limit`](crate::rate_limit), [`circuit_breaker`](crate::circuit_breaker) |
//! | Which timeout goes where? | [`timeout`](crate::timeout) |
//! | What does a status or an error of the client lead to? | [`http`](crate::http#verdicts), [`Classify`](crate::Classify) |
//! | How does a deadline travel with a request? | [`deadline`](crate::deadline) |
//! | Which error did a call fail with? | [`error`](crate::error) |
//! | What is logged and counted? | [`event`](crate::event) |
//! | How do I see it live, or scrape it? | [`observe`](crate::observe); with a recorder of your own, `metrics` (feature `metrics`) |
//! | What can answer when the upstream fails? | [`fallback`](crate::fallback); for HTTP also `http::StaleLayer` (feature `http-body`) |
//! | How do I shorten the slowest calls? | [`hedge`](crate::hedge) |
//! | How do I test all of this on purpose? | [`chaos`](crate::chaos) |
//! | How do I keep to requests *and* tokens per minute? | [`rate_limit::Quotas`](crate::rate_limit::Quotas) |
//! | How does each host, tenant or route get its own circuit and limits? | [`keyed`](crate::keyed) |
//! | How do I write a layer that admits calls? | [`gate`](crate::gate) |
//!
//! The crate's [front page](crate) gives the order of the layers. The page of each layer lists its defaults.
//!
#![cfg_attr(
    all(feature = "http-body", feature = "hyper-util"),
    doc = "[page hyper_util]: mod@self::hyper_util"
)]
#![cfg_attr(
    not(all(feature = "http-body", feature = "hyper-util")),
    doc = "[page hyper_util]: #"
)]
#![cfg_attr(feature = "reqwest", doc = "[page reqwest]: mod@self::reqwest")]
#![cfg_attr(not(feature = "reqwest"), doc = "[page reqwest]: #")]
#![cfg_attr(feature = "http-body", doc = "[page tonic]: mod@self::tonic")]
#![cfg_attr(not(feature = "http-body"), doc = "[page tonic]: #")]
#![cfg_attr(feature = "hyper-util", doc = "[page axum]: mod@self::axum")]
#![cfg_attr(not(feature = "hyper-util"), doc = "[page axum]: #")]

#[doc = include_str!("hyper_util.md")]
#[cfg(all(feature = "http-body", feature = "hyper-util"))]
pub mod hyper_util {}

#[doc = include_str!("reqwest.md")]
#[cfg(feature = "reqwest")]
pub mod reqwest {}

#[doc = include_str!("tonic.md")]
#[cfg(feature = "http-body")]
pub mod tonic {}

#[doc = include_str!("axum.md")]
#[cfg(feature = "hyper-util")]
pub mod axum {}

#[doc = include_str!("functions.md")]
pub mod functions {}

#[doc = include_str!("tower.md")]
pub mod tower {}

#[doc = include_str!("tests.md")]
pub mod tests {}

#[doc = include_str!("traps.md")]
pub mod traps {}
