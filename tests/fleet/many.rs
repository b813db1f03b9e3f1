//! Real processes that share one quota. A child is this test binary again.

use super::server::Server;
use super::{ALONE, EXTRA, assert_bound};
use buttress::Quota;
use buttress::fleet::{Fleet, RedisStore};
use std::env;
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, MissedTickBehavior, interval};

fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as u64
}

/// One process of a fleet. Started by the tests below, with its settings in the environment.
#[tokio::test]
#[ignore = "a process of the other tests"]
async fn one_process() {
    let variable = |name: &str| env::var(name).unwrap();
    let per_second: f64 = variable("FLEET_DEMAND").parse().unwrap();
    let seconds: f64 = variable("FLEET_SECONDS").parse().unwrap();
    let store = RedisStore::open(variable("FLEET_STORE")).unwrap();
    let fleet = Fleet::builder(Quota::per_second(1_000).burst(100), store)
        .key("many")
        .build()
        .unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let (start, mut made) = (Instant::now(), 0.0);
    let mut ticks = interval(Duration::from_millis(2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while start.elapsed().as_secs_f64() < seconds {
        ticks.tick().await;
        while made < start.elapsed().as_secs_f64() * per_second {
            made += 1.0;
            let (limiter, sent) = (fleet.limiter(), sent.clone());
            tasks.push(tokio::spawn(async move {
                if limiter.acquire(1).await.is_ok() {
                    sent.lock().unwrap().push(wall_clock());
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut line = format!("\nfleet {}", fleet.snapshot().trips);
    for at in &*sent.lock().unwrap() {
        write!(line, " {at}").unwrap();
    }
    println!("{line}");
}

struct Processes(Vec<Child>);

impl Processes {
    fn start(server: &Server, demand: &[f64], seconds: f64) -> Self {
        let start = |per_second: &f64| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "many::one_process", "--ignored", "--nocapture"])
                .env("FLEET_STORE", server.address())
                .env("FLEET_DEMAND", per_second.to_string())
                .env("FLEET_SECONDS", seconds.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        Self(demand.iter().map(start).collect())
    }

    /// The requests of each process to the store, and its sends, in microseconds.
    fn finish(self) -> Vec<(u64, Vec<u64>)> {
        let finish = |child: Child| {
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("fleet "))?;
            let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
            Some((numbers.next().unwrap(), numbers.collect()))
        };
        self.0.into_iter().filter_map(finish).collect()
    }
}

fn all(processes: &[(u64, Vec<u64>)]) -> Vec<Duration> {
    let mut sent: Vec<u64> = processes
        .iter()
        .flat_map(|(_, sent)| sent.clone())
        .collect();
    sent.sort_unstable();
    sent.into_iter().map(Duration::from_micros).collect()
}

#[test]
fn processes_send_what_the_quota_allows_and_no_more_and_share_it_fairly() {
    let _alone = ALONE.blocking_lock();
    let uneven = |first: f64, others: f64| {
        let mut demand = vec![others; 10];
        demand[0] = first;
        demand
    };
    let seconds = 5.0;
    for (demand, could) in [
        (vec![200.0; 10], 1_000.0),
        (uneven(850.0, 10.0), 940.0),
        (uneven(5_000.0, 50.0), 1_000.0),
        (vec![40.0; 50], 1_000.0),
    ] {
        let Some(server) = Server::start() else {
            return;
        };
        let seen = Processes::start(&server, &demand, seconds).finish();
        assert_eq!(seen.len(), demand.len());
        let sent = all(&seen);
        let time = sent[sent.len() - 1].saturating_sub(sent[0]).as_secs_f64();
        // If the quota is used up, the burst comes on top.
        let burst = if could >= 1_000.0 { 100.0 } else { 0.0 };
        let rate = (sent.len() as f64 - burst) / time;
        let trips = seen.iter().map(|(trips, _)| *trips).max().unwrap();
        println!(
            "{} and {} x {}: {rate:.0}/s of {could}, at most {trips} trips in {time:.1} s, {} and {}",
            demand[0],
            demand.len() - 1,
            demand[1],
            seen[0].1.len(),
            seen[1].1.len(),
        );
        assert!(rate >= 0.97 * could, "{rate}/s of {could}/s");
        assert!(
            trips as f64 <= 13.0 * time + 10.0,
            "{trips} trips in {time} s"
        );
        assert_bound(&sent, EXTRA);
        // Those who want less than the level get it.
        let fair = demand[1].min(1_000.0 / demand.len() as f64) * seconds;
        for (_, sent) in &seen {
            assert!(sent.len() as f64 >= 0.85 * fair, "{} of {fair}", sent.len());
        }
    }
}

#[test]
fn a_stopped_and_a_killed_process_leave_their_turns_to_the_others() {
    let _alone = ALONE.blocking_lock();
    let Some(server) = Server::start() else {
        return;
    };
    let mut processes = Processes::start(&server, &[200.0; 10], 5.0);
    std::thread::sleep(Duration::from_secs(2));
    processes.0[0].kill().unwrap();
    let stopped = processes.0[1].id().to_string();
    let signal = |signal| {
        Command::new("kill")
            .args([signal, stopped.as_str()])
            .status()
            .unwrap()
    };
    signal("-STOP");
    std::thread::sleep(Duration::from_secs(2));
    signal("-CONT");
    let seen = processes.finish();
    assert_eq!(seen.len(), 9);
    let sent = all(&seen);
    assert_bound(&sent, EXTRA);
    let time = sent[sent.len() - 1].saturating_sub(sent[0]).as_secs_f64();
    // The sends of the killed process are not known: a tenth of the first two seconds.
    let rate = (sent.len() as f64 + 100.0) / time;
    assert!(rate >= 900.0, "{rate}/s");
}
