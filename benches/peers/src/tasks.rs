//! Series of calls that are awaited in spawned tasks, as users make them.

use crate::calls::{Run, StartingLine, Stopwatch, all_waited_for_cores, spanning};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tower::{Service, ServiceExt};

/// The service of a contender. Functions that clone it also require [`Clone`].
pub trait Called: Service<u64, Response = u64, Future: Send> + Send + 'static {}

impl<S> Called for S where S: Service<u64, Response = u64, Future: Send> + Send + 'static {}

/// The runtime of the main thread. `main` enters it, so that calls polled by hand find its timer.
pub fn main_runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(current_thread)
}

/// A current-thread runtime with timers and sockets, as services have them.
pub fn current_thread() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    with_a_timer(runtime.expect("a runtime"))
}

/// Starts a timer that fires every second. In a runtime without a timer, registering one wakes the
/// driver, which costs a system call. This cost must not depend on the other contenders.
fn with_a_timer(runtime: Runtime) -> Runtime {
    runtime.spawn(async {
        loop {
            sleep(Duration::from_secs(1)).await;
        }
    });
    // Give the driver time to register it.
    runtime.block_on(async { sleep(Duration::from_millis(1)).await });
    runtime
}

/// The runtime with one or two workers. Each worker is pinned to a core, because the system would
/// spread them over the cores only after a while.
pub fn workers(workers: usize) -> &'static Runtime {
    static RUNTIMES: [OnceLock<Runtime>; 2] = [const { OnceLock::new() }; 2];
    RUNTIMES[workers - 1].get_or_init(|| {
        let started = AtomicUsize::new(0);
        let take_a_core = move || {
            let at = started.fetch_add(1, Relaxed);
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            if let Some(core) = cores.get(at) {
                core_affinity::set_for_current(*core);
            }
        };
        let mut builder = Builder::new_multi_thread();
        let builder = builder.worker_threads(workers).on_thread_start(take_a_core);
        let runtime = builder.enable_all().build();
        with_a_timer(runtime.expect("a runtime"))
    })
}

/// Makes the calls one after the other. Returns how many responses equal their request.
pub async fn calls<S: Called>(service: &mut S, calls: u64) -> u64 {
    let mut succeeded = 0;
    for n in 0..calls {
        let Ok(ready) = service.ready().await else {
            continue;
        };
        if let Ok(response) = ready.call(black_box(n)).await {
            succeeded += u64::from(response == n);
        }
    }
    succeeded
}

/// Like [`calls`], but makes each call on a fresh clone.
pub async fn calls_of_clones<S: Called + Clone>(service: &mut S, calls: u64) -> u64 {
    let mut succeeded = 0;
    for n in 0..calls {
        let mut service = service.clone();
        let Ok(ready) = service.ready().await else {
            continue;
        };
        if let Ok(response) = ready.call(black_box(n)).await {
            succeeded += u64::from(response == n);
        }
    }
    succeeded
}

/// Times `work` from within its task.
pub async fn timed(calls: u64, work: impl Future<Output = u64>) -> Run {
    let stopwatch = Stopwatch::start();
    let succeeded = work.await;
    stopwatch.stop(calls, succeeded)
}

/// Spawns one task per service, all at once, and makes this many calls in each. The time runs from
/// the start of the first task to the end of the last one. Any worker may serve a call, so the
/// per-thread counts mean nothing here. Instead, a call counts as served if its response equals its
/// request.
pub fn in_tasks<S: Called>(workers: usize, services: Vec<S>, calls_each: u64) -> Run {
    let runtime = self::workers(workers);
    let tasks = services.len();
    // Then each task has a worker to itself, and the tasks can wait for each other in a loop.
    let together = tasks <= workers;
    let line = Arc::new(StartingLine::new(tasks));
    let spawn = |mut service| {
        let line = line.clone();
        runtime.spawn(async move {
            let stopwatch = if together {
                Stopwatch::start_after(|| line.wait())
            } else {
                Stopwatch::start()
            };
            let start = stopwatch.start;
            let succeeded = calls(&mut service, calls_each).await;
            (start, stopwatch.stop(calls_each, succeeded))
        })
    };
    let waited = all_waited_for_cores();
    let spawned: Vec<_> = services.into_iter().map(spawn).collect();
    let runs = spawned.into_iter().map(|task| runtime.block_on(task));
    let runs: Vec<_> = runs.map(|run| run.expect("a task")).collect();
    let all_waited = all_waited_for_cores().saturating_sub(waited);
    let total = spanning(&runs);
    Run {
        served: total.succeeded,
        waited: if together { total.waited } else { all_waited },
        ..total
    }
}
