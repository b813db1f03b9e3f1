//! What holds for every layer, alone and in every ordered pair: a new layer is one line in `moods::ALL`.

mod bounds;
mod moods;
mod sharing;
mod strict;

use buttress::Error;
use buttress::retry::Budget;
use moods::{ALL, Expected, Handles, Later, Mood, Now, Outcome, box_of, seen};
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

/// Every mood alone, and every ordered pair of moods.
fn stacks() -> impl Iterator<Item = Vec<Mood>> {
    let alone = ALL.into_iter().map(|mood| vec![mood]);
    let pairs = ALL
        .into_iter()
        .flat_map(|outer| ALL.map(|inner| vec![outer, inner]));
    alone.chain(pairs)
}

/// Innermost last.
fn build(stack: &[Mood], inner: Boxed) -> (Boxed, Handles) {
    let mut handles = Handles::default();
    let service = stack
        .iter()
        .rev()
        .fold(inner, |service, mood| mood.over(service, &mut handles));
    (service, handles)
}

#[tokio::test(start_paused = true)]
async fn no_stack_calls_what_is_not_ready_or_leaks_and_each_ends_as_its_layers_say() {
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
                .fold(inner, |below, mood| mood.expected(below));
            // The same instance twice, and a clone of it.
            for round in 0..3 {
                if round == 2 {
                    service = service.clone();
                }
                // A timeout leaves the instance it gave up on as it is, half-way to ready.
                let half_ready = pending_once && stack.contains(&Mood::TimesOut);
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
async fn an_error_of_readiness_passes_through_every_stack_that_asks_for_readiness() {
    for stack in stacks() {
        // These answer without asking the inner service.
        let silent = |mood: &Mood| matches!(mood, Mood::Open | Mood::Full);
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
    for mood in ALL {
        let strict = Strict::new(false);
        let (mut service, _handles) = build(&[mood], box_of(strict));
        service.ready().await.unwrap();
        let mut clone = service.clone();
        let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Not polled: what panics, if anything, is the call.
            drop(clone.call(7));
        }));
        // A timeout and a retry keep no readiness of their own: there the inner service panics.
        assert!(called.is_err(), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_after_any_number_of_polls_nothing_is_leaked() {
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
                // At once, but for the slots that the test itself holds.
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
                // A budget pays for what was sent and for nothing else; but what timed out may have
                // been sent, for all that the layers know.
                let unknown = stack.contains(&Mood::TimesOut);
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
        // From task to task at every poll: the one that polled last is the one that is woken.
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
            // No timer of this test is longer than a few ticks.
            tokio::time::sleep(TICK * 5).await;
            assert!(polling.is_woken(), "{stack:?} at poll {polls}");
            assert!(polls < 100, "{stack:?} never ends");
        }
    }
}
