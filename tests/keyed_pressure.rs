//! Keyed layers that have more keys than they may keep: what is held is counted, and newcomers get through.

use buttress::keyed::{ByKey, Keys};
use buttress::load_shed::ConcurrencyLimit;
use buttress::verdict::Outcome;
use buttress::{Error, ErrorLayer, LoadShedLayer, Quota, RateLimitLayer, Rejection, StackError};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::advance;
use tokio_test::task::{self, Spawn};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

// In-flight counts

/// A request that ends when the test says so: with a response, or with a panic.
struct Call {
    key: String,
    panics: oneshot::Receiver<bool>,
}

#[expect(clippy::unnecessary_wraps, reason = "a request may have no key")]
fn key_of(call: &Call) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(&call.key))
}

async fn upstream(call: Call) -> Result<(), Infallible> {
    let panics = call.panics.await.expect("a call is ended or dropped");
    assert!(!panics, "the upstream's own");
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum End {
    Response,
    Panic,
    Drop,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call with this key begins.
    Begin(usize),
    /// One of the calls in flight ends.
    End(prop::sample::Index, End),
    /// As many calls with new keys come and go.
    Strangers(usize),
    Forget(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![Just(End::Response), Just(End::Panic), Just(End::Drop)];
    let step = prop_oneof![
        6 => (0..40_usize).prop_map(Step::Begin),
        4 => (any::<prop::sample::Index>(), end).prop_map(|(call, end)| Step::End(call, end)),
        1 => (1..200_usize).prop_map(Step::Strangers),
        1 => (0..40_usize).prop_map(Step::Forget),
    ];
    prop::collection::vec(step, 1..200)
}

/// Where a call is counted: with its key, in the overflow, or nowhere because its key was forgotten.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Key(String),
    Overflow,
    Forgotten,
}

type Polled = Spawn<Pin<Box<dyn Future<Output = Result<(), Error<Infallible>>>>>>;

/// A call in flight, what ends it, and where it is counted.
type InFlight = (Polled, oneshot::Sender<bool>, Place);

const LIMIT: usize = 2;

/// Begins a call. `None` if the layer rejects it.
fn begin<S>(client: &S, key: String) -> Option<(Polled, oneshot::Sender<bool>)>
where
    S: Service<Call, Response = (), Error = Error<Infallible>> + Clone + 'static,
{
    let (end, panics) = oneshot::channel();
    let call = client.clone().oneshot(Call { key, panics });
    let mut call: Polled = task::spawn(Box::pin(call));
    call.poll().is_pending().then_some((call, end))
}

/// Takes the steps. After each, every slot that is taken belongs to one call in flight.
fn check<S, H>(steps: Vec<Step>, client: &S, by_key: &ByKey<H>, limit: fn(&H) -> &ConcurrencyLimit)
where
    S: Service<Call, Response = (), Error = Error<Infallible>> + Clone + 'static,
{
    let mut calls: Vec<InFlight> = Vec::new();
    let mut strangers = 0;
    for step in steps {
        match step {
            Step::Begin(key) => {
                let key = key.to_string();
                let overflows = by_key.overflows();
                let begun = begin(client, key.clone());
                let place = match by_key.overflows() - overflows {
                    0 => Place::Key(key),
                    _ => Place::Overflow,
                };
                let taken = calls.iter().filter(|call| call.2 == place).count();
                assert_eq!(begun.is_some(), taken < LIMIT, "{place:?}");
                calls.extend(begun.map(|(call, end)| (call, end, place)));
            }
            Step::End(index, end) if !calls.is_empty() => {
                let (mut call, sender, _) = calls.swap_remove(index.index(calls.len()));
                match end {
                    End::Drop => drop(call),
                    End::Response => {
                        sender.send(false).unwrap();
                        assert!(call.poll().is_ready());
                    }
                    End::Panic => {
                        sender.send(true).unwrap();
                        assert!(catch_unwind(AssertUnwindSafe(|| call.poll())).is_err());
                    }
                }
            }
            Step::End(..) => {}
            Step::Strangers(count) => {
                for _ in 0..count {
                    strangers += 1;
                    drop(begin(client, format!("stranger {strangers}")));
                }
            }
            Step::Forget(key) => {
                let key = key.to_string();
                if by_key.forget(&key) {
                    let key = Place::Key(key);
                    for (.., place) in calls.iter_mut().filter(|call| call.2 == key) {
                        *place = Place::Forgotten;
                    }
                }
            }
        }
        let mut expected = HashMap::new();
        let mut overflow = 0;
        for (.., place) in &calls {
            match place {
                Place::Key(key) => *expected.entry(key.clone()).or_insert(0) += 1,
                Place::Overflow => overflow += 1,
                Place::Forgotten => {}
            }
        }
        let mut counted = HashMap::new();
        by_key.for_each(|key, handle| {
            let in_flight = limit(handle).in_flight();
            if in_flight > 0 {
                counted.insert(key.to_owned(), in_flight);
            }
        });
        assert_eq!(counted, expected);
        assert_eq!(limit(&by_key.overflow()).in_flight(), overflow);
        assert!(by_key.len() <= 32);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_slot_of_every_key_belongs_to_one_call_in_flight(steps in steps()) {
        let layer = LoadShedLayer::builder(LIMIT).per_key(key_of).keys(Keys::at_most(32));
        let layer = layer.build().unwrap();
        let client = layer.layer(ErrorLayer.layer(service_fn(upstream)));
        check(steps, &client, &layer.by_key(), |limit| limit);
    }

    // No circuit may open by the calls that panic.
    #[test]
    fn every_slot_of_a_stack_by_key_belongs_to_one_call_in_flight(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let stack = buttress::http::stack().carrier(()).classify(Outcome).no_retry().replay(|_: &Call| None);
        let stack = stack.load_shed(LIMIT).circuit_breaker(|breaker| {
            breaker.consecutive_failures(u32::MAX)
        });
        let layer = stack.per_key(key_of).keys(Keys::at_most(32)).build().unwrap();
        let client = layer.layer(service_fn(upstream));
        check(steps, &client, &layer.by_key(), |parts| parts.limit().unwrap());
    }
}

// Overflow

#[expect(
    clippy::ptr_arg,
    clippy::unnecessary_wraps,
    reason = "a key is a function of the whole request, which may have none"
)]
fn whole(request: &String) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(request))
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_through_within_one_interval_of_the_overflow() {
    let layer = RateLimitLayer::builder(Quota::new(1, 10 * SECOND)).max_wait(Duration::ZERO);
    let layer = layer.per_key(whole).keys(Keys::at_most(32));
    let layer = layer.build().unwrap();
    let limiters = layer.by_key();
    let echo = service_fn(async |request: String| Ok::<_, Infallible>(request));
    let client = layer.layer(ErrorLayer.layer(echo));
    for number in 0..500 {
        let _outcome = client.clone().oneshot(format!("stranger {number}")).await;
    }
    // The keys stay in debt, so that newcomers cannot displace one.
    let mut known = Vec::new();
    limiters.for_each(|_, limiter| known.push(limiter.clone()));
    assert_eq!(known.len(), 32);

    for newcomer in ["a", "b", "c"] {
        let overflows = limiters.overflows();
        // Rejections cost the overflow nothing.
        for _ in 0..100 {
            let error = client.clone().oneshot(newcomer.into()).await.unwrap_err();
            let Some(Rejection::RateLimited { retry_after, .. }) = error.rejection() else {
                panic!("{error:?}");
            };
            assert!(retry_after.unwrap() <= 10 * SECOND, "{error:?}");
        }
        advance(10 * SECOND).await;
        assert!(client.clone().oneshot(newcomer.into()).await.is_ok());
        assert_eq!(limiters.overflows(), overflows + 101);
    }
}
