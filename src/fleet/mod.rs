//! One quota for many processes, by leases of turns.
//!
//! Use it if an upstream grants a quota to your whole fleet, and several processes spend it. Each process leases some
//! turns at a time from a store, such as Redis or Valkey (`RedisStore`, feature `redis`), and hands them to its calls
//! itself. So a call makes no trip to the store. The limiter is the one of [`rate_limit`](crate::rate_limit): the same
//! layer, waits, costs, rejections, events and counters.
//!
#![cfg_attr(feature = "redis", doc = "```no_run")]
#![cfg_attr(not(feature = "redis"), doc = "```ignore")]
//! use buttress::fleet::{Fleet, RedisStore};
//! use buttress::{Quota, http::stack};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = RedisStore::open("redis://127.0.0.1")?;
//! let fleet = Fleet::builder(Quota::per_second(1000).burst(100), store)
//!     .key("payments-api")
//!     .build()?;
//! let layer = stack().rate_limit(fleet.limiter()).build()?;
//! # drop(layer);
//! # Ok(())
//! # }
//! ```
//!
//! # Settings
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `builder` | required | the [`Quota`](crate::Quota) of the fleet, and the [`Store`] |
//! | `key` | required | the name of the quota in the store; processes with the same key share it |
//! | `max_wait` | 1 s | the longest wait of a call for its turn; must be the same in all processes |
//! | `horizon` | 100 ms | the time that one lease covers; must be the same in all processes |
//! | `store_timeout` | 50 ms | the longest wait of a call for one answer of the store |
//! | `without_store` | [`EqualShare`](WithoutStore::EqualShare) | what a process does while the store does not answer |
//! | `name` | the key | the name in errors, events, snapshots and `Debug` |
//!
//! # Algorithm
//!
//! The store runs GCRA (ITU-T I.371) for several turns at once. A process asks when calls exceed the turns that it
//! holds: for what they lack, or for one horizon at its recent rate if that is more. It has one request under way and
//! two leases at most. It makes 1.2 requests per horizon at most, after 8 at once.
//!
//! A turn is used when it is due or later, and lapses one horizon after the last turn of its lease. Let `T` be the time
//! per call, `L` two horizons or, for calls that cost more, the time of the turns of one call. Any window of length `W`
//! gets at most `1 + ⌊(W + max(burst · T, L) + horizon + store_timeout) / T⌋` turns.
//!
//! **Fairness.** A process gets at most two horizons of the *max-min fair level* at a time: those that want less than
//! the level get what they want, and the others share what is left equally. A new process is known to the others after
//! 250 ms, and forgotten 3 s after its last request.
//!
//! A call is rejected at once if the queue of its process is longer than it can serve at that level within `max_wait`.
//!
//! # Without the store
//!
//! If a request takes longer than `store_timeout` or fails, calls no longer wait for the store. The leased turns
//! are used up, and then the process keeps to its share of the quota. Its share starts without a burst. It asks
//! the store again in the background, through a [circuit](crate::circuit_breaker): after three failures in a row every
//! 1 s, then up to every 10 s. The first answer brings leases back.
//!
//! | what happens | what the fleet can send on top of its bound |
//! |---|---|
//! | the store is away for all processes | nothing, if the shares add up to the quota; as it comes back, those that have not noticed yet add their share as below, for up to the open time of the circuit |
//! | some processes are cut off, others not | for each of them, its share: `share · (W / T + burst)` |
//! | the store loses its data, or its clock steps forward | once, a burst and the turns that were leased and are not due |
//! | its clock steps back | nothing; calls wait up to two horizons, or the step if it is shorter than `max_wait` and the longest lease |
//!
//! A pause of one process (by a 429) pauses that process only, and
//! [`set_quota`](crate::rate_limit::RateLimiter::set_quota) changes the quota by which it asks. Change it in all. Turns
//! that were leased by the old quota keep their times.
//!
//! # Costs
//!
//! A call that costs several turns takes them together. Turns at the end of a lease that are too few for the next call
//! lapse if the next lease comes too late; leases are multiples of the cost of the first waiting call to avoid that.
//!
//! # Cancellation
//!
//! As with the [local limiter](crate::rate_limit#cancellation). A turn that comes back in time goes to the next call of
//! the same process; one of an earlier lease is lost. A request to the store runs in a task of its own on the runtime
//! of the call that caused it: it outlives that call, but not the runtime.
//!
//! # Events
//!
//! Besides those of the limiter, with target `buttress::rate_limit`: `store_down` at WARN, after three failures in a
//! row, and `store_up` at INFO, each once per outage.
//!
//! # Limits
//!
//! Up to some hundred processes per key: the script reads all of them four times a second. A server that serves stale
//! replicas after a failover counts as one that has lost data.

mod handle;
#[cfg(feature = "redis")]
mod redis;
mod store;

pub use crate::rate_limit::{Ask, Granted, Ledger, Peer, Reply, WithoutStore};
pub use handle::{Fleet, FleetBuilder, FleetSnapshot, StoreState};
#[cfg(feature = "redis")]
pub use redis::{Connect, Reconnecting, RedisStore};
pub use store::{Store, StoreError};
