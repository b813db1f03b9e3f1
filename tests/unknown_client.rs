//! Boxed errors that no known client makes. In a process of its own, because what is told once in a
//! process is told in one test of it.

#[path = "support/events.rs"]
mod events;

use buttress::Verdict;
use buttress::http::ClientError;
use std::io;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::test]
async fn the_first_boxed_error_of_an_unknown_client_is_told_of_and_all_are_transient() {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    let known: [BoxError; 4] = [
        reset().into(),
        io::Error::other("closed").into(),
        io::Error::from_raw_os_error(104).into(),
        buttress::Error::Service(reset()).into(),
    ];
    let told = events::of(async {
        for error in known {
            assert_eq!(error.verdict(), Verdict::TRANSIENT);
        }
    });
    assert!(told.await.is_empty());

    let told = events::of(async {
        for unknown in ["no route", "no host"] {
            assert_eq!(BoxError::from(unknown).verdict(), Verdict::TRANSIENT);
        }
    });
    let expected = "WARN buttress::http unknown_client_error error=no route";
    assert_eq!(told.await, [expected]);
}
