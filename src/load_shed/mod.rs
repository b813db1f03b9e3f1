//! Rejects calls at once while too many are in flight.

mod limiter;
mod queue;
mod service;

pub use service::{
    InFlightLimit, LoadShed, LoadShedBuilder, LoadShedFuture, LoadShedLayer, Slot, Snapshot,
};
