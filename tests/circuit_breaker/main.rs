//! The circuit breaker, through its handle and as a Tower service.

#[path = "../support/events.rs"]
mod events;

mod counts;
mod handle;
mod service;
