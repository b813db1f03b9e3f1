//! What holds for every layer, alone and in every ordered pair. A new layer is one line in
//! `setups::ALL`.

mod bounds;
mod setups;
mod sharing;
mod strict;

use buttress::Error;
use buttress::retry::Budget;
use setups::{ALL, Expected, Handles, Later, Now, Outcome, Setup, box_of, seen};
use std::future::Future;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use strict::{Shared, Strict};
use tokio_test::task;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

type Res = Result<u32, Error<&'static str>>;
type Boxed = BoxCloneSyncService<u32, u32, Error<&'static str>>;

const TICK: Duration = Duration::from_millis(10);

/// Every setup alone, and every ordered pair of setups.
fn stacks() -> impl Iterator<Item = Vec<Setup>> {
    let alone = ALL.into_iter().map(|setup| vec![setup]);
    let pairs = ALL
        .into_iter()
        .flat_map(|outer| ALL.map(|inner| vec![outer, inner]));
    alone.chain(pairs)
}

/// Builds the stack; its last setup is the innermost.
fn build(stack: &[Setup], inner: Boxed) -> (Boxed, Handles) {
    let mut handles = Handles::default();
    let service = stack
        .iter()
        .rev()
        .fold(inner, |service, setup| setup.over(service, &mut handles));
    (service, handles)
}

#[tokio::test(start_paused = true)]
async fn every_stack_readies_before_it_calls_leaks_nothing_and_has_the_expected_outcome() {
    for pending_once in [false, true] {
        for stack in stacks() {
            let strict = Strict::new(pending_once);
            let shared = strict.shared.clone();
            let (mut service, handles) = build(&stack, box_of(strict));
            let inner = Expected {
                readiness: if pending_once { Later } else { Now },
                outcome: (Later, Outcome::Ok),
            };
            let expected = stack
                .iter()
                .rev()
                .fold(inner, |below, setup| setup.expected(below));
            // Use the same instance twice, then a clone of it.
            for round in 0..3 {
                if round == 2 {
                    service = service.clone();
                }
                // After a timeout the inner instance may still be on its way to readiness.
                let half_ready = pending_once && stack.contains(&Setup::TimesOut);
                if round == 1 && half_ready {
                    continue;
                }
                handles.occupy_queues();
                let result = service.ready().await.unwrap().call(7).await;
                assert_eq!(
                    seen(result),
                    expected.outcome.1,
                    "{stack:?}, pending once: {pending_once}, round {round}"
                );
                tokio::time::sleep(TICK * 5).await;
            }
            drop(service);
            let what = (&stack, pending_once);
            assert_eq!(shared.reserved.load(SeqCst), 0, "{what:?}");
            assert_eq!(shared.in_flight.load(SeqCst), 0, "{what:?}");
            handles.assert_nothing_held(&what);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_is_passed_on_by_every_stack_that_polls_readiness() {
    for stack in stacks() {
        // These reject calls without polling the inner service.
        let silent = |setup: &Setup| matches!(setup, Setup::Open | Setup::Full);
        if stack.iter().any(silent) {
            continue;
        }
        let strict = Strict::of(Shared {
            fails_to_ready: true,
            ..Shared::default()
        });
        let (mut service, _handles) = build(&stack, box_of(strict));
        let error = service.ready().await.err();
        assert_eq!(error, Some(Error::Service("not ready")), "{stack:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_ready_service_starts_unready() {
    for setup in ALL {
        let strict = Strict::new(false);
        let (mut service, _handles) = build(&[setup], box_of(strict));
        service.ready().await.unwrap();
        let mut clone = service.clone();
        let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Do not poll the future: `call` itself must panic.
            drop(clone.call(7));
        }));
        // Timeout and retry keep no readiness of their own. With them, the inner service panics.
        assert!(called.is_err(), "{setup:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_after_any_number_of_polls_leaks_nothing() {
    for pending_once in [false, true] {
        for stack in stacks() {
            for polls in 0.. {
                let strict = Strict::new(pending_once);
                let shared = strict.shared.clone();
                let (service, handles) = build(&stack, box_of(strict));
                let tokens: Vec<f64> = handles.budgets.iter().map(Budget::tokens).collect();
                handles.occupy_queues();
                let mut call = task::spawn(service.oneshot(7));
                let mut done = false;
                for _ in 0..polls {
                    if call.poll().is_ready() {
                        done = true;
                        break;
                    }
                    tokio::time::sleep(TICK / 4).await;
                }
                drop(call);
                // Everything is released immediately, except for the slots that the test itself
                // holds.
                if !handles.queues.is_empty() {
                    tokio::time::sleep(TICK * 2).await;
                }
                let what = (&stack, pending_once, polls);
                assert_eq!(shared.reserved.load(SeqCst), 0, "{what:?}");
                assert_eq!(shared.in_flight.load(SeqCst), 0, "{what:?}");
                handles.assert_nothing_held(&what);
                let spent: f64 = tokens
                    .iter()
                    .zip(&handles.budgets)
                    .map(|(before, budget)| (before - budget.tokens()).max(0.0).ceil())
                    .sum();
                // A token is spent only for a retry that was sent. After a timeout the layers
                // cannot know whether the attempt was sent.
                let unknown = stack.contains(&Setup::TimesOut);
                let sends = shared.calls.load(SeqCst) as f64 + if unknown { 3.0 } else { 0.0 };
                assert!(
                    spent <= (sends - 1.0).max(0.0),
                    "{what:?}: {spent} for {sends} sends"
                );
                if done {
                    break;
                }
                assert!(polls < 100, "{what:?} never ends");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_moved_to_another_task_is_woken_there() {
    for stack in stacks() {
        let (service, handles) = build(&stack, box_of(Strict::new(true)));
        handles.occupy_queues();
        let mut call = Box::pin(service.oneshot(7));
        let (mut here, mut there) = (task::spawn(()), task::spawn(()));
        // Switch tasks before every poll. The task that polled last must be the one that is woken.
        for polls in 0.. {
            let (polling, other) = if polls % 2 == 0 {
                (&mut here, &mut there)
            } else {
                (&mut there, &mut here)
            };
            other.enter(|_, _| ());
            if polling.enter(|cx, _| call.as_mut().poll(cx)).is_ready() {
                break;
            }
            // No timer in this test is longer than a few ticks.
            tokio::time::sleep(TICK * 5).await;
            assert!(polling.is_woken(), "{stack:?} at poll {polls}");
            assert!(polls < 100, "{stack:?} never ends");
        }
    }
}
