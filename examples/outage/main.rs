//! An overload and three outages, played over real sockets with clients of several kinds: with a
//! timeout alone, with two usual retry loops, and with this crate's `stack()`.
//!
//! ```text
//! cargo run --release --example outage             # about 45 seconds
//! cargo run --release --example outage -- --quick  # the overload alone, about 20 seconds
//! ```
//!
//! Each kind of clients calls a server of its own, with the same calls at the same times. At the end
//! the program prints what happened, writes `target/outage/report.html`, and fails if the run does
//! not show what it claims to.
//!
//! Where to read: `clients/stack.rs` shows how to use the crate, `scenario.rs` has all numbers,
//! `server/` the server. `claims.rs` only checks the result.

#![allow(
    unreachable_pub,
    reason = "a program has no outside; its modules share by `pub`"
)]

mod claims;
mod clients;
mod figures;
mod report;
mod run;
mod scenario;
mod server;

use std::error::Error;
use std::process::ExitCode;

use crate::claims::{Claim, Judgement};
use crate::figures::ActFigures;
use crate::run::Record;
use crate::scenario::Act;

const HELP: &str = "Usage: cargo run --release --example outage -- [--quick]

  --quick  plays the overload alone, with a shorter time after it, and leaves out the three outages";

/// One thread, so that the machine either serves all clients or none.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let is_quick = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--quick") => true,
        Some("--help") => {
            println!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(format!("unknown option: {other}\n{HELP}").into()),
    };
    for (what, words) in report::settings() {
        println!("{what:<14} {words}");
    }

    let mut played = Played::play(is_quick).await?;
    if played.count(Judgement::Fails) == 0 && played.count(Judgement::NotJudged) > 0 {
        println!("\nThe machine stood still for too long: once more.");
        played = Played::play(is_quick).await?;
    }

    println!("\n{}", report::text(&played.acts));
    let path = report::write(&played.records, &played.acts, &played.claims)?;
    println!("The plots are in {}", path.display());
    Ok(played.verdict())
}

/// One run and what came of it.
struct Played {
    records: Vec<Record>,
    acts: Vec<ActFigures>,
    claims: Vec<Claim>,
}

impl Played {
    async fn play(is_quick: bool) -> Result<Self, Box<dyn Error>> {
        println!("\nEach second, the calls that succeeded, of all that ended.");
        let mut records = Vec::new();
        if is_quick {
            let overload = Act::quick_overload();
            println!("The overload lasts {}:", overload.trouble_in_words());
            records.push(run::play(overload).await?);
        } else {
            let (overload, outages) = (Act::overload(), Act::outages());
            println!("The overload lasts {}:", overload.trouble_in_words());
            records.push(run::play(overload).await?);
            println!(
                "Three outages. Each lasts {}:",
                outages[0].trouble_in_words()
            );
            let [slow, failing, refused] = outages.map(run::play);
            let (slow, failing, refused) = tokio::try_join!(slow, failing, refused)?;
            records.extend([slow, failing, refused]);
        }
        let acts: Vec<ActFigures> = records.iter().map(ActFigures::of).collect();
        let claims = acts.iter().flat_map(claims::judge).collect();
        Ok(Self {
            records,
            acts,
            claims,
        })
    }

    fn count(&self, judgement: Judgement) -> usize {
        let claims = self.claims.iter();
        claims.filter(|claim| claim.judgement == judgement).count()
    }

    /// Names the claims that do not hold.
    fn verdict(&self) -> ExitCode {
        for claim in &self.claims {
            if claim.judgement != Judgement::Holds {
                println!(
                    "{}  {}: {}",
                    claim.judgement.name(),
                    claim.text,
                    claim.figures
                );
            }
        }
        let (held, all) = (self.count(Judgement::Holds), self.claims.len());
        println!("{held} of {all} claims hold.");
        if self.count(Judgement::Fails) > 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
