//! Deadlines with a custom carrier, and in the whole stack.

use super::Behavior::{Hangs, Succeeds};
use super::{
    Behavior, FULL, HOUR, Outcome, PASSED, Req, SECOND, TICK, Upstream, bare, ends, limited, retry,
    shed, timed_out, timeout, within,
};
use buttress::http::InExtensions;
use buttress::retry::{Cloned, Within};
use buttress::timeout::Timeout;
use buttress::{
    Carrier, CircuitBreakerLayer, Deadline, Error, LoadShedLayer, Quota, RateLimitLayer,
    RetryLayer, TimeoutLayer,
};
use std::future::ready;
use std::time::Duration;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

// A custom carrier

#[derive(Clone)]
struct Query {
    deadline: Option<Deadline>,
}

#[derive(Clone)]
struct InQuery;

impl Carrier<Query> for InQuery {
    fn get(&self, query: &Query) -> Option<Deadline> {
        query.deadline
    }

    fn set(&self, query: &mut Query, deadline: Deadline) {
        query.deadline = Some(deadline);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_any_type_carry_a_deadline_through_every_layer() {
    let again = RetryLayer::builder().replay(Within::new(Cloned, InQuery));
    let service = ServiceBuilder::new()
        .layer(
            TimeoutLayer::builder(SECOND)
                .carrier(InQuery)
                .build()
                .unwrap(),
        )
        .layer(again.build().unwrap())
        .layer(LoadShedLayer::builder(9).carrier(InQuery).build().unwrap())
        .layer(
            RateLimitLayer::builder(Quota::per_second(9))
                .carrier(InQuery)
                .build()
                .unwrap(),
        )
        .layer(CircuitBreakerLayer::default())
        .layer(
            TimeoutLayer::builder(HOUR)
                .carrier(InQuery)
                .build()
                .unwrap(),
        )
        .service(service_fn(|query: Query| {
            ready(Ok::<_, Error<&'static str>>(query.deadline))
        }));
    let own = Deadline::after(SECOND);
    let seen = service.oneshot(Query { deadline: None }).await;
    assert_eq!(seen, Ok(Some(own)));
}

// The whole stack

const WHOLE: Duration = Duration::from_secs(10);
const ATTEMPT: Duration = Duration::from_secs(4);

struct Stack {
    shed: LoadShedLayer<InExtensions>,
    limit: RateLimitLayer<(), InExtensions>,
    breaker: CircuitBreakerLayer,
    upstream: Upstream,
}

impl Stack {
    fn around(behavior: Behavior) -> Self {
        let limit = RateLimitLayer::builder(Quota::per_second(1).burst(9));
        Self {
            shed: shed(),
            limit: limit
                .max_wait(Duration::MAX)
                .carrier(InExtensions)
                .build()
                .unwrap(),
            breaker: CircuitBreakerLayer::default(),
            upstream: Upstream::new(behavior),
        }
    }

    fn service(&self) -> BoxCloneSyncService<Req, (), Error<&'static str>> {
        BoxCloneSyncService::new(
            ServiceBuilder::new()
                .layer(timeout(WHOLE))
                .layer(retry())
                .layer(self.shed.clone())
                .layer(self.limit.clone())
                .layer(self.breaker.clone())
                .layer(timeout(ATTEMPT))
                .service(self.upstream.service()),
        )
    }

    async fn ends(&self, request: Req) -> (Outcome, Duration) {
        ends(self.service().oneshot(request)).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_responds_within_the_deadline() {
    let stack = Stack::around(Succeeds);
    assert_eq!(stack.ends(within(SECOND)).await, (Ok(()), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_of_a_stack_is_sent_with_the_earliest_deadline() {
    let stack = Stack::around(Hangs);
    let start = Instant::now();
    let _timed_out = stack.ends(bare()).await;
    // Attempts would start at 0, 5 and 10 s. The third one would start exactly at the deadline.
    let after_start = |time| Some(Deadline::at(start + time));
    assert_eq!(
        stack.upstream.seen(),
        [after_start(ATTEMPT), after_start(5 * SECOND + ATTEMPT)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stack_gives_up_if_the_next_attempt_would_start_too_late() {
    let stack = Stack::around(Hangs);
    // The second attempt times out at 9 s. The next one would start at 10 s, which is too late.
    let ended = stack.ends(bare()).await;
    assert_eq!(ended, (timed_out(ATTEMPT), 9 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stack_ends_with_the_callers_deadline() {
    let stack = Stack::around(Hangs);
    assert_eq!(stack.ends(within(SECOND)).await, (PASSED, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stack_ends_with_the_callers_deadline_in_its_second_attempt() {
    let stack = Stack::around(Hangs);
    let ended = stack.ends(within(6 * SECOND)).await;
    assert_eq!((ended, stack.upstream.sent()), ((PASSED, 6 * SECOND), 2));
}

#[tokio::test(start_paused = true)]
async fn a_stack_sends_nothing_that_is_past_its_deadline() {
    let stack = Stack::around(Succeeds);
    let ended = stack.ends(within(Duration::ZERO)).await;
    assert_eq!(
        (ended, stack.upstream.sent()),
        ((PASSED, Duration::ZERO), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stack_rejects_at_once_if_no_turn_comes_in_time() {
    let stack = Stack::around(Succeeds);
    stack.limit.limiter().try_acquire(9).unwrap();
    let ended = stack.ends(within(SECOND / 2)).await;
    assert_eq!(ended, (limited(SECOND), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_stack_queues_until_the_deadline_of_the_whole_call() {
    let stack = Stack::around(Succeeds);
    let _slot = stack.shed.limit().try_acquire().unwrap();
    assert_eq!(stack.ends(bare()).await, (FULL, WHOLE));
}

#[tokio::test(start_paused = true)]
async fn a_call_ended_by_its_deadline_holds_no_slot_of_the_stack() {
    let stack = Stack::around(Hangs);
    let mut call = task::spawn(stack.service().oneshot(within(SECOND)));
    assert_pending!(call.poll());
    advance(SECOND).await;
    assert_eq!(assert_ready!(call.poll()), PASSED);
    assert_eq!(stack.shed.limit().in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn callers_with_short_deadlines_do_not_open_the_circuit_for_others() {
    let stack = Stack::around(Hangs);
    for _ in 0..100 {
        let _passed = stack.ends(within(TICK)).await;
    }
    assert_eq!(stack.breaker.circuit().snapshot().failures, 0);
}

#[test]
fn layers_with_a_carrier_and_their_futures_are_send_and_sync() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    type Inner = BoxCloneSyncService<Req, (), Error<&'static str>>;
    shared::<TimeoutLayer<InExtensions>>();
    shared::<Timeout<Inner, InExtensions>>();
    shared::<LoadShedLayer<InExtensions>>();
    shared::<RateLimitLayer<(), InExtensions>>();
    shared::<Within<Cloned, InExtensions>>();
    shared::<Deadline>();
    sent::<<Timeout<Inner, InExtensions> as Service<Req>>::Future>();
}
