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
use std::pin::Pin;
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

const NEW_KEYS: u64 = 200_000;

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

type Timed = Pin<Box<dyn Future<Output = f64>>>;

/// Something that is measured once per round: its name, and one round of it.
type Case = (&'static str, Box<dyn Fn(u64) -> Timed>);

fn case<S>(what: &'static str, service: S, keys: u64) -> Case
where
    S: Service<&'static str, Response = ()> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let round = move |round| -> Timed {
        // A miss needs other keys than the round before.
        let from = if keys > 1_000 { round % 2 * keys } else { 0 };
        Box::pin(time(service.clone(), keys, 200_000, from))
    };
    (what, Box::new(round))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All cases in turn, so that a busy moment of the machine meets all of them.
async fn measure(cases: &[Case], rounds: u64) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); cases.len()];
    for round in 0..=rounds {
        for (times, (_, run)) in times.iter_mut().zip(cases) {
            let time = run(round).await;
            if round > 0 {
                times.push(time);
            }
        }
    }
    for ((what, _), times) in cases.iter().zip(&times) {
        println!("| {what} | {:.0} |", median(times.clone()));
    }
    times
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4_096.0 / 1e6
}

async fn flood_of<F>(what: &str, service: Asks<F>, flood: u64)
where
    F: Fn(&Digits) -> bool + Clone + Send + 'static,
{
    let before = resident();
    let nanos = time::<Digits, _>(service.clone(), u64::MAX, flood, 0).await;
    let after = resident();
    println!(
        "* {what}: {nanos:.0} ns per call, resident {before:.1} MB before and {after:.1} MB after"
    );
    drop(service); // kept until here, because its states count
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let rounds = if quick { 3 } else { 21 };
    LazyLock::force(&NAMES);
    println!("| rate limit by key, one thread | ns per call |\n|---|---|");
    let quota = Quota::per_second(FAST);
    let unkeyed = RateLimitLayer::new(quota).layer(ErrorLayer.layer(Upstream));
    let keyed = || {
        let layer = RateLimitLayer::builder(quota).per_key(key::<&'static str>);
        let layer = layer.keys(KEPT).build().expect("valid");
        layer.layer(ErrorLayer.layer(Upstream))
    };
    let plain = || {
        let stack = stack().carrier(()).replay(Cloned).classify(Outcome);
        stack.rate_limit(quota).load_shed(1_000)
    };
    let by_key = || {
        let stack = plain().per_key(key::<&'static str>).keys(KEPT);
        stack.service(Upstream).expect("valid")
    };
    let throttle = || Asks(throttle_net(FAST, Duration::from_secs(1)));
    let cases = [
        case("buttress, no keys", unkeyed, 1),
        case("buttress, one key", keyed(), 1),
        case("buttress, 1 000 keys", keyed(), 1_000),
        case(
            "buttress stack, no keys",
            plain().service(Upstream).expect("valid"),
            1,
        ),
        case("buttress stack, one key", by_key(), 1),
        case("buttress stack, 1 000 keys", by_key(), 1_000),
        case("governor, one key", Asks(governor()), 1),
        case("governor, 1 000 keys", Asks(governor()), 1_000),
        case("throttle-net, one key", throttle(), 1),
        case("throttle-net, 1 000 keys", throttle(), 1_000),
        case("buttress, always a new key", keyed(), NEW_KEYS),
        case("throttle-net, always a new key", throttle(), NEW_KEYS),
        case(
            "governor, always a new key (keeps all)",
            Asks(governor()),
            NEW_KEYS,
        ),
    ];
    let times = measure(&cases, rounds).await;

    println!(
        "\nA known key costs, beside the same layer without keys (at most 60 ns for one layer):"
    );
    for (without, with) in [(0, 1), (0, 2), (3, 4), (3, 5)] {
        let pairs = times[with].iter().zip(&times[without]);
        let costs = pairs.map(|(with, without)| with - without).collect();
        println!("* {}: {:.0} ns", cases[with].0, median(costs));
    }

    let flood = if quick { 1_000_000 } else { 10_000_000 };
    println!("\nA flood of {flood} keys, each used up by its first call:");
    let layer = RateLimitLayer::builder(Quota::new(1, Duration::from_hours(1)));
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
    flood_of(
        "throttle-net",
        Asks(throttle_net(1, Duration::from_hours(1))),
        flood,
    )
    .await;
    flood_of("governor", Asks(governor()), flood).await;
}
