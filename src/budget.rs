//! How many retries there may be, in one word: `[milli-tokens:32][stamp:32 in 2^27 ns]`.
//!
//! The stamp is the time up to which the reserve has been credited. It is compared modulo 2^32, 18
//! years; what lies in the half behind it is taken for a clock that is a little late, so that two
//! threads with slightly different times never mint tokens.

use crate::error::InvalidConfig;
use crate::name::Name;
use crate::sync::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use crate::time::Timeline;
use std::fmt;
use std::sync::Arc;

/// One retry, in thousandths.
const TOKEN: u32 = 1_000;
/// The largest bucket, in tokens.
const MAX_CAPACITY: u32 = u32::MAX / TOKEN;
/// Nanoseconds per unit of the stamp, 0.13 s.
const UNIT: u64 = 1 << 27;

/// A token bucket in thousandths of a token, told the time in nanoseconds.
#[derive(Debug)]
struct Bucket {
    word: AtomicU64,
    capacity: u32,
    /// What a deposit adds.
    earned: u32,
    /// What a second adds.
    reserve: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    tokens: u32,
    stamp: u32,
}

impl From<u64> for Level {
    fn from(word: u64) -> Self {
        Self {
            tokens: (word >> 32) as u32,
            stamp: word as u32,
        }
    }
}

impl From<Level> for u64 {
    fn from(level: Level) -> Self {
        // No field reaches into the other: `|` could as well be `^`.
        u64::from(level.tokens) << 32 | u64::from(level.stamp)
    }
}

impl Bucket {
    /// A full one.
    fn new(capacity: u32, earned: u32, reserve: u32) -> Self {
        let full = Level {
            tokens: capacity,
            stamp: 0,
        };
        Self {
            word: AtomicU64::new(full.into()),
            capacity,
            earned,
            reserve,
        }
    }

    /// The level with the reserve credited up to `now`.
    fn refilled(&self, level: Level, now: u64) -> Level {
        let elapsed = ((now / UNIT) as u32).wrapping_sub(level.stamp);
        if self.reserve == 0 || elapsed > u32::MAX / 2 {
            return level;
        }
        // Rounded down; in parts of a second that no unit divides evenly.
        let per_unit = u128::from(self.reserve) * u128::from(UNIT);
        let credit = u128::from(elapsed) * per_unit / 1_000_000_000;
        if credit >= u128::from(self.capacity.saturating_sub(level.tokens)) {
            // Clipped: what would not fit is gone. Rounded up, so that no time is credited twice.
            return Level {
                tokens: self.capacity,
                stamp: now.div_ceil(UNIT) as u32,
            };
        }
        // The time that the credit stands for, rounded up; the rest is credited later.
        let units = (credit * 1_000_000_000).div_ceil(per_unit) as u32;
        Level {
            tokens: level.tokens + credit as u32,
            stamp: level.stamp.wrapping_add(units),
        }
    }

    fn withdraw(&self, now: u64) -> bool {
        self.update(|level| {
            let level = self.refilled(level, now);
            let tokens = level.tokens.checked_sub(TOKEN)?;
            Some(Level { tokens, ..level })
        })
    }

    fn deposit(&self) {
        self.add(self.earned);
    }

    fn refund(&self) {
        self.add(TOKEN);
    }

    /// Up to the capacity; a full bucket is only looked at.
    fn add(&self, tokens: u32) {
        self.update(|level| {
            let room = self.capacity - level.tokens;
            let tokens = level.tokens + tokens.min(room);
            (tokens > level.tokens).then_some(Level { tokens, ..level })
        });
    }

    fn tokens(&self, now: u64) -> u32 {
        self.refilled(self.word.load(Acquire).into(), now).tokens
    }

    fn update(&self, next: impl Fn(Level) -> Option<Level>) -> bool {
        // AcqRel: tokens are all that is passed on, but whoever spends one may as well see what
        // earned it.
        self.word
            .fetch_update(AcqRel, Acquire, |word| next(word.into()).map(u64::from))
            .is_ok()
    }
}

/// A budget of retries, shared by all its clones. Usable without Tower and without a runtime.
///
/// A token bucket, full at the start: each first attempt that went well adds `ratio` tokens, each
/// second adds `reserve`, each retry takes one. In any time since it was made it grants at most
/// `capacity + ratio · deposits + reserve · seconds` (the scheme of Finagle's `RetryBudget`).
///
/// ```
/// use buttress::retry::Budget;
///
/// let budget = Budget::builder().capacity(1).ratio(0.5).reserve(0.0).build()?;
/// budget.try_withdraw().expect("a full bucket").spend();
/// assert!(budget.try_withdraw().is_none());
/// budget.deposit();
/// budget.deposit();
/// assert!(budget.try_withdraw().is_some());
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

struct Shared {
    bucket: Bucket,
    timeline: Timeline,
    name: Name,
}

impl Budget {
    /// Starts from the defaults.
    pub fn builder() -> BudgetBuilder {
        BudgetBuilder {
            capacity: 100,
            ratio: 0.2,
            reserve: 1.0,
            name: Name::default(),
        }
    }

    /// The tokens in the bucket, in steps of 0.001.
    #[must_use]
    pub fn tokens(&self) -> f64 {
        let Shared {
            bucket, timeline, ..
        } = &*self.shared;
        f64::from(bucket.tokens(timeline.now())) / f64::from(TOKEN)
    }

    /// Takes a token for one retry, if there is one.
    #[must_use = "a withdrawal that is dropped goes back"]
    pub fn try_withdraw(&self) -> Option<Withdrawal> {
        let Shared {
            bucket, timeline, ..
        } = &*self.shared;
        bucket.withdraw(timeline.now()).then(|| Withdrawal {
            budget: self.clone(),
            spent: false,
        })
    }

    /// Adds what one first attempt that went well earns. A full bucket is left as it is.
    pub fn deposit(&self) {
        self.shared.bucket.deposit();
    }

    /// Puts a token back that was spent on a retry which was not sent after all.
    pub(crate) fn refund(&self) {
        self.shared.bucket.refund();
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

/// Its settings, for people.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = |thousandths| f64::from(thousandths) / f64::from(TOKEN);
        let Bucket {
            capacity,
            earned,
            reserve,
            ..
        } = self.shared.bucket;
        write!(
            f,
            "budget{} of {} tokens, {} per success, {} per second",
            self.shared.name,
            tokens(capacity),
            tokens(earned),
            tokens(reserve)
        )
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("name", &self.shared.name)
            .field("tokens", &self.tokens())
            .finish_non_exhaustive()
    }
}

/// A token taken from a [`Budget`] for a retry that has not been sent. Dropping it puts it back.
#[derive(Debug)]
#[must_use = "a withdrawal that is dropped goes back"]
pub struct Withdrawal {
    budget: Budget,
    spent: bool,
}

impl Withdrawal {
    /// The retry is sent.
    pub fn spend(mut self) {
        self.spent = true;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if !self.spent {
            self.budget.refund();
        }
    }
}

/// Builds a [`Budget`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct BudgetBuilder {
    capacity: u32,
    ratio: f64,
    reserve: f64,
    name: Name,
}

impl BudgetBuilder {
    /// The most tokens, and as many at the start. Up to 4 294 967; with 0 there are no retries.
    /// Default: 100.
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }

    /// Tokens for each first attempt that went well, in steps of 0.001, rounded down; 0 for none.
    /// Default: 0.2.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Tokens per second, in steps of 0.001, rounded down, so that a callee that answers nothing is still tried;
    /// 0 for none. Default: 1.
    pub fn reserve(mut self, reserve: f64) -> Self {
        self.reserve = reserve;
        self
    }

    /// The name in `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self
    }

    /// The budget, full.
    ///
    /// # Errors
    /// A capacity above 4 294 967; a ratio or reserve that is negative, not finite, or so small
    /// that it would round to 0.
    pub fn build(self) -> Result<Budget, InvalidConfig> {
        if self.capacity > MAX_CAPACITY {
            return Err(InvalidConfig::new(
                "capacity",
                self.capacity,
                "at most 4294967",
            ));
        }
        let earned = thousandths("ratio", self.ratio)?;
        let reserve = thousandths("reserve", self.reserve)?;
        let bucket = Bucket::new(self.capacity * TOKEN, earned, reserve);
        let shared = Shared {
            bucket,
            timeline: Timeline::start(),
            name: self.name,
        };
        Ok(Budget {
            shared: Arc::new(shared),
        })
    }
}

/// Rounded down, so that no more is granted than asked for, but for the error of the float itself:
/// 0.57 is 570. What is too large for any bucket saturates.
fn thousandths(field: &'static str, value: f64) -> Result<u32, InvalidConfig> {
    let thousandths = (value * f64::from(TOKEN) + 1e-6) as u32;
    if value.is_finite() && (thousandths > 0 || value == 0.0) {
        return Ok(thousandths);
    }
    Err(InvalidConfig::new(
        field,
        value,
        "0, or finite and at least 0.001",
    ))
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn bucket(capacity: u32, ratio: f64, reserve: f64) -> Bucket {
        let (ratio, reserve) = (
            thousandths("", ratio).unwrap(),
            thousandths("", reserve).unwrap(),
        );
        Bucket::new(capacity * TOKEN, ratio, reserve)
    }

    fn drained(capacity: u32, ratio: f64, reserve: f64) -> Bucket {
        let bucket = bucket(capacity, ratio, reserve);
        bucket.word.store(0, crate::sync::Ordering::SeqCst);
        bucket
    }

    fn grants(bucket: &Bucket, now: u64) -> usize {
        (0..10_000_000).take_while(|_| bucket.withdraw(now)).count()
    }

    #[test]
    fn a_ratio_grants_what_it_says() {
        for ratio in [
            0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.75, 0.9, 0.99, 2.0,
        ] {
            let bucket = drained(100, ratio, 0.0);
            let granted = (0..10_000)
                .filter(|_| {
                    bucket.deposit();
                    bucket.withdraw(0)
                })
                .count();
            let expected = 10_000.0 * f64::min(1.0, ratio);
            assert!(
                (granted as f64 - expected).abs() <= 1.0,
                "{ratio}: {granted}"
            );
        }
    }

    #[test]
    fn the_reserve_is_credited_exactly_and_never_early() {
        for reserve in [0.001, 0.1, 1.0, 3.0, 7.4, 1_000.0] {
            let bucket = drained(1_000_000, 0.2, reserve);
            let mut granted = 0;
            for tick in 0..100_000_u64 {
                // Steps that no unit divides.
                let now = tick * 33_333_333;
                granted += grants(&bucket, now) as u64;
                let bound = reserve * now as f64 / 1e9;
                assert!(
                    granted as f64 <= bound,
                    "{reserve}: {granted} after {now} ns"
                );
            }
            let due = reserve * 3_333.0;
            assert!(
                granted as f64 >= due - 2.0 - due / 500.0,
                "{reserve}: {granted} of {due}"
            );
        }
    }

    #[test]
    fn a_long_idle_bucket_holds_its_capacity_and_no_more() {
        let bucket = drained(100, 0.2, 1.0);
        assert_eq!(grants(&bucket, 60 * 86_400 * SECOND), 100);
    }

    #[test]
    fn a_month_of_successes_does_not_stop_the_reserve() {
        let bucket = bucket(100, 0.2, 1.0);
        let month = 30 * 86_400;
        for _ in 0..month {
            bucket.deposit();
        }
        let granted: usize = (0..3_600)
            .map(|second| grants(&bucket, (month + second) * SECOND))
            .sum();
        assert!((3_690..=3_700).contains(&granted), "{granted}");
    }

    #[test]
    fn the_stamp_holds_across_its_wrap() {
        let wrap = UNIT << 32;
        let bucket = drained(10, 0.2, 1.0);
        let start = wrap - SECOND;
        assert_eq!(grants(&bucket, wrap / 2 - SECOND), 10);
        assert_eq!(grants(&bucket, start), 10);
        assert_eq!(grants(&bucket, start + 3 * SECOND), 2);
        assert_eq!(grants(&bucket, start + 6 * SECOND), 3);
    }

    #[test]
    fn a_thread_with_a_late_clock_mints_nothing() {
        let bucket = drained(100, 0.2, 1.0);
        assert_eq!(grants(&bucket, 50 * SECOND), 49);
        assert_eq!(grants(&bucket, 20 * SECOND), 0);
    }

    #[test]
    fn a_full_bucket_is_not_written() {
        let bucket = bucket(100, 0.2, 1.0);
        let before = bucket.word.load(Acquire);
        bucket.deposit();
        bucket.refund();
        assert_eq!(bucket.word.load(Acquire), before);
    }

    #[test]
    fn shares_are_rounded_down_to_thousandths() {
        for (value, expected) in [
            (0.0015, 1),
            (0.57, 570),
            (0.29, 290),
            (0.001, 1),
            (1.9999, 1_999),
            (0.0, 0),
        ] {
            assert_eq!(thousandths("ratio", value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn invalid_settings_are_named() {
        for value in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.1,
            0.0004,
            1e-300,
        ] {
            let ratio = Budget::builder().ratio(value).build().unwrap_err();
            assert_eq!(ratio.field(), "ratio");
            let reserve = Budget::builder().reserve(value).build().unwrap_err();
            assert_eq!(reserve.field(), "reserve");
        }
        let capacity = Budget::builder().capacity(u32::MAX).build().unwrap_err();
        assert_eq!(capacity.field(), "capacity");
        let widest = Budget::builder()
            .capacity(MAX_CAPACITY)
            .ratio(1e300)
            .reserve(f64::MAX);
        assert!(widest.build().unwrap().tokens() >= 4_294_967.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn grants_stay_within_capacity_deposits_and_time(
            capacity in prop_oneof![0..5_u32, 0..=MAX_CAPACITY],
            ratio in prop_oneof![Just(0.0), 0.001..3.0_f64, Just(f64::MAX)],
            reserve in prop_oneof![Just(0.0), 0.001..50.0_f64, Just(f64::MAX)],
            steps in prop::collection::vec((0..4_u8, prop_oneof![0..SECOND, 0..u64::MAX / 64]), 1..60),
        ) {
            let bucket = bucket(capacity, ratio, reserve);
            let (mut now, mut granted, mut deposits) = (0, 0_u128, 0_u128);
            for (step, time) in steps {
                match step {
                    0 => { deposits += 1; bucket.deposit(); }
                    1 => now += time,
                    2 => granted += u128::from(bucket.withdraw(now)),
                    _ => if bucket.withdraw(now) { bucket.refund() },
                }
                let earned = deposits * u128::from(bucket.earned);
                let bound = u128::from(bucket.capacity) + earned
                    + u128::from(now) * u128::from(bucket.reserve) / 1_000_000_000;
                prop_assert!(granted * u128::from(TOKEN) <= bound);
                prop_assert!(bucket.tokens(now) <= bucket.capacity);
            }
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn deposits_and_withdrawals_never_grant_more_than_there_is() {
        loom::model(|| {
            // Room for two, one inside; a deposit adds half a token.
            let bucket = Arc::new(Bucket::new(2 * TOKEN, TOKEN / 2, 0));
            assert!(bucket.withdraw(0));
            let spawn = |work: fn(&Bucket) -> bool| {
                let bucket = bucket.clone();
                thread::spawn(move || work(&bucket))
            };
            let one = spawn(|bucket| bucket.withdraw(0));
            let two = spawn(|bucket| {
                bucket.deposit();
                bucket.withdraw(0)
            });
            let granted = [one.join().unwrap(), two.join().unwrap()];
            let granted = granted.into_iter().filter(|granted| *granted).count() as u32;
            assert_eq!(granted, 1);
            assert_eq!(bucket.tokens(0), TOKEN + TOKEN / 2 - granted * TOKEN);
        });
    }

    #[test]
    fn a_second_is_credited_once_to_threads_that_race_for_it() {
        loom::model(|| {
            let bucket = Arc::new(Bucket::new(2 * TOKEN, 0, TOKEN));
            assert!(bucket.withdraw(0) && bucket.withdraw(0));
            let spawn = |now| {
                let bucket = bucket.clone();
                thread::spawn(move || bucket.withdraw(now))
            };
            let (one, two) = (spawn(10 * UNIT), spawn(8 * UNIT));
            // 1.3 and 1.07 tokens' worth of time: one token between them.
            assert!(one.join().unwrap() ^ two.join().unwrap());
        });
    }
}
