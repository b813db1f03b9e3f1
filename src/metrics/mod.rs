//! Metrics through the facade [`metrics`](https://docs.rs/metrics), for any recorder (feature `metrics`).
//!
//! Use it if your process already has a recorder, such as an exporter for Prometheus or OpenTelemetry, or if you
//! want durations. Without a recorder, and without another crate, use a [`Registry`](crate::observe::Registry).
//!
//! Switch it on with [`StackBuilder::metrics`](crate::http::StackBuilder::metrics), or for the events of one layer with
//! `metrics` on its handle, as in [`Circuit::metrics`](crate::circuit_breaker::Circuit::metrics). Only a stack measures
//! calls and attempts. Install the recorder before the first call: what is made at the first call stays with the recorder of that
//! moment.
//!
//! ```
//! use buttress::http::stack;
//! use metrics_util::debugging::DebuggingRecorder;
//! use std::convert::Infallible;
//! use tower::service_fn;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let recorder = DebuggingRecorder::new();
//! let seen = recorder.snapshotter();
//! recorder.install().unwrap();
//!
//! let client = service_fn(|_: http::Request<()>| async {
//!     Ok::<_, Infallible>(http::Response::new(()))
//! });
//! let service = stack().name("orders").metrics().service(client).unwrap();
//! service.oneshot(http::Request::new(())).await.unwrap();
//! let names: Vec<_> = seen.snapshot().into_vec().into_iter().map(|(key, ..)| key.key().name().to_owned()).collect();
//! assert!(names.iter().any(|name| name == "buttress.call.duration"));
//! # }
//! ```
//!
//! # Metrics
//!
//! The right column is the name that an exporter for Prometheus writes. For
//! [`metrics-exporter-prometheus`](https://docs.rs/metrics-exporter-prometheus), set `with_recommended_naming(true)`
//! and `set_buckets`. Without them it writes no suffixes and no histograms.
//!
//! | metric | kind | labels besides `name` | in Prometheus |
//! |---|---|---|---|
//! | `buttress.call.duration` | histogram, s | `outcome` | `buttress_call_duration_seconds` |
//! | `buttress.attempt.duration` | histogram, s | `outcome`, `attempt`: `1`, `2`, `3+` | `buttress_attempt_duration_seconds` |
//! | `buttress.retry.delay` | histogram, s | | `buttress_retry_delay_seconds` |
//! | `buttress.wait.duration` | histogram, s | `layer`: `load_shed`, `rate_limit` | `buttress_wait_duration_seconds` |
//! | `buttress.rejections` | counter | `layer`, `error.type` | `buttress_rejections_total` |
//! | `buttress.retries` | counter | `verdict` | `buttress_retries_total` |
//! | `buttress.retry.recovered` | counter | | `buttress_retry_recovered_total` |
//! | `buttress.retry.gave_up` | counter | `reason` | `buttress_retry_gave_up_total` |
//! | `buttress.circuit.state` | gauge, 0 or 1 | `state` | `buttress_circuit_state` |
//! | `buttress.circuit.transitions` | counter | `reason` | `buttress_circuit_transitions_total` |
//! | `buttress.circuit.probes` | counter | | `buttress_circuit_probes_total` |
//! | `buttress.injections` | counter | `fault` | `buttress_injections_total` |
//! | `buttress.hedges` | counter | | `buttress_hedges_total` |
//! | `buttress.hedges.won` | counter | | `buttress_hedges_won_total` |
//! | `buttress.hedges.denied` | counter | `reason` | `buttress_hedges_denied_total` |
//! | `buttress.fallbacks` | counter | | `buttress_fallbacks_total` |
//! | `buttress.degraded` | gauge, 0 or 1 | | `buttress_degraded` |
//! | `buttress.fleet.store_up` | gauge, 0 or 1, from the first outage on | | `buttress_fleet_store_up` |
//! | `buttress.rate.pauses` | counter | | `buttress_rate_pauses_total` |
//!
//! The counters are those of the [registry](crate::observe#metrics), with the same labels. A layer without a name is
//! `unnamed`. A key, path or host is never a label.
//!
//! `outcome` is the [`Verdict`](crate::Verdict) in lower case, or for a rejected call the `error_type` of the
//! registry, or `cancelled`: the caller left, or the deadline of the call ended it. An attempt lasts from the retry
//! to the response, with the waits for a slot or a turn. The call is measured below the deadline of a stack. Both last
//! until the head of the response. A wait is recorded if the call had to wait and got its slot or turn.
//!
//! # Cost
//!
//! Two readings of the processor's time stamp counter and two histograms for a call. Reading the counter needs a
//! calibration, which the first `metrics()` of a process does; it takes up to 200 ms. Durations are real time, even
//! if tokio's clock is paused.

mod events;
mod meter;

pub(crate) use events::{
    Events, zero_circuit, zero_limit, zero_limiter, zero_retries, zero_timeouts,
};
pub(crate) use meter::{Ended, Meter, Moment};
