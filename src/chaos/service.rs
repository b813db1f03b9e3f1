use super::handle::{Active, Chaos, Plan};
use super::layer::Policies;
use super::settings::Fault;
use super::{Inject, Injected, Mark, Only, Per};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower::Service;

/// The service that [`ChaosLayer`](super::ChaosLayer) makes.
pub struct ChaosService<S, O = (), P = (), Y = (), M = ()> {
    inner: S,
    chaos: Chaos,
    policies: Arc<Policies<O, P, Y, M>>,
}

impl<S, O, P, Y, M> ChaosService<S, O, P, Y, M> {
    pub(super) const fn new(inner: S, chaos: Chaos, policies: Arc<Policies<O, P, Y, M>>) -> Self {
        Self {
            inner,
            chaos,
            policies,
        }
    }
}

impl<S: Clone, O, P, Y, M> Clone for ChaosService<S, O, P, Y, M> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.chaos.clone(),
            self.policies.clone(),
        )
    }
}

impl<S: fmt::Debug, O, P, Y, M> fmt::Debug for ChaosService<S, O, P, Y, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosService")
            .field("inner", &self.inner)
            .field("chaos", &self.chaos)
            .finish_non_exhaustive()
    }
}

impl<S, O, P, Y, M, Req> Service<Req> for ChaosService<S, O, P, Y, M>
where
    S: Service<Req> + Clone,
    O: Inject<Req, S::Response, S::Error>,
    P: Only<Req>,
    Y: Per<Req>,
    M: Mark<S::Response>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ChaosFuture<S, O, P, Y, M, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, req: Req) -> Self::Future {
        if !self.chaos.shared.is_on() {
            return ChaosFuture::plain(self.inner.call(req));
        }
        self.call_on(req)
    }
}

impl<S, O, P, Y, M> ChaosService<S, O, P, Y, M> {
    #[cold]
    fn call_on<Req>(&mut self, req: Req) -> ChaosFuture<S, O, P, Y, M, Req>
    where
        S: Service<Req> + Clone,
        O: Inject<Req, S::Response, S::Error>,
        P: Only<Req>,
        Y: Per<Req>,
    {
        let Policies {
            outcome, only, per, ..
        } = &*self.policies;
        if !only.only(&req) {
            return ChaosFuture::plain(self.inner.call(req));
        }
        let shared = &self.chaos.shared;
        let mut plan = shared.plan(per.key(&req));
        if plan.hang {
            plan = Plan {
                hang: true,
                ..Plan::default()
            };
        }
        // A call without a fault takes no place. At most so many have one at once.
        let Some(active) = plan.is_fault().then(|| shared.activate()).flatten() else {
            return ChaosFuture::plain(self.inner.call(req));
        };
        let injected = plan.outcome.then(|| outcome.inject(&req)).flatten();
        plan.outcome = injected.is_some();
        if !plan.is_fault() {
            return ChaosFuture::plain(self.inner.call(req));
        }
        if plan.hang {
            shared.injected(Fault::Hang, Duration::ZERO);
        }
        let (before, after) = (plan.latency_before, plan.latency);
        let delay = before
            .unwrap_or_default()
            .saturating_add(after.unwrap_or_default());
        if let Some(before) = before {
            shared.injected(Fault::LatencyBefore, before);
        }
        if let Some(after) = after {
            shared.injected(Fault::Latency, after);
        }
        let mut fault = Fault::Latency;
        if plan.outcome {
            fault = Fault::Outcome;
            shared.injected(fault, delay);
        }
        let stage = if !plan.hang && before.is_none() && injected.is_none() {
            let call = self.inner.call(req);
            Stage::Calling { call }
        } else {
            // The call does not use the readied instance. An unready clone takes its place, so that nothing stays
            // reserved: a delayed send may need that permit, and so may others.
            self.inner = self.inner.clone();
            match before {
                _ if plan.hang => Stage::Hanging,
                Some(before) => Stage::Before {
                    sleep: sleep(before),
                    send: injected.is_none().then(|| (self.inner.clone(), req)),
                },
                None => Stage::Answered,
            }
        };
        let faulty = Faulty {
            stage,
            latency: after,
            after: None,
            outcome: injected,
            mark: Injected { fault, delay },
            policies: self.policies.clone(),
            active: Some(active),
        };
        ChaosFuture {
            state: State::Faulty {
                faulty: Box::pin(faulty),
            },
        }
    }
}

pin_project! {
    /// The future of a [`ChaosService`] call.
    ///
    /// It adds a tag to the inner future. A call with a fault allocates one box.
    #[must_use = "futures do nothing unless polled"]
    pub struct ChaosFuture<S, O, P, Y, M, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, O, P, Y, M, Req>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, O, P, Y, M, Req>
    where
        S: Service<Req>,
    {
        Plain {
            #[pin]
            call: S::Future,
        },
        Faulty { faulty: Pin<Box<Faulty<S, O, P, Y, M, Req>>> },
    }
}

pin_project! {
    struct Faulty<S, O, P, Y, M, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        stage: Stage<S, S::Future, Req>,
        // How much later the answer comes.
        latency: Option<Duration>,
        after: Option<Pin<Box<Sleep>>>,
        // The outcome, once there is one.
        outcome: Option<Result<S::Response, S::Error>>,
        mark: Injected,
        policies: Arc<Policies<O, P, Y, M>>,
        active: Option<Active>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F, Req> {
        Before {
            #[pin]
            sleep: Sleep,
            // An unready clone. `None` if there is an outcome already.
            send: Option<(S, Req)>,
        },
        Readying { service: S, req: Option<Req> },
        Calling {
            #[pin]
            call: F,
        },
        Answered,
        Hanging,
    }
}

impl<S, O, P, Y, M, Req> ChaosFuture<S, O, P, Y, M, Req>
where
    S: Service<Req>,
{
    #[inline]
    fn plain(call: S::Future) -> Self {
        Self {
            state: State::Plain { call },
        }
    }
}

impl<S, O, P, Y, M, Req> Future for ChaosFuture<S, O, P, Y, M, Req>
where
    S: Service<Req> + Clone,
    M: Mark<S::Response>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Plain { call } => call.poll(cx),
            StateProj::Faulty { faulty } => faulty.as_mut().poll(cx),
        }
    }
}

impl<S, O, P, Y, M, Req> Faulty<S, O, P, Y, M, Req>
where
    S: Service<Req> + Clone,
    M: Mark<S::Response>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProj::Hanging => return Poll::Pending,
                StageProj::Before { sleep, send } => {
                    ready!(sleep.poll(cx));
                    let next = match send.take() {
                        Some((service, req)) => Stage::Readying {
                            service,
                            req: Some(req),
                        },
                        None => Stage::Answered,
                    };
                    this.stage.set(next);
                }
                StageProj::Readying { service, req } => {
                    let next = match ready!(service.poll_ready(cx)) {
                        Ok(()) => Stage::Calling {
                            call: service.call(req.take().expect("it is sent once")),
                        },
                        Err(error) => {
                            *this.outcome = Some(Err(error));
                            Stage::Answered
                        }
                    };
                    this.stage.set(next);
                }
                StageProj::Calling { call } => {
                    *this.outcome = Some(ready!(call.poll(cx)));
                    this.stage.set(Stage::Answered);
                }
                StageProj::Answered => break,
            }
        }
        if let Some(latency) = this.latency.take() {
            *this.after = Some(Box::pin(sleep(latency)));
        }
        if let Some(after) = this.after {
            ready!(after.as_mut().poll(cx));
        }
        drop(this.active.take());
        let mut outcome = this.outcome.take().expect(POLLED);
        if let Ok(response) = &mut outcome {
            this.policies.mark.mark(response, *this.mark);
        }
        Poll::Ready(outcome)
    }
}

impl<S: Service<Req>, O, P, Y, M, Req> fmt::Debug for ChaosFuture<S, O, P, Y, M, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosFuture").finish_non_exhaustive()
    }
}

const POLLED: &str = "a future must not be polled after it was ready";
