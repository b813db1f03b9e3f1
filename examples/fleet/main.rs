//! Ten processes share a quota of 1000 calls per second through `redis-server`, which is killed and comes back empty.
//!
//! ```sh
//! cargo run --release --features redis --example fleet
//! ```
//!
//! It takes half a minute (`-- --quick`: 10 s), prints what each process could send, writes
//! `target/fleet/report.html`, and fails if the run does not show what [`claims`] says.

mod claims;
mod process;
mod report;
mod store;

use process::wall_clock;
use std::env;
use std::error::Error;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::sleep;

/// The calls per second that each process wants to make: 1200 together.
const DEMAND: [u32; 10] = [400, 200, 150, 100, 100, 100, 50, 50, 25, 25];

/// What a process did.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// When it sent each call, in seconds from the start, and how long the call had waited.
    pub(crate) sent: Vec<(f64, Duration)>,
    /// The requests to the store.
    pub(crate) trips: u64,
    pub(crate) rejected: u64,
}

/// The whole run. Times are in seconds from the start.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) records: Vec<Record>,
    pub(crate) length: f64,
    pub(crate) killed: f64,
    pub(crate) restarted: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [word, store, demand, seconds] = &arguments[..] {
        if word == "--process" {
            return process::run(store, demand.parse()?, seconds.parse()?).await;
        }
    }
    let Some(mut store) = Store::start().await? else {
        println!(
            "This example needs redis-server, 5 or newer. On Debian: apt-get install redis-server"
        );
        return Ok(());
    };
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (up, down) = if quick { (4.0, 2.5) } else { (10.0, 6.0) };
    let run = run(&mut store, up, down).await?;
    print!("{}", report::table(&run));
    let path = report::write(&run)?;
    println!("Report: {}", path.display());
    let failed = claims::judge(&run);
    if failed > 0 {
        return Err(format!("{failed} claims do not hold").into());
    }
    Ok(())
}

/// The store is up, then away for `down` seconds, and up again.
async fn run(store: &mut Store, up: f64, down: f64) -> Result<Run, Box<dyn Error>> {
    let length = 2.0 * up + down;
    let start = wall_clock();
    let since = move |at: u64| at.saturating_sub(start) as f64 / 1e6;
    let mut readers = Vec::new();
    let records: Vec<Arc<Mutex<Record>>> = DEMAND.iter().map(|_| Arc::default()).collect();
    for (demand, record) in DEMAND.iter().zip(&records) {
        let mut child = Command::new(env::current_exe()?)
            .args([
                "--process",
                &store.address(),
                &demand.to_string(),
                &length.to_string(),
            ])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        readers.push(tokio::spawn(read(
            child.stdout.take(),
            child,
            record.clone(),
            start,
        )));
    }
    let (mut killed, mut restarted, mut shown) = (0.0, 0.0, 0.0);
    while since(wall_clock()) < length {
        sleep(Duration::from_millis(50)).await;
        let now = since(wall_clock());
        if killed == 0.0 && now >= up {
            store.kill().await?;
            killed = since(wall_clock());
            println!("{killed:5.1} s  redis-server is killed");
        }
        if restarted == 0.0 && now >= up + down {
            store.restart().await?;
            restarted = since(wall_clock());
            println!("{restarted:5.1} s  redis-server is back, and empty");
        }
        if now >= shown + 1.0 {
            shown = now;
            let last = |record: &Arc<Mutex<Record>>| {
                let record = record.lock().unwrap_or_else(PoisonError::into_inner);
                record
                    .sent
                    .iter()
                    .filter(|(at, _)| (now - 1.0..now).contains(at))
                    .count()
            };
            let rates: Vec<usize> = records.iter().map(last).collect();
            println!(
                "{now:5.1} s  {:4} calls in the last second: {rates:?}",
                rates.iter().sum::<usize>()
            );
        }
    }
    for reader in readers {
        reader.await??;
    }
    let records = records
        .into_iter()
        .map(|record| std::mem::take(&mut *record.lock().unwrap_or_else(PoisonError::into_inner)));
    Ok(Run {
        records: records.collect(),
        length,
        killed,
        restarted,
    })
}

async fn read(
    out: Option<tokio::process::ChildStdout>,
    mut child: Child,
    record: Arc<Mutex<Record>>,
    start: u64,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(out.ok_or_else(|| std::io::Error::other("no output"))?).lines();
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split(' ');
        let kind = words.next();
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        match (kind, &numbers[..]) {
            (Some("sent"), [at, wait]) => {
                let at = at.saturating_sub(start) as f64 / 1e6;
                record.sent.push((at, Duration::from_micros(*wait)));
            }
            (Some("end"), [trips, rejected]) => {
                (record.trips, record.rejected) = (*trips, *rejected);
            }
            _ => return Err(std::io::Error::other(format!("not understood: {line}"))),
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        return Err(std::io::Error::other(format!(
            "a process ended with {status}"
        )));
    }
    Ok(())
}
