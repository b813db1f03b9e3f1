//! What happened and why, in sentences made from the figures of this run.

use std::time::Duration;

use crate::clients::Kind::{self, Bare, Buttress};
use crate::figures::{ActFigures, SideFigures};
use crate::scenario::{CAPACITY, CLIENTS, QUEUE, REFUSAL, Trouble, USUAL_LOAD, WORK, WORKERS};

pub fn introduction() -> String {
    format!(
        "Five kinds of clients, {CLIENTS} of each. Each kind calls a server of its own with the same calls at \
         the same times. A server can do {CAPACITY} calls a second and usually gets {USUAL_LOAD}. Its full queue takes \
         longer than a caller waits, it does not notice when a caller has given up, and a refusal costs \
         work too. The overload is short. What matters is what comes after it."
    )
}

/// The servers and the clients.
pub fn settings() -> [(&'static str, String); 6] {
    let server = format!(
        "{WORKERS} workers of {WORK:?}, a queue of {QUEUE}; a call that finds the queue full costs a worker \
         {REFUSAL:?} and gets a 503"
    );
    let [bare, naive, careful, defaults, buttress] =
        Kind::ALL.map(|kind| (kind.name(), kind.in_words()));
    [("server", server), bare, naive, careful, defaults, buttress]
}

/// What the columns of the totals mean.
pub fn totals() -> &'static str {
    "A call is lost if it failed, timed out or was rejected. A rejected call is not sent, so there can be less \
     than one send per call. Back to normal: at least 99 % of the calls succeed for 2 s. The \
     calls of the last second only keep up the load, and are not counted."
}

pub fn after(back: Option<Duration>) -> String {
    back.map_or("never".into(), |back| {
        format!("after {:.1} s", back.as_secs_f64())
    })
}

/// Three paragraphs: for an overload one for each plot; for an outage about the outage, the recovery,
/// and what the crate cost.
pub fn what_happened(act: &ActFigures) -> [String; 3] {
    match act.act.trouble {
        Trouble::Overload => overload(act),
        _ => outage(act),
    }
}

fn overload(act: &ActFigures) -> [String; 3] {
    let [bare, naive, careful, defaults, buttress] = Kind::ALL.map(|kind| act.side(kind));
    let back = act
        .sides
        .iter()
        .map(|side| format!("{} {}", side.kind.name(), after(side.back)));
    let late = act.act.judged.saturating_sub(act.act.metastable).as_secs();
    let successes = format!(
        "For {} s there are twice as many calls as usual. Back to normal afterwards: {}. In the last {late} s, \
         {:.0} % of the calls of naive retry and {:.0} % of those of careful retry succeed. The limits of \
         buttress rejected {} of {} calls during the overload, half of them within {:.0?}. So its server \
         worked only on calls whose callers still waited: {} succeeded, and {} with bare. stack() alone has \
         no limits, and loses about as many calls as bare: {:.1} % of its calls succeeded over the whole \
         run, {:.1} % with bare.",
        act.act.trouble_lasts().as_secs(),
        back.collect::<Vec<_>>().join(", "),
        naive.late.success(),
        careful.late.success(),
        buttress.during.rejected(),
        buttress.during.calls,
        buttress.during.rejected_p50,
        buttress.during.succeeded,
        bare.during.succeeded,
        defaults.whole.success(),
        bare.whole.success(),
    );
    let rate = |side: &SideFigures| side.late.sends_per_call() * USUAL_LOAD;
    let sends = format!(
        "After the overload there are {USUAL_LOAD} calls a second again, and the server could do {CAPACITY}. But \
         clients that retry send each failed call again. In the last {late} s naive retry makes {:.0} \
         requests a second and careful retry {:.0}, so the server stays overloaded. Backoff and jitter \
         spread the requests, but do not reduce them. stack() alone sent {:.2} requests per call after the \
         overload: its retry budget allows few retries while few calls succeed. buttress sent {:.2}: its \
         limits let {:.1} % of its calls succeed, so there was little to retry.",
        rate(naive),
        rate(careful),
        defaults.after.sends_per_call(),
        buttress.after.sends_per_call(),
        buttress.after.success(),
    );
    let wasted = format!(
        "Work is wasted if the caller has left before the response, or if the response is a refusal. Over the whole \
         run this is {:.0} % of the work for bare, {:.0} % for naive retry, {:.0} % for careful retry, {:.0} % for \
         stack() alone and {:.0} % for buttress.",
        bare.wasted, naive.wasted, careful.wasted, defaults.wasted, buttress.wasted,
    );
    [successes, sends, wasted]
}

fn outage(act: &ActFigures) -> [String; 3] {
    let [bare, buttress] = [Bare, Buttress].map(|kind| act.side(kind));
    let during = format!(
        "Of {} calls {} succeeded with bare and {} with buttress. The first circuit of buttress opened {}, \
         the last of {CLIENTS} {}. Open circuits rejected {} calls, and the limits {}. Half of the rejected \
         callers knew within {:.0?}. buttress sent {} requests to the server, and bare {}.",
        bare.during.calls,
        bare.during.succeeded,
        buttress.during.succeeded,
        after(buttress.opened),
        after(buttress.all_opened),
        buttress.during.circuit_open,
        buttress.during.overloaded + buttress.during.rate_limited,
        buttress.during.rejected_p50,
        buttress.during.sends,
        bare.during.sends,
    );
    let recovery = format!(
        "When the outage had ended, bare was back to normal {}, and buttress {}.",
        after(bare.back),
        after(buttress.back),
    );
    let (lost, bare_lost) = (buttress.after.lost(), bare.after.lost());
    let cost = if lost > bare_lost {
        format!(
            "Here buttress loses: after the outage {lost} of its calls did not succeed, and {bare_lost} with bare. A \
             circuit closes when a few trial calls have succeeded. Until then it rejects all others. In \
             return, a server in trouble got {} fewer requests, and callers knew at once.",
            bare.during.sends.saturating_sub(buttress.during.sends),
        )
    } else {
        format!(
            "After the outage {lost} calls did not succeed with buttress, and {bare_lost} with bare."
        )
    };
    [during, recovery, cost]
}
