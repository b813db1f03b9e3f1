//! Timers that outlive the calls that made them.
//!
//! Most calls are over before their timer is due. To register a timer with the runtime and to take it
//! back are two turns with a lock that all threads of the runtime share. So a timer that is let go
//! before it is due stays registered, and is kept by its thread. The next call there sets it to its
//! own end: one atomic write, and no lock, where that is a later time, as it is among calls of one
//! timeout.
//!
//! A timer that is kept wakes nobody and holds nothing of its call. What it does hold is its runtime's
//! handle, until it is taken, or the thread ends. When it is due, an idle runtime wakes up once, and
//! a paused clock that has nothing else to wait for goes there.

use crate::time::nanos;
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{self, Handle};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers are kept with those of about the same length, so that most are set to a later time when
/// they are taken: below a millisecond, two, four and so on, to a minute. Longer ones are not kept.
const LENGTHS: usize = 17;

/// How many timers of about one length a thread keeps.
const KEPT: usize = 128;

thread_local! {
    static TIMERS: RefCell<[Vec<Registered>; LENGTHS]> =
        const { RefCell::new([const { Vec::new() }; LENGTHS]) };
}

/// A timer that is registered when it is first needed.
#[derive(Debug)]
pub(crate) struct Timer {
    registered: Option<Registered>,
    /// With which others it is kept.
    length: u8,
}

#[derive(Debug)]
struct Registered {
    sleep: Pin<Box<Sleep>>,
    runtime: runtime::Id,
}

impl Timer {
    /// One that takes about so long.
    #[inline]
    pub(crate) fn new(length: Duration) -> Self {
        let milliseconds = nanos(length) >> 20;
        Self {
            registered: None,
            length: (u64::BITS - milliseconds.leading_zeros()) as u8,
        }
    }

    /// Ready at `end`, by a clock that says `now`.
    pub(crate) fn poll_until(
        &mut self,
        end: Instant,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // By the clock first: a task that has used up its budget could not poll the timer, not even
        // register it.
        if end <= now {
            return Poll::Ready(());
        }
        let Registered { sleep, .. } = self
            .registered
            .get_or_insert_with(|| Registered::new(end, self.length));
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.as_mut().poll(cx)
    }

    /// Leaves it to the thread, unless it is due.
    #[cold]
    fn keep(&mut self) {
        let Some(mut timer) = self.registered.take() else {
            return;
        };
        let length = usize::from(self.length);
        if length >= LENGTHS || !timer.forget() {
            return;
        }
        // What is not kept is dropped after the borrow: it may be all that is left of a runtime.
        let _dropped = TIMERS.try_with(|timers| {
            let timers = &mut timers.borrow_mut()[length];
            if timers.len() < KEPT {
                timers.push(timer);
                return None;
            }
            Some(timer)
        });
    }
}

impl Registered {
    /// One that is kept, or else a new one.
    fn new(end: Instant, length: u8) -> Self {
        let runtime = Handle::current().id();
        let take = |timers: &RefCell<[Vec<Self>; LENGTHS]>| {
            timers.borrow_mut().get_mut(usize::from(length))?.pop()
        };
        let kept = TIMERS.try_with(take).ok().flatten();
        // Those of a runtime that has ended are due, whatever became of its id.
        let kept = kept.filter(|kept| kept.runtime == runtime && !kept.sleep.is_elapsed());
        kept.unwrap_or_else(|| Self {
            sleep: Box::pin(sleep_until(end)),
            runtime,
        })
    }

    /// Forgets whom it was to wake. False if it is due, or cannot be told.
    fn forget(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.sleep.is_elapsed()
            && has_budget_remaining()
            && self.sleep.as_mut().poll(&mut cx).is_pending()
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        if self.registered.is_some() {
            self.keep();
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use std::array;
    use std::future::poll_fn;
    use tokio::runtime::{Builder, Runtime};
    use tokio::task::coop;
    use tokio::time::{advance, timeout};
    use tokio_test::{assert_pending, assert_ready, task};

    const SECOND: Duration = Duration::from_secs(1);

    fn kept() -> usize {
        TIMERS.with_borrow(|timers| timers.iter().map(Vec::len).sum())
    }

    /// Let go while it waits.
    fn let_go(wait: Duration) {
        let (mut timer, now) = (Timer::new(wait), Instant::now());
        task::spawn(()).enter(|cx, _| assert_pending!(timer.poll_until(now + wait, now, cx)));
    }

    /// How long a timer takes to wake its task.
    async fn time_of(wait: Duration) -> Duration {
        let start = Instant::now();
        let mut timer = Timer::new(wait);
        let due = poll_fn(|cx| timer.poll_until(start + wait, Instant::now(), cx));
        timeout(100 * wait, due).await.expect("it never came");
        start.elapsed()
    }

    fn runtime() -> Runtime {
        let mut builder = Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_let_go_is_the_next_one() {
        TIMERS.take();
        for _ in 0..3 {
            let_go(SECOND);
            assert_eq!(kept(), 1);
        }
        assert_eq!(time_of(SECOND).await, SECOND);
        assert_eq!(kept(), 0, "it was due");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_comes_when_it_is_next_to_come() {
        TIMERS.take();
        // Of one length, as they are kept: set later, and earlier.
        for (first, second) in [(1_100, 1_900), (1_900, 1_100)]
            .map(|(first, second)| (Duration::from_millis(first), Duration::from_millis(second)))
        {
            let_go(first);
            assert_eq!(kept(), 1);
            assert_eq!(time_of(second).await, second);
            assert_eq!(kept(), 0, "it was not taken");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_wakes_nobody_and_holds_no_task() {
        let mut timer = Timer::new(SECOND);
        let mut task = task::spawn(());
        let now = Instant::now();
        task.enter(|cx, _| assert_pending!(timer.poll_until(now + SECOND, now, cx)));
        assert_eq!(task.waker_ref_count(), 2);
        drop(timer);
        assert_eq!(task.waker_ref_count(), 1);
        advance(SECOND).await;
        assert!(!task.is_woken());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_used_up_its_budget_is_let_go_with_its_timer() {
        let mut timer = Timer::new(SECOND);
        let now = Instant::now();
        let mut task = task::spawn(());
        task.enter(|cx, _| assert_pending!(timer.poll_until(now + SECOND, now, cx)));
        let references = tokio::spawn(async move {
            while coop::has_budget_remaining() {
                coop::consume_budget().await;
            }
            drop(timer);
            task.waker_ref_count()
        });
        assert_eq!(references.await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_due_while_it_was_kept_is_not_taken() {
        let_go(SECOND);
        advance(2 * SECOND).await;
        assert_eq!(time_of(SECOND).await, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_kept_than_that_and_none_for_long() {
        TIMERS.take();
        let timers: [Timer; KEPT + 9] = array::from_fn(|_| {
            let (mut timer, now) = (Timer::new(SECOND), Instant::now());
            task::spawn(()).enter(|cx, _| assert_pending!(timer.poll_until(now + SECOND, now, cx)));
            timer
        });
        drop(timers);
        assert_eq!(kept(), KEPT);
        for wait in [Duration::from_secs(70), Duration::from_secs(1 << 40)] {
            let_go(wait);
            assert_eq!(kept(), KEPT, "{wait:?}");
        }
    }

    #[test]
    fn a_runtime_gets_no_timer_of_another_one() {
        let (one, two) = (runtime(), runtime());
        for runtime in [&one, &two, &one] {
            runtime.block_on(async {
                assert_eq!(time_of(SECOND).await, SECOND);
                let_go(SECOND);
            });
        }
        drop((one, two));
        // Of runtimes that have ended.
        runtime().block_on(async { assert_eq!(time_of(SECOND).await, SECOND) });
    }

    #[test]
    fn a_runtime_that_ends_takes_its_calls_with_it() {
        let ending = runtime();
        ending.block_on(async {
            tokio::spawn(time_of(SECOND));
            tokio::task::yield_now().await;
        });
        drop(ending);
        runtime().block_on(async { assert_eq!(time_of(SECOND).await, SECOND) });
    }

    #[test]
    fn a_timer_may_outlive_its_runtime() {
        TIMERS.take();
        let (mut timer, mut task) = (Timer::new(SECOND), task::spawn(()));
        runtime().block_on(async {
            let now = Instant::now();
            task.enter(|cx, _| assert_pending!(timer.poll_until(now + SECOND, now, cx)));
        });
        drop(timer);
        assert_eq!(kept(), 0);
    }

    #[test]
    fn an_id_that_is_given_again_brings_no_timer_of_its_first_runtime() {
        runtime().block_on(async { let_go(SECOND) });
        runtime().block_on(async {
            TIMERS.with_borrow_mut(|timers| {
                let kept = timers.iter_mut().flatten().next().expect("one is kept");
                kept.runtime = Handle::current().id();
            });
            assert_eq!(time_of(SECOND).await, SECOND);
        });
    }

    // Without a runtime there is no timer to be had.
    #[test]
    fn what_is_past_needs_no_timer() {
        let (mut timer, now) = (Timer::new(SECOND), Instant::now());
        task::spawn(()).enter(|cx, _| assert_ready!(timer.poll_until(now, now, cx)));
    }
}
