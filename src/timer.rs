//! Timers that outlive the calls that made them.
//!
//! Most calls are over before their timer is due. To register a timer with the runtime and to take it
//! back are two turns with a lock that all threads of the runtime share. So a timer that is let go
//! before it is due stays registered, and is kept by its thread. The next call there sets it to its
//! own end, without the lock where that is a later time, as it is among calls of one timeout.
//!
//! A timer that is kept wakes nobody and holds nothing of its call, but its runtime's handle: until
//! a call of another runtime waits on the thread, or the thread ends. An idle runtime may wake up
//! where it was registered and where it is due. A clock that is paused would run on to these: what
//! is made under one is not kept registered. Nor is what is long or due, or let go on another
//! runtime's thread: of these, the memory is kept.

use crate::time::nanos;
use std::cell::RefCell;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread::panicking;
use std::time::Duration;
use tokio::runtime::{self, Handle};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers are kept with those of about the same length, so that most are set to a later time when
/// they are taken: below a millisecond, two, four and so on, to a minute.
const LENGTHS: usize = 17;

/// How many timers of about one length a thread keeps, and how many that are not registered.
const MANY: usize = 1_024;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept::NOTHING) };
}

/// What a thread keeps.
struct Kept {
    /// Of the runtime whose call was the last to start waiting on this thread.
    runtime: Option<runtime::Id>,
    registered: [Vec<Alarm>; LENGTHS],
    silent: Vec<Alarm>,
}

/// A timer that is made when it is first needed.
#[derive(Debug)]
pub(crate) struct Timer {
    running: Option<Running>,
    /// With which others it is kept.
    length: u8,
}

#[derive(Debug)]
struct Running {
    alarm: Alarm,
    runtime: runtime::Id,
    /// Whether it may be kept registered.
    lasting: bool,
}

/// A place for a timer.
#[derive(Debug)]
struct Alarm {
    sleep: Pin<Box<Option<Sleep>>>,
}

impl Timer {
    /// One that takes about so long.
    #[inline]
    pub(crate) fn new(length: Duration) -> Self {
        let milliseconds = nanos(length) >> 20;
        Self {
            running: None,
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
        // By the clock first: a task that has used up its budget could not poll the timer.
        if end <= now {
            return Poll::Ready(());
        }
        self.running
            .get_or_insert_with(|| Running::new(end, now, self.length))
            .alarm
            .poll_until(end, cx)
    }

    /// Leaves it to the thread.
    #[cold]
    fn keep(&mut self) {
        let Some(Running {
            mut alarm,
            runtime,
            lasting,
        }) = self.running.take()
        else {
            return;
        };
        let length = usize::from(self.length);
        // One of a runtime that has ended is due.
        let lasting = lasting && length < LENGTHS && !alarm.is_due() && alarm.forgets();
        let rest = KEPT.try_with(|kept| {
            let kept = &mut *kept.borrow_mut();
            if !lasting || kept.runtime != Some(runtime) || kept.registered[length].len() >= MANY {
                return Some(alarm);
            }
            kept.registered[length].push(alarm);
            None
        });
        if let Ok(Some(mut alarm)) = rest {
            // Not under the borrow: the timer may hold all that is left of a runtime.
            alarm.sleep.set(None);
            let _dropped = KEPT.try_with(|kept| {
                let silent = &mut kept.borrow_mut().silent;
                if silent.len() >= MANY {
                    return Some(alarm);
                }
                silent.push(alarm);
                None
            });
        }
    }
}

impl Drop for Timer {
    #[inline]
    fn drop(&mut self) {
        if self.running.is_some() {
            self.keep();
        }
    }
}

impl Running {
    fn new(end: Instant, now: Instant, length: u8) -> Self {
        let runtime = Handle::current().id();
        // What another runtime has left is dropped after the borrow.
        let _left = KEPT.try_with(|kept| kept.borrow_mut().work_for(runtime));
        let taken = KEPT.try_with(|kept| kept.borrow_mut().take(length.into()));
        let mut alarm = taken.ok().flatten().unwrap_or_else(Alarm::new);
        // Due are the silent ones; those that came while they were kept; and those of a runtime that
        // has ended, and whose id was given again.
        let lasting = !alarm.is_due() || {
            alarm.start(end);
            // A clock that stands still is paused.
            Instant::now() > now
        };
        Self {
            alarm,
            runtime,
            lasting,
        }
    }
}

impl Kept {
    const NOTHING: Self = Self {
        runtime: None,
        registered: [const { Vec::new() }; LENGTHS],
        silent: Vec::new(),
    };

    /// What is registered with another runtime, if the thread has worked for one.
    fn work_for(&mut self, runtime: runtime::Id) -> Option<[Vec<Alarm>; LENGTHS]> {
        let before = self.runtime.replace(runtime);
        (before != Some(runtime)).then(|| mem::take(&mut self.registered))
    }

    /// One that is registered, or else one that is silent.
    fn take(&mut self, length: usize) -> Option<Alarm> {
        let registered = self.registered.get_mut(length).and_then(Vec::pop);
        registered.or_else(|| self.silent.pop())
    }
}

impl Alarm {
    fn new() -> Self {
        Self {
            sleep: Box::pin(None),
        }
    }

    /// A new timer, registered whatever the task's budget.
    fn start(&mut self, end: Instant) {
        self.sleep.set(Some(sleep_until(end)));
        if let Some(sleep) = self.sleep.as_mut().as_pin_mut() {
            sleep.reset(end);
        }
    }

    fn is_due(&self) -> bool {
        let sleep = self.sleep.as_ref().as_pin_ref();
        sleep.is_none_or(|sleep| sleep.is_elapsed())
    }

    fn poll_until(&mut self, end: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut sleep) = self.sleep.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.poll(cx)
    }

    /// Forgets whom it was to wake, if it can be told.
    fn forgets(&mut self) -> bool {
        // tokio's timers panic when they are polled while their runtime is ending, on another thread
        // or around a waker that drops a call.
        if panicking() || !has_budget_remaining() {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let poll = AssertUnwindSafe(|| {
            let sleep = self.sleep.as_mut().as_pin_mut();
            sleep.is_some_and(|sleep| sleep.poll(&mut cx).is_pending())
        });
        catch_unwind(poll).unwrap_or(false)
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use crate::time::TICK;
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};
    use std::task::Wake;
    use std::thread;
    use tokio::runtime::{Builder, Runtime};
    use tokio::task::coop;
    use tokio::time::{advance, pause, timeout};
    use tokio_test::{assert_pending, assert_ready, task};

    const SECOND: Duration = Duration::from_secs(1);

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    /// On a thread that has kept nothing yet.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    /// How many timers the thread keeps, registered and silent.
    fn kept() -> (usize, usize) {
        KEPT.with_borrow(|kept| {
            assert!(kept.silent.iter().all(|alarm| alarm.sleep.is_none()));
            (kept.registered.iter().flatten().count(), kept.silent.len())
        })
    }

    /// One that waits.
    fn waiting(wait: Duration) -> Timer {
        let (mut timer, now) = (Timer::new(wait), Instant::now());
        task::spawn(()).enter(|cx, _| assert_pending!(timer.poll_until(now + wait, now, cx)));
        timer
    }

    /// A timer wakes its task when it is due, to the runtime's tick.
    async fn comes_after(wait: Duration) {
        let start = Instant::now();
        let mut timer = Timer::new(wait);
        let due = poll_fn(|cx| timer.poll_until(start + wait, Instant::now(), cx));
        timeout(100 * wait, due).await.expect("it never came");
        let came = start.elapsed();
        assert!((wait..=wait + TICK).contains(&came), "{came:?}");
    }

    async fn use_up_the_budget() {
        while coop::has_budget_remaining() {
            coop::consume_budget().await;
        }
    }

    #[test]
    fn a_timer_that_is_let_go_is_the_next_one() {
        on_a_thread(|| {
            runtime().block_on(async {
                for _ in 0..3 {
                    drop(waiting(SECOND));
                    assert_eq!(kept(), (1, 0));
                }
                pause();
                comes_after(SECOND).await;
                assert_eq!(kept(), (0, 1), "it was due");
            });
        });
    }

    #[test]
    fn a_kept_timer_comes_when_it_is_next_to_come() {
        // Kept with those of its length, and set to a later time, or to an earlier one.
        let (short, long) = (Duration::from_millis(1_100), Duration::from_millis(1_900));
        for (first, second) in [(short, long), (long, short)] {
            on_a_thread(move || {
                runtime().block_on(async {
                    drop(waiting(first));
                    assert_eq!(kept(), (1, 0));
                    pause();
                    comes_after(second).await;
                    assert_eq!(kept(), (0, 1), "it was not taken");
                });
            });
        }
    }

    #[test]
    fn what_was_due_while_it_was_kept_comes_again() {
        on_a_thread(|| {
            runtime().block_on(async {
                drop(waiting(SECOND));
                pause();
                advance(2 * SECOND).await;
                comes_after(SECOND).await;
                assert_eq!(kept(), (0, 1), "it was not taken");
            });
        });
    }

    #[test]
    fn a_call_that_moves_between_tasks_is_woken_where_it_was_polled_last() {
        on_a_thread(|| {
            runtime().block_on(async {
                drop(waiting(SECOND));
                pause();
                let (mut timer, now) = (Timer::new(SECOND), Instant::now());
                let mut tasks = [task::spawn(()), task::spawn(())];
                for task in &mut tasks {
                    task.enter(|cx, _| {
                        assert_pending!(timer.poll_until(now + SECOND, now, cx));
                    });
                }
                advance(SECOND + TICK).await;
                assert_eq!(tasks.map(|task| task.is_woken()), [false, true]);
            });
        });
    }

    #[test]
    fn a_kept_timer_wakes_nobody_and_holds_no_task() {
        on_a_thread(|| {
            runtime().block_on(async {
                let (mut timer, now) = (Timer::new(SECOND), Instant::now());
                let mut task = task::spawn(());
                task.enter(|cx, _| assert_pending!(timer.poll_until(now + SECOND, now, cx)));
                assert_eq!(task.waker_ref_count(), 2);
                drop(timer);
                assert_eq!((kept(), task.waker_ref_count()), ((1, 0), 1));
                pause();
                advance(SECOND + TICK).await;
                assert!(!task.is_woken());
            });
        });
    }

    #[test]
    fn a_timer_without_budget_comes_and_lets_go_of_its_task() {
        on_a_thread(|| {
            let runtime = runtime();
            let due = runtime.spawn(async {
                pause();
                use_up_the_budget().await;
                comes_after(SECOND).await;
            });
            runtime.block_on(due).unwrap();
            let references = runtime.spawn(async {
                let (mut timer, now) = (Timer::new(SECOND), Instant::now());
                let mut task = task::spawn(());
                task.enter(|cx, _| assert_pending!(timer.poll_until(now + SECOND, now, cx)));
                use_up_the_budget().await;
                drop(timer);
                task.waker_ref_count()
            });
            assert_eq!(runtime.block_on(references).unwrap(), 1);
        });
    }

    #[test]
    fn a_wake_that_is_put_off_and_lost_is_nothing_to_the_next_call() {
        on_a_thread(|| {
            let runtime = runtime();
            // Out of budget in the last poll of what the runtime is blocked on.
            runtime.block_on(async {
                tokio::task::yield_now().await;
                use_up_the_budget().await;
                drop(waiting(SECOND));
            });
            runtime.block_on(async {
                pause();
                comes_after(SECOND).await;
            });
        });
    }

    #[test]
    fn no_more_are_kept_than_that() {
        on_a_thread(|| {
            runtime().block_on(async {
                let timers: Vec<_> = (0..2 * MANY + 9).map(|_| waiting(SECOND)).collect();
                drop(timers);
                assert_eq!(kept(), (MANY, MANY));
            });
        });
    }

    #[test]
    fn a_long_timer_leaves_its_memory() {
        on_a_thread(|| {
            runtime().block_on(async {
                for wait in [70 * SECOND, (1 << 30) * SECOND] {
                    drop(waiting(wait));
                    assert_eq!(kept(), (0, 1), "{wait:?}");
                }
                pause();
                comes_after(SECOND).await;
            });
        });
    }

    #[test]
    fn a_paused_clock_does_not_run_on_to_a_call_that_is_over() {
        on_a_thread(|| {
            runtime().block_on(async {
                pause();
                drop(waiting(SECOND));
                assert_eq!(kept(), (0, 1));
            });
        });
    }

    #[test]
    fn a_runtime_gets_no_timer_of_another_one() {
        on_a_thread(|| {
            let (one, two) = (runtime(), runtime());
            for runtime in [&one, &two, &one] {
                runtime.block_on(async {
                    drop(waiting(SECOND));
                    drop(waiting(20 * SECOND));
                    assert_eq!(kept(), (2, 0));
                });
            }
            two.block_on(async {
                pause();
                comes_after(SECOND).await;
                assert_eq!(kept(), (0, 1));
            });
        });
    }

    #[test]
    fn an_id_that_is_given_again_brings_no_timer_of_its_first_runtime() {
        on_a_thread(|| {
            runtime().block_on(async { drop(waiting(SECOND)) });
            runtime().block_on(async {
                KEPT.with_borrow_mut(|kept| kept.runtime = Some(Handle::current().id()));
                pause();
                comes_after(SECOND).await;
            });
        });
    }

    #[test]
    fn a_thread_keeps_nothing_registered_of_a_runtime_that_it_does_not_work_for() {
        on_a_thread(|| {
            let other = runtime();
            let enter = || other.block_on(async { waiting(SECOND) });
            let timer = thread::scope(|scope| scope.spawn(enter).join().unwrap());
            drop(timer);
            assert_eq!(kept(), (0, 1));
        });
    }

    #[test]
    fn a_call_may_outlive_its_runtime() {
        on_a_thread(|| {
            let ending = runtime();
            let timer = ending.block_on(async { waiting(SECOND) });
            let unpolled = ending.block_on(ending.spawn(async {
                use_up_the_budget().await;
                waiting(SECOND)
            }));
            drop(ending);
            drop((timer, unpolled));
            assert_eq!(kept(), (0, 2));
        });
    }

    #[test]
    fn a_call_that_is_dropped_while_its_runtime_ends_panics_nowhere() {
        struct Drops(Mutex<Option<Timer>>);
        impl Wake for Drops {
            fn wake(self: Arc<Self>) {
                drop(self.0.lock().unwrap().take());
            }
        }
        on_a_thread(|| {
            let ending = runtime();
            let drops = Arc::new(Drops(Mutex::default()));
            let waker = Waker::from(drops.clone());
            // Timers fire in batches of about thirty: this one comes after wakers of the others.
            let _others: Vec<_> = ending.block_on(async {
                *drops.0.lock().unwrap() = Some(waiting(60 * SECOND));
                let one = |_| {
                    let (mut timer, now) = (Timer::new(SECOND), Instant::now());
                    let mut cx = Context::from_waker(&waker);
                    assert_pending!(timer.poll_until(now + SECOND, now, &mut cx));
                    timer
                };
                (0..40).map(one).collect()
            });
            drop(ending);
            assert!(drops.0.lock().unwrap().is_none());
        });
    }

    // Without a runtime there is no timer to be had.
    #[test]
    fn what_is_past_needs_no_timer() {
        let (mut timer, now) = (Timer::new(SECOND), Instant::now());
        task::spawn(()).enter(|cx, _| assert_ready!(timer.poll_until(now, now, cx)));
    }
}
