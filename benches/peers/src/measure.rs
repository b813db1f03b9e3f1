//! The contenders of a case, run in turns, many short runs each.

use crate::case::{Contender, Work};
use std::time::Duration;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// Of each run, until one is undisturbed.
    pub attempts: usize,
    pub run: Duration,
}

/// Nanoseconds per call of a contender's runs.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Sample {
    fn of(mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        Self {
            median: runs[runs.len() / 2],
            min: runs[0],
            max: runs[runs.len() - 1],
        }
    }
}

/// Runs the contenders in turns: A B C, A B C, and so on.
pub fn side_by_side(contenders: &mut [Contender], work: Work, effort: Effort) -> Vec<Sample> {
    let calls: Vec<u64> = contenders
        .iter_mut()
        .map(|contender| warm_up(contender, work, effort.run))
        .collect();
    let mut runs = vec![Vec::with_capacity(effort.rounds); contenders.len()];
    for _ in 0..effort.rounds {
        for ((contender, &calls), runs) in contenders.iter_mut().zip(&calls).zip(&mut runs) {
            // One that was disturbed by other processes is made again, a few times.
            let mut made = (0..effort.attempts).map(|_| contender.run(calls, work));
            let mut run = made.next().expect("an attempt");
            while !run.undisturbed()
                && let Some(again) = made.next()
            {
                run = again;
            }
            runs.push(run.elapsed.as_nanos() as f64 / calls as f64);
        }
    }
    runs.into_iter().map(Sample::of).collect()
}

/// The number of calls that a run of that length takes, an even one.
fn warm_up(contender: &mut Contender, work: Work, run: Duration) -> u64 {
    let mut calls = 4;
    loop {
        // The shortest of three: one may be disturbed.
        let runs = [(); 3].map(|()| contender.run(calls, work).elapsed);
        let elapsed = runs.into_iter().min().unwrap_or_default();
        if elapsed * 2 >= run {
            let calls = calls as f64 * run.as_secs_f64() / elapsed.as_secs_f64();
            return (calls as u64).next_multiple_of(4).max(4);
        }
        calls *= 2;
    }
}
