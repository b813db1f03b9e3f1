//! Calls in a row: made, timed and counted.

use crate::allocations::Heap;
use crate::inner::{served, start_counting};
use std::fs;
use std::future::poll_fn;
use std::hint::{black_box, spin_loop};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tower::Service;

/// What some calls in a row came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub elapsed: Duration,
    pub calls: u64,
    /// Calls that were answered, not failed or rejected.
    pub answered: u64,
    /// Calls that reached the inner service.
    pub served: u64,
    /// What was taken from the heap, while that is counted.
    pub heap: Heap,
    /// How long others had the core meanwhile.
    pub waited: Duration,
}

impl Run {
    /// Whether it had its core to itself, but for 2 %.
    pub fn undisturbed(&self) -> bool {
        self.waited * 50 <= self.elapsed
    }

    /// Both, one after the other.
    pub fn then(self, next: Self) -> Self {
        Self {
            elapsed: self.elapsed + next.elapsed,
            calls: self.calls + next.calls,
            answered: self.answered + next.answered,
            served: self.served + next.served,
            heap: self.heap + next.heap,
            waited: self.waited + next.waited,
        }
    }
}

/// The runtime whose timers all contenders use. Entered by `main`, and driven only by what blocks
/// on it.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(new_runtime)
}

fn new_runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
}

/// By one task, each awaited before the next. Returns how many were answered.
pub async fn calls_in_task<S: Service<u64>>(service: &mut S, calls: u64) -> u64 {
    let mut answered = 0;
    for n in 0..calls {
        if poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
            let answer = service.call(black_box(n)).await;
            answered += u64::from(black_box(&answer).is_ok());
        }
    }
    answered
}

/// How many tasks call at once.
const TASKS: usize = 100;

/// A runtime that runs its tasks on so many threads, with sockets as services have them.
pub fn workers(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().build();
    runtime.expect("a runtime")
}

/// By [`TASKS`] tasks, each with a clone of the service. Which thread counts a call is chance: the
/// callee answers with what it was asked, so a call with that answer was served.
pub fn in_tasks<S>(runtime: &Runtime, service: &S, calls: u64) -> Run
where
    S: Service<u64, Response = u64, Future: Send> + Clone + Send + 'static,
{
    let work = || {
        let spawn = |task| {
            let mut service = service.clone();
            runtime.spawn(async move {
                let mut served = 0;
                for n in (task..calls).step_by(TASKS) {
                    if poll_fn(|cx| service.poll_ready(cx)).await.is_ok() {
                        let answer = service.call(black_box(n)).await;
                        served += u64::from(answer.is_ok_and(|answer| answer == n));
                    }
                }
                served
            })
        };
        let tasks: Vec<_> = (0..TASKS as u64).map(spawn).collect();
        let tasks = tasks.into_iter().map(|task| runtime.block_on(task));
        tasks.map(|served| served.expect("a task")).sum()
    };
    let run = counted(calls, work);
    Run {
        served: run.answered,
        ..run
    }
}

/// Whether the call was answered.
pub fn call_by_hand<S: Service<u64>>(service: &mut S, n: u64) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    match service.poll_ready(&mut cx) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(_)) => return 0,
        Poll::Pending => panic!("not ready"),
    }
    let mut call = pin!(service.call(black_box(n)));
    let mut answer = call.as_mut().poll(&mut cx);
    if answer.is_pending() {
        answer = call.as_mut().poll(&mut cx);
    }
    // Looked at where it is: moving it would be a cost of ours.
    match black_box(&answer) {
        Poll::Ready(answer) => u64::from(answer.is_ok()),
        Poll::Pending => panic!("still pending at the second poll"),
    }
}

/// As [`call_by_hand`], polled until it is answered.
pub fn call_without_break<S: Service<u64>>(service: &mut S, n: u64) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    if without_break(|| service.poll_ready(&mut cx)).is_err() {
        return 0;
    }
    let mut call = pin!(service.call(black_box(n)));
    let answer = without_break(|| call.as_mut().poll(&mut cx));
    u64::from(black_box(&answer).is_ok())
}

fn without_break<T>(mut poll: impl FnMut() -> Poll<T>) -> T {
    loop {
        match poll() {
            Poll::Ready(value) => return value,
            Poll::Pending => spin_loop(),
        }
    }
}

/// `work` makes the calls, and says how many were answered.
pub fn counted(calls: u64, work: impl FnOnce() -> u64) -> Run {
    counted_after(|| {}, calls, work).1
}

/// As [`counted`], once `ready` has returned, which is the moment it starts with.
fn counted_after(ready: impl FnOnce(), calls: u64, work: impl FnOnce() -> u64) -> (Instant, Run) {
    start_counting();
    let waited = waited_for_core();
    let heap = Heap::taken();
    ready();
    let start = Instant::now();
    let answered = work();
    let run = Run {
        elapsed: start.elapsed(),
        calls,
        answered,
        served: served(),
        heap: Heap::taken() - heap,
        waited: waited_for_core().saturating_sub(waited),
    };
    (start, run)
}

/// The same number of calls on each thread, each on a core of its own, from the first one's start to
/// the last one's end.
pub fn on_threads<T: Send>(inputs: Vec<T>, calls: u64, work: impl Fn(T, u64) -> u64 + Sync) -> Run {
    let missing = AtomicUsize::new(inputs.len());
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let start_together = |at: usize, input: T| {
        if let Some(core) = cores.get(at) {
            core_affinity::set_for_current(*core);
        }
        let runtime = new_runtime();
        let _guard = runtime.enter();
        let all_are_here = || {
            // Not a `Barrier`: it wakes one thread after the other. Acquire and release, so that
            // all are past what they did before.
            missing.fetch_sub(1, AcqRel);
            while missing.load(Acquire) > 0 {
                spin_loop();
            }
        };
        counted_after(all_are_here, calls, || work(input, calls))
    };
    let runs: Vec<(Instant, Run)> = thread::scope(|scope| {
        let start = &start_together;
        let spawn = |(at, input)| scope.spawn(move || start(at, input));
        let threads: Vec<_> = inputs.into_iter().enumerate().map(spawn).collect();
        let runs = threads.into_iter().map(ScopedJoinHandle::join);
        runs.map(|run| run.expect("a run")).collect()
    });
    let start = runs.iter().map(|(start, _)| *start).min();
    let end = runs.iter().map(|(start, run)| *start + run.elapsed).max();
    let runs = runs.iter().map(|(_, run)| *run);
    let total = runs.fold(Run::default(), Run::then);
    let elapsed = start.zip(end).map(|(start, end)| end - start);
    Run {
        elapsed: elapsed.unwrap_or_default(),
        ..total
    }
}

/// How long this thread has been ready to run while others had its core. Nothing where the system
/// does not say.
fn waited_for_core() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().nth(1);
    Duration::from_nanos(
        nanos
            .and_then(|nanos| nanos.parse().ok())
            .unwrap_or_default(),
    )
}
