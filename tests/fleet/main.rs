//! A fleet with a real server: one process and many.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "real servers and processes, in real time"
)]

mod cluster;
mod many;
mod server;

use buttress::event::Event;
use buttress::fleet::{
    Ask, Fleet, FleetBuilder, Granted, Ledger, RedisStore, Reply, Store, StoreState,
};
use buttress::{Quota, Rejection};
use server::Server;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Tests of real time disturb each other: they run one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn quota() -> Quota {
    Quota::per_second(1_000).burst(100)
}

fn builder(server: &Server) -> FleetBuilder<RedisStore> {
    let store = RedisStore::open(server.address()).unwrap();
    Fleet::builder(quota(), store).key("test")
}

/// What a process did in some time: its sends, and the longest wait.
struct Seen {
    sent: Vec<Duration>,
    longest: Duration,
    rejected: usize,
}

/// Makes so many calls per second for some time.
async fn calls(fleet: &Fleet, per_second: u32, time: Duration) -> Seen {
    let start = Instant::now();
    let mut tasks = Vec::new();
    while start.elapsed() < time {
        while (tasks.len() as f64) < start.elapsed().as_secs_f64() * f64::from(per_second) {
            let limiter = fleet.limiter();
            tasks.push(tokio::spawn(async move {
                let called = Instant::now();
                let turn = limiter.acquire(1).await;
                (turn.is_ok(), called.elapsed(), Instant::now())
            }));
        }
        sleep(Duration::from_millis(1)).await;
    }
    let mut seen = Seen {
        sent: Vec::new(),
        longest: Duration::ZERO,
        rejected: 0,
    };
    for task in tasks {
        let (sent, waited, at) = task.await.unwrap();
        if sent {
            seen.sent.push(at - start);
            seen.longest = seen.longest.max(waited);
        } else {
            seen.rejected += 1;
        }
    }
    seen.sent.sort();
    seen
}

/// Checks that every window of `W` holds at most `1 + (W + extra) / T`.
fn assert_bound(sent: &[Duration], extra: Duration) {
    let (mut credit, mut last, interval) = (Duration::ZERO, sent[0], Duration::from_millis(1));
    for at in sent {
        credit = credit.saturating_sub(at.saturating_sub(last)) + interval;
        assert!(credit <= extra + interval, "{credit:?} at {at:?}");
        last = *at;
    }
}

/// max(burst, two horizons) + a horizon + the time-out of the store + what a busy machine delays.
const EXTRA: Duration = Duration::from_millis(200 + 100 + 50 + 30);

/// The events `store_down` and `store_up` so far.
fn watch(fleet: &Fleet) -> impl Fn() -> (usize, usize) {
    let seen = Arc::new(Mutex::new((0, 0)));
    let events = seen.clone();
    fleet.limiter().observe(move |event: &Event| match event {
        Event::StoreDown { .. } => events.lock().unwrap().0 += 1,
        Event::StoreUp { .. } => events.lock().unwrap().1 += 1,
        _ => {}
    });
    move || *seen.lock().unwrap()
}

fn is_up(fleet: &Fleet) -> bool {
    fleet.snapshot().store == StoreState::Up
}

/// A call at a time until the store answers again.
async fn until_up(fleet: &Fleet) {
    let start = Instant::now();
    while !is_up(fleet) {
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            fleet.snapshot()
        );
        let _ = fleet.limiter().acquire(1).await;
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn calls_get_leased_turns_and_the_bound_holds() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let fleet = builder(&server).build().unwrap();
    let seen = calls(&fleet, 3_000, Duration::from_secs(2)).await;
    assert!(seen.sent.len() >= 1_900, "{}", seen.sent.len());
    assert_bound(&seen.sent, EXTRA);
    let snapshot = fleet.snapshot();
    assert!(snapshot.trips <= 39, "{snapshot:?}");
    assert_eq!((snapshot.failures, snapshot.peers), (0, 1), "{snapshot:?}");
}

#[tokio::test]
async fn a_call_that_cannot_be_served_in_time_hears_it_at_once() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let store = RedisStore::open(server.address()).unwrap();
    let slow = Fleet::builder(Quota::new(1, Duration::from_secs(5)), store).key("slow");
    let fleet = slow.build().unwrap();
    fleet.limiter().acquire(1).await.unwrap();
    let start = Instant::now();
    let rejected = fleet.limiter().acquire(1).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(60));
    let Rejection::RateLimited {
        retry_after: Some(wait),
        ..
    } = rejected.0
    else {
        panic!("{rejected}")
    };
    assert!((3..=5).contains(&wait.as_secs()), "{wait:?}");
    let trips = fleet.snapshot().trips;
    fleet.limiter().acquire(1).await.unwrap_err();
    assert_eq!(
        fleet.snapshot().trips,
        trips,
        "asked again before the time that the store gave"
    );
}

#[tokio::test]
async fn a_hung_server_costs_no_call_more_than_the_time_out_and_its_queue_is_not_run() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let fleet = builder(&server).share(0.5).build().unwrap();
    let events = watch(&fleet);
    calls(&fleet, 200, Duration::from_millis(500)).await;
    server.signal("-STOP");
    let seen = calls(&fleet, 200, Duration::from_secs(2)).await;
    assert_eq!(seen.rejected, 0);
    assert!(
        seen.longest < Duration::from_millis(90),
        "{:?}",
        seen.longest
    );
    assert!(!is_up(&fleet));
    server.signal("-CONT");
    until_up(&fleet).await;
    assert_eq!(events(), (1, 1));
    // What lay in the socket took nothing: the burst is there again.
    sleep(Duration::from_millis(200)).await;
    let seen = calls(&fleet, 1_000, Duration::from_secs(1)).await;
    assert!(
        seen.longest < Duration::from_millis(90),
        "{:?}",
        seen.longest
    );
}

#[tokio::test]
async fn a_killed_server_that_comes_back_empty() {
    let _alone = ALONE.lock().await;
    let Some(mut server) = Server::start() else {
        return;
    };
    let fleet = builder(&server).share(0.5).build().unwrap();
    let events = watch(&fleet);
    calls(&fleet, 2_000, Duration::from_millis(500)).await;
    server.kill();
    let seen = calls(&fleet, 2_000, Duration::from_secs(2)).await;
    // What was leased, and half of the quota, without a burst at first.
    let late = seen
        .sent
        .iter()
        .filter(|at| (500..1_500).contains(&at.as_millis()))
        .count();
    assert!((450..=650).contains(&late), "{late}");
    assert!(
        seen.longest < Duration::from_millis(1_100),
        "{:?}",
        seen.longest
    );
    assert_eq!(events(), (1, 0));
    server.restart();
    until_up(&fleet).await;
    assert_eq!(events(), (1, 1));
    let seen = calls(&fleet, 3_000, Duration::from_secs(1)).await;
    assert!(seen.sent.len() >= 950, "{}", seen.sent.len());
    assert_bound(&seen.sent, EXTRA + Duration::from_millis(100));
}

#[tokio::test]
async fn a_store_that_is_away_from_the_start() {
    let _alone = ALONE.lock().await;
    let Some(mut server) = Server::start() else {
        return;
    };
    server.kill();
    let fleet = builder(&server).build().unwrap();
    let start = Instant::now();
    fleet.limiter().acquire(1).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(90),
        "{:?}",
        start.elapsed()
    );
    server.restart();
    until_up(&fleet).await;
}

#[tokio::test]
async fn lost_scripts_and_lost_data_are_not_noticed() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let fleet = builder(&server).build().unwrap();
    let mut sent = calls(&fleet, 2_000, Duration::from_millis(600)).await.sent;
    let start = sent.len();
    server.command("SCRIPT FLUSH");
    server.command("FLUSHALL");
    let seen = calls(&fleet, 2_000, Duration::from_secs(1)).await;
    sent = seen.sent;
    assert!(start >= 600 && sent.len() >= 950, "{start}, {}", sent.len());
    assert_bound(&sent, EXTRA);
    assert_eq!(fleet.snapshot().failures, 0);
}

#[tokio::test]
async fn a_wrong_type_at_the_key() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    server.command("SET buttress:{test} 1");
    let fleet = builder(&server).share(0.5).build().unwrap();
    let events = watch(&fleet);
    let seen = calls(&fleet, 200, Duration::from_secs(1)).await;
    assert_eq!(seen.rejected, 0);
    assert!(
        seen.longest < Duration::from_millis(90),
        "{:?}",
        seen.longest
    );
    assert_eq!(events(), (1, 0));
    server.command("DEL buttress:{test}");
    until_up(&fleet).await;
    assert_eq!(events(), (1, 1));
}

/// A name that leads to another server from some time on, as after a failover. Connections stay where they are.
async fn name_of(sockets: [PathBuf; 2]) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("redis://{}", listener.local_addr().unwrap());
    let primary = Arc::new(AtomicUsize::new(0));
    let leads_to = primary.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = &sockets[leads_to.load(SeqCst)];
            let mut server = tokio::net::UnixStream::connect(socket).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (name, primary)
}

#[tokio::test]
async fn a_failover_to_a_replica() {
    let _alone = ALONE.lock().await;
    let (Some(first), Some(second)) = (Server::start(), Server::start()) else {
        return;
    };
    let (name, primary) = name_of([first.dir.join("s"), second.dir.join("s")]).await;
    let store = RedisStore::open(name).unwrap();
    let fleet = Fleet::builder(quota(), store).key("test").share(0.5);
    let fleet = fleet.build().unwrap();
    calls(&fleet, 100, Duration::from_millis(300)).await;
    first.command("REPLICAOF 127.0.0.1 1");
    let seen = calls(&fleet, 200, Duration::from_secs(1)).await;
    assert_eq!(seen.rejected, 0);
    assert!(!is_up(&fleet));
    primary.store(1, SeqCst);
    until_up(&fleet).await;
    assert!(second.command("EXISTS buttress:{test}").starts_with(":1"));
}

#[tokio::test]
async fn a_stepped_clock_of_the_server() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::with_clock() else {
        return;
    };
    let fleet = builder(&server).build().unwrap();
    calls(&fleet, 2_000, Duration::from_millis(500)).await;
    for step in [-3_600, 3_600, 0] {
        server.step(step);
        let seen = calls(&fleet, 2_000, Duration::from_secs(1)).await;
        // A step back: calls wait up to two horizons. Forward: one burst and what was leased, once.
        assert!(seen.sent.len() >= 750, "{step}: {}", seen.sent.len());
        assert_bound(&seen.sent, EXTRA + Duration::from_millis(300));
        assert!(
            seen.longest < Duration::from_millis(1_100),
            "{:?}",
            seen.longest
        );
    }
    assert!(is_up(&fleet));
}

#[tokio::test]
async fn a_slow_network() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = server.dir.join("s");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut upstream = tokio::net::UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move {
                sleep(Duration::from_millis(200)).await;
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    let store = RedisStore::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let fleet = Fleet::builder(quota(), store)
        .key("test")
        .share(0.5)
        .build()
        .unwrap();
    let seen = calls(&fleet, 100, Duration::from_secs(1)).await;
    assert_eq!(seen.rejected, 0);
    assert!(
        seen.longest < Duration::from_millis(90),
        "{:?}",
        seen.longest
    );
}

/// A connection takes 100 ms to be made, longer than a request may wait, and a request over it takes little.
#[tokio::test]
async fn a_connection_that_takes_long_to_be_made() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (socket, away) = (
        server.dir.join("s"),
        Instant::now() + Duration::from_secs(2),
    );
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            if Instant::now() < away {
                continue; // and closes it
            }
            let mut upstream = tokio::net::UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move {
                sleep(Duration::from_millis(100)).await;
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    let store = RedisStore::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let fleet = Fleet::builder(quota(), store).key("test").share(0.5);
    let fleet = fleet.build().unwrap();
    // Until the circuit is open for longer than it takes to connect.
    calls(&fleet, 100, Duration::from_millis(1_900)).await;
    assert!(!is_up(&fleet));
    until_up(&fleet).await;
}

#[tokio::test]
async fn the_longest_settings() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let fleet = builder(&server)
        .max_wait(Duration::MAX)
        .horizon(Duration::from_secs(60));
    let fleet = fleet.build().unwrap();
    calls(&fleet, 200, Duration::from_millis(700)).await;
    assert_eq!(fleet.snapshot().failures, 0, "{:?}", fleet.snapshot());
}

#[tokio::test]
async fn costs_of_different_calls() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let fleet = builder(&server).build().unwrap();
    let start = Instant::now();
    let mut units = 0;
    while start.elapsed() < Duration::from_secs(2) {
        for cost in [1, 7, 40] {
            fleet.limiter().acquire(cost).await.unwrap();
            units += cost;
        }
    }
    let quota = start.elapsed().as_millis() as u32;
    assert!(
        units >= quota * 8 / 10 && units <= quota + 380,
        "{units} in {quota} ms"
    );
    assert!(matches!(
        fleet.limiter().try_acquire(101).unwrap_err().0,
        Rejection::TooCostly { burst: 100, .. }
    ));
}

#[tokio::test]
async fn invalid_settings() {
    let store = || RedisStore::open("redis://127.0.0.1").unwrap();
    let valid = || Fleet::builder(quota(), store()).key("k");
    valid().build().unwrap();
    let second = Duration::from_secs(1);
    for (builder, field) in [
        (Fleet::builder(quota(), store()), "key"),
        (valid().key("a{b"), "key"),
        (valid().horizon(Duration::ZERO), "horizon"),
        (valid().store_timeout(Duration::MAX), "store_timeout"),
        (valid().share(f64::NAN), "share"),
        (valid().share(0.0), "share"),
        (
            Fleet::builder(Quota::at_most(5, second), store()).key("k"),
            "quota",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().field(), field);
    }
}

#[tokio::test]
async fn two_versions_of_a_service_with_other_quotas() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::start() else {
        return;
    };
    let old = builder(&server).build().unwrap();
    let store = RedisStore::open(server.address()).unwrap();
    let new = Fleet::builder(Quota::per_second(500).burst(50), store).key("test");
    let new = new.build().unwrap();
    let time = Duration::from_secs(2);
    let (old, new) = tokio::join!(calls(&old, 1_500, time), calls(&new, 1_500, time));
    let mut sent = [old.sent.clone(), new.sent.clone()].concat();
    sent.sort();
    assert_bound(&sent, EXTRA);
    assert!(
        old.sent.len() > 500 && new.sent.len() > 200,
        "{} {}",
        old.sent.len(),
        new.sent.len()
    );
}

/// The script decides as the ledger does, on the same clock.
#[tokio::test]
async fn the_script_and_the_ledger_agree() {
    let _alone = ALONE.lock().await;
    let Some(server) = Server::with_clock() else {
        return;
    };
    let store = RedisStore::open(server.address()).unwrap();
    let mut ledger = Ledger::default();
    let (mut seed, mut kinds) = (7_u64, [0; 3]);
    let mut draw = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut last: Option<Reply> = None;
    for _ in 0..3_000 {
        // Microseconds are cut off: both see the same time only if it is known before.
        let now = last.map_or(0, |last| last.now);
        let (tat, not_after) = match draw(10) {
            0 => (now + draw(3_000_000), None),
            1 => (0, Some(now.max(1) + draw(400))),
            2 => (0, Some(now + 10_000_000_000)),
            _ => (0, None),
        };
        let mut ask = Ask::new(
            "same",
            Quota::per_second(1_000 + draw(20_000) as u32).burst(100),
        );
        ask.process = draw(5);
        ask.need = 1 + draw(40) as u32;
        ask.want = 1 + draw(60) as u32;
        ask.unit = 1 + draw(9) as u32;
        ask.max_wait = Duration::from_millis(draw(1_200));
        ask.horizon = Duration::from_millis(1 + draw(200));
        ask.rate = draw(900_000) as f64 / 1_000.0;
        (ask.seen, ask.not_after) = (tat, not_after);
        if draw(50) == 0 {
            server.step(i64::try_from(draw(40)).unwrap() - 20);
        }
        let reply = store.lease(ask.clone()).await.unwrap();
        assert_eq!(ledger.lease(&ask, reply.now), reply, "{ask:?}");
        kinds[match reply.grant {
            Granted::Turns { .. } => 0,
            Granted::Full(_) => 1,
            Granted::Late => 2,
        }] += 1;
        last = Some(reply);
    }
    assert!(kinds.iter().all(|count| *count > 10), "{kinds:?}");
}
