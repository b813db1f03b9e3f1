//! A layer of your own that rejects, waits and learns: calls wait for one of two slots, and after three
//! failures in a row all calls are rejected.

use buttress::gate::{Admission, Admit, Admitted, AtOnce, Finish, GateLayer, Sent};
use buttress::load_shed::{ConcurrencyLimit, LoadShedSettings};
use buttress::{Deadline, Error, ErrorLayer, Name, Rejection};
use std::convert::Infallible;
use std::sync::{Arc, atomic::AtomicU32, atomic::Ordering::Relaxed};
use tower::{Layer, ServiceExt, service_fn};

/// Counts failures in a row.
#[derive(Clone, Default)]
struct Patience(Arc<AtomicU32>);

impl Admission for Patience {
    type Local = ();
    type Waits = AtOnce; // the waiting is left to the limit below
    type Wait = Infallible;
    type Ticket = ();
    type Sent = Self;
    fn send(&self, (): ()) -> Result<Self, Rejection> {
        if self.0.load(Relaxed) < 3 {
            return Ok(self.clone());
        }
        let (retry_after, by) = (None, Name::new("patience"));
        Err(Rejection::CircuitOpen { retry_after, by })
    }
}

impl<Req> Admit<Req> for Patience {
    fn admit(&self, _: &Req, _: Option<Deadline>) -> Admitted<(), Infallible> {
        Admitted::Now(())
    }
}

impl Finish for Patience {}
impl<Res, E> Sent<Res, E> for Patience {
    fn settle(&mut self, outcome: Result<&Res, &E>, _: bool) {
        match outcome {
            Ok(_) => self.0.store(0, Relaxed),
            Err(_) => drop(self.0.fetch_add(1, Relaxed)),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut slots = LoadShedSettings::new(2);
    (slots.queue, slots.max_wait) = (8, std::time::Duration::from_secs(1));
    let gate = (ConcurrencyLimit::with(slots).unwrap(), Patience::default());
    let client = service_fn(|()| async { Err::<(), _>("down") });
    let service = GateLayer::of(gate).layer(ErrorLayer.layer(client));
    for _ in 0..3 {
        let failed = service.clone().oneshot(()).await;
        assert_eq!(failed, Err(Error::Service("down")));
    }
    let rejected = service.oneshot(()).await.unwrap_err();
    assert_eq!(rejected.to_string(), "circuit \"patience\" open");
}
