use super::{Admission, Gate, UntilHead};
use std::fmt;
use std::marker::PhantomData;
use tower::Layer;

/// Makes [`Gate`] services that share one [`Admission`].
///
/// The layer holds the admission. Each service gets a clone, and clones of an admission share its
/// state.
///
/// ```
/// use buttress::{Error, ErrorLayer, Rejection, gate::GateLayer, load_shed::ConcurrencyLimit};
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(GateLayer::of(ConcurrencyLimit::new(0)))
///     .layer(ErrorLayer)
///     .service(service_fn(|()| async { Ok::<_, Infallible>(()) }));
/// let rejected = service.oneshot(()).await;
/// assert!(matches!(rejected, Err(Error::Rejected(Rejection::Overloaded { .. }))));
/// # }
/// ```
pub struct GateLayer<A, K = (), U = UntilHead> {
    pub(crate) admission: A,
    pub(crate) carrier: K,
    until: PhantomData<fn() -> U>,
}

impl<A> GateLayer<A> {
    /// A gate without a carrier, whose calls end with the response head.
    #[must_use]
    pub const fn of(admission: A) -> Self {
        Self {
            admission,
            carrier: (),
            until: PhantomData,
        }
    }
}

impl<A, K, U> GateLayer<A, K, U> {
    /// Where requests carry their deadline. Default: `()`, none.
    #[must_use]
    pub fn carrier<L>(self, carrier: L) -> GateLayer<A, L, U> {
        GateLayer {
            admission: self.admission,
            carrier,
            until: PhantomData,
        }
    }

    /// When a call ends. Default: [`UntilHead`], when the response head arrives. The feature
    /// `http-body` adds `UntilBodyEnd`.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "only its type matters")]
    pub fn until<V>(self, until: V) -> GateLayer<A, K, V> {
        let _ = until;
        GateLayer {
            admission: self.admission,
            carrier: self.carrier,
            until: PhantomData,
        }
    }

    /// Replaces the admission by one made from it.
    pub(crate) fn map<B>(self, change: impl FnOnce(A) -> B) -> GateLayer<B, K, U> {
        GateLayer {
            admission: change(self.admission),
            carrier: self.carrier,
            until: PhantomData,
        }
    }
}

impl<S, A: Admission, K: Clone, U> Layer<S> for GateLayer<A, K, U> {
    type Service = Gate<S, A, K, U>;

    fn layer(&self, inner: S) -> Self::Service {
        Gate::new(inner, self.admission.clone(), self.carrier.clone())
    }
}

impl<A: Clone, K: Clone, U> Clone for GateLayer<A, K, U> {
    fn clone(&self) -> Self {
        Self {
            admission: self.admission.clone(),
            carrier: self.carrier.clone(),
            until: PhantomData,
        }
    }
}

impl<A: fmt::Debug, K, U> fmt::Debug for GateLayer<A, K, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateLayer")
            .field("admission", &self.admission)
            .finish_non_exhaustive()
    }
}
