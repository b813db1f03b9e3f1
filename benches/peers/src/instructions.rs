//! Instructions per call, which do not vary: the difference of a run of N calls and one of 2 N,
//! each in a process of its own under callgrind.

use crate::contenders::{BUTTRESS, TOWER, cases};
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
    let case = cases().find(|known| known.name == case).expect("a case");
    let mut contenders = (case.contenders)();
    let contender = contenders.iter_mut().find(|known| known.who == who);
    let calls = calls.parse().expect("a number");
    contender.expect("a contender").run(calls, case.work);
    true
}

/// The table of instructions per call, ours and tower's.
pub fn table() -> io::Result<String> {
    let mut table = String::from("| case | buttress | tower |\n|---|---|---|\n");
    for case in cases() {
        let tower = (case.contenders)().iter().any(|known| known.who == TOWER);
        let ours = per_call(case.name, BUTTRESS)?;
        let mut theirs = "–".to_owned();
        if tower {
            let count = per_call(case.name, TOWER)?;
            theirs = format!("{count:.0} (× {:.2})", ours / count);
        }
        let _ = writeln!(table, "| {} | {ours:.0} | {theirs} |", case.name);
    }
    Ok(table)
}

fn per_call(case: &str, who: &str) -> io::Result<f64> {
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
