//! Instructions per call, which do not vary: the difference of a run of N calls and one of 2 N,
//! each in a process of its own under callgrind.

use crate::case::{Case, Way};
use crate::contenders::{ASSEMBLED, BUTTRESS, TOWER, cases};
use std::env;
use std::fmt::Write as _;
use std::io;
use std::process::{Child, Command, Stdio};

const CALLS: u64 = 1000;
const ONE_RUN: &str = "--one-run";

/// If this process is one of those: makes its calls. Says whether it is.
pub fn is_one_run() -> bool {
    let mut args = env::args().skip_while(|arg| arg != ONE_RUN).skip(1);
    let (Some(case), Some(who), Some(calls)) = (args.next(), args.next(), args.next()) else {
        return false;
    };
    let case = cases().find(|known| known.name() == case).expect("a case");
    let mut contenders = (case.contenders)();
    let contender = contenders.iter_mut().find(|known| known.who == who);
    let contender = contender.expect("a contender");
    let way = if contender.ways().any(|way| way == Way::Hand) {
        Way::Hand
    } else {
        Way::CurrentThread
    };
    contender.run(way, calls.parse().expect("a number"), case.work);
    true
}

/// The table of instructions per call: ours, tower's, and of the stack that is assembled.
pub fn table() -> io::Result<String> {
    let mut table = String::from("| case | buttress | tower | assembled |\n|---|---|---|---|\n");
    // Of what is pending once, only what then sets timers.
    let counted = |case: &Case| !case.is_pending_variant() || case.name().contains("timeout");
    for case in cases().filter(counted) {
        let ours = per_call(&case, BUTTRESS)?;
        let _ = write!(table, "| {} | {ours:.0} |", case.name());
        for who in [TOWER, ASSEMBLED] {
            let mut contenders = (case.contenders)().into_iter();
            if contenders.any(|known| known.who == who) {
                let theirs = per_call(&case, who)?;
                let _ = write!(table, " {theirs:.0} (× {:.2}) |", ours / theirs);
            } else {
                table.push_str(" – |");
            }
        }
        table.push('\n');
    }
    Ok(table)
}

fn per_call(case: &Case, who: &str) -> io::Result<f64> {
    let case = &case.name();
    let (once, twice) = (start(case, who, CALLS)?, start(case, who, 2 * CALLS)?);
    let (once, twice) = (collected(once)?, collected(twice)?);
    Ok((twice as f64 - once as f64) / CALLS as f64)
}

fn start(case: &str, who: &str, calls: u64) -> io::Result<Child> {
    Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Only what is counted below `Contender::run`: some contenders calibrate a clock before.
        .arg("--toggle-collect=*Contender::run*")
        .arg(env::current_exe()?)
        .args([ONE_RUN, case, who, &calls.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// What callgrind says at the end: `Collected : <instructions>`.
fn collected(run: Child) -> io::Result<u64> {
    let output = run.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    let count = words
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| io::Error::other(format!("callgrind failed: {words}")))
}
