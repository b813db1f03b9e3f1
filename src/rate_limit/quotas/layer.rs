use super::handle::{Charge, Entered, Place, Quotas};
use crate::deadline::Deadline;
use crate::error::Rejection;
use crate::gate::{Admission, Admit, Admitted, Cloning, Finish, Gate, GateLayer, Sent};
use std::task::{Context, Poll, ready};

/// Makes services whose calls take from several [`Quotas`] at once.
///
/// ```
/// use buttress::rate_limit::{Quotas, QuotasLayer};
/// use buttress::{ErrorLayer, Quota};
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let quotas = [Quota::per_second(10), Quota::per_second(1_000).burst(1_000)];
/// let quotas = Quotas::builder(quotas).build().unwrap();
/// // A request takes one of the first quota, and its length of the second. The response says what it really cost.
/// let layer = QuotasLayer::metered(quotas.clone(), |req: &String| [1, req.len() as u32])
///     .settled(|response: &u32| [1, *response]);
/// let service = ServiceBuilder::new()
///     .layer(layer)
///     .layer(ErrorLayer)
///     .service(service_fn(|req: String| async move { Ok::<_, Infallible>(req.len() as u32 * 2) }));
///
/// service.oneshot("a hundred tokens".to_owned()).await.unwrap();
/// assert_eq!(quotas.snapshot().available, [9, 968]);
/// # }
/// ```
pub type QuotasLayer<const N: usize, W, A = (), K = ()> = GateLayer<MeteredBy<N, W, A>, K>;

/// The service that [`QuotasLayer`] makes.
pub type QuotasService<const N: usize, S, W, A = (), K = ()> = Gate<S, MeteredBy<N, W, A>, K>;

impl<const N: usize, W> QuotasLayer<N, W> {
    /// Takes what `costs` returns for each request: a function from `&Req` to `[u32; N]`.
    #[must_use]
    pub fn metered(quotas: Quotas<N>, costs: W) -> Self {
        Self::of(MeteredBy {
            quotas,
            costs,
            real: (),
        })
    }

    /// Corrects the costs by each response: a function from `&Res` to `[u32; N]`. A call without a response keeps its
    /// costs. Default: no correction.
    #[must_use]
    pub fn settled<A>(self, real: A) -> QuotasLayer<N, W, A> {
        self.map(|metered| MeteredBy {
            quotas: metered.quotas,
            costs: metered.costs,
            real,
        })
    }
}

/// Quotas with the costs of calls: the admission of a [`QuotasService`].
#[derive(Clone, Debug)]
pub struct MeteredBy<const N: usize, W, A> {
    quotas: Quotas<N>,
    costs: W,
    real: A,
}

/// Says what a call really cost. Functions from `&Res` to `[u32; N]` implement it; `()` keeps what was taken.
pub trait RealCosts<const N: usize, Res> {
    /// The costs, or `None` to keep what was taken.
    fn real(&self, response: &Res) -> Option<[u32; N]>;
}

impl<const N: usize, Res> RealCosts<N, Res> for () {
    fn real(&self, _: &Res) -> Option<[u32; N]> {
        None
    }
}

impl<const N: usize, F: Fn(&Res) -> [u32; N], Res> RealCosts<N, Res> for F {
    fn real(&self, response: &Res) -> Option<[u32; N]> {
        Some(self(response))
    }
}

/// The charge of a call that was sent.
#[derive(Debug)]
pub struct Charged<const N: usize, A> {
    charge: Option<Charge<N>>,
    real: A,
}

impl<const N: usize, W: Clone, A: Clone> Admission for MeteredBy<N, W, A> {
    type Local = ();
    type Waits = Cloning;
    type Wait = Place<N>;
    type Ticket = Charge<N>;
    type Sent = Charged<N, A>;

    fn give_back(&self, charge: Charge<N>) {
        charge.settle([0; N]);
    }

    fn send(&self, charge: Charge<N>) -> Result<Charged<N, A>, Rejection> {
        Ok(Charged {
            charge: Some(charge),
            real: self.real.clone(),
        })
    }
}

impl<const N: usize, W, A, Req> Admit<Req> for MeteredBy<N, W, A>
where
    W: Fn(&Req) -> [u32; N] + Clone,
    A: Clone,
{
    fn admit(&self, req: &Req, deadline: Option<Deadline>) -> Admitted<Charge<N>, Place<N>> {
        match self.quotas.enter_by((self.costs)(req), deadline) {
            Ok(Entered::Now(charge)) => Admitted::Now(charge),
            Ok(Entered::Later(place)) => Admitted::Later(place),
            Err(rejection) => Admitted::Rejected(rejection),
        }
    }

    fn poll_wait(
        &self,
        place: &mut Place<N>,
        _: &Req,
        _: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Charge<N>, Rejection>> {
        let costs = place.costs;
        let turn = ready!(place.poll(cx));
        Poll::Ready(turn.map_err(|refused| self.quotas.reject(refused, costs)))
    }
}

impl<const N: usize, A> Finish for Charged<N, A> {}

impl<const N: usize, A, Res, E> Sent<Res, E> for Charged<N, A>
where
    A: RealCosts<N, Res>,
{
    fn settle(&mut self, outcome: Result<&Res, &E>, _: bool) {
        let real = outcome.ok().and_then(|response| self.real.real(response));
        if let (Some(real), Some(charge)) = (real, self.charge.take()) {
            charge.settle(real);
        }
    }
}
