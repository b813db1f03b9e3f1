use http::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// How long a response asks to be left alone (RFC 9110 §10.2.3), from now.
///
/// Seconds, or a date in any of HTTP's three forms. A date counts from the response's own `Date`
/// where it has one, so that the two clocks need not agree, and from this machine's clock
/// otherwise; a date that has passed is zero. A number too large for a `u64` is `Duration::MAX`.
/// What is neither is `None`.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = text(headers, &RETRY_AFTER)?;
    if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits alone that do not parse are too many.
        return Some(asked.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let sent = text(headers, &DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    Some(
        until
            .duration_since(sent.unwrap_or_else(wall_clock))
            .unwrap_or_default(),
    )
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim_ascii)
}

#[expect(
    clippy::disallowed_methods,
    reason = "an HTTP-date with no Date to compare it with"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn asked(retry_after_value: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(
            RETRY_AFTER,
            HeaderValue::from_str(retry_after_value).unwrap(),
        );
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers)
    }

    const SENT: Option<&str> = Some("Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn seconds_are_taken_as_they_are() {
        for (text, seconds) in [("0", 0), ("120", 120), ("007", 7), (" 5 ", 5)] {
            assert_eq!(
                asked(text, None),
                Some(Duration::from_secs(seconds)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_number_too_large_asks_for_ever() {
        assert_eq!(
            asked("18446744073709551615", None),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(asked("18446744073709551616", None), Some(Duration::MAX));
        assert_eq!(asked(&"9".repeat(5_000), None), Some(Duration::MAX));
    }

    #[test]
    fn all_three_forms_of_a_date_count_from_the_responses_own() {
        for date in [
            "Sun, 06 Nov 1994 08:49:47 GMT",
            "Sunday, 06-Nov-94 08:49:47 GMT",
            "Sun Nov  6 08:49:47 1994",
        ] {
            assert_eq!(asked(date, SENT), Some(Duration::from_secs(10)), "{date}");
        }
    }

    #[test]
    fn a_date_without_a_readable_date_of_the_response_counts_from_this_clock() {
        let in_an_hour = httpdate::fmt_http_date(wall_clock() + Duration::from_secs(3_600));
        for date in [None, Some("yesterday")] {
            let wait = asked(&in_an_hour, date).unwrap();
            assert!(wait > Duration::from_secs(3_500) && wait <= Duration::from_secs(3_600));
        }
    }

    #[test]
    fn a_date_that_has_passed_asks_for_nothing() {
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:36 GMT", SENT),
            Some(Duration::ZERO)
        );
        assert_eq!(
            asked("Thu, 01 Jan 1970 00:00:00 GMT", None),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn the_last_date_there_is_asks_for_long() {
        let wait = asked("Fri, 31 Dec 9999 23:59:59 GMT", SENT).unwrap();
        assert!(wait > Duration::from_secs(8_000 * 365 * 86_400));
    }

    #[test]
    fn what_is_neither_is_nothing() {
        for text in [
            "",
            " ",
            "-1",
            "+1",
            "1.5",
            "1s",
            "0x10",
            "1e3",
            "soon",
            "1, 2",
            "NaN",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 32 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(asked(text, SENT), None, "{text:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(b"\xff7").unwrap());
        assert_eq!(retry_after(&headers), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

        #[test]
        fn no_header_makes_it_panic(value: Vec<u8>, date: Vec<u8>) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [(RETRY_AFTER, value), (DATE, date)] {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.insert(name, value);
                }
            }
            let _any = retry_after(&headers);
        }
    }
}
