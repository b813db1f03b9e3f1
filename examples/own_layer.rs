//! A layer of your own, paired with a limit of this crate: two calls are in flight at a time, and after
//! three failures in a row every call is rejected. `cargo run --example own_layer`

use buttress::gate::{Admission, Admit, Admitted, AtOnce, Finish, GateLayer, Sent};
use buttress::load_shed::{ConcurrencyLimit, LoadShedSettings};
use buttress::{Deadline, ErrorLayer, Name, Rejection};
use std::sync::{Arc, atomic::AtomicU32, atomic::Ordering::Relaxed};
use std::{convert::Infallible, time::Duration};
use tower::{Layer, ServiceExt, service_fn};

/// Counts the failures in a row.
#[derive(Clone, Default)]
struct Patience(Arc<AtomicU32>);

impl Admission for Patience {
    type Local = ();
    type Waits = AtOnce; // calls wait in the limit only
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut slots = LoadShedSettings::new(2);
    (slots.queue, slots.max_wait) = (8, Duration::from_secs(1));
    let gate = (ConcurrencyLimit::with(slots)?, Patience::default());
    let upstream = service_fn(|()| async { Err::<(), _>("down") });
    let client = GateLayer::of(gate).layer(ErrorLayer.layer(upstream));
    for expected in ["down", "down", "down", "circuit \"patience\" open"] {
        let error = client.clone().oneshot(()).await.unwrap_err().to_string();
        println!("{error}");
        assert_eq!(error, expected);
    }
    Ok(())
}
