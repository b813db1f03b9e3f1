//! How many turns the calls of a process ask for.

/// An exponential average over half a second.
const MEMORY: f64 = 0.5;
const SECOND: f64 = 1e9;

#[derive(Debug)]
pub(super) struct Demand {
    /// In seconds. The average is not trusted to know more than this.
    horizon: f64,
    /// The units per second.
    average: f64,
    /// The weight in the average of the time before the first call.
    unseen: f64,
    at: u64,
    /// The units since then.
    arrived: u64,
}

/// Units per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub(super) average: f64,
    /// Higher than the average if calls come twice as fast lately.
    pub(super) lately: f64,
}

impl Demand {
    pub(super) fn new(horizon: f64, now: u64) -> Self {
        Self {
            horizon,
            average: 0.0,
            unseen: 1.0,
            at: now,
            arrived: 0,
        }
    }

    pub(super) fn arrive(&mut self, units: u64) {
        self.arrived += units;
    }

    pub(super) fn measure(&mut self, now: u64) -> Rates {
        let time = now.saturating_sub(self.at) as f64 / SECOND;
        // Half a horizon at least: a lease can be twice as long as the one before.
        let lately = self.arrived as f64 / time.max(self.horizon / 2.0);
        if time > 0.0 {
            let kept = (-time / MEMORY).exp();
            self.average = self.average * kept + self.arrived as f64 / time * (1.0 - kept);
            self.unseen *= kept;
            self.at = now;
            self.arrived = 0;
        }
        let least = 1.0 - (-self.horizon / MEMORY).exp();
        let average = self.average / (1.0 - self.unseen).max(least);
        let faster = lately > 2.0 * average;
        Rates {
            average,
            lately: if faster { lately } else { average },
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    fn near(rate: f64, expected: f64) -> bool {
        (rate - expected).abs() < expected / 10.0
    }

    #[test]
    fn the_average_is_right_from_the_start_and_follows_in_a_second() {
        let mut demand = Demand::new(0.1, 0);
        for tick in 1..=500_u64 {
            demand.arrive(2);
            let now = tick * 10_000_000;
            let rates = demand.measure(now);
            assert!(tick < 10 || near(rates.average, 200.0), "{tick}: {rates:?}");
        }
        for tick in 501..=600_u64 {
            demand.arrive(4);
            demand.measure(tick * 10_000_000);
        }
        assert!(near(demand.measure(6_000_000_000).average, 400.0));
    }

    #[test]
    fn calls_that_come_much_faster_are_seen_at_once() {
        let mut demand = Demand::new(0.1, 0);
        demand.arrive(10);
        demand.measure(10_000_000_000);
        demand.arrive(50);
        let rates = demand.measure(10_050_000_000);
        assert!(rates.average < 120.0, "{rates:?}");
        assert!(near(rates.lately, 1_000.0), "{rates:?}");
    }
}
