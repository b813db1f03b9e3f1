use crate::chance::draw_of;
use crate::error::InvalidConfig;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// How long an injected delay is.
///
/// ```
/// use buttress::chaos::Delay;
/// use std::time::Duration;
///
/// let ms = Duration::from_millis;
/// assert_eq!(Delay::fixed(ms(50)).to_string(), "50ms");
/// assert_eq!(Delay::uniform(ms(50)..ms(200)).to_string(), "50ms to 200ms");
/// assert_eq!(Delay::heavy(ms(20), ms(900)).to_string(), "20ms, 1 in 100 above 900ms");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed(Duration),
    Uniform(Duration, Duration),
    Heavy(Duration, Duration),
}

impl Delay {
    /// Always the same.
    #[must_use]
    pub const fn fixed(delay: Duration) -> Self {
        Self(Kind::Fixed(delay))
    }

    /// Any delay of this range, with equal probability.
    #[must_use]
    pub const fn uniform(delays: Range<Duration>) -> Self {
        Self(Kind::Uniform(delays.start, delays.end))
    }

    /// A log-normal distribution with this median, of which 1 in 100 is longer than `p99`.
    #[must_use]
    pub const fn heavy(median: Duration, p99: Duration) -> Self {
        Self(Kind::Heavy(median, p99))
    }

    pub(super) fn check(&self, field: &'static str) -> Result<(), InvalidConfig> {
        match self.0 {
            Kind::Uniform(shortest, longest) if shortest > longest => {
                let allowed = "a shortest delay that is not above the longest";
                Err(InvalidConfig::new(field, self, allowed))
            }
            Kind::Heavy(median, p99) if median > p99 || median.is_zero() => {
                let allowed = "a median above zero that is not above p99";
                Err(InvalidConfig::new(field, self, allowed))
            }
            _ => Ok(()),
        }
    }

    /// The delay for two draws from `[0, 1)`.
    pub(super) fn length(self, draw: f64, other: f64) -> Duration {
        /// The 99th percentile of the standard normal distribution.
        const P99: f64 = 2.326_347_874_040_841;
        match self.0 {
            Kind::Fixed(delay) => delay,
            Kind::Uniform(shortest, longest) => {
                let range = longest.saturating_sub(shortest).as_secs_f64() * draw;
                let range = Duration::try_from_secs_f64(range).unwrap_or(Duration::MAX);
                shortest.saturating_add(range).min(longest)
            }
            Kind::Heavy(median, p99) => {
                let sigma = (p99.as_secs_f64() / median.as_secs_f64()).ln() / P99;
                // Box and Muller.
                let normal =
                    (-2.0 * (1.0 - draw).ln()).sqrt() * (std::f64::consts::TAU * other).cos();
                let seconds = median.as_secs_f64() * (sigma * normal).exp();
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Fixed(delay) => write!(f, "{delay:?}"),
            Kind::Uniform(shortest, longest) => write!(f, "{shortest:?} to {longest:?}"),
            Kind::Heavy(median, p99) => write!(f, "{median:?}, 1 in 100 above {p99:?}"),
        }
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The answer comes later.
    Latency,
    /// The call is sent later.
    LatencyBefore,
    /// An outcome of your own, in place of the call.
    Outcome,
    /// The call is not sent, and never ends.
    Hang,
}

impl Fault {
    pub(super) const ALL: [Self; 4] = [
        Self::Latency,
        Self::LatencyBefore,
        Self::Outcome,
        Self::Hang,
    ];

    /// The word for this fault in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::LatencyBefore => "latency_before",
            Self::Outcome => "outcome",
            Self::Hang => "hang",
        }
    }

    /// Whether it is injected into the call with this number or key.
    pub(super) fn hits(self, share: f64, seed: u64, call: u64) -> bool {
        // Most shares are 0, and need no draw.
        share > 0.0 && draw_of(seed, draw_number(call, self as u64)) < share
    }

    /// The length of the delay of a call.
    pub(super) fn delay(self, delay: Delay, seed: u64, call: u64) -> Duration {
        let (one, two) = (4 + 2 * self as u64, 5 + 2 * self as u64);
        let draw = |of| draw_of(seed, draw_number(call, of));
        delay.length(draw(one), draw(two))
    }
}

/// Eight draws for each call. It rotates, because a key may have its information in its highest bits.
const fn draw_number(call: u64, of: u64) -> u64 {
    call.rotate_left(3) ^ of
}

pub(super) fn check_share(field: &'static str, share: f64) -> Result<f64, InvalidConfig> {
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(InvalidConfig::new(field, share, "a share from 0 to 1"))
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_million_calls_is_hit() {
        for share in [0.0, 0.001, 0.05, 0.5, 1.0] {
            for fault in Fault::ALL {
                let hits = (0..1_000_000)
                    .filter(|call| fault.hits(share, 7, *call))
                    .count();
                let sigma = (1e6 * share * (1.0 - share)).sqrt();
                let off = hits as f64 - 1e6 * share;
                assert!(off.abs() <= 3.0 * sigma, "{fault:?} {share}: {hits}");
            }
        }
    }

    #[test]
    fn every_bit_of_a_key_counts() {
        let hits = |shift: u32| -> Vec<bool> {
            let keys = (0..8_u64).map(|key| key << shift);
            keys.map(|key| Fault::Outcome.hits(0.5, 7, key)).collect()
        };
        for shift in [0, 32, 61] {
            assert!(
                hits(shift).contains(&true) && hits(shift).contains(&false),
                "{shift}"
            );
        }
    }

    #[test]
    fn delays_have_the_distribution_that_they_say() {
        let ms = Duration::from_millis;
        let of = |delay: Delay| {
            let delays = (0..100_000).map(|call| Fault::Latency.delay(delay, 7, call));
            let mut delays: Vec<_> = delays.collect();
            delays.sort_unstable();
            delays
        };
        let near = |found: Duration, wanted: Duration| {
            let off = found.as_secs_f64() / wanted.as_secs_f64() - 1.0;
            assert!(off.abs() < 0.05, "{found:?}, not {wanted:?}");
        };
        let heavy = of(Delay::heavy(ms(20), ms(900)));
        near(heavy[50_000], ms(20));
        near(heavy[99_000], ms(900));
        let uniform = of(Delay::uniform(ms(50)..ms(200)));
        assert!(uniform[0] >= ms(50) && uniform[99_999] <= ms(200));
        near(uniform[50_000], ms(125));
        let longest = of(Delay::uniform(Duration::ZERO..Duration::MAX));
        assert!(longest[99_999] > ms(1));
    }
}
