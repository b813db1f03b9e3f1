//! A turn of a fleet beside a turn of the local limiter, and beside a script call for each turn, on the same server.
//!
//! ```sh
//! cargo bench --features redis --bench fleet
//! ```
//!
//! Calls are awaited one after another in a spawned task. The quota is so high that no call waits.

use buttress::Quota;
use buttress::fleet::{Fleet, RedisStore};
use buttress::rate_limit::RateLimiter;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use std::{env, fs, process, thread};
use tokio::runtime::Runtime;

/// Calls that are timed together, so that starting a task does not count.
const TOGETHER: u32 = 1_000;

fn main() {
    let Some(mut server) = start() else {
        println!("skipped: redis-server is not installed");
        return;
    };
    divan::main();
    server.kill().expect("the server is ours");
    fs::remove_dir_all(folder()).expect("the folder is ours");
}

fn folder() -> PathBuf {
    env::temp_dir().join(format!("buttress-bench-{}", process::id()))
}

fn address() -> String {
    format!("redis+unix://{}", folder().join("socket").display())
}

#[expect(
    clippy::disallowed_methods,
    reason = "waits for the server before the benchmark"
)]
fn start() -> Option<Child> {
    fs::create_dir_all(folder()).ok()?;
    let socket = folder().join("socket");
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    while UnixStream::connect(&socket).is_err() {
        thread::sleep(Duration::from_millis(5));
    }
    Some(child)
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// Times calls in a spawned task.
fn calls<F: Future<Output = ()> + Send + 'static>(
    bencher: divan::Bencher<'_, '_>,
    count: u32,
    calls: impl Fn(u32) -> F,
) {
    bencher
        .counter(divan::counter::ItemsCount::new(count))
        .bench_local(|| {
            RUNTIME
                .block_on(RUNTIME.spawn(calls(count)))
                .expect("no panic");
        });
}

fn quota() -> Quota {
    Quota::per_second(100_000_000).burst(10_000_000)
}

fn acquire(bencher: divan::Bencher<'_, '_>, limiter: &RateLimiter) {
    calls(bencher, TOGETHER, |count| {
        let limiter = limiter.clone();
        async move {
            for _ in 0..count {
                limiter.acquire(1).await.expect("a turn");
            }
        }
    });
}

#[divan::bench(sample_count = 2_000)]
fn local(bencher: divan::Bencher<'_, '_>) {
    acquire(bencher, &RateLimiter::new(quota()));
}

#[divan::bench(sample_count = 2_000)]
fn fleet(bencher: divan::Bencher<'_, '_>) {
    let store = RedisStore::open(address()).expect("an address");
    let fleet = Fleet::builder(quota(), store).key("bench");
    acquire(bencher, &fleet.build().expect("valid").limiter());
}

/// GCRA in a script, called for each turn, as limiters without leases do.
const PER_CALL: &str = r"
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now - ARGV[2] * ARGV[1])
    if tat > now then return tat - now end
    redis.call('SET', KEYS[1], string.format('%.0f', tat + ARGV[1]), 'PX', 60000)
    return 0
";

#[divan::bench(sample_count = 20)]
fn script_per_call(bencher: divan::Bencher<'_, '_>) {
    let client = redis::Client::open(address()).expect("an address");
    let connection = RUNTIME
        .block_on(client.get_multiplexed_async_connection())
        .expect("a connection");
    calls(bencher, 100, |count| {
        let mut connection = connection.clone();
        async move {
            let script = redis::Script::new(PER_CALL);
            for _ in 0..count {
                let mut call = script.key("per-call");
                let waits: u64 = call
                    .arg(0.01)
                    .arg(10_000_000)
                    .invoke_async(&mut connection)
                    .await
                    .expect("an answer");
                assert_eq!(waits, 0);
            }
        }
    });
}
