//! What the run must show.

use crate::process::{BURST, QUOTA};
use crate::{DEMAND, Run};
use std::time::Duration;

/// The defaults of a fleet: a lease covers 100 ms, and a call waits 50 ms for the store.
const HORIZON: f64 = 0.1;
const STORE_TIMEOUT: f64 = 0.05;

/// Prints the claims. Returns how many do not hold.
pub(crate) fn judge(run: &Run) -> usize {
    let quota = f64::from(QUOTA);
    let burst = f64::from(BURST);
    let most = busiest_second(run);
    // The bound of a second. When the store came back empty, one burst more.
    let extra = (burst / quota).max(2.0 * HORIZON) + HORIZON + STORE_TIMEOUT;
    let bound = 1.0 + quota * (1.0 + extra) + burst;
    let before = rate(run, 1.0, run.killed);
    let away = rate(run, run.killed + 1.0, run.restarted);
    let fair = quota / 10.0;
    let shares: f64 = DEMAND
        .iter()
        .map(|demand| f64::from(*demand).min(fair))
        .sum();
    let after = rate(run, run.length - 1.5, run.length - 0.2);
    let small = DEMAND.iter().zip(&run.records);
    let small = small.filter(|(demand, _)| f64::from(**demand) < fair);
    let lost: u64 = small.map(|(_, record)| record.rejected).sum();
    let trips = run
        .records
        .iter()
        .map(|record| record.trips)
        .max()
        .unwrap_or(0) as f64
        / run.length;
    let longest = run
        .records
        .iter()
        .flat_map(|record| &record.sent)
        .map(|(_, wait)| *wait)
        .max();
    let longest = longest.unwrap_or_default();
    let claims = [
        (
            format!("no second has more than {bound:.0} calls: {most}"),
            most as f64 <= bound,
        ),
        (
            format!("with the store, 97 % of the quota of {quota}/s are sent: {before:.0}/s"),
            before >= 0.97 * quota,
        ),
        (
            format!("no call of those is rejected who want less than a fair part: {lost}"),
            lost == 0,
        ),
        (
            format!(
                "without it, each sends up to a tenth of the quota, {shares:.0}/s together: {away:.0}/s"
            ),
            (0.9 * shares..=1.05 * shares).contains(&away),
        ),
        (
            format!("the store back, 95 % of the quota are sent again: {after:.0}/s"),
            after >= 0.95 * quota,
        ),
        (
            format!("no process makes more than 13 requests to the store per second: {trips:.1}"),
            trips <= 13.0,
        ),
        (
            format!("no call waits longer than 1 s and what a busy machine adds: {longest:.0?}"),
            longest <= Duration::from_millis(1_100),
        ),
    ];
    println!();
    for (claim, holds) in &claims {
        println!("{} {claim}", if *holds { "holds:" } else { "FAILS:" });
    }
    claims.iter().filter(|(_, holds)| !holds).count()
}

fn times(run: &Run) -> Vec<f64> {
    let sent = run.records.iter().flat_map(|record| &record.sent);
    let mut times: Vec<f64> = sent.map(|(at, _)| *at).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// The calls per second between two times.
fn rate(run: &Run, from: f64, to: f64) -> f64 {
    let sent = times(run)
        .iter()
        .filter(|at| (from..to).contains(*at))
        .count();
    sent as f64 / (to - from)
}

fn busiest_second(run: &Run) -> usize {
    let times = times(run);
    let (mut first, mut most) = (0, 0);
    for (i, at) in times.iter().enumerate() {
        while times[first] <= at - 1.0 {
            first += 1;
        }
        most = most.max(i + 1 - first);
    }
    most
}
