use super::layer::{Stack, StackLayer};
use super::{StackBuilder, StatusClassifier};
use crate::error::{ErrorLayer, InvalidConfig};
use crate::event::Observe;
use crate::fallback::{Fallback, FallbackLayer};
use crate::gate::UntilHead;
use crate::http::{Idempotent, InExtensions, Pauses};
use crate::name::Name;
use crate::observe::{LayerState, Reader, Sealed};
use crate::retry::Dropped;
use crate::timeout::{Timeout, TimeoutLayer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower::Layer;

impl<C, R, K, D, U, W, P> StackBuilder<C, R, K, D, U, W, P> {
    /// Answers failed calls in another way, with a [`FallbackLayer`] right inside the deadline of the whole call. Call
    /// it last.
    ///
    /// The fallback classifies and copies requests as the stack does, and marks its answers with
    /// [`Degraded`](crate::http::Degraded) in their extensions. The rest of the stack ends before the deadline, by the
    /// [`reserve`](FallbackStackBuilder::reserve), so that an answer still comes in time if the upstream hangs.
    ///
    /// ```
    /// use buttress::fallback::Failed;
    /// use buttress::http::{Degraded, stack};
    /// use buttress::{Error, FallbackLayer};
    /// use http::{Request, Response};
    /// use std::convert::Infallible;
    /// use std::future::pending;
    /// use tower::{ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// type Fails = Failed<Request<()>, Response<&'static str>, Error<Infallible>>;
    ///
    /// let hangs = service_fn(|_: Request<()>| pending::<Result<Response<&'static str>, Infallible>>());
    /// let layer = FallbackLayer::new(|_: Fails| async { Ok(Response::new("the news of yesterday")) });
    /// let service = stack().fallback(layer).service(hangs).unwrap();
    ///
    /// let response = service.oneshot(Request::new(())).await.unwrap();
    /// assert!(response.extensions().get::<Degraded>().is_some());
    /// # }
    /// ```
    pub fn fallback<A, X, Y, Z>(
        self,
        fallback: FallbackLayer<A, X, Y, Z>,
    ) -> FallbackStackBuilder<A, C, R, K, D, U, W, P>
    where
        C: Clone,
        R: Clone,
    {
        let fallback = fallback
            .classify(self.classify.clone())
            .replay(self.replay.clone())
            .mark(InExtensions);
        FallbackStackBuilder {
            stack: self,
            fallback,
            reserve: None,
        }
    }
}

/// Builds a stack with a fallback. Made by [`StackBuilder::fallback`].
#[must_use = "a builder does nothing until `build` or `service` is called"]
pub struct FallbackStackBuilder<
    A,
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P = (),
> {
    stack: StackBuilder<C, R, K, D, U, W, P>,
    fallback: FallbackLayer<A, C, R, InExtensions>,
    reserve: Option<Duration>,
}

impl<A, C, R, K, D, U, W, P> FallbackStackBuilder<A, C, R, K, D, U, W, P> {
    /// How much of the deadline is left for the fallback. Default: a tenth of it, at most 1 s.
    pub fn reserve(mut self, reserve: Duration) -> Self {
        self.reserve = Some(reserve);
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// The errors of [`StackBuilder::build`]; `reserve` is not shorter than the deadline.
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn build(mut self) -> Result<FallbackStackLayer<A, C, R, K, D, U, W, P>, InvalidConfig>
    where
        C: Clone,
        K: Clone,
        P: Pauses,
    {
        let parts = &mut self.stack.parts;
        let (name, deadline) = (parts.name, parts.deadline);
        let reserve = self
            .reserve
            .unwrap_or_else(|| (deadline / 10).min(Duration::from_secs(1)));
        if reserve >= deadline && !deadline.is_zero() {
            let allowed = "shorter than the deadline of the whole call";
            return Err(InvalidConfig::new("reserve", reserve, allowed));
        }
        if deadline != Duration::MAX {
            parts.deadline = deadline.saturating_sub(reserve);
        }
        // The whole is listed, not its inner part.
        let registry = parts.registry.take();
        let observers = parts.observers.clone();
        #[cfg(feature = "metrics")]
        let metrics = parts.metrics;
        let carrier = self.stack.gate.carrier.clone();
        let whole = TimeoutLayer::builder(deadline).name(name).carrier(carrier);
        let layer = FallbackStackLayer {
            whole: whole.build()?,
            fallback: self.fallback.named_if_unnamed(name),
            stack: self.stack.build()?,
        };
        observers.iter().for_each(|observer| {
            layer.fallback.observers().add(observer.clone());
            layer.whole.observers().add(observer.clone());
        });
        #[cfg(feature = "metrics")]
        if metrics {
            layer.fallback.metrics();
            let events = crate::metrics::Events::Deadline;
            layer.whole.observers().add(events.shared());
        }
        if let Some(registry) = registry {
            registry.add(&layer);
        }
        Ok(layer)
    }

    /// Builds the stack around `client`.
    ///
    /// # Errors
    /// The errors of [`build`](Self::build).
    #[expect(clippy::type_complexity, reason = "one type for each policy")]
    pub fn service<S>(
        self,
        client: S,
    ) -> Result<FallbackStack<S, A, C, R, K, D, U, W, P>, InvalidConfig>
    where
        S: Clone,
        A: Clone,
        C: Clone,
        R: Clone,
        K: Clone,
        D: Clone,
        P: Pauses<Classify<C>: Clone>,
    {
        Ok(self.build()?.layer(client))
    }
}

/// Makes [`FallbackStack`] services. Built by [`StackBuilder::fallback`].
pub struct FallbackStackLayer<
    A,
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P: Pauses = (),
> {
    whole: TimeoutLayer<K>,
    fallback: FallbackLayer<A, C, R, InExtensions>,
    stack: StackLayer<C, R, K, D, U, W, P>,
}

impl<A, C, R, K, D, U, W, P: Pauses> FallbackStackLayer<A, C, R, K, D, U, W, P> {
    /// The layer of the fallback, with its counters.
    #[must_use]
    pub fn fallback(&self) -> &FallbackLayer<A, C, R, InExtensions> {
        &self.fallback
    }

    /// The layers inside the fallback, with their handles.
    #[must_use]
    pub fn stack(&self) -> &StackLayer<C, R, K, D, U, W, P> {
        &self.stack
    }
}

/// The service that [`FallbackStackLayer`] makes: a [`Stack`] around a client `S`, inside a fallback.
pub type FallbackStack<
    S,
    A,
    C = StatusClassifier,
    R = Idempotent,
    K = InExtensions,
    D = Dropped,
    U = UntilHead,
    W = ErrorLayer,
    P = (),
> = Timeout<Fallback<Stack<S, C, R, K, D, U, W, P>, A, C, R, InExtensions>, K>;

impl<S, A, C, R, K, D, U, W, P> Layer<S> for FallbackStackLayer<A, C, R, K, D, U, W, P>
where
    S: Clone,
    A: Clone,
    C: Clone,
    R: Clone,
    K: Clone,
    D: Clone,
    P: Pauses<Classify<C>: Clone>,
{
    type Service = FallbackStack<S, A, C, R, K, D, U, W, P>;

    fn layer(&self, client: S) -> Self::Service {
        let inner = self.fallback.layer(self.stack.layer(client));
        self.whole.layer(inner)
    }
}

impl<A, C, R, K, D, U, W, P: Pauses> Sealed for FallbackStackLayer<A, C, R, K, D, U, W, P> {
    fn wanted_name(&self) -> Name {
        self.whole.snapshot().name
    }

    fn reader(&self) -> Reader {
        let (whole, fallback) = (self.whole.weak(), self.fallback.weak());
        let stack = self.stack.reader();
        Box::new(move || {
            let mut layers = stack()?;
            // The two deadlines are shown as one.
            if let [LayerState::Timeout(_, inner), ..] = &mut layers[..] {
                let mut both = whole()?;
                both.timed_out += inner.timed_out;
                both.deadline_passed += inner.deadline_passed;
                *inner = both;
            }
            layers.insert(1, LayerState::Fallback(fallback()?));
            Some(layers)
        })
    }

    fn watch(&self, observer: &Arc<dyn Observe>) {
        self.fallback.observers().add(observer.clone());
        self.stack.watch(observer);
    }
}

/// Prints the settings, one line for each part, for people.
impl<A, C, R, K, D, U, W, P: Pauses> fmt::Display for FallbackStackLayer<A, C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for all", self.whole)?;
        writeln!(f, "{}", self.fallback)?;
        self.stack.fmt(f)
    }
}

impl<A, C, R, K, D, U, W, P: Pauses> fmt::Debug for FallbackStackLayer<A, C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackStackLayer")
            .field("whole", &self.whole)
            .field("fallback", &self.fallback)
            .field("stack", &self.stack)
            .finish()
    }
}

impl<A, C, R, K, D, U, W, P> fmt::Debug for FallbackStackBuilder<A, C, R, K, D, U, W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackStackBuilder")
            .field("stack", &self.stack)
            .field("fallback", &self.fallback)
            .field("reserve", &self.reserve)
            .finish()
    }
}
