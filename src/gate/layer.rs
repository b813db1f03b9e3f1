use super::{Admission, Gate, UntilHead};
use std::fmt;
use std::marker::PhantomData;
use tower::Layer;

/// Makes [`Gate`] services that share one [`Admission`].
///
/// The admission is made with the layer: every service that the layer makes, and every clone of the
/// layer and of its services, asks the same one. Applying the layer is cheap.
pub struct GateLayer<A, K = (), U = UntilHead> {
    pub(crate) admission: A,
    pub(crate) carrier: K,
    until: PhantomData<fn() -> U>,
}

impl<A> GateLayer<A> {
    /// A gate whose calls carry no deadline and are over with the head of their response.
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
    /// Where requests carry their deadline. Default: `()`, nowhere.
    #[must_use]
    pub fn carrier<L>(self, carrier: L) -> GateLayer<A, L, U> {
        GateLayer {
            admission: self.admission,
            carrier,
            until: PhantomData,
        }
    }

    /// When a call is over. Default: [`UntilHead`], with the response head; the feature `http-body`
    /// brings `UntilBodyEnd`.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a marker")]
    pub fn until<V>(self, until: V) -> GateLayer<A, K, V> {
        let _ = until;
        GateLayer {
            admission: self.admission,
            carrier: self.carrier,
            until: PhantomData,
        }
    }

    /// With another admission, made of the one it has.
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
