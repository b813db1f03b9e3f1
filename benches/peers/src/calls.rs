//! Series of calls that are polled by hand, with their times and counts.

use crate::allocations::Heap;
use crate::tasks::current_thread;
use crate::upstream::{served, start_counting};
use std::fs;
use std::hint::{black_box, spin_loop};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tower::Service;

/// The result of a series of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    pub elapsed: Duration,
    pub calls: u64,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Calls that reached the upstream.
    pub served: u64,
    /// Allocations of the calls, if they were counted.
    pub heap: Heap,
    /// How long the thread waited for its core while other processes used it.
    pub waited: Duration,
}

impl Run {
    /// Whether the run had its core to itself for 98 % of its time.
    pub fn undisturbed(&self) -> bool {
        self.waited * 50 <= self.elapsed
    }

    pub fn nanos_per_call(&self) -> f64 {
        self.elapsed.as_nanos() as f64 / self.calls as f64
    }

    /// The sum of two runs, one after the other.
    pub fn then(self, next: Self) -> Self {
        Self {
            elapsed: self.elapsed + next.elapsed,
            calls: self.calls + next.calls,
            succeeded: self.succeeded + next.succeeded,
            served: self.served + next.served,
            heap: self.heap + next.heap,
            waited: self.waited + next.waited,
        }
    }
}

/// Measures one run on the current thread.
pub struct Stopwatch {
    waited: Duration,
    heap: Heap,
    pub start: Instant,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self::start_after(|| {})
    }

    /// Prepares everything, runs `ready`, and then starts the clock.
    pub fn start_after(ready: impl FnOnce()) -> Self {
        start_counting();
        let waited = waited_for_core();
        let heap = Heap::taken();
        ready();
        Self {
            waited,
            heap,
            start: Instant::now(),
        }
    }

    pub fn stop(self, calls: u64, succeeded: u64) -> Run {
        Run {
            elapsed: self.start.elapsed(),
            calls,
            succeeded,
            served: served(),
            heap: Heap::taken() - self.heap,
            waited: waited_for_core().saturating_sub(self.waited),
        }
    }
}

/// Measures `work`, which makes the calls and returns how many succeeded.
pub fn counted(calls: u64, work: impl FnOnce() -> u64) -> Run {
    let stopwatch = Stopwatch::start();
    let succeeded = work();
    stopwatch.stop(calls, succeeded)
}

/// Returns 1 if the call succeeded and 0 otherwise.
pub fn call_by_hand<S: Service<u64>>(service: &mut S, n: u64) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    match service.poll_ready(&mut cx) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(_)) => return 0,
        Poll::Pending => panic!("not ready"),
    }
    let mut call = pin!(service.call(black_box(n)));
    let mut outcome = call.as_mut().poll(&mut cx);
    if outcome.is_pending() {
        outcome = poll_again(call);
    }
    // By reference, because moving the outcome would be a cost of this program.
    match black_box(&outcome) {
        Poll::Ready(outcome) => u64::from(outcome.is_ok()),
        Poll::Pending => panic!("still pending after {POLLS} more polls"),
    }
}

/// Makes this many calls by hand and returns the service.
pub fn after_calls<S: Service<u64>>(calls: u64, mut service: S) -> S {
    for n in 0..calls {
        call_by_hand(&mut service, n);
    }
    service
}

/// Enough for two attempts at a service that is pending once.
const POLLS: usize = 4;

fn poll_again<F: Future>(mut call: Pin<&mut F>) -> Poll<F::Output> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut polls = (0..POLLS).map(|_| call.as_mut().poll(&mut cx));
    polls.find(Poll::is_ready).unwrap_or(Poll::Pending)
}

/// Like [`call_by_hand`], but polls in a loop until the call is ready.
pub fn call_without_break<S: Service<u64>>(service: &mut S, n: u64) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    if without_break(|| service.poll_ready(&mut cx)).is_err() {
        return 0;
    }
    let mut call = pin!(service.call(black_box(n)));
    let outcome = without_break(|| call.as_mut().poll(&mut cx));
    u64::from(black_box(&outcome).is_ok())
}

fn without_break<T>(mut poll: impl FnMut() -> Poll<T>) -> T {
    loop {
        match poll() {
            Poll::Ready(value) => return value,
            Poll::Pending => spin_loop(),
        }
    }
}

/// A starting line: threads or tasks wait here for each other before they start.
pub struct StartingLine(AtomicUsize);

impl StartingLine {
    pub fn new(missing: usize) -> Self {
        Self(AtomicUsize::new(missing))
    }

    /// Spins, because a `Barrier` would wake one thread after the other. `AcqRel` and `Acquire`
    /// make sure that all threads see everything that happened before the start.
    pub fn wait(&self) {
        self.0.fetch_sub(1, AcqRel);
        while self.0.load(Acquire) > 0 {
            spin_loop();
        }
    }
}

/// Runs `work` on one thread per input, each thread on its own core. The time runs from the start
/// of the first thread to the end of the last one.
pub fn on_threads<T: Send>(inputs: Vec<T>, calls: u64, work: impl Fn(T, u64) -> u64 + Sync) -> Run {
    let line = StartingLine::new(inputs.len());
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let start_together = |at: usize, input: T| {
        if let Some(core) = cores.get(at) {
            core_affinity::set_for_current(*core);
        }
        let runtime = current_thread();
        let _guard = runtime.enter();
        let stopwatch = Stopwatch::start_after(|| line.wait());
        let start = stopwatch.start;
        let succeeded = work(input, calls);
        (start, stopwatch.stop(calls, succeeded))
    };
    let runs: Vec<(Instant, Run)> = thread::scope(|scope| {
        let start = &start_together;
        let spawn = |(at, input)| scope.spawn(move || start(at, input));
        let threads: Vec<_> = inputs.into_iter().enumerate().map(spawn).collect();
        let runs = threads.into_iter().map(ScopedJoinHandle::join);
        runs.map(|run| run.expect("a run")).collect()
    });
    spanning(&runs)
}

/// Combines the runs of several threads or tasks into one, from the start of the first to the end
/// of the last.
pub fn spanning(runs: &[(Instant, Run)]) -> Run {
    let start = runs.iter().map(|(start, _)| *start).min();
    let end = runs.iter().map(|(start, run)| *start + run.elapsed).max();
    let total = runs.iter().map(|(_, run)| *run);
    let total = total.fold(Run::default(), Run::then);
    let elapsed = start.zip(end).map(|(start, end)| end - start);
    Run {
        elapsed: elapsed.unwrap_or_default(),
        ..total
    }
}

/// How long this thread was ready to run while other processes used its core. Zero if the system
/// does not report it.
fn waited_for_core() -> Duration {
    waited("/proc/thread-self/schedstat")
}

/// The same, summed over all threads of this process.
pub fn all_waited_for_cores() -> Duration {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let stats = threads
        .flatten()
        .map(|thread| thread.path().join("schedstat"));
    stats.map(waited).sum()
}

fn waited(stat: impl AsRef<std::path::Path>) -> Duration {
    let stat = fs::read_to_string(stat).unwrap_or_default();
    let nanos = stat.split_whitespace().nth(1);
    Duration::from_nanos(
        nanos
            .and_then(|nanos| nanos.parse().ok())
            .unwrap_or_default(),
    )
}
