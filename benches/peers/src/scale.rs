//! How the cost of buttress grows.

use crate::calls::call_by_hand;
use crate::case::{Contender, Way, Work};
use crate::contenders::{ours, stack};
use crate::measure::{Effort, side_by_side};
use crate::tasks::{Called, main_runtime};
use crate::upstream::{AtOnce, FailsOddCalls};
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tower::Service;

/// The table, as Markdown.
pub fn table(effort: Effort) -> String {
    let rows = [
        clones(effort),
        depth(effort),
        count_windows(effort, "ok", "O(1)", Work::Succeeds),
        count_windows(
            effort,
            "every other call failing",
            "O(N / 32): a failed call counts the bits of the window",
            Work::EveryOtherFails,
        ),
        waiters(),
        wakes(),
    ];
    let mut table = String::from("| what grows | expected | measured |\n|---|---|---|\n");
    for row in rows {
        let values: Vec<String> = row
            .values
            .iter()
            .map(|(n, value)| format!("{n}: {value:.1}"))
            .collect();
        let _ = writeln!(
            table,
            "| {} | {} | {} |",
            row.what,
            row.expected,
            values.join(" · ")
        );
    }
    table
}

struct Growth {
    what: String,
    expected: &'static str,
    values: Vec<(u64, f64)>,
}

/// Measures one contender per size, in a task if it can run in one.
fn measured(
    sizes: &[u64],
    mut made: Vec<Contender>,
    work: Work,
    effort: Effort,
) -> Vec<(u64, f64)> {
    let samples = side_by_side(&mut made, work, effort);
    let in_tasks = samples.iter().map(|ways| {
        let task = ways.iter().find(|(way, _)| *way == Way::Task);
        let (_, sample) = task.or(ways.first()).expect("a way");
        sample.median
    });
    sizes.iter().copied().zip(in_tasks).collect()
}

fn clones(effort: Effort) -> Growth {
    let sizes = [1, 10, 100, 1000, 10_000];
    let in_turns = |clones: u64| {
        let stack = ours::stack_with_two_timeouts(stack::LIMIT, AtOnce);
        let mut clones = vec![stack; clones as usize];
        let mut turn = 0;
        Contender::raw("", move |calls| {
            for n in 0..calls {
                call_by_hand(&mut clones[turn], n);
                turn = (turn + 1) % clones.len();
            }
        })
    };
    Growth {
        what: "clones of one stack of five with two timeouts, called in turn by hand; ns per call"
            .to_owned(),
        expected: "O(1), plus the cache misses of that many instances",
        values: measured(&sizes, sizes.map(in_turns).into(), Work::None, effort),
    }
}

fn depth(effort: Effort) -> Growth {
    let made = vec![
        Contender::new("1", || ours::load_shed(256, AtOnce)),
        Contender::new("2", || ours::two_load_sheds(256, AtOnce)),
        Contender::new("4", || ours::four_load_sheds(256, AtOnce)),
        Contender::new("8", || ours::eight_load_sheds(256, AtOnce)),
    ];
    Growth {
        what: "load sheds on top of each other; ns per call in a task".to_owned(),
        expected: "O(depth)",
        values: measured(&[1, 2, 4, 8], made, Work::Succeeds, effort),
    }
}

fn count_windows(effort: Effort, how: &str, expected: &'static str, work: Work) -> Growth {
    let sizes = [10, 100, 1000, 4096];
    let made = sizes.map(|calls| {
        let calls = calls as u32;
        match work {
            Work::Succeeds => Contender::new("", || ours::tolerant_breaker_counting(calls, AtOnce)),
            _ => Contender::new("", || ours::tolerant_breaker_counting(calls, FailsOddCalls)),
        }
    });
    Growth {
        what: format!("a circuit breaker with a window of N calls, {how}; ns per call in a task"),
        expected,
        values: measured(&sizes, made.into(), work, effort),
    }
}

const WAITERS: [u64; 5] = [1, 10, 100, 1000, 10_000];

/// A rate limit that is used up. Its next 10 000 turns come within the longest wait.
fn limited() -> impl Called + Clone {
    let mut limited = ours::rate_limit_without_burst(20_000, AtOnce);
    call_by_hand(&mut limited, 0);
    limited
}

/// A call that waits, on a clone of its own.
fn waiting<S: Service<u64> + Clone>(limited: &S) -> S::Future {
    let mut cx = Context::from_waker(Waker::noop());
    let mut clone = limited.clone();
    assert!(clone.poll_ready(&mut cx).is_ready());
    clone.call(0)
}

fn waiters() -> Growth {
    let start_waiting = |waiters: u64| {
        let limited = limited();
        let mut calls = Vec::with_capacity(waiters as usize);
        let mut cx = Context::from_waker(Waker::noop());
        let start = Instant::now();
        for _ in 0..waiters {
            let mut call = Box::pin(waiting(&limited));
            let _ = call.as_mut().poll(&mut cx);
            calls.push(call);
        }
        start.elapsed().as_nanos() as f64 / waiters as f64
    };
    // Take the shortest of five runs: they are too few for a median.
    let best = |waiters| {
        let runs = (0..5).map(|_| start_waiting(waiters));
        (waiters, runs.fold(f64::INFINITY, f64::min))
    };
    Growth {
        what: "calls that wait for one rate limit; ns per call to start waiting".to_owned(),
        expected: "O(1)",
        values: WAITERS.map(best).into(),
    }
}

fn wakes() -> Growth {
    let wakes = |waiters: u64| {
        let wakes = Arc::new(AtomicU64::new(0));
        main_runtime().block_on(async {
            let limited = limited();
            let mut calls = JoinSet::new();
            for _ in 0..waiters {
                let limited = limited.clone();
                let polls = wakes.clone();
                calls.spawn(Counted {
                    call: Box::pin(async move { drop(waiting(&limited).await) }),
                    polls,
                });
            }
            tokio::time::timeout(Duration::from_secs(10), calls.join_all())
                .await
                .expect("every turn comes");
        });
        // The first poll of each call is not a wakeup.
        let wakes = wakes.load(Relaxed) - waiters;
        (waiters, wakes as f64 / waiters as f64)
    };
    Growth {
        what: "the same; wakeups per call until its turn".to_owned(),
        expected: "1",
        values: WAITERS.map(wakes).into(),
    }
}

/// A call that counts its polls.
struct Counted {
    call: Pin<Box<dyn Future<Output = ()> + Send>>,
    polls: Arc<AtomicU64>,
}

impl Future for Counted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.polls.fetch_add(1, Relaxed);
        self.call.as_mut().poll(cx)
    }
}
