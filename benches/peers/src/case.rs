//! What is compared: cases, their contenders, and the work that those must have done.

use crate::calls::{
    Run, call_by_hand, call_without_break, calls_in_task, counted, in_tasks, on_threads, runtime,
    workers,
};
use tower::Service;

/// Something to be done, and who can do it.
pub struct Case {
    pub name: &'static str,
    pub work: Work,
    pub contenders: fn() -> Vec<Contender>,
    /// Who does not take part, and why.
    pub absent: &'static [(&'static str, &'static str)],
}

impl Case {
    pub const fn new(name: &'static str, work: Work, contenders: fn() -> Vec<Contender>) -> Self {
        Self {
            name,
            work,
            contenders,
            absent: &[],
        }
    }

    pub const fn without(self, absent: &'static [(&'static str, &'static str)]) -> Self {
        Self { absent, ..self }
    }
}

/// A way to do one case.
pub struct Contender {
    pub who: &'static str,
    pub sizes: Option<Sizes>,
    /// What a reader of its number must know.
    pub note: Option<&'static str>,
    run: Box<dyn FnMut(u64) -> Run>,
}

/// Bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub service: usize,
    pub future: usize,
}

/// What a contender has to have done.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Every call reaches the inner service and is answered.
    Answered,
    /// Every call reaches the inner service twice and is answered.
    AnsweredAtSecond,
    /// Every call reaches the inner service, and every other one fails.
    EveryOtherFails,
    /// No call reaches the inner service, and none is answered.
    Rejected,
    /// There is no inner service.
    None,
}

impl Work {
    fn check(self, who: &str, run: Run) {
        let calls = run.calls;
        let expected = match self {
            Self::Answered => (calls, calls),
            Self::AnsweredAtSecond => (calls, 2 * calls),
            Self::EveryOtherFails => (calls / 2, calls),
            Self::Rejected => (0, 0),
            Self::None => return,
        };
        assert_eq!((run.answered, run.served), expected, "{who}: {self:?}");
    }
}

impl Contender {
    /// Anything that makes `calls` calls. For the floor.
    pub fn raw(who: &'static str, mut work: impl FnMut(u64) + 'static) -> Self {
        Self::new(who, None, move |calls| {
            counted(calls, || {
                work(calls);
                0
            })
        })
    }

    /// One service, called again and again, polled by hand: no executor is measured.
    pub fn by_hand<S: Service<u64> + 'static>(who: &'static str, mut service: S) -> Self {
        let sizes = Sizes::of(&service);
        Self::new(who, Some(sizes), move |calls| {
            counted(calls, || {
                (0..calls).map(|n| call_by_hand(&mut service, n)).sum()
            })
        })
    }

    /// As [`by_hand`](Self::by_hand), on services that have been called `held` times before, and at
    /// most a quarter more. `make` makes them so.
    pub fn holding<S: Service<u64> + 'static>(
        who: &'static str,
        held: u64,
        make: impl Fn() -> S + 'static,
    ) -> Self {
        let mut service = make();
        let mut left = held / 4;
        let sizes = Sizes::of(&service);
        Self::new(who, Some(sizes), move |calls| {
            let mut total = Run::default();
            while total.calls < calls {
                if left == 0 {
                    service = make();
                    left = held / 4;
                }
                let chunk = left.min(calls - total.calls);
                left -= chunk;
                let run = counted(chunk, || {
                    (0..chunk).map(|n| call_by_hand(&mut service, n)).sum()
                });
                total = total.then(run);
            }
            total
        })
    }

    /// As [`by_hand`](Self::by_hand), on a fresh clone for each call.
    pub fn cloned<S: Service<u64> + Clone + 'static>(who: &'static str, service: S) -> Self {
        let sizes = Sizes::of(&service);
        Self::new(who, Some(sizes), move |calls| {
            counted(calls, || {
                (0..calls)
                    .map(|n| call_by_hand(&mut service.clone(), n))
                    .sum()
            })
        })
    }

    /// One service, called again and again by a task of a runtime on one thread.
    pub fn in_runtime<S: Service<u64> + 'static>(who: &'static str, mut service: S) -> Self {
        let sizes = Sizes::of(&service);
        Self::new(who, Some(sizes), move |calls| {
            counted(calls, || {
                runtime().block_on(calls_in_task(&mut service, calls))
            })
        })
    }

    /// Clones of one service, one per thread, each called again and again and polled by hand, without
    /// a break where it waits for the other: parking would cost more. `calls` are made by all threads
    /// together.
    pub fn threads<S>(who: &'static str, threads: usize, service: S) -> Self
    where
        S: Service<u64> + Clone + Send + 'static,
    {
        let sizes = Sizes::of(&service);
        Self::new(who, Some(sizes), move |calls| {
            let clones = vec![service.clone(); threads];
            on_threads(clones, calls / threads as u64, |mut service, calls| {
                let call = |n| call_without_break(&mut service, n);
                (0..calls).map(call).sum()
            })
        })
    }

    /// Clones of one service, each called again and again by a task of a runtime with so many threads.
    /// `calls` are made by all tasks together.
    pub fn tasks<S>(who: &'static str, threads: usize, service: S) -> Self
    where
        S: Service<u64, Response = u64, Future: Send> + Clone + Send + 'static,
    {
        let sizes = Sizes::of(&service);
        let runtime = workers(threads);
        Self::new(who, Some(sizes), move |calls| {
            in_tasks(&runtime, &service, calls)
        })
    }

    /// Anything that two threads do `calls` times each. For the floor.
    pub fn raw_contended(who: &'static str, work: impl Fn(u64) + Clone + Send + 'static) -> Self {
        Self::new(who, None, move |calls| {
            on_threads(vec![work.clone(); 2], calls, |work, calls| {
                work(calls);
                0
            })
        })
    }

    fn new(who: &'static str, sizes: Option<Sizes>, run: impl FnMut(u64) -> Run + 'static) -> Self {
        Self {
            who,
            sizes,
            note: None,
            run: Box::new(run),
        }
    }

    pub fn note(self, note: &'static str) -> Self {
        Self {
            note: Some(note),
            ..self
        }
    }

    /// Makes that many calls, an even number.
    #[inline(never)] // callgrind looks for it
    pub fn run(&mut self, calls: u64, work: Work) -> Run {
        let run = (self.run)(calls);
        work.check(self.who, run);
        run
    }
}

impl Sizes {
    fn of<S: Service<u64>>(_: &S) -> Self {
        Self {
            service: size_of::<S>(),
            future: size_of::<S::Future>(),
        }
    }
}
