use super::circuit::{Circuit, Config, Permit, WhenOpen, circuit_setters};
use super::state::Blocked;
use crate::classify::{Classify, Outcome, Verdict, ended_by_deadline, judge};
use crate::error::{InvalidConfig, StackError};
use crate::http::{CallEnd, UntilHead};
use pin_project_lite::pin_project;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, mem};
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Sleep, sleep};
use tower::{Layer, Service};

/// Makes [`CircuitBreaker`] services that share one circuit. See the [module](super) for what it
/// does.
///
/// The circuit is made with the layer: every service that the layer makes, and every clone of the
/// layer and of its services, is behind the same one. Applying the layer is cheap.
#[derive(Clone)]
pub struct CircuitBreakerLayer<C = Outcome, U = UntilHead> {
    circuit: Circuit,
    classify: C,
    until: U,
}

impl CircuitBreakerLayer {
    /// Starts from the defaults.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder {
            config: Config::default(),
            classify: Outcome,
        }
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// A layer on a circuit that exists, to share it.
    #[must_use]
    pub fn new(circuit: Circuit, classify: C) -> Self {
        Self {
            circuit,
            classify,
            until: UntilHead,
        }
    }
}

impl<C, U> CircuitBreakerLayer<C, U> {
    /// When a call is over: [`UntilHead`] unless set; with the feature `http-body` it can last until
    /// the end of its response's body, and the verdict on it wait for that.
    #[must_use]
    pub fn until<V>(self, until: V) -> CircuitBreakerLayer<C, V> {
        CircuitBreakerLayer {
            circuit: self.circuit,
            classify: self.classify,
            until,
        }
    }

    /// The circuit that all services of this layer share.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }
}

impl<S, C: Clone, U: Clone> Layer<S> for CircuitBreakerLayer<C, U> {
    type Service = CircuitBreaker<S, C, U>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker {
            inner,
            circuit: self.circuit.clone(),
            classify: self.classify.clone(),
            until: self.until.clone(),
            ready: Readiness::Unpolled,
            waiting: None,
        }
    }
}

impl<C, U> fmt::Debug for CircuitBreakerLayer<C, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("circuit", &self.circuit)
            .finish_non_exhaustive()
    }
}

/// Its settings, for people.
impl<C, U> fmt::Display for CircuitBreakerLayer<C, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.circuit, f)
    }
}

/// Builds a [`CircuitBreakerLayer`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CircuitBreakerBuilder<C = Outcome> {
    config: Config,
    classify: C,
}

impl<C> CircuitBreakerBuilder<C> {
    circuit_setters!();

    /// What an outcome says about the callee. Default: every `Ok` healthy, every `Err` transient.
    pub fn classify<D>(self, classify: D) -> CircuitBreakerBuilder<D> {
        CircuitBreakerBuilder {
            config: self.config,
            classify,
        }
    }

    /// The layer, with a circuit of its own, closed.
    ///
    /// # Errors
    /// As [`CircuitBuilder::build`](super::CircuitBuilder::build).
    pub fn build(self) -> Result<CircuitBreakerLayer<C>, InvalidConfig> {
        Ok(CircuitBreakerLayer {
            circuit: self.config.build()?,
            classify: self.classify,
            until: UntilHead,
        })
    }
}

impl<C> fmt::Debug for CircuitBreakerBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The service that [`CircuitBreakerLayer`] makes.
pub struct CircuitBreaker<S, C = Outcome, U = UntilHead> {
    inner: S,
    circuit: Circuit,
    classify: C,
    until: U,
    ready: Readiness,
    /// For a circuit that is not ready while open.
    waiting: Option<Pin<Box<Waiting>>>,
}

/// What `poll_ready` last found.
#[derive(Clone, Copy, Debug)]
enum Readiness {
    Unpolled,
    /// The inner service was not readied, so the call is rejected, whatever has changed since.
    Rejecting(Blocked),
    Ready,
}

pin_project! {
    // Empty while nothing is waited for, so that it is registered nowhere.
    #[derive(Default)]
    struct Waiting {
        #[pin]
        changed: Option<OwnedNotified>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl<S, C, U> CircuitBreaker<S, C, U> {
    /// Waits until a call could go: for the time, or a transition.
    #[cold]
    fn poll_admissible(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let changed = &self.circuit.shared.changed;
        let mut waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(Waiting::default()))
            .as_mut()
            .project();
        loop {
            // Before the look, so that no change after it is missed.
            if waiting.changed.is_none() {
                waiting.changed.set(Some(changed.clone().notified_owned()));
            }
            if let Some(changed) = waiting.changed.as_mut().as_pin_mut() {
                if changed.poll(cx).is_ready() {
                    waiting.changed.set(None);
                    continue;
                }
            }
            let Err(blocked) = self.circuit.look() else {
                return Poll::Ready(());
            };
            let timer = blocked
                .look_after()
                .map(|nanos| sleep(Duration::from_nanos(nanos)));
            waiting.sleep.set(timer);
            match waiting.sleep.as_mut().as_pin_mut() {
                Some(sleep) => ready!(sleep.poll(cx)),
                None => return Poll::Pending,
            }
        }
    }
}

impl<S: Clone, C: Clone, U: Clone> Clone for CircuitBreaker<S, C, U> {
    /// The clone is not ready.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            circuit: self.circuit.clone(),
            classify: self.classify.clone(),
            until: self.until.clone(),
            ready: Readiness::Unpolled,
            waiting: None,
        }
    }
}

impl<S, C, U, Req> Service<Req> for CircuitBreaker<S, C, U>
where
    S: Service<Req>,
    S::Error: StackError,
    C: Classify<S::Response, S::Error> + Clone,
    U: CallEnd<S::Response>,
{
    type Response = U::Response<Permit>;
    type Error = S::Error;
    type Future = CircuitBreakerFuture<S::Future, C, U>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = Readiness::Unpolled;
        if let Err(blocked) = self.circuit.look() {
            match self.circuit.shared.when_open {
                WhenOpen::Reject => {
                    self.ready = Readiness::Rejecting(blocked);
                    return Poll::Ready(Ok(()));
                }
                WhenOpen::NotReady => ready!(self.poll_admissible(cx)),
            }
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.set(Waiting::default());
        }
        ready!(self.inner.poll_ready(cx))?;
        self.ready = Readiness::Ready;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        let admitted = match mem::replace(&mut self.ready, Readiness::Unpolled) {
            Readiness::Unpolled => panic!("poll_ready must be called before call"),
            Readiness::Rejecting(blocked) => Err(blocked),
            Readiness::Ready => self.circuit.admit(),
        };
        match admitted {
            Ok(mut permit) => {
                let call = permit.work(|| self.inner.call(req));
                let classify = self.classify.clone();
                // Part by part: a copy of the whole would wait for what was written last.
                let moved = permit.take();
                mem::forget(permit);
                CircuitBreakerFuture {
                    state: State::Calling {
                        call,
                        permit: moved,
                        classify,
                    },
                    until: PhantomData,
                }
            }
            Err(blocked) => {
                self.circuit.tell_of_rejection(blocked);
                CircuitBreakerFuture {
                    state: State::Rejected { blocked },
                    until: PhantomData,
                }
            }
        }
    }
}

impl<S: fmt::Debug, C, U> fmt::Debug for CircuitBreaker<S, C, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("inner", &self.inner)
            .field("circuit", &self.circuit)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of a [`CircuitBreaker`] call.
    #[must_use = "futures do nothing unless polled"]
    pub struct CircuitBreakerFuture<F, C, U = UntilHead> {
        #[pin]
        state: State<F, C>,
        until: PhantomData<fn() -> U>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, C> {
        // The permit outlives the call when both are dropped.
        Calling {
            #[pin]
            call: F,
            permit: Permit,
            classify: C,
        },
        Rejected { blocked: Blocked },
    }
}

impl<F, C, U, Res, E> Future for CircuitBreakerFuture<F, C, U>
where
    F: Future<Output = Result<Res, E>>,
    C: Classify<Res, E>,
    U: CallEnd<Res>,
    E: StackError,
{
    type Output = Result<U::Response<Permit>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling {
                call,
                permit,
                classify,
            } => {
                let Poll::Ready(outcome) = permit.work(|| call.poll(cx)) else {
                    permit.in_flight();
                    return Poll::Pending;
                };
                let verdict = permit.judge(|| judge(classify, &outcome));
                // Each arm by value: an outcome that nobody points to need not be in memory.
                Poll::Ready(match (outcome, verdict) {
                    // Until the end of its body a success is one by its head alone.
                    (Ok(res), Verdict::Healthy) if U::goes_on(&res) => {
                        permit.in_flight();
                        Ok(U::hold(res, Some(permit.take())))
                    }
                    (Ok(res), verdict) => {
                        permit.spend(verdict);
                        Ok(U::hold(res, None))
                    }
                    (Err(error), verdict) => {
                        if matches!(verdict, Verdict::Ignored) && ended_by_deadline(&error) {
                            permit.give_up();
                        } else {
                            permit.spend(verdict);
                        }
                        Err(error)
                    }
                })
            }
            StateProj::Rejected { blocked } => Poll::Ready(Err(E::reject((*blocked).into()))),
        }
    }
}

impl<F, C, U> fmt::Debug for CircuitBreakerFuture<F, C, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerFuture")
            .finish_non_exhaustive()
    }
}
