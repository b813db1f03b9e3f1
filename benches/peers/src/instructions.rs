//! Instructions per call, which hardly vary. Each value is the difference between a run of N calls
//! and a run of 2 N calls, in separate processes under callgrind.

use crate::case::{Case, Way};
use crate::contenders::{ASSEMBLED, BUTTRESS, TOWER, cases};
use std::env;
use std::fmt::Write as _;
use std::io;
use std::process::{Child, Command, Stdio};

const CALLS: u64 = 1000;
const ONE_RUN: &str = "--one-run";

/// In both ways a single thread does all the work.
const WAYS: [Way; 2] = [Way::CurrentThread, Way::Hand];

/// Makes the calls and returns true if this process was started to be counted.
pub fn is_one_run() -> bool {
    let mut args = env::args().skip_while(|arg| arg != ONE_RUN).skip(1);
    let mut next = || args.next();
    let (Some(case), Some(who), Some(how), Some(calls)) = (next(), next(), next(), next()) else {
        return false;
    };
    let case = cases().find(|known| known.name() == case).expect("a case");
    let mut contenders = (case.contenders)();
    let contender = contenders.iter_mut().find(|known| known.who == who);
    let way = WAYS.into_iter().find(|way| way.name() == how);
    contender.expect("a contender").run(
        way.expect("a way"),
        calls.parse().expect("a number"),
        case.work,
    );
    true
}

/// The table of instructions per call for buttress, tower and the assembled stack.
pub fn table() -> io::Result<String> {
    let mut table =
        String::from("| case | how | buttress | tower | assembled |\n|---|---|---|---|---|\n");
    // Of the cases that are pending once, count only those that then set timers.
    let counted = |case: &Case| !case.is_pending_variant() || case.name().contains("timeout");
    for case in cases().filter(counted) {
        let contenders = (case.contenders)();
        let takes_part = |who: &str, way: Way| {
            let mut ways = contenders.iter().filter(|known| known.who == who);
            ways.any(|known| known.ways().any(|known| known == way))
        };
        for way in WAYS.into_iter().filter(|way| takes_part(BUTTRESS, *way)) {
            let ours = per_call(&case, BUTTRESS, way)?;
            let _ = write!(table, "| {} | {} | {ours:.0} |", case.name(), way.name());
            for who in [TOWER, ASSEMBLED] {
                if takes_part(who, way) {
                    let theirs = per_call(&case, who, way)?;
                    let _ = write!(table, " {theirs:.0} (× {:.2}) |", ours / theirs);
                } else {
                    table.push_str(" – |");
                }
            }
            table.push('\n');
        }
    }
    Ok(table)
}

fn per_call(case: &Case, who: &str, way: Way) -> io::Result<f64> {
    let start = |calls: u64| start([ONE_RUN, &case.name(), who, way.name(), &calls.to_string()]);
    let (once, twice) = (start(CALLS)?, start(2 * CALLS)?);
    let (once, twice) = (collected(once)?, collected(twice)?);
    Ok((twice as f64 - once as f64) / CALLS as f64)
}

fn start(args: [&str; 5]) -> io::Result<Child> {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Count only instructions below `Contender::run`, because some contenders calibrate a clock
        // before.
        .arg("--toggle-collect=*Contender::run*")
        .arg(env::current_exe()?)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// Parses the last line of callgrind's output: `Collected : <instructions>`.
fn collected(run: Child) -> io::Result<u64> {
    let output = run.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    let count = words
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| io::Error::other(format!("callgrind failed: {words}")))
}
