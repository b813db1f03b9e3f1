//! The retry budget: a token bucket in one word, `[milli-tokens:32][stamp:32 in 2^27 ns]`.
//!
//! The stamp is the time up to which the reserve was credited and the decay applied. Stamps wrap
//! after 18 years, so they are compared modulo 2^32. A time in the half before the stamp means that a
//! thread's clock is a little late. It changes nothing, so threads whose clocks differ slightly never
//! create tokens.

mod throttle;

use crate::error::InvalidConfig;
use crate::name::Name;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::time::{Shown, Timeline};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use throttle::Throttle;
use tokio::time::Instant;

/// A token, which pays for one retry, in thousandths.
const TOKEN: u32 = 1_000;
/// The largest `floor`, in tokens.
const MAX_FLOOR: u32 = u32::MAX / TOKEN;
/// The unit of the stamp in nanoseconds, 0.13 s.
const UNIT: u64 = 1 << 27;

/// The bucket. Amounts are in thousandths of a token. Callers pass in the time in nanoseconds.
#[derive(Debug)]
struct Bucket {
    word: AtomicU64,
    /// The reserve fills the bucket up to this level, and the decay stops at it.
    floor: u32,
    /// The amount that a deposit adds.
    earned: u32,
    /// The amount that a second adds below the floor.
    reserve: u32,
    /// The share of the tokens that is left after one unit of time, in 2^-63.
    kept: u64,
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
        // The fields do not overlap: `|` and `^` give the same result.
        u64::from(level.tokens) << 32 | u64::from(level.stamp)
    }
}

impl Bucket {
    /// A bucket filled to its floor.
    fn new(settings: &BudgetSettings) -> Result<Self, InvalidConfig> {
        let BudgetSettings {
            floor,
            ratio,
            reserve,
            ttl,
        } = *settings;
        if floor > MAX_FLOOR {
            return Err(InvalidConfig::new("floor", floor, "at most 4294967"));
        }
        let unit = Duration::from_nanos(UNIT).as_secs_f64();
        let start = Level {
            tokens: floor * TOKEN,
            stamp: 0,
        };
        Ok(Self {
            word: AtomicU64::new(start.into()),
            floor: floor * TOKEN,
            earned: setting("ratio", ratio)?,
            reserve: setting("reserve", reserve)?,
            // Rounded down, so that no token lasts longer than configured. A `ttl` of zero gives 0.
            kept: ((-unit / ttl.as_secs_f64()).exp() * (1_u64 << 63) as f64) as u64,
        })
    }

    /// The level at `now`: above the floor it has decayed, below it the reserve was added.
    fn settled(&self, level: Level, now: u64) -> Level {
        let stamp = (now / UNIT) as u32;
        let elapsed = stamp.wrapping_sub(level.stamp);
        if elapsed > u32::MAX / 2 {
            return level;
        }
        if level.tokens > self.floor {
            let tokens = decayed(level.tokens, self.kept, elapsed).max(self.floor);
            return Level { tokens, stamp };
        }
        if self.reserve == 0 {
            return Level { stamp, ..level };
        }
        // Rounded down to thousandths.
        let per_unit = u128::from(self.reserve) * u128::from(UNIT);
        let credit = u128::from(elapsed) * per_unit / 1_000_000_000;
        if credit >= u128::from(self.floor - level.tokens) {
            // The bucket is full: the rest of the credit is lost. The stamp is rounded up, so that
            // no time is credited twice.
            return Level {
                tokens: self.floor,
                stamp: now.div_ceil(UNIT) as u32,
            };
        }
        // The time that this credit stands for, rounded up. The rest of the time is credited later.
        let units = (credit * 1_000_000_000).div_ceil(per_unit) as u32;
        Level {
            tokens: level.tokens + credit as u32,
            stamp: level.stamp.wrapping_add(units),
        }
    }

    fn withdraw(&self, now: u64) -> bool {
        self.update(|level| {
            let level = self.settled(level, now);
            let tokens = level.tokens.checked_sub(TOKEN)?;
            Some(Level { tokens, ..level })
        })
    }

    /// Reads the clock only when a token becomes whole, because the clock costs more than the rest.
    /// Until then the added fraction decays from the old stamp on: too early, but never too late.
    #[inline]
    fn deposit(&self, now: impl Fn() -> u64) {
        if self.earned == 0 {
            return;
        }
        self.update(|level| {
            let tokens = level.tokens.saturating_add(self.earned);
            if tokens / TOKEN == level.tokens / TOKEN {
                return Some(Level { tokens, ..level });
            }
            let level = self.settled(level, now());
            let tokens = level.tokens.saturating_add(self.earned);
            Some(Level { tokens, ..level })
        });
    }

    fn refund(&self) {
        self.update(|level| {
            let tokens = level.tokens.saturating_add(TOKEN);
            Some(Level { tokens, ..level })
        });
    }

    fn tokens(&self, now: u64) -> u32 {
        self.settled(self.word.load(Relaxed).into(), now).tokens
    }

    #[inline]
    fn update(&self, next: impl Fn(Level) -> Option<Level>) -> bool {
        // Relaxed: the word is the only data. A thread that takes a token does not read what another
        // thread wrote before it deposited.
        self.word
            .fetch_update(Relaxed, Relaxed, |word| next(word.into()).map(u64::from))
            .is_ok()
    }
}

/// `tokens · kept^units`, with each step rounded down.
fn decayed(mut tokens: u32, mut kept: u64, mut units: u32) -> u32 {
    let part = |of: u64, kept: u64| (u128::from(of) * u128::from(kept)) >> 63;
    while units > 0 {
        if units & 1 == 1 {
            tokens = part(tokens.into(), kept) as u32;
        }
        kept = part(kept, kept) as u64;
        units >>= 1;
    }
    tokens
}

/// A retry budget: bounds the retries of a client by its own traffic. Clones share it. Works without
/// Tower and without a runtime.
///
/// It is a token bucket, unless it is made by [`grpc`](Self::grpc). Each successful first attempt adds `ratio` tokens; each retry takes one
/// token.
///
/// * A client with traffic has about `ratio` tokens for each success of the last `ttl`. While the
///   bucket holds more than `floor` tokens, it decays exponentially, with `ttl` as the time constant.
/// * A client with little traffic has `floor` tokens. The bucket starts with them, and `reserve`
///   tokens per second refill it up to them.
/// * In the time since it was made, the budget has granted at most this many retries:
///   `floor + ratio · successful first attempts + reserve · seconds`.
///
/// The retry budgets of Finagle and linkerd use the same scheme (`retryRatio`,
/// `minRetriesPerSecond`, `ttl`), without the floor.
///
/// ```
/// use buttress::retry::Budget;
///
/// let budget = Budget::builder().floor(1).ratio(0.5).reserve(0.0).build()?;
/// budget.try_withdraw().expect("the floor").spend();
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
    rule: Rule,
    name: Name,
}

enum Rule {
    Bucket {
        bucket: Bucket,
        timeline: Timeline,
        settings: BudgetSettings,
    },
    Throttle(Throttle),
}

impl Budget {
    /// A builder with the defaults of [`BudgetSettings`].
    pub fn builder() -> BudgetBuilder {
        BudgetBuilder {
            settings: BudgetSettings::default(),
            name: Name::default(),
        }
    }

    /// A budget with the token rule of gRPC (gRFC A6, `retryThrottling`), in place of the bucket.
    ///
    /// It starts with `max_tokens`, 1 to 1000. Each attempt that fails and may be retried takes one token,
    /// also the first attempt and the last. Each success adds `token_ratio`, at least 0.001, up to
    /// `max_tokens`. A retry is allowed while there are more than half of `max_tokens`. It takes no token
    /// itself, so it makes no difference whether its [`Withdrawal`] is spent.
    ///
    /// ```
    /// use buttress::retry::Budget;
    ///
    /// let budget = Budget::grpc(4, 0.5)?;
    /// budget.record_failure();
    /// assert!(budget.try_withdraw().is_some());
    /// budget.record_failure();
    /// assert!(budget.try_withdraw().is_none()); // 2 of 4 tokens
    /// budget.deposit();
    /// assert!(budget.try_withdraw().is_some());
    /// # Ok::<(), buttress::error::InvalidConfig>(())
    /// ```
    ///
    /// # Errors
    /// `max_tokens` is 0 or above 1000; `token_ratio` is below 0.001 or not finite.
    pub fn grpc(max_tokens: u32, token_ratio: f64) -> Result<Self, InvalidConfig> {
        let rule = Rule::Throttle(Throttle::new(max_tokens, token_ratio)?);
        Ok(Self::with(rule, Name::default()))
    }

    fn with(rule: Rule, name: Name) -> Self {
        Self {
            shared: Arc::new(Shared { rule, name }),
        }
    }

    /// The tokens, in steps of 0.001.
    #[must_use]
    pub fn tokens(&self) -> f64 {
        let tokens = match &self.shared.rule {
            Rule::Bucket {
                bucket, timeline, ..
            } => bucket.tokens(timeline.now()),
            Rule::Throttle(throttle) => throttle.tokens(),
        };
        f64::from(tokens) / f64::from(TOKEN)
    }

    /// Takes a token for one retry. `None` if there is no whole token. A budget of [`grpc`](Self::grpc) only
    /// says whether a retry is allowed.
    #[must_use = "a withdrawal that is dropped goes back"]
    pub fn try_withdraw(&self) -> Option<Withdrawal> {
        let granted = match &self.shared.rule {
            Rule::Bucket {
                bucket, timeline, ..
            } => bucket.withdraw(timeline.now()),
            Rule::Throttle(throttle) => throttle.allows(),
        };
        granted.then(|| Withdrawal {
            budget: self.clone(),
            spent: false,
        })
    }

    /// Adds what one successful first attempt earns: `ratio` tokens. In a budget of [`grpc`](Self::grpc): what
    /// any success earns.
    #[inline]
    pub fn deposit(&self) {
        match &self.shared.rule {
            Rule::Bucket {
                bucket, timeline, ..
            } => bucket.deposit(|| timeline.now()),
            Rule::Throttle(throttle) => throttle.success(),
        }
    }

    /// Takes the token that a failed attempt costs by the rule of [`grpc`](Self::grpc). Does nothing in any
    /// other budget.
    pub fn record_failure(&self) {
        if let Rule::Throttle(throttle) = &self.shared.rule {
            throttle.failure();
        }
    }

    /// Adds what the success of a retry earns: nothing in a bucket, where retries would pay for themselves.
    pub(crate) fn retry_succeeded(&self) {
        if let Rule::Throttle(throttle) = &self.shared.rule {
            throttle.success();
        }
    }

    /// Whether a new budget allows no more retries than this one, and nobody else holds it.
    pub(crate) fn is_like_new(&mut self, now: Instant) -> bool {
        Arc::get_mut(&mut self.shared).is_some_and(|shared| match &shared.rule {
            Rule::Bucket {
                bucket, timeline, ..
            } => bucket.tokens(timeline.at(now)) >= bucket.floor,
            Rule::Throttle(throttle) => throttle.is_full(),
        })
    }

    /// Returns the token of a retry that was not sent after all.
    pub(crate) fn refund(&self) {
        if let Rule::Bucket { bucket, .. } = &self.shared.rule {
            bucket.refund();
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are valid")
    }
}

/// Prints the settings in a readable form.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.shared.name;
        match &self.shared.rule {
            Rule::Bucket { settings, .. } => {
                let BudgetSettings {
                    floor,
                    ratio,
                    reserve,
                    ttl,
                } = *settings;
                let ttl = Shown(ttl);
                write!(
                    f,
                    "budget{name} of {ratio} per success of the last {ttl}, floor {floor} (+{reserve} per second)"
                )
            }
            Rule::Throttle(throttle) => write!(
                f,
                "budget{name} of gRPC, at most {} tokens, {} per success",
                throttle.max_tokens(),
                throttle.ratio()
            ),
        }
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

/// A token taken from a [`Budget`] for one retry. Dropping it unspent returns the token.
///
/// ```
/// use buttress::retry::Budget;
///
/// let budget = Budget::builder().floor(2).build()?;
/// drop(budget.try_withdraw()); // not sent: the token goes back
/// budget.try_withdraw().expect("2 tokens").spend();
/// assert!(budget.tokens() < 2.0);
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Debug)]
#[must_use = "a withdrawal that is dropped goes back"]
pub struct Withdrawal {
    budget: Budget,
    spent: bool,
}

impl Withdrawal {
    /// Keeps the token: the retry is sent.
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

/// The settings of a [`Budget`].
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `floor` | 2 | the retries at once of a client with little traffic |
/// | `ratio` | 0.1 | the retries per successful first attempt |
/// | `reserve` | 0.1 | the retries per second while the bucket holds fewer than `floor` tokens |
/// | `ttl` | 5 s | how long a success counts |
///
/// With a `floor` and a `ratio` of 0 there are no retries.
///
/// ```
/// use buttress::retry::{Budget, BudgetSettings};
///
/// let settings = BudgetSettings { floor: 10, ..BudgetSettings::default() };
/// let budget = Budget::builder().settings(settings).build()?;
/// assert_eq!(budget.tokens(), 10.0);
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetSettings {
    /// The tokens at the start. The reserve fills the bucket up to this number, and the decay stops
    /// at it. At most 4 294 967. Default: 2.
    pub floor: u32,
    /// The tokens that a successful first attempt adds, in steps of 0.001, rounded down. 0 adds
    /// none. Default: 0.1.
    pub ratio: f64,
    /// The tokens per second that are added while there are fewer than `floor`, in steps of 0.001,
    /// rounded down. 0 adds none. They let a client probe an upstream that does not respond.
    /// Default: 0.1.
    pub reserve: f64,
    /// How long a success counts: the time constant of the decay above `floor`, in steps of
    /// 0.13 s. `Duration::MAX` means for ever. Default: 5 s.
    pub ttl: Duration,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            floor: 2,
            ratio: 0.1,
            reserve: 0.1,
            ttl: Duration::from_secs(5),
        }
    }
}

impl BudgetSettings {
    /// Checks whether a budget can be built with these settings.
    ///
    /// # Errors
    /// Fails if `floor` is above 4 294 967, or if `ratio` or `reserve` is negative, not finite, or so
    /// small that it would round to 0.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        Bucket::new(self).map(drop)
    }
}

/// Builds a [`Budget`].
///
/// ```
/// use buttress::{RetryLayer, retry::Budget};
///
/// // One budget for all clients of an upstream.
/// let budget = Budget::builder().floor(10).ratio(0.2).name("payments").build()?;
/// let layer = RetryLayer::builder().budget(budget.clone()).build()?;
/// assert_eq!(layer.budget().unwrap().tokens(), 10.0);
/// # Ok::<(), buttress::error::InvalidConfig>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct BudgetBuilder {
    settings: BudgetSettings,
    name: Name,
}

impl BudgetBuilder {
    /// Replaces all settings.
    pub fn settings(mut self, settings: BudgetSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The tokens of a client without traffic. The bucket starts with them, and `reserve` fills it up
    /// to them. At most 4 294 967. Default: 2.
    pub fn floor(mut self, floor: u32) -> Self {
        self.settings.floor = floor;
        self
    }

    /// The tokens that a successful first attempt adds, in steps of 0.001, rounded down. 0 adds
    /// none. Default: 0.1.
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.settings.ratio = ratio;
        self
    }

    /// The tokens per second that are added while there are fewer than `floor`, in steps of 0.001,
    /// rounded down. 0 adds none. Default: 0.1.
    pub fn reserve(mut self, reserve: f64) -> Self {
        self.settings.reserve = reserve;
        self
    }

    /// How long a success counts: the time constant of the decay above `floor`, in steps of
    /// 0.13 s. `Duration::MAX` means for ever. Default: 5 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.ttl = ttl;
        self
    }

    /// The name in `Debug`. Default: none.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.name = name.into();
        self
    }

    /// Builds the budget. It has `floor` tokens.
    ///
    /// # Errors
    /// The errors of [`BudgetSettings::check`].
    pub fn build(self) -> Result<Budget, InvalidConfig> {
        let rule = Rule::Bucket {
            bucket: Bucket::new(&self.settings)?,
            timeline: Timeline::start(),
            settings: self.settings,
        };
        Ok(Budget::with(rule, self.name))
    }
}

/// A setting in thousandths, at least 0.
fn setting(field: &'static str, value: f64) -> Result<u32, InvalidConfig> {
    let allowed = "0, or finite and at least 0.001";
    thousandths(value).ok_or_else(|| InvalidConfig::new(field, value, allowed))
}

/// Converts to thousandths, rounding down so that nothing is granted beyond the setting. The small
/// addend makes up for the error of the float: 0.57 is 570. A value above every bucket saturates.
/// `None`: it is negative, not finite, or would round to 0.
fn thousandths(value: f64) -> Option<u32> {
    let thousandths = (value * f64::from(TOKEN) + 1e-6) as u32;
    (value.is_finite() && (thousandths > 0 || value == 0.0)).then_some(thousandths)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    const SECOND: u64 = 1_000_000_000;

    fn settings(floor: u32, ratio: f64, reserve: f64) -> BudgetSettings {
        BudgetSettings {
            floor,
            ratio,
            reserve,
            ..BudgetSettings::default()
        }
    }

    fn bucket(floor: u32, ratio: f64, reserve: f64) -> Bucket {
        Bucket::new(&settings(floor, ratio, reserve)).unwrap()
    }

    fn drained(floor: u32, ratio: f64, reserve: f64) -> Bucket {
        let bucket = bucket(floor, ratio, reserve);
        set(&bucket, 0, 0);
        bucket
    }

    fn set(bucket: &Bucket, tokens: u32, now: u64) {
        let stamp = (now / UNIT) as u32;
        let level = Level { tokens, stamp };
        bucket.word.store(level.into(), Relaxed);
    }

    fn grants(bucket: &Bucket, now: u64) -> usize {
        (0..10_000_000).take_while(|_| bucket.withdraw(now)).count()
    }

    /// Deposits at `rate` per second from `from` to `to`.
    fn traffic(bucket: &Bucket, rate: u64, from: u64, to: u64) {
        for n in 0..(to - from) * rate / SECOND {
            bucket.deposit(|| from + n * SECOND / rate);
        }
    }

    #[test]
    fn a_ratio_grants_that_share_of_the_successes() {
        for ratio in [
            0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.6, 0.7, 0.75, 0.9, 0.99, 2.0,
        ] {
            let bucket = drained(100, ratio, 0.0);
            let granted = (0..10_000)
                .filter(|_| {
                    bucket.deposit(|| 0);
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
                // Steps that do not divide a unit.
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
    fn a_long_idle_bucket_holds_its_floor_and_no_more() {
        for tokens in [0, 100 * TOKEN, 100_000 * TOKEN, u32::MAX] {
            let bucket = bucket(100, 0.2, 1.0);
            set(&bucket, tokens, 0);
            assert_eq!(grants(&bucket, 60 * 86_400 * SECOND), 100, "{tokens}");
        }
    }

    #[test]
    fn a_month_of_successes_does_not_stop_the_reserve() {
        let bucket = bucket(100, 0.2, 1.0);
        let month = 30 * 86_400;
        for second in 0..month {
            bucket.deposit(|| second * SECOND);
        }
        let granted: usize = (0..3_600)
            .map(|second| grants(&bucket, (month + second) * SECOND))
            .sum();
        assert!((3_690..=3_700).contains(&granted), "{granted}");
    }

    #[test]
    fn a_client_with_traffic_has_what_the_successes_of_one_ttl_earned() {
        // 10 000 calls per second, as in a busy proxy; 3, as in a small client.
        for (rate, expected) in [(10_000, 5_000.0), (1_000, 500.0), (100, 50.0), (3, 2.0)] {
            let bucket = bucket(2, 0.1, 0.1);
            traffic(&bucket, rate, 0, 60 * SECOND);
            let tokens = f64::from(bucket.tokens(60 * SECOND)) / f64::from(TOKEN);
            assert!((tokens / expected - 1.0).abs() < 0.05, "{rate}: {tokens}");
        }
    }

    #[test]
    fn what_is_above_the_floor_decays_with_the_ttl() {
        let bucket = bucket(2, 0.1, 0.1);
        for (seconds, expected) in [
            (0.0, 1_000.0),
            (1.0, 818.7),
            (5.0, 367.9),
            (20.0, 18.3),
            (60.0, 2.0),
        ] {
            set(&bucket, 1_000 * TOKEN, 0);
            let tokens = bucket.tokens((seconds * 1e9) as u64);
            let tokens = f64::from(tokens) / f64::from(TOKEN);
            // The decay goes in whole steps of 0.13 s.
            assert!(
                tokens >= expected - 0.1 && tokens <= expected * 1.03,
                "{seconds} s: {tokens}"
            );
        }
    }

    #[test]
    fn an_endless_ttl_keeps_what_was_earned() {
        let ttl = Duration::MAX;
        let bucket = Bucket::new(&BudgetSettings {
            ttl,
            ..settings(2, 0.1, 0.1)
        });
        let bucket = bucket.unwrap();
        set(&bucket, 1_000 * TOKEN, 0);
        assert_eq!(bucket.tokens(365 * 86_400 * SECOND), 1_000 * TOKEN);
    }

    #[test]
    fn a_ttl_of_zero_leaves_the_floor() {
        let ttl = Duration::ZERO;
        let bucket = Bucket::new(&BudgetSettings {
            ttl,
            ..settings(2, 0.1, 0.1)
        });
        let bucket = bucket.unwrap();
        set(&bucket, 1_000 * TOKEN, 0);
        assert_eq!(bucket.tokens(UNIT), 2 * TOKEN);
    }

    #[test]
    fn the_clock_is_read_once_per_whole_token() {
        let bucket = bucket(2, 0.1, 0.1);
        let asked = Cell::new(0);
        for _ in 0..10_000 {
            bucket.deposit(|| {
                asked.set(asked.get() + 1);
                0
            });
        }
        assert_eq!(asked.get(), 1_000);
    }

    #[test]
    fn the_success_that_makes_a_token_whole_counts_in_full() {
        let bucket = bucket(0, 1.0, 0.0);
        for now in [60 * SECOND, 120 * SECOND] {
            bucket.deposit(|| now);
            assert_eq!(grants(&bucket, now), 1);
        }
    }

    #[test]
    fn a_success_that_earns_nothing_is_not_written() {
        let bucket = bucket(2, 0.0, 0.1);
        let before = bucket.word.load(Relaxed);
        bucket.deposit(|| SECOND);
        assert_eq!(bucket.word.load(Relaxed), before);
    }

    #[test]
    fn a_bucket_that_overflows_keeps_what_fits() {
        let bucket = bucket(MAX_FLOOR, f64::MAX, 0.0);
        for _ in 0..3 {
            bucket.deposit(|| 0);
            bucket.refund();
            assert_eq!(bucket.tokens(0), u32::MAX);
        }
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
    fn a_thread_with_a_late_clock_adds_no_tokens() {
        let bucket = drained(100, 0.2, 1.0);
        assert_eq!(grants(&bucket, 50 * SECOND), 49);
        assert_eq!(grants(&bucket, 20 * SECOND), 0);
    }

    #[test]
    fn a_thread_with_a_late_clock_removes_no_tokens() {
        let bucket = bucket(2, 0.1, 0.1);
        set(&bucket, 1_000 * TOKEN, 50 * SECOND);
        assert_eq!(bucket.tokens(20 * SECOND), 1_000 * TOKEN);
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
            assert_eq!(thousandths(value), Some(expected), "{value}");
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
            let reserve = settings(2, 0.1, value).check().unwrap_err();
            assert_eq!(reserve.field(), "reserve");
        }
        let floor = Budget::builder().floor(u32::MAX).build().unwrap_err();
        assert_eq!(floor.field(), "floor");
        let widest = Budget::builder()
            .floor(MAX_FLOOR)
            .ratio(1e300)
            .reserve(f64::MAX)
            .ttl(Duration::MAX);
        assert!(widest.build().unwrap().tokens() >= 4_294_967.0);
    }

    fn times() -> impl Strategy<Value = u64> {
        prop_oneof![0..SECOND, 0..100 * SECOND, 0..u64::MAX / 64]
    }

    fn ttls() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            times().prop_map(Duration::from_nanos),
        ]
    }

    fn buckets() -> impl Strategy<Value = Bucket> {
        let floor = prop_oneof![0..5_u32, 0..=MAX_FLOOR];
        let ratio = prop_oneof![Just(0.0), 0.001..3.0_f64, Just(f64::MAX)];
        let reserve = prop_oneof![Just(0.0), 0.001..50.0_f64, Just(f64::MAX)];
        (floor, ratio, reserve, ttls()).prop_map(|(floor, ratio, reserve, ttl)| {
            let settings = BudgetSettings {
                floor,
                ratio,
                reserve,
                ttl,
            };
            Bucket::new(&settings).unwrap()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn grants_stay_within_floor_deposits_and_time(
            bucket in buckets(),
            steps in prop::collection::vec((0..4_u8, times()), 1..60),
        ) {
            let (mut now, mut granted, mut deposits) = (0, 0_u128, 0_u128);
            for (step, time) in steps {
                match step {
                    0 => { deposits += 1; bucket.deposit(|| now); }
                    1 => now += time,
                    2 => granted += u128::from(bucket.withdraw(now)),
                    _ => if bucket.withdraw(now) { bucket.refund() },
                }
                let earned = deposits * u128::from(bucket.earned);
                let bound = u128::from(bucket.floor) + earned
                    + u128::from(now) * u128::from(bucket.reserve) / 1_000_000_000;
                prop_assert!(granted * u128::from(TOKEN) <= bound);
            }
        }

        /// So the bound on tokens does not depend on how often the level is read.
        #[test]
        fn a_bucket_decays_by_the_same_amount_in_any_number_of_steps(
            tokens in 0..=u32::MAX,
            ttl in 1..1_000_u64,
            steps in prop::collection::vec(0..20 * SECOND, 1..20),
        ) {
            let ttl = Duration::from_secs(ttl);
            let bucket = Bucket::new(&BudgetSettings { ttl, ..settings(2, 0.1, 0.0) }).unwrap();
            set(&bucket, tokens, 0);
            let end = steps.iter().sum();
            let at_once = bucket.tokens(end);
            let (mut level, mut now) = (Level::from(bucket.word.load(Relaxed)), 0);
            for step in steps {
                now += step;
                level = bucket.settled(level, now);
            }
            // Each step rounds down up to eight times.
            prop_assert!(level.tokens.abs_diff(at_once) <= 160, "{} {}", level.tokens, at_once);
        }

        /// Whenever the deposits are made.
        #[test]
        fn a_bucket_never_holds_more_than_its_floor_plus_the_exact_decay(
            ratio in 0.001..2.0_f64,
            steps in prop::collection::vec((any::<bool>(), prop_oneof![0..SECOND / 10, 0..10 * SECOND]), 1..60),
        ) {
            let bucket = bucket(2, ratio, 0.1);
            let (mut now, mut earned) = (0, Vec::new());
            for (deposit, time) in steps {
                now += time;
                if deposit {
                    bucket.deposit(|| now);
                    earned.push(now);
                }
                // A stamp may be two units late.
                let exact: f64 = earned.iter()
                    .map(|then| (-((now - then).saturating_sub(2 * UNIT) as f64) / 5e9).exp())
                    .sum();
                let bound = f64::from(bucket.floor) + exact * f64::from(bucket.earned);
                let tokens = f64::from(bucket.tokens(now));
                prop_assert!(tokens <= bound + 1.0, "{tokens} {bound}");
            }
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn bucket(floor: u32, ratio: f64, reserve: f64) -> Arc<Bucket> {
        let bucket = Bucket::new(&BudgetSettings {
            floor,
            ratio,
            reserve,
            ttl: Duration::from_secs(5),
        });
        Arc::new(bucket.unwrap())
    }

    #[test]
    fn deposits_and_withdrawals_never_grant_more_than_there_is() {
        loom::model(|| {
            // A token and a half; a deposit adds half a token.
            let bucket = bucket(2, 0.5, 0.0);
            assert!(bucket.withdraw(0));
            let spawn = |work: fn(&Bucket) -> bool| {
                let bucket = bucket.clone();
                thread::spawn(move || work(&bucket))
            };
            let one = spawn(|bucket| bucket.withdraw(0));
            let two = spawn(|bucket| {
                bucket.deposit(|| 0);
                bucket.withdraw(0)
            });
            let granted = [one.join().unwrap(), two.join().unwrap()];
            let granted = granted.into_iter().filter(|granted| *granted).count() as u32;
            assert_eq!(granted, 1);
            assert_eq!(bucket.tokens(0), TOKEN + TOKEN / 2 - granted * TOKEN);
        });
    }

    #[test]
    fn a_second_is_credited_once_when_threads_race_for_it() {
        loom::model(|| {
            let bucket = bucket(2, 0.0, 1.0);
            assert!(bucket.withdraw(0) && bucket.withdraw(0));
            let spawn = |now| {
                let bucket = bucket.clone();
                thread::spawn(move || bucket.withdraw(now))
            };
            let (one, two) = (spawn(10 * UNIT), spawn(8 * UNIT));
            // Enough time for 1.3 and 1.07 tokens: together the two threads get one.
            assert!(one.join().unwrap() ^ two.join().unwrap());
        });
    }

    #[test]
    fn no_deposit_is_lost_to_a_decay() {
        loom::model(|| {
            // 100 tokens, of which 13.5 are left after 10 s. A deposit adds 100.
            let bucket = bucket(0, 100.0, 0.0);
            bucket.deposit(|| 0);
            let depositing = {
                let bucket = bucket.clone();
                thread::spawn(move || bucket.deposit(|| 75 * UNIT))
            };
            assert!(bucket.withdraw(75 * UNIT));
            depositing.join().unwrap();
            // In both orders the old tokens decay once, and the deposit counts in full.
            let left = decayed(100 * TOKEN, bucket.kept, 75) - TOKEN + 100 * TOKEN;
            assert_eq!(bucket.tokens(75 * UNIT), left);
        });
    }
}
