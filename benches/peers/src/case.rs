//! What is compared: the cases, their contenders, and how much work each contender must have done.

use crate::calls::{Run, after_calls, call_by_hand, call_without_break, counted, on_threads};
use crate::tasks::{Called, calls, calls_of_clones, in_tasks, main_runtime, timed, workers};
use std::iter;
use tower::Service;

/// A kind of call, and the contenders that can make it.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    pends: bool,
    pub work: Work,
    pub contenders: fn() -> Vec<Contender>,
    pending: Option<fn() -> Vec<Contender>>,
    /// The contenders that do not take part, and why.
    pub absent: &'static [(&'static str, &'static str)],
}

impl Case {
    pub const fn new(name: &'static str, work: Work, contenders: fn() -> Vec<Contender>) -> Self {
        Self {
            name,
            pends: false,
            work,
            contenders,
            pending: None,
            absent: &[],
        }
    }

    /// Adds the same case with an upstream that is pending once. It has its own rows in the tables.
    pub const fn pending(self, contenders: fn() -> Vec<Contender>) -> Self {
        Self {
            pending: Some(contenders),
            ..self
        }
    }

    pub const fn without(self, absent: &'static [(&'static str, &'static str)]) -> Self {
        Self { absent, ..self }
    }

    /// This case, and its variant that is pending once, if there is one.
    pub fn variants(self) -> impl Iterator<Item = Self> {
        let pending = self.pending.map(|contenders| Self {
            pends: true,
            contenders,
            ..self
        });
        iter::once(self).chain(pending)
    }

    pub fn name(&self) -> String {
        let pending = if self.pends { ", pending once" } else { "" };
        format!("{}{pending}", self.name)
    }

    /// Whether this is the second of the two [variants](Self::variants).
    pub fn is_pending_variant(&self) -> bool {
        self.pends
    }
}

/// How calls are made. If there are several threads, they share the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Awaited in a spawned task on a multi-thread runtime with one worker.
    Task,
    /// Awaited in a spawned task on a current-thread runtime.
    CurrentThread,
    /// Polled by hand in a loop.
    Hand,
    /// Awaited in spawned tasks on a multi-thread runtime with this many workers.
    Workers(usize),
    /// Polled by hand on this many threads.
    Threads(usize),
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Task => "in a task",
            Self::CurrentThread => "in a task, current thread",
            Self::Hand => "by hand",
            Self::Workers(1) => "in tasks, one worker",
            Self::Workers(_) => "in tasks, two workers",
            Self::Threads(1) => "by hand, one thread",
            Self::Threads(_) => "by hand, two threads",
        }
    }
}

/// A contender in a case, and the ways in which its calls are made.
pub struct Contender {
    pub who: &'static str,
    pub sizes: Option<Sizes>,
    /// What readers of its numbers must know.
    pub note: Option<&'static str>,
    ways: Vec<(Way, Calls)>,
}

/// Makes this many calls.
type Calls = Box<dyn FnMut(u64) -> Run>;

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub service: usize,
    pub future: usize,
}

impl Sizes {
    pub fn of<R, S: Service<R>>(_: &S) -> Self {
        Self {
            service: size_of::<S>(),
            future: size_of::<S::Future>(),
        }
    }
}

/// The work that a contender must have done.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Every call reaches the upstream and succeeds.
    Succeeds,
    /// Every call reaches the upstream twice and succeeds.
    SucceedsAtSecond,
    /// Every call reaches the upstream, and every other one fails.
    EveryOtherFails,
    /// No call reaches the upstream, and none succeeds.
    Rejected,
    /// There is no upstream.
    None,
}

impl Work {
    fn check(self, who: &str, run: Run) {
        let calls = run.calls;
        let expected = match self {
            Self::Succeeds => (calls, calls),
            Self::SucceedsAtSecond => (calls, 2 * calls),
            Self::EveryOtherFails => (calls / 2, calls),
            Self::Rejected => (0, 0),
            Self::None => return,
        };
        assert_eq!((run.succeeded, run.served), expected, "{who}: {self:?}");
    }
}

impl Contender {
    /// One service that is called repeatedly, by hand and in a task. For each way, `make` builds
    /// one service within the runtime that calls it.
    pub fn new<S: Called>(who: &'static str, make: impl Fn() -> S) -> Self {
        let mut service = make();
        let mut contender = Self::in_tasks_only(who, make);
        contender.add(Way::Hand, move |calls| {
            counted(calls, || {
                (0..calls).map(|n| call_by_hand(&mut service, n)).sum()
            })
        });
        contender
    }

    /// Like [`new`](Self::new), for calls that need a running runtime.
    pub fn in_tasks_only<S: Called>(who: &'static str, make: impl Fn() -> S) -> Self {
        let mut contender = Self::with_sizes(who, Some(Sizes::of::<u64, _>(&make())));
        contender.add_tasks(make, |mut service, n| async move {
            let run = timed(n, calls(&mut service, n)).await;
            (service, run)
        });
        contender
    }

    /// Like [`new`](Self::new), but makes each call on a fresh clone.
    pub fn cloned<S: Called + Clone>(who: &'static str, make: impl Fn() -> S) -> Self {
        let service = make();
        let mut contender = Self::with_sizes(who, Some(Sizes::of::<u64, _>(&service)));
        contender.add_tasks(make, |mut service, n| async move {
            let run = timed(n, calls_of_clones(&mut service, n)).await;
            (service, run)
        });
        contender.add(Way::Hand, move |calls| {
            counted(calls, || {
                let call = |n| call_by_hand(&mut service.clone(), n);
                (0..calls).map(call).sum()
            })
        });
        contender
    }

    /// Like [`new`](Self::new), on services that have already received between `held` and 1.25
    /// times `held` calls.
    pub fn holding<S: Called>(
        who: &'static str,
        held: u64,
        make: impl Fn() -> S + Copy + Send + Sync + 'static,
    ) -> Self {
        let mut contender = Self::with_sizes(who, Some(Sizes::of::<u64, _>(&make())));
        let left = held / 4;
        contender.add_tasks(
            move || Held {
                service: make(),
                left: 0,
            },
            move |mut holding, n| async move {
                let mut total = Run::default();
                while total.calls < n {
                    if holding.left == 0 {
                        let mut service = make();
                        calls(&mut service, held).await;
                        holding = Held { service, left };
                    }
                    let chunk = holding.take(n - total.calls);
                    total = total.then(timed(chunk, calls(&mut holding.service, chunk)).await);
                }
                (holding, total)
            },
        );
        let mut holding = Held {
            service: make(),
            left: 0,
        };
        contender.add(Way::Hand, move |calls| {
            let mut total = Run::default();
            while total.calls < calls {
                if holding.left == 0 {
                    let service = after_calls(held, make());
                    holding = Held { service, left };
                }
                let chunk = holding.take(calls - total.calls);
                total = total.then(counted(chunk, || {
                    let service = &mut holding.service;
                    (0..chunk).map(|n| call_by_hand(service, n)).sum()
                }));
            }
            total
        });
        contender
    }

    /// One clone of a service per thread, each called repeatedly: in tasks of a runtime, and by
    /// hand on threads. By hand, a call that waits for another one is polled in a loop, because
    /// parking the thread would cost more.
    pub fn shared<S: Called + Clone>(who: &'static str, make: impl Fn() -> S) -> Self {
        let service = make();
        let mut contender = Self::with_sizes(who, Some(Sizes::of::<u64, _>(&service)));
        for threads in [1, 2] {
            contender.add_workers(threads, threads, &make);
            let service = service.clone();
            contender.add(Way::Threads(threads), move |calls| {
                let clones = vec![service.clone(); threads];
                let calls_each = calls / threads as u64;
                on_threads(clones, calls_each, |mut service, calls| {
                    let call = |n| call_without_break(&mut service, n);
                    (0..calls).map(call).sum()
                })
            });
        }
        contender
    }

    /// Clones of one service, called by a hundred tasks.
    pub fn shared_by_tasks<S: Called + Clone>(who: &'static str, make: impl Fn() -> S) -> Self {
        let mut contender = Self::with_sizes(who, Some(Sizes::of::<u64, _>(&make())));
        for threads in [1, 2] {
            contender.add_workers(threads, 100, &make);
        }
        contender
    }

    /// Any work that is repeated this many times. For the floor.
    pub fn raw(who: &'static str, mut work: impl FnMut(u64) + 'static) -> Self {
        let mut contender = Self::with_sizes(who, None);
        contender.add(Way::Hand, move |calls| {
            counted(calls, || {
                work(calls);
                0
            })
        });
        contender
    }

    /// Any work that two threads repeat this many times each. For the floor.
    pub fn raw_contended(who: &'static str, work: impl Fn(u64) + Clone + Send + 'static) -> Self {
        let mut contender = Self::with_sizes(who, None);
        contender.add(Way::Hand, move |calls| {
            let run = on_threads(vec![work.clone(); 2], calls, |work, calls| {
                work(calls);
                0
            });
            // The time of one thread.
            Run { calls, ..run }
        });
        contender
    }

    fn with_sizes(who: &'static str, sizes: Option<Sizes>) -> Self {
        Self {
            who,
            sizes,
            note: None,
            ways: Vec::new(),
        }
    }

    fn add(&mut self, way: Way, run: impl FnMut(u64) -> Run + 'static) {
        self.ways.push((way, Box::new(run)));
    }

    /// Spawns a task on each single-threaded runtime. The task takes the service and returns it.
    fn add_tasks<S, F>(
        &mut self,
        make: impl Fn() -> S,
        calls: impl Fn(S, u64) -> F + Copy + 'static,
    ) where
        S: Send + 'static,
        F: Future<Output = (S, Run)> + Send + 'static,
    {
        for (way, runtime) in [
            (Way::Task, workers(1)),
            (Way::CurrentThread, main_runtime()),
        ] {
            let _guard = runtime.enter();
            let mut kept = Some(make());
            self.add(way, move |n| {
                let service = kept.take().expect("given back by the last run");
                let task = runtime.spawn(calls(service, n));
                let (service, run) = runtime.block_on(task).expect("a task");
                kept = Some(service);
                run
            });
        }
    }

    fn add_workers<S: Called + Clone>(
        &mut self,
        threads: usize,
        tasks: usize,
        make: impl Fn() -> S,
    ) {
        let _guard = workers(threads).enter();
        let service = make();
        self.add(Way::Workers(threads), move |calls| {
            let clones = vec![service.clone(); tasks];
            let calls_each = calls.div_ceil(tasks as u64);
            in_tasks(threads, clones, calls_each)
        });
    }

    pub fn note(self, note: &'static str) -> Self {
        Self {
            note: Some(note),
            ..self
        }
    }

    pub fn ways(&self) -> impl Iterator<Item = Way> {
        self.ways.iter().map(|(way, _)| *way)
    }

    /// Makes approximately this many calls.
    #[inline(never)] // callgrind looks for it
    pub fn run(&mut self, way: Way, calls: u64, work: Work) -> Run {
        let mut ways = self.ways.iter_mut();
        let (_, run) = ways.find(|(known, _)| *known == way).expect("a way");
        let run = run(calls);
        work.check(self.who, run);
        run
    }
}

/// A service, and how many more calls it may receive.
struct Held<S> {
    service: S,
    left: u64,
}

impl<S> Held<S> {
    /// Takes as many of its remaining calls as are needed.
    fn take(&mut self, missing: u64) -> u64 {
        let chunk = self.left.min(missing);
        self.left -= chunk;
        chunk
    }
}
