//! The table of verdicts in the documentation, row by row: statuses through the classifier, and
//! errors that real clients return. No feature changes a verdict.

mod by_hyper;
#[cfg(feature = "reqwest")]
mod by_reqwest;
#[path = "../support/frames.rs"]
#[expect(dead_code, reason = "these tests need no responses")]
mod frames;
mod over_tls;
mod servers;

use buttress::http::{ClientError, StatusClassifier, judge_error};
use buttress::verdict::Sent;
use buttress::{Classify, Verdict};
use http::{Response, StatusCode};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::time::Duration;

type BoxError = Box<dyn Error + Send + Sync>;
/// Errors that a client returned, each with its row of the table.
type Met = Vec<(&'static str, BoxError)>;

const TABLE: &str = include_str!("../../src/http/verdicts.md");

/// The outcome of each row; its verdict, and whether the request may have been processed.
fn rows() -> impl Iterator<Item = (&'static str, [&'static str; 2])> {
    let rows = TABLE.lines().skip(2).map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let mut cell = || cells.next().unwrap_or_default();
        (cell(), [cell(), cell()])
    });
    rows.filter(|(outcome, _)| !outcome.is_empty())
}

/// The words of a row for a verdict.
fn words(verdict: Verdict) -> [String; 2] {
    let word = format!("{verdict:?}");
    let word = word.split(' ').next().unwrap().to_owned();
    let processed = match verdict {
        Verdict::Transient { .. } | Verdict::Throttled { .. } | Verdict::Local => {
            match verdict.sent() {
                Sent::No => "no",
                Sent::Unknown => "maybe",
            }
        }
        _ => "–",
    };
    [word, processed.to_owned()]
}

#[test]
fn every_status_is_judged_as_its_row_says() {
    let mut next = 100;
    for (outcome, expected) in rows() {
        let (first, last) = outcome.split_once('–').unwrap_or((outcome, outcome));
        let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
            continue;
        };
        assert_eq!(first, next, "a row for each status, in order");
        for status in first..=last {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let outcome = Ok::<_, &Infallible>(&response);
            let verdict = StatusClassifier::default().classify(outcome);
            assert_eq!(words(verdict), expected, "{status}");
        }
        next = last + 1;
    }
    assert_eq!(next, 1_000);
}

#[tokio::test]
async fn every_client_error_is_judged_as_its_row_says() {
    let met = async {
        let mut met = by_hyper::met().await;
        met.extend(over_tls::met().await);
        #[cfg(feature = "reqwest")]
        met.extend(by_reqwest::met().await);
        met
    };
    let met = tokio::time::timeout(Duration::from_secs(20), met);
    let met = met.await.unwrap();
    for (row, error) in &met {
        let expected = rows().find(|(outcome, _)| outcome == row).expect(row).1;
        // The table's "no" holds for a client that follows no redirects.
        let alone = words(error.verdict_without_redirects());
        assert_eq!(alone, expected, "boxed, {row}: {error:?}");
        let follows = format!("{error:?}").starts_with("reqwest::Error");
        let expected = match expected {
            [verdict, "no"] if follows => [verdict, "maybe"],
            expected => expected,
        };
        assert_eq!(words(judge_error(&**error)), expected, "{row}: {error:?}");
        // Inside a box of another type it cannot be downcast.
        assert_eq!(words(error.verdict()), expected, "boxed, {row}: {error:?}");
    }
    // Every row must have been tested.
    #[cfg(feature = "reqwest")]
    for (row, _) in rows() {
        let met = met.iter().any(|(outcome, _)| *outcome == row);
        let status = row.starts_with(char::is_numeric);
        assert!(met || status || row == "any other error", "{row}");
    }
}

#[test]
fn any_other_error_is_transient() {
    let expected = rows().find(|(outcome, _)| *outcome == "any other error");
    let verdict = judge_error(&io::Error::other("who knows"));
    assert_eq!(words(verdict), expected.unwrap().1);
}
