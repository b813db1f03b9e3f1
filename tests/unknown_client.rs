//! Boxed errors of an unknown client. This test needs its own process, because the warning is
//! emitted once per process.

#[path = "support/events.rs"]
mod events;

use buttress::Verdict;
use buttress::http::ClientError;
use std::io;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::test]
async fn boxed_errors_of_an_unknown_client_are_transient_and_the_first_one_emits_an_event() {
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
