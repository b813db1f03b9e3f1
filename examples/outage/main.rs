//! An outage, played through with three clients side by side: a bare one, a naive one, and one that
//! stands behind the layers of this crate.
//!
//! ```text
//! cargo run --release --example outage             # in less than a minute
//! cargo run --release --example outage -- --quick  # in less than 25 seconds
//! ```
//!
//! Each client calls a server of its own over real sockets, at a fixed rate, while the servers go
//! through the same script: well, slow, well, 503, well, refusing, well, overloaded, well. At the
//! end there is one table, `target/outage/report.html`, and a list of claims; the program fails
//! when one of them does.
//!
//! Where to read: `callee` has all the numbers, `stack` the layers, `script` the phases, `claims`
//! what is claimed.

#![allow(
    unreachable_pub,
    reason = "a program has no outside; its modules share by `pub`"
)]

mod bare;
mod callee;
mod claims;
mod client;
mod connector;
mod figures;
mod load;
mod naive;
mod plot;
mod record;
mod report;
mod run;
mod script;
mod server;
mod stack;
mod table;
mod watch;

use std::error::Error;
use std::process::ExitCode;

use crate::claims::{Claim, Judgement};
use crate::figures::PhaseFigures;
use crate::record::Record;
use crate::script::Script;

/// One thread, so that a stall that the ticker sees is the stall that everybody saw.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let script = match std::env::args().nth(1).as_deref() {
        None => Script::full(),
        Some("--quick") => Script::quick(),
        Some(other) => return Err(format!("{other}: the only option is --quick").into()),
    };
    println!(
        "An outage of {:.1} s, for three clients side by side.\n",
        script.length().as_secs_f64()
    );
    for (what, numbers) in callee::in_words() {
        println!("  {what:<9} {numbers}");
    }

    let mut played = Played::play(&script).await?;
    if !played.fails() && played.count(Judgement::NotJudged) > 0 {
        println!(
            "\nThe machine stood still for more than {:?}: once more.",
            claims::LONGEST_STALL
        );
        played = Played::play(&script).await?;
    }

    let path = report::write(&played.record, &played.phases, &played.claims)?;
    println!("\nThe plots are in {}", path.display());
    Ok(played.verdict())
}

/// One run and what came of it.
struct Played {
    record: Record,
    phases: Vec<PhaseFigures>,
    claims: Vec<Claim>,
}

impl Played {
    async fn play(script: &Script) -> Result<Self, Box<dyn Error>> {
        println!("\nEach second, the calls that succeeded, of all that ended:");
        let record = run::run(script.clone()).await?;
        let phases = figures::phase_figures(&record);
        let claims = claims::judge(&phases);
        println!("\n{}\n", table::text(&phases));
        println!("Longest stall of the machine: {}.", table::stalls(&phases));
        let sockets = record.sides.each_ref().map(|side| side.sockets);
        println!(
            "Most sockets held at once: {sockets:?}, of {} allowed.",
            callee::MAX_SOCKETS
        );
        Ok(Self {
            record,
            phases,
            claims,
        })
    }

    fn count(&self, judgement: Judgement) -> usize {
        self.claims
            .iter()
            .filter(|claim| claim.judgement == judgement)
            .count()
    }

    fn fails(&self) -> bool {
        self.count(Judgement::Fails) > 0
    }

    /// Names what failed and what could not be judged.
    fn verdict(&self) -> ExitCode {
        for claim in &self.claims {
            match claim.judgement {
                Judgement::Holds => {}
                Judgement::Fails => println!("FAILED  {}: {}", claim.text, claim.numbers),
                Judgement::NotJudged => {
                    println!("not judged, the machine stood still  {}", claim.text);
                }
            }
        }
        println!(
            "{} of {} claims hold.",
            self.count(Judgement::Holds),
            self.claims.len()
        );
        if self.fails() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
