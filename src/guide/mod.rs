//! One page for each kind of client, with the whole program, and nothing else.
//!
//! Each page's program is compiled with the tests. The promises on them are held by tests with the
//! real client against a real server: `tests/clients.rs`, `tests/http_bodies`,
//! `tests/http_drain.rs`, `tests/tower_layers.rs`. Which timeout goes where is said in
//! [`timeout`](crate::timeout), what a status or an error leads to in
//! [`http`](crate::http#verdicts).

#[doc = include_str!("hyper_util.md")]
#[cfg(all(feature = "http-body", feature = "hyper-util"))]
pub mod hyper_util {}

#[doc = include_str!("reqwest.md")]
#[cfg(feature = "reqwest")]
pub mod reqwest {}

#[doc = include_str!("tower.md")]
pub mod tower {}

#[doc = include_str!("tonic.md")]
#[cfg(feature = "http-body")]
pub mod tonic {}

#[doc = include_str!("axum.md")]
#[cfg(feature = "hyper-util")]
pub mod axum {}

#[doc = include_str!("tests.md")]
pub mod tests {}

#[doc = include_str!("traps.md")]
pub mod traps {}
