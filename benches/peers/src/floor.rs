//! The cost of basic operations on this machine.

use crate::case::{Case, Contender, Work};
use crate::upstream::{AtOnce, PendingOnce, yielding};
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Basic operations, and calls to a service without any layer.
pub fn cases() -> impl Iterator<Item = Case> {
    CASES.iter().copied().flat_map(Case::variants)
}

const CASES: &[Case] = &[
    Case::new("bare call", Work::Succeeds, || {
        vec![Contender::new(FLOOR, || AtOnce)]
    })
    .pending(|| vec![Contender::new(FLOOR, || PendingOnce(AtOnce))]),
    Case::new("bare call, yielding to the runtime", Work::Succeeds, || {
        vec![Contender::in_tasks_only(FLOOR, yielding)]
    }),
    Case::new("`Instant::now`", Work::None, || {
        floor(|| {
            black_box(Instant::now());
        })
    }),
    Case::new("atomic load", Work::None, || atomic(load)),
    Case::new("atomic `fetch_add`", Work::None, || atomic(fetch_add)),
    Case::new("atomic compare-and-swap", Work::None, || atomic(swap)),
    Case::new("`Box`", Work::None, || {
        floor(|| drop(black_box(Box::new(black_box(7_u64)))))
    }),
    Case::new("`Arc` cloned and dropped", Work::None, || {
        let arc = Arc::new(7_u64);
        floor(move || drop(black_box(arc.clone())))
    }),
    Case::new("tokio `Sleep` made and registered", Work::None, || {
        floor(|| {
            let sleep = pin!(sleep(black_box(Duration::from_secs(10))));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(sleep.poll(&mut cx).is_pending());
        })
    }),
];

/// Two threads that use the same word. The time is that of one thread.
pub const CONTENDED: &[Case] = &[
    Case::new("atomic load, contended", Work::None, || contended(load)),
    Case::new("atomic `fetch_add`, contended", Work::None, || {
        contended(fetch_add)
    }),
    Case::new("atomic compare-and-swap, contended", Work::None, || {
        contended(swap)
    }),
];

pub const FLOOR: &str = "floor";

fn floor(mut work: impl FnMut() + 'static) -> Vec<Contender> {
    vec![Contender::raw(FLOOR, move |times| {
        for _ in 0..times {
            work();
        }
    })]
}

fn load(word: &AtomicU64) {
    black_box(word.load(Relaxed));
}

fn fetch_add(word: &AtomicU64) {
    black_box(word.fetch_add(1, Relaxed));
}

/// Retries until it succeeds.
fn swap(word: &AtomicU64) {
    let mut seen = word.load(Relaxed);
    while let Err(newer) = word.compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed) {
        seen = newer;
    }
}

fn atomic(work: fn(&AtomicU64)) -> Vec<Contender> {
    let shared = AtomicU64::new(0);
    floor(move || work(black_box(&shared)))
}

fn contended(work: fn(&AtomicU64)) -> Vec<Contender> {
    let shared = Arc::new(AtomicU64::new(0));
    vec![Contender::raw_contended(FLOOR, move |times| {
        for _ in 0..times {
            work(black_box(&shared));
        }
    })]
}
