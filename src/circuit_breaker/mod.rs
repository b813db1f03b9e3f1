//! Stops calling a callee that fails, and finds out when it is well again.

mod breaker;
mod circuit;
#[cfg(all(test, not(buttress_loom)))]
mod reference;
mod service;
mod state;
mod window;

pub use circuit::{Circuit, CircuitBuilder, Permit, Snapshot, State, WhenOpen, Window};
pub use service::{
    CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerFuture, CircuitBreakerLayer,
};
