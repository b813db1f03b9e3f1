use super::backoff::Backoff;
use super::budget::{Budget, Withdrawal};
use super::discard::{Discard, Dropped};
use crate::chance::{Chance, scale};
use crate::classify::{Classify, Outcome, RetryAfter, Verdict, judge};
use crate::deadline::{Carrier, Deadline};
use crate::error::{InvalidConfig, Rejection, StackError};
use crate::http::Idempotent;
use crate::name::Name;
use crate::time::{Shown, TICK, millis, nanos};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service};
use tracing::Level;

/// Makes the copy of a request that is sent again.
///
/// [`Idempotent`] is the default and exists for HTTP requests; [`Cloned`] repeats any request that
/// is `Clone`. Functions and closures are policies too. A policy that wraps another has to pass all
/// of it on.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot repeat a `{Req}`",
    note = "`Idempotent`, the default, repeats `http::Request<B>` where `B: Clone`",
    note = "for other requests that are `Clone`, set `.replay(buttress::retry::Cloned)`"
)]
pub trait Replay<Req> {
    /// A copy of `req`, made before it is sent; `None` to send it once and not retry it.
    fn replay(&self, req: &Req) -> Option<Req>;

    /// The deadline that `req` carries, asked for when a retry is about to be waited for. Unless
    /// implemented: none. [`Within`] adds it to any policy.
    fn deadline(&self, req: &Req) -> Option<Deadline> {
        let _ = req;
        None
    }

    /// Whether `copy` can still be sent. Asked when a retry is due and nothing else stands against
    /// it: after a `true` nothing but the caller's leaving, or an error of the inner service's
    /// readiness, keeps it from being sent. After a `false` the call ends with the outcome it has.
    /// Default: `true`.
    fn replayable(&self, copy: &Req) -> bool {
        let _ = copy;
        true
    }

    /// Prepares `copy` for being sent as the attempt of this number, from 2 on. Called right
    /// before. Default: leaves it as it is.
    fn resend(&self, copy: &mut Req, attempt: u32) {
        let _ = (copy, attempt);
    }
}

impl<R, Req> Replay<Req> for R
where
    R: Fn(&Req) -> Option<Req>,
{
    fn replay(&self, req: &Req) -> Option<Req> {
        self(req)
    }
}

/// Repeats every request. For those that may be sent twice whatever they ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cloned;

impl<Req: Clone> Replay<Req> for Cloned {
    fn replay(&self, req: &Req) -> Option<Req> {
        Some(req.clone())
    }
}

/// Repeats what `R` repeats, within the deadline that `D` finds in the request.
///
/// ```
/// use buttress::http::InExtensions;
/// use buttress::retry::{Cloned, Within};
/// use buttress::{RetryLayer, classify::Outcome};
///
/// // Sends even POSTs again, but not once their deadline has passed.
/// let layer = RetryLayer::builder().replay(Within::new(Cloned, InExtensions)).build()?;
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Within<R, D> {
    replay: R,
    carrier: D,
}

impl<R, D> Within<R, D> {
    /// The policy, and where requests carry their deadline.
    pub const fn new(replay: R, carrier: D) -> Self {
        Self { replay, carrier }
    }
}

impl<R, D, Req> Replay<Req> for Within<R, D>
where
    R: Replay<Req>,
    D: Carrier<Req>,
{
    fn replay(&self, req: &Req) -> Option<Req> {
        self.replay.replay(req)
    }

    fn replayable(&self, copy: &Req) -> bool {
        self.replay.replayable(copy)
    }

    fn resend(&self, copy: &mut Req, attempt: u32) {
        self.replay.resend(copy, attempt);
    }

    fn deadline(&self, req: &Req) -> Option<Deadline> {
        self.carrier.get(req)
    }
}

/// Makes [`Retry`] services that share one budget. See the [module](super) for what it does.
///
/// The budget is made with the layer, unless one is given: every service that the layer makes, and
/// every clone of the layer and of its services, draws on the same one. Applying the layer is
/// cheap.
#[derive(Clone)]
pub struct RetryLayer<C = Outcome, R = Idempotent, D = Dropped> {
    policy: Arc<Policy>,
    classify: C,
    replay: R,
    discard: D,
}

#[derive(Debug)]
struct Policy {
    attempts: u32,
    backoff: Backoff,
    budget: Option<Budget>,
    max_retry_after: Duration,
    chance: Chance,
    name: Name,
}

impl RetryLayer {
    /// Starts from the defaults.
    pub fn builder() -> RetryBuilder {
        RetryBuilder {
            attempts: 3,
            backoff: Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5)),
            budget: Budgeting::Own,
            max_retry_after: Duration::from_secs(60),
            classify: Outcome,
            replay: Idempotent,
            discard: Dropped,
            seed: None,
            name: Name::default(),
        }
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

impl<C, R, D> RetryLayer<C, R, D> {
    /// The budget that all services of this layer share, unless there is none.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.policy.budget.as_ref()
    }
}

impl<S: Clone, C: Clone, R: Clone, D: Clone> Layer<S> for RetryLayer<C, R, D> {
    type Service = Retry<S, C, R, D>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared {
            spare: Mutex::new(Some(inner.clone())),
            policy: self.policy.clone(),
            classify: self.classify.clone(),
            replay: self.replay.clone(),
            discard: self.discard.clone(),
        };
        Retry {
            inner,
            shared: Arc::new(shared),
        }
    }
}

impl<C, R, D> fmt::Debug for RetryLayer<C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Its settings, for people.
impl<C, R, D> fmt::Display for RetryLayer<C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Policy {
            attempts,
            backoff,
            budget,
            max_retry_after,
            name,
            ..
        } = &*self.policy;
        let asked = Shown(*max_retry_after);
        write!(
            f,
            "retry{name}: {attempts} attempts, {backoff}, up to {asked} if asked for, "
        )?;
        match budget {
            Some(budget) => budget.fmt(f),
            None => f.write_str("no budget"),
        }
    }
}

/// Builds a [`RetryLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RetryBuilder<C = Outcome, R = Idempotent, D = Dropped> {
    attempts: u32,
    backoff: Backoff,
    budget: Budgeting,
    max_retry_after: Duration,
    classify: C,
    replay: R,
    discard: D,
    seed: Option<u64>,
    name: Name,
}

#[derive(Clone, Debug)]
enum Budgeting {
    Own,
    Given(Budget),
    None,
}

impl<C, R, D> RetryBuilder<C, R, D> {
    /// How often a call is sent in all, the first attempt included; at least 1. Default: 3.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// How long to wait before each retry. Default: exponential from 50 ms to 5 s, full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// A budget to share with others. Default: one of the layer's own, of the default settings.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Budgeting::Given(budget);
        self
    }

    /// Retries without a budget, so that a callee that fails is sent every attempt of every call.
    pub fn no_budget(mut self) -> Self {
        self.budget = Budgeting::None;
        self
    }

    /// The longest wait that the callee may ask for; if it asks for more the call is not retried.
    /// Default: 60 s.
    pub fn max_retry_after(mut self, max_retry_after: Duration) -> Self {
        self.max_retry_after = max_retry_after;
        self
    }

    /// What an outcome says about the callee. Default: every `Ok` healthy, every `Err` transient.
    pub fn classify<K>(self, classify: K) -> RetryBuilder<K, R, D> {
        let Self {
            attempts,
            backoff,
            budget,
            max_retry_after,
            classify: _,
            replay,
            discard,
            seed,
            name,
        } = self;
        RetryBuilder {
            attempts,
            backoff,
            budget,
            max_retry_after,
            classify,
            replay,
            discard,
            seed,
            name,
        }
    }

    /// Which requests may be sent again. Default: [`Idempotent`], for HTTP requests.
    pub fn replay<Q>(self, replay: Q) -> RetryBuilder<C, Q, D> {
        let Self {
            attempts,
            backoff,
            budget,
            max_retry_after,
            classify,
            replay: _,
            discard,
            seed,
            name,
        } = self;
        RetryBuilder {
            attempts,
            backoff,
            budget,
            max_retry_after,
            classify,
            replay,
            discard,
            seed,
            name,
        }
    }

    /// What becomes of a response that is thrown away for a retry. Default: [`Dropped`], at once.
    pub fn discard<W>(self, discard: W) -> RetryBuilder<C, R, W> {
        let Self {
            attempts,
            backoff,
            budget,
            max_retry_after,
            classify,
            replay,
            discard: _,
            seed,
            name,
        } = self;
        RetryBuilder {
            attempts,
            backoff,
            budget,
            max_retry_after,
            classify,
            replay,
            discard,
            seed,
            name,
        }
    }

    /// Makes the waits repeatable. Default: random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The name in events and `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Name::new(name);
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// No attempts; a backoff whose base is above its cap, or whose factor is below 1 or not
    /// finite.
    pub fn build(self) -> Result<RetryLayer<C, R, D>, InvalidConfig> {
        if self.attempts == 0 {
            return Err(InvalidConfig::new("attempts", 0, "at least 1"));
        }
        self.backoff.check()?;
        let policy = Policy {
            attempts: self.attempts,
            backoff: self.backoff,
            budget: match self.budget {
                Budgeting::Own => Some(Budget::default()),
                Budgeting::Given(budget) => Some(budget),
                Budgeting::None => None,
            },
            max_retry_after: self.max_retry_after,
            chance: Chance::new(self.seed),
            name: self.name,
        };
        let Self {
            classify,
            replay,
            discard,
            ..
        } = self;
        Ok(RetryLayer {
            policy: Arc::new(policy),
            classify,
            replay,
            discard,
        })
    }
}

impl<C, R, D> fmt::Debug for RetryBuilder<C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBuilder")
            .field("attempts", &self.attempts)
            .field("backoff", &self.backoff)
            .field("budget", &self.budget)
            .field("max_retry_after", &self.max_retry_after)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The service that [`RetryLayer`] makes.
pub struct Retry<S, C = Outcome, R = Idempotent, D = Dropped> {
    inner: S,
    shared: Arc<Shared<S, C, R, D>>,
}

/// What all clones of a service share, so that a call costs one reference and not a clone of all
/// that stands below.
struct Shared<S, C, R, D> {
    /// Never polled, so never ready: what retries clone. Locked to take it and to put it back; it
    /// is cloned in between, with the lock free. A mutex, because a service need not be `Sync`.
    spare: Mutex<Option<S>>,
    policy: Arc<Policy>,
    classify: C,
    replay: R,
    discard: D,
}

impl<S: Clone, C, R, D> Shared<S, C, R, D> {
    /// A clone that is not ready; `None` while another retry is making one.
    fn unready(&self) -> Option<S> {
        let service = lock(&self.spare).take();
        let spare = Spare {
            home: &self.spare,
            service,
        };
        spare.service.clone()
    }
}

/// A spare that has been taken. It goes back even if cloning it panics.
struct Spare<'a, S> {
    home: &'a Mutex<Option<S>>,
    service: Option<S>,
}

impl<S> Drop for Spare<'_, S> {
    fn drop(&mut self) {
        if self.service.is_some() {
            *lock(self.home) = self.service.take();
        }
    }
}

fn lock<S>(spare: &Mutex<Option<S>>) -> MutexGuard<'_, Option<S>> {
    // Nothing panics under the lock; a poisoned one is as good as new.
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Clone, C, R, D> Clone for Retry<S, C, R, D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S, C, R, D, Req> Service<Req> for Retry<S, C, R, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RetryFuture<S, C, R, Req, D>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let Shared { policy, replay, .. } = &*self.shared;
        let copy = if policy.attempts > 1 {
            replay.replay(&req)
        } else {
            None
        };
        // The instance that was readied makes the first attempt; a clone, not ready, the others.
        RetryFuture {
            state: State::Calling {
                call: self.inner.call(req),
            },
            copy,
            service: None,
            attempt: 1,
            previous: Duration::ZERO,
            shared: self.shared.clone(),
        }
    }
}

impl<S: fmt::Debug, C, R, D> fmt::Debug for Retry<S, C, R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("policy", &self.shared.policy)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`Retry`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S, C, R, Req, D = Dropped>
    where
        S: Service<Req>,
        D: Discard<S::Response>,
    {
        #[pin]
        state: State<S::Future, D::Future>,
        // What the next attempt sends.
        copy: Option<Req>,
        // What it is made with, from the first retry on; polled only when it is about to be called.
        service: Option<S>,
        // The number of the attempt that is under way or was last.
        attempt: u32,
        // The last backoff.
        previous: Duration,
        shared: Arc<Shared<S, C, R, D>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, G> {
        Calling {
            #[pin]
            call: F,
        },
        // For both. The withdrawal goes back if the retry is not sent.
        Waiting {
            #[pin]
            sleep: Option<Sleep>,
            #[pin]
            discard: Option<G>,
            withdrawal: Option<Withdrawal>,
        },
        Readying { withdrawal: Option<Withdrawal> },
        Done,
    }
}

impl<S, C, R, Req, D> Future for RetryFuture<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        let StateProj::Calling { call } = this.state.as_mut().project() else {
            return self.poll_retries(cx);
        };
        let outcome = ready!(call.poll(cx));
        let Shared {
            policy, classify, ..
        } = &**this.shared;
        let verdict = judge(classify, &outcome);
        if matches!(verdict, Verdict::Healthy) && *this.attempt == 1 {
            policy.deposit();
            return Poll::Ready(outcome);
        }
        // By value: an outcome that nobody points to need not be in memory.
        match self.as_mut().follow_up(outcome, verdict, cx) {
            Next::End(outcome) => Poll::Ready(outcome),
            Next::Yield => Poll::Pending,
            Next::Wait => self.poll_retries(cx),
        }
    }
}

/// What comes after an attempt.
enum Next<T> {
    End(T),
    /// Another one, once others have had their turn.
    Yield,
    /// Another one, after a wait.
    Wait,
}

impl<S, C, R, Req, D> RetryFuture<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    C: Classify<S::Response, S::Error>,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    /// Every attempt but the first.
    #[cold]
    fn poll_retries(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        loop {
            ready!(self.as_mut().poll_next_attempt(cx))?;
            let this = self.as_mut().project();
            let StateProj::Calling { call } = this.state.project() else {
                unreachable!("an attempt is made when it is ready");
            };
            let outcome = ready!(call.poll(cx));
            let verdict = judge(&this.shared.classify, &outcome);
            match self.as_mut().follow_up(outcome, verdict, cx) {
                Next::End(outcome) => return Poll::Ready(outcome),
                Next::Yield => return Poll::Pending,
                Next::Wait => {}
            }
        }
    }

    /// Ends the call, or begins a wait for the next attempt.
    #[cold]
    fn follow_up(
        self: Pin<&mut Self>,
        outcome: Result<S::Response, S::Error>,
        verdict: Verdict,
        cx: &Context<'_>,
    ) -> Next<Result<S::Response, S::Error>> {
        let mut this = self.project();
        let Shared {
            policy,
            replay,
            discard,
            ..
        } = &**this.shared;
        let granted = policy.after(
            *this.attempt,
            verdict,
            outcome.as_ref().err().and_then(StackError::rejection),
            this.copy.is_some(),
            || this.copy.as_ref().and_then(|copy| replay.deadline(copy)),
            this.previous,
        );
        let Some(Granted { wait, withdrawal }) = granted else {
            return Next::End(outcome);
        };
        // The last question: a copy that is to be sent may take over what the last attempt reads.
        if !this
            .copy
            .as_ref()
            .is_some_and(|copy| replay.replayable(copy))
        {
            policy.give_up(*this.attempt, verdict, "not_replayable");
            return Next::End(outcome);
        }
        policy.tell(*this.attempt, verdict, wait);
        // An error and what the attempt held are free before the wait; so is a response, unless
        // there is a use for it.
        let discard = match outcome {
            Ok(response) => discard.discard(response),
            Err(error) => {
                drop(error);
                None
            }
        };
        this.state.set(State::Waiting {
            sleep: (!wait.is_zero()).then(|| sleep(wait)),
            discard,
            withdrawal,
        });
        if wait.is_zero() {
            // Others get their turn all the same: a deadline, for instance.
            cx.waker().wake_by_ref();
            return Next::Yield;
        }
        Next::Wait
    }
}

impl<S, C, R, Req, D> RetryFuture<S, C, R, Req, D>
where
    S: Service<Req> + Clone,
    S::Error: StackError,
    R: Replay<Req>,
    D: Discard<S::Response>,
{
    /// Waits, readies the service and sends again.
    #[cold]
    fn poll_next_attempt(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let mut this = self.project();
        let Shared { policy, replay, .. } = &**this.shared;
        let withdrawal = match this.state.as_mut().project() {
            StateProj::Waiting {
                sleep,
                discard,
                withdrawal,
            } => {
                // Each wakes the task by itself.
                let slept = poll_and_drop(sleep, cx);
                let discarded = poll_and_drop(discard, cx);
                ready!(slept);
                ready!(discarded);
                withdrawal.take()
            }
            StateProj::Readying { withdrawal } => withdrawal.take(),
            StateProj::Calling { .. } | StateProj::Done => panic!("{POLLED}"),
        };
        if this.service.is_none() {
            *this.service = this.shared.unready();
        }
        let Some(service) = this.service else {
            // Another thread has the spare, for as long as it takes to clone it.
            this.state.set(State::Readying { withdrawal });
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                drop(withdrawal);
                this.state.set(State::Done);
                return Poll::Ready(Err(error));
            }
            Poll::Pending => {
                this.state.set(State::Readying { withdrawal });
                return Poll::Pending;
            }
        }
        let mut req = this.copy.take().expect(POLLED);
        // Time may have gone by, for readiness or for what was thrown away.
        let deadline = replay.deadline(&req);
        if deadline.is_some_and(|deadline| deadline.rules_out(Instant::now(), Duration::ZERO)) {
            drop(withdrawal);
            this.state.set(State::Done);
            return Poll::Ready(Err(S::Error::reject(Rejection::DeadlinePassed)));
        }
        let attempt = *this.attempt + 1;
        let last = attempt >= policy.attempts;
        *this.copy = if last { None } else { replay.replay(&req) };
        replay.resend(&mut req, attempt);
        // From here on it is sent.
        if let Some(withdrawal) = withdrawal {
            withdrawal.spend();
        }
        *this.attempt = attempt;
        let call = service.call(req);
        this.state.set(State::Calling { call });
        Poll::Ready(Ok(()))
    }
}

/// Polls what there is, and drops it when it is over.
fn poll_and_drop<F: Future<Output = ()>>(
    mut slot: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if let Some(future) = slot.as_mut().as_pin_mut() {
        ready!(future.poll(cx));
        slot.set(None);
    }
    Poll::Ready(())
}

const POLLED: &str = "a future must not be polled after it was ready";

/// A retry that the policy grants. What it took from the budget goes back if it is not sent.
struct Granted {
    wait: Duration,
    withdrawal: Option<Withdrawal>,
}

impl Policy {
    /// A first attempt went well. A success of a retry earns nothing, or retries would pay for
    /// themselves.
    #[inline]
    fn deposit(&self) {
        if let Some(budget) = &self.budget {
            budget.deposit();
        }
    }

    /// What comes after any other attempt: the next one, or none.
    fn after(
        &self,
        attempt: u32,
        verdict: Verdict,
        rejection: Option<Rejection>,
        copied: bool,
        deadline: impl FnOnce() -> Option<Deadline>,
        previous: &mut Duration,
    ) -> Option<Granted> {
        if attempt > 1 {
            match rejection {
                // A retry that ran out of time may have been sent; one that was rejected was not.
                None | Some(Rejection::TimedOut { .. } | Rejection::DeadlinePassed) => {}
                Some(_) => self.budget.iter().for_each(Budget::refund),
            }
        }
        if !matches!(
            verdict,
            Verdict::Transient { .. } | Verdict::Throttled { .. } | Verdict::Local
        ) {
            return None;
        }
        let granted = self.grant(attempt, verdict, copied, deadline, previous);
        granted
            .map_err(|refused| self.give_up(attempt, verdict, refused))
            .ok()
    }

    /// The next attempt, or why there is none.
    fn grant(
        &self,
        attempt: u32,
        verdict: Verdict,
        copied: bool,
        deadline: impl FnOnce() -> Option<Deadline>,
        previous: &mut Duration,
    ) -> Result<Granted, &'static str> {
        let asked = match verdict.retry_after() {
            RetryAfter::None => Duration::ZERO,
            RetryAfter::Delay(delay) => delay,
            // Never sooner than what it may have asked for: the longest backoff.
            RetryAfter::Unreadable => self.backoff.cap,
        };
        if attempt >= self.attempts {
            return Err("attempts");
        }
        if !copied {
            return Err("not_replayable");
        }
        if asked > self.max_retry_after {
            return Err("retry_after");
        }
        let draw = self.chance.draw();
        *previous = self.backoff.wait(attempt, *previous, draw);
        let wait = (*previous).max(spread(asked, draw));
        // Before the budget: a retry that cannot be sent in time takes no token from others. A timer
        // may be a tick late.
        let sent_after = if wait.is_zero() {
            wait
        } else {
            wait.saturating_add(TICK)
        };
        if deadline().is_some_and(|deadline| deadline.rules_out(Instant::now(), sent_after)) {
            return Err("deadline");
        }
        let withdrawal = match &self.budget {
            None => None,
            Some(budget) => Some(budget.try_withdraw().ok_or("budget")?),
        };
        Ok(Granted { wait, withdrawal })
    }

    /// Tells of a retry that will be sent.
    fn tell(&self, attempt: u32, verdict: Verdict, wait: Duration) {
        tracing::event!(
            name: "retrying",
            target: "buttress::retry",
            Level::DEBUG,
            name = self.name.get(),
            attempt,
            wait_ms = millis(wait),
            verdict = verdict.as_str(),
            "retrying"
        );
    }

    #[cold]
    fn give_up(&self, attempt: u32, verdict: Verdict, reason: &'static str) {
        tracing::event!(
            name: "gave_up",
            target: "buttress::retry",
            Level::DEBUG,
            name = self.name.get(),
            attempt,
            verdict = verdict.as_str(),
            reason,
            "gave up"
        );
    }
}

/// What the callee asks for, never cut short, and up to a quarter more (5 s at most) so that not
/// all its callers come back at once.
fn spread(asked: Duration, draw: f64) -> Duration {
    let range = (asked / 4).min(Duration::from_secs(5));
    asked.saturating_add(Duration::from_nanos(scale(nanos(range), draw)))
}

impl<S, C, R, Req, D> fmt::Debug for RetryFuture<S, C, R, Req, D>
where
    S: Service<Req>,
    D: Discard<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}
