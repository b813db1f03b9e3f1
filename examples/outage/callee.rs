//! The callee, in numbers: what the server can do, what its operators agreed with us, and how long
//! our own callers have. A team that depends on another service writes such a list first.

use std::time::Duration;

/// Requests the server works on at the same time.
pub const WORKERS: u32 = 8;
/// How long one request takes a worker.
pub const WORK: Duration = Duration::from_millis(20);
/// By how much the work slows down in the slow phase.
pub const SLOWDOWN: u32 = 20;
/// Requests that wait for a worker before the server answers 503.
pub const QUEUE: u32 = 24;
/// What the server asks for in its 503 phase. The header counts whole seconds.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);
/// What the workers can do in a second.
#[expect(clippy::cast_possible_truncation, reason = "twenty milliseconds")]
pub const CAPACITY: u32 = WORKERS * 1000 / WORK.as_millis() as u32;

/// Calls per second, in every phase but the overload and that of the 503s: few enough that the calls of a whole quarter
/// of a second may come at once, after the machine stood still, and still fit under `IN_FLIGHT`.
pub const USUAL_RATE: u32 = 40;
/// Calls per second in the overload.
pub const OVERLOAD_RATE: u32 = 2 * CAPACITY;
/// Calls per second while the server answers 503: a fifth more than `RATE`, so that an open circuit
/// and a quota both have a reason to reject.
pub const UNAVAILABLE_RATE: u32 = 600;

/// How long a caller waits for an answer, whichever client it has.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// How long one attempt may take.
pub const ATTEMPT: Duration = Duration::from_millis(900);
/// Attempts in all, the first included.
pub const ATTEMPTS: u32 = 3;
/// The longest wait before the first retry, doubled for each one after it.
pub const BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait before any retry.
pub const BACKOFF_CAP: Duration = Duration::from_millis(400);
/// Retries at once, before successes have earned more.
pub const BUDGET_FLOOR: u32 = 20;
/// Retries earned by a success.
pub const BUDGET_RATIO: f64 = 0.2;
/// Retries per second that need no success.
pub const BUDGET_RESERVE: f64 = 1.0;
/// Calls in flight. The workers are kept busy, and when their work takes twenty times as long, the
/// last of fourteen calls is still answered after 0.7 s, inside `ATTEMPT`.
pub const IN_FLIGHT: usize = 14;
/// Sends per second that the callee's operators agreed to: a quarter above what it can do.
pub const RATE: u32 = 500;
/// Sends at once, of these.
pub const BURST: u32 = 50;
/// The breaker looks back this far: an outage of minutes is played here in seconds.
pub const WINDOW: Duration = Duration::from_secs(1);
/// How long the breaker stays open at first, doubled each time it opens again.
pub const OPEN_FOR: Duration = Duration::from_millis(500);
/// How long the breaker stays open at most.
pub const MAX_OPEN_FOR: Duration = Duration::from_secs(2);

/// Connections that one client may hold, so that even a machine that stood still for a moment and
/// then sees all the late calls at once needs few file descriptors.
pub const MAX_SOCKETS: u32 = 100;

/// The numbers, in words, for the terminal and for the report.
pub fn in_words() -> Vec<(&'static str, String)> {
    vec![
        (
            "server",
            format!(
                "{WORKERS} workers of {WORK:?} ({CAPACITY} requests/s), a queue of {QUEUE}, 503 beyond it"
            ),
        ),
        (
            "load",
            format!(
                "{USUAL_RATE} calls/s for each client, {OVERLOAD_RATE} in the overload, \
                 {UNAVAILABLE_RATE} while the answer is 503"
            ),
        ),
        ("bare", format!("a timeout of {DEADLINE:?}")),
        (
            "naive",
            format!(
                "the same timeout for each try, {} more tries at once",
                crate::naive::MORE_TRIES
            ),
        ),
        (
            "buttress",
            format!(
                "deadline {DEADLINE:?}; {ATTEMPTS} attempts of {ATTEMPT:?}, backoff {BACKOFF:?} to {BACKOFF_CAP:?}, \
                 retry budget {BUDGET_FLOOR} (+{BUDGET_RATIO} a success, +{BUDGET_RESERVE}/s); \
                 {IN_FLIGHT} in flight; {RATE}/s, {BURST} at once; \
                 breaker over {WINDOW:?}, open for {OPEN_FOR:?} to {MAX_OPEN_FOR:?}"
            ),
        ),
    ]
}
