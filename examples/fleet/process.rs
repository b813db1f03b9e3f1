//! One process of the fleet: it makes calls at its rate, and prints when they went and how long they waited.

use buttress::fleet::{Fleet, RedisStore};
use buttress::{Quota, Rejection};
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// What the upstream grants to all processes together.
pub(crate) const QUOTA: u32 = 1_000;
pub(crate) const BURST: u32 = 100;

/// Microseconds on the clock that the processes of this machine share.
#[expect(clippy::disallowed_methods, reason = "times of several processes")]
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// Calls `per_second` times a second for so many seconds.
///
/// Prints a line `sent <time> <wait>` for each call, and `end <requests to the store> <rejected>`.
pub(crate) async fn run(store: &str, per_second: f64, seconds: f64) -> Result<(), Box<dyn Error>> {
    let fleet = Fleet::builder(
        Quota::per_second(QUOTA).burst(BURST),
        RedisStore::open(store)?,
    )
    .key("example")
    .build()?;
    let lines = Arc::new(Mutex::new(String::new()));
    let (start, mut made, mut calls) = (Instant::now(), 0.0, Vec::new());
    let mut ticks = interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while start.elapsed().as_secs_f64() < seconds {
        ticks.tick().await;
        while made < start.elapsed().as_secs_f64() * per_second {
            made += 1.0;
            calls.push(tokio::spawn(call(fleet.clone(), lines.clone())));
        }
        flush(&lines)?;
    }
    let mut rejected = 0;
    for call in calls {
        rejected += u64::from(!call.await?);
    }
    flush(&lines)?;
    println!("end {} {rejected}", fleet.snapshot().trips);
    Ok(())
}

async fn call(fleet: Fleet, lines: Arc<Mutex<String>>) -> bool {
    let called = Instant::now();
    match fleet
        .limiter()
        .acquire(1)
        .await
        .map_err(|rejected| rejected.0)
    {
        Ok(()) => {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = called.elapsed().as_micros();
            writeln!(lines, "sent {} {wait}", wall_clock()).is_ok()
        }
        Err(Rejection::RateLimited { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

fn flush(lines: &Mutex<String>) -> std::io::Result<()> {
    let text = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
