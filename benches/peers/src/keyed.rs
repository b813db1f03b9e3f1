//! Layers that keep a state for each key, beside the keyed limiters of governor and throttle-net. Each
//! call is awaited in a spawned task. `--quick` runs a tenth.

use buttress::http::stack;
use buttress::keyed::Keys;
use buttress::retry::Cloned;
use buttress::verdict::Outcome;
use buttress::{Error, ErrorLayer, Quota, RateLimitLayer, Rejection, StackError};
use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hash::Hash;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use throttle_net::PerKey;
use tower::{Layer, Service, ServiceExt};

/// A request that has a key.
trait Request: Copy + Eq + Hash + Send + Sync + 'static {
    fn number(number: u64) -> Self;
    fn name(&self) -> &str;
}

/// Some names that were made before. As many as the cases need, again and again.
static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..400_000).map(|n| format!("{n:012}")).collect());

impl Request for &'static str {
    fn number(number: u64) -> Self {
        &NAMES[number as usize % NAMES.len()]
    }

    fn name(&self) -> &str {
        self
    }
}

/// A number in decimal, for a flood of names that never repeat.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Digits([u8; 12]);

impl Request for Digits {
    fn number(mut number: u64) -> Self {
        let mut digits = *b"000000000000";
        for digit in digits.iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
        Self(digits)
    }

    fn name(&self) -> &str {
        std::str::from_utf8(&self.0).expect("decimal digits")
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a request may have no key")]
fn key<R: Request>(request: &R) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(request.name()))
}

#[derive(Clone)]
struct Upstream;

impl<R> Service<R> for Upstream {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        black_box(request);
        ready(Ok(()))
    }
}

/// What users of the other libraries write: a service that asks the limiter in `call`.
#[derive(Clone)]
struct Asks<F>(F);

impl<R, F: Fn(&R) -> bool> Service<R> for Asks<F> {
    type Response = ();
    type Error = Error<Infallible>;
    type Future = Ready<Result<(), Error<Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        if !(self.0)(&request) {
            let by = buttress::Name::UNNAMED;
            let retry_after = None;
            return ready(Err(Error::reject(Rejection::RateLimited {
                retry_after,
                by,
            })));
        }
        black_box(request);
        ready(Ok(()))
    }
}

type Governor<R> = governor::RateLimiter<R, DefaultKeyedStateStore<R>, DefaultClock>;

fn governor<R: Request>() -> impl Fn(&R) -> bool + Clone {
    let quota = governor::Quota::per_second(NonZeroU32::new(FAST).expect("not zero"));
    let limiter: Arc<Governor<R>> = Arc::new(Governor::keyed(quota));
    move |request| limiter.check_key(request).is_ok()
}

fn throttle_net<R: Request>(rate: u32, period: Duration) -> impl Fn(&R) -> bool + Clone {
    let limiter = Arc::new(PerKey::<R>::per_duration(rate, period));
    move |request| limiter.try_acquire(request)
}

/// A quota that no case reaches, in calls per second.
const FAST: u32 = 1_000_000_000;

const KEPT: Keys = Keys::at_most(1_500);

/// Nanoseconds per call of `calls` calls, each awaited, with the keys `0..keys` in turn.
async fn time<R, S>(service: S, keys: u64, calls: u64, from: u64) -> f64
where
    R: Request,
    S: Service<R, Response = ()> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let run = async move {
        let mut service = service;
        let start = Instant::now();
        for number in 0..calls {
            let request = R::number(from + number % keys);
            if let Ok(ready) = service.ready().await {
                let _outcome = black_box(ready.call(request).await);
            }
        }
        start.elapsed().as_nanos() as f64 / calls as f64
    };
    tokio::spawn(run).await.expect("no call panics")
}

/// The median of several rounds.
async fn measure<S>(what: &str, service: S, keys: u64, rounds: usize) -> f64
where
    S: Service<&'static str, Response = ()> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let mut times = Vec::new();
    for round in 0..=rounds {
        // A miss needs new keys in each round.
        let from = if keys > 1_000 {
            round as u64 % 2 * keys
        } else {
            0
        };
        times.push(time(service.clone(), keys, 200_000, from).await);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("| {what} | {median:.0} |");
    median
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4_096.0 / 1e6
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 3 } else { 21 };
    let new_keys = 200_000;
    LazyLock::force(&NAMES);
    println!("| rate limit by key, one thread | ns per call |\n|---|---|");
    let quota = Quota::per_second(FAST);
    let unkeyed = RateLimitLayer::new(quota).layer(ErrorLayer.layer(Upstream));
    let keyed = || {
        let layer = RateLimitLayer::builder(quota).per_key(key::<&'static str>);
        let layer = layer.keys(KEPT).build().expect("valid");
        layer.layer(ErrorLayer.layer(Upstream))
    };
    let without = measure("buttress, no keys", unkeyed, 1, rounds).await;
    let one = measure("buttress, one key", keyed(), 1, rounds).await;
    let many = measure("buttress, 1 000 keys", keyed(), 1_000, rounds).await;
    measure("buttress, always a new key", keyed(), new_keys, rounds).await;
    measure("governor, one key", Asks(governor()), 1, rounds).await;
    measure("governor, 1 000 keys", Asks(governor()), 1_000, rounds).await;
    measure(
        "governor, always a new key (keeps all)",
        Asks(governor()),
        new_keys,
        rounds,
    )
    .await;
    let second = Duration::from_secs(1);
    let throttle = || Asks(throttle_net(FAST, second));
    measure("throttle-net, one key", throttle(), 1, rounds).await;
    measure("throttle-net, 1 000 keys", throttle(), 1_000, rounds).await;
    measure(
        "throttle-net, always a new key",
        throttle(),
        new_keys,
        rounds,
    )
    .await;

    let plain = || {
        let stack = stack().carrier(()).replay(Cloned).classify(Outcome);
        stack.rate_limit(quota).load_shed(1_000)
    };
    let stack_without = plain().service(Upstream).expect("valid");
    let stack_without = measure("buttress stack, no keys", stack_without, 1, rounds).await;
    let by_key = || {
        let stack = plain().per_key(key::<&'static str>).keys(KEPT);
        stack.service(Upstream).expect("valid")
    };
    let stack_one = measure("buttress stack, one key", by_key(), 1, rounds).await;
    let stack_many = measure("buttress stack, 1 000 keys", by_key(), 1_000, rounds).await;

    println!(
        "\nA known key costs, beside the same layer without keys (at most 60 ns for one layer):"
    );
    for (what, with, without) in [
        ("rate limit, one key", one, without),
        ("rate limit, 1 000 keys", many, without),
        ("stack, one key", stack_one, stack_without),
        ("stack, 1 000 keys", stack_many, stack_without),
    ] {
        println!("* {what}: {:.0} ns", with - without);
    }

    let flood = if quick { 1_000_000 } else { 10_000_000 };
    println!("\nA flood of {flood} keys, each used up by its first call:");
    let layer = RateLimitLayer::builder(Quota::new(1, Duration::from_secs(3_600)));
    let layer = layer
        .max_wait(Duration::ZERO)
        .per_key(key::<Digits>)
        .keys(Keys::at_most(1_024));
    let layer = layer.build().expect("valid");
    let service = layer.layer(ErrorLayer.layer(Upstream));
    time::<Digits, _>(service.clone(), u64::MAX, 10_000, 0).await;
    let before = resident();
    let nanos = time::<Digits, _>(service, u64::MAX, flood, 10_000).await;
    let after = resident();
    println!(
        "* buttress: {nanos:.0} ns per call (at most 1 000), {} keys kept, resident {before:.1} MB before \
         and {after:.1} MB after",
        layer.by_key().len(),
    );
    let before = resident();
    let hourly = throttle_net(1, Duration::from_secs(3_600));
    let nanos = time::<Digits, _>(Asks(hourly), u64::MAX, flood, 0).await;
    println!(
        "* throttle-net: {nanos:.0} ns per call, resident {before:.1} MB before and {:.1} MB after",
        resident()
    );
    let before = resident();
    let nanos = time::<Digits, _>(Asks(governor()), u64::MAX, flood, 0).await;
    println!(
        "* governor: {nanos:.0} ns per call, resident {before:.1} MB before and {:.1} MB after",
        resident()
    );
}
