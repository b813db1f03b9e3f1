//! Measures the contenders of a case in turns, in many short runs.

use crate::calls::Run;
use crate::case::{Contender, Way, Work};
use std::time::Duration;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// How many times a disturbed run may be made.
    pub attempts: usize,
    pub run: Duration,
}

/// The times of a contender's runs, in nanoseconds per call.
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

/// The runs of one contender in one way.
struct Turn {
    way: Way,
    contender: usize,
    calls: u64,
    runs: Vec<f64>,
}

/// Runs the contenders in turns: A B C, A B C, and so on. Each round does this for one way after
/// the other. Returns the samples of each contender.
pub fn side_by_side(
    contenders: &mut [Contender],
    work: Work,
    effort: Effort,
) -> Vec<Vec<(Way, Sample)>> {
    let mut turns = Vec::new();
    for (at, contender) in contenders.iter_mut().enumerate() {
        for way in contender.ways().collect::<Vec<_>>() {
            let calls = warm_up(|calls| contender.run(way, calls, work), effort.run);
            turns.push(Turn {
                way,
                contender: at,
                calls,
                runs: Vec::with_capacity(effort.rounds),
            });
        }
    }
    turns.sort_by_key(|turn| turn.way);
    for _ in 0..effort.rounds {
        for turn in &mut turns {
            let contender = &mut contenders[turn.contender];
            // Repeat a run that other processes disturbed, up to a limit.
            let mut made = (0..effort.attempts).map(|_| contender.run(turn.way, turn.calls, work));
            let mut run = made.next().expect("an attempt");
            while !run.undisturbed()
                && let Some(again) = made.next()
            {
                run = again;
            }
            turn.runs.push(run.nanos_per_call());
        }
    }
    let mut samples = vec![Vec::new(); contenders.len()];
    for turn in turns {
        samples[turn.contender].push((turn.way, Sample::of(turn.runs)));
    }
    samples
}

/// The number of calls in a run of this length, rounded up to a multiple of four.
fn warm_up(mut make: impl FnMut(u64) -> Run, length: Duration) -> u64 {
    let mut calls = 4;
    loop {
        // Take the shortest of three runs, because some may be disturbed.
        let runs = [(); 3].map(|()| make(calls));
        let run = runs.into_iter().min_by_key(|run| run.elapsed);
        let run = run.unwrap_or_default();
        if run.elapsed * 2 >= length {
            let calls = run.calls as f64 * length.as_secs_f64() / run.elapsed.as_secs_f64();
            return (calls as u64).next_multiple_of(4).max(4);
        }
        calls *= 2;
    }
}
