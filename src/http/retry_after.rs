use crate::verdict::RetryAfter;
use http::header::{AGE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// Parses the `Retry-After` header (RFC 9110 §10.2.3): how long a response asks the caller to wait.
///
/// | `Retry-After` | result |
/// |---|---|
/// | missing | [`None`](RetryAfter::None) |
/// | seconds, `120` or `1.5` | [`Delay`](RetryAfter::Delay), rounded up to a second; `Duration::MAX` for a number that is too large |
/// | a date in one of HTTP's three formats; its zone may be `GMT`, `UTC`, an offset such as `+0200`, or missing | [`Delay`](RetryAfter::Delay) until that date, zero if it has passed |
/// | several of these, in several headers or separated by commas | the longest that can be parsed |
/// | anything else | [`Unreadable`](RetryAfter::Unreadable) |
///
/// A delay is measured from now. For a date, "now" is the response's `Date` plus its `Age` (RFC
/// 9111 §4.2.3), so the clocks of both machines need not agree. Without a `Date`, it is this
/// machine's clock.
///
/// ```
/// use buttress::{RetryAfter, http::retry_after};
/// use http::HeaderMap;
/// use http::header::{DATE, RETRY_AFTER};
/// use std::time::Duration;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
/// headers.insert(RETRY_AFTER, "Sun, 06 Nov 1994 08:49:47 GMT".parse().unwrap());
/// assert_eq!(retry_after(&headers), RetryAfter::Delay(Duration::from_secs(10)));
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> RetryAfter {
    let fields = headers.get_all(RETRY_AFTER).iter();
    match fields.filter_map(|field| delay(field, headers)).max() {
        Some(delay) => RetryAfter::Delay(delay),
        None if headers.contains_key(RETRY_AFTER) => RetryAfter::Unreadable,
        None => RetryAfter::None,
    }
}

fn delay(field: &HeaderValue, headers: &HeaderMap) -> Option<Duration> {
    let asked = text(field)?;
    match date(asked) {
        Some(until) => Some(until_from_now(until, headers)),
        None => asked.split(',').filter_map(seconds).max(),
    }
}

fn text(field: &HeaderValue) -> Option<&str> {
    field.to_str().ok().map(str::trim_ascii)
}

/// Parses seconds, with or without a decimal fraction. Rounds up to a second.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim_ascii();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !(number(whole) && number(fraction)) {
        return None;
    }
    let more = u64::from(fraction.bytes().any(|digit| digit != b'0'));
    // Only digits are left, so a parse error means that the number is too large.
    let seconds = whole
        .parse()
        .ok()
        .and_then(|whole: u64| whole.checked_add(more));
    Some(seconds.map_or(Duration::MAX, Duration::from_secs))
}

/// The time until a date, by the clock of the response if it has one.
pub(super) fn until_from_now(until: SystemTime, headers: &HeaderMap) -> Duration {
    let sent = headers.get(DATE).and_then(text).and_then(date);
    // A cache may have stored the response. `Age` says for how long.
    let age = || headers.get(AGE).and_then(text).and_then(seconds);
    let now = match sent {
        Some(sent) => sent.checked_add(age().unwrap_or_default()),
        None => Some(wall_clock()),
    };
    let left = now.and_then(|now| until.duration_since(now).ok());
    left.unwrap_or_default()
}

/// Parses a date in one of HTTP's three formats. Its zone is a numeric offset, or a name of UTC, or
/// missing.
fn date(text: &str) -> Option<SystemTime> {
    let zoned = text.rsplit_once(' ').and_then(|(local, zone)| {
        let offset = offset(zone)?;
        Some((local.trim_ascii_end(), offset))
    });
    let (local, (ahead, offset)) = zoned.unwrap_or((text, (false, Duration::ZERO)));
    // The third format, that of C's `asctime`, has no zone.
    let parsed = httpdate::parse_http_date(&format!("{local} GMT"));
    let local = parsed.or_else(|_| httpdate::parse_http_date(local)).ok()?;
    if ahead {
        local.checked_sub(offset)
    } else {
        local.checked_add(offset)
    }
}

/// Parses a zone: whether it is ahead of UTC, and by how much. Examples: `GMT`, `UTC`, `-0500`,
/// `+02:00`, `UTC+2`.
fn offset(zone: &str) -> Option<(bool, Duration)> {
    let zone = zone.to_ascii_uppercase();
    let named = ["GMT", "UTC", "UT", "Z"];
    let number = named.iter().find_map(|name| zone.strip_prefix(name));
    let number = number.unwrap_or(&zone);
    if number.is_empty() {
        return Some((false, Duration::ZERO));
    }
    let (ahead, number) = match number.strip_prefix('+') {
        Some(number) => (true, number),
        None => (false, number.strip_prefix('-')?),
    };
    let (hours, minutes) = match (number.split_once(':'), number.len()) {
        (Some(parts), _) => parts,
        (None, 3..) => number.split_at_checked(number.len() - 2)?,
        (None, _) => (number, "0"),
    };
    let below = |text: &str, limit: u64| {
        let digits = text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|n| digits && *n < limit)
    };
    let minutes = below(hours, 24)? * 60 + below(minutes, 60)?;
    Some((ahead, Duration::from_secs(minutes * 60)))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a date in Retry-After, in a response without Date"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;

    const SENT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn headers<const N: usize>(fields: [(HeaderName, &str); N]) -> HeaderMap {
        let value = |text| HeaderValue::from_str(text).unwrap();
        fields
            .map(|(name, text)| (name, value(text)))
            .into_iter()
            .collect()
    }

    /// Parses the `Retry-After` of a response that was sent at `SENT`.
    fn asked(text: &str) -> RetryAfter {
        retry_after(&headers([(RETRY_AFTER, text), (DATE, SENT)]))
    }

    fn delay_of(seconds: u64) -> RetryAfter {
        RetryAfter::Delay(Duration::from_secs(seconds))
    }

    #[test]
    fn a_response_without_the_header_asks_for_no_wait() {
        assert_eq!(retry_after(&headers([(DATE, SENT)])), RetryAfter::None);
    }

    #[test]
    fn seconds_are_taken_as_they_are() {
        for (text, seconds) in [("0", 0), ("120", 120), ("007", 7), (" 5 ", 5)] {
            assert_eq!(asked(text), delay_of(seconds), "{text:?}");
        }
    }

    #[test]
    fn a_fraction_of_a_second_is_rounded_up() {
        for (text, seconds) in [
            ("1.5", 2),
            ("0.001", 1),
            ("7.0", 7),
            ("7.000000000000001", 8),
        ] {
            assert_eq!(asked(text), delay_of(seconds), "{text:?}");
        }
    }

    #[test]
    fn a_number_that_is_too_large_is_the_longest_delay() {
        assert_eq!(asked("18446744073709551615"), delay_of(u64::MAX));
        let digits = "9".repeat(5_000);
        for text in ["18446744073709551616", "18446744073709551615.5", &digits] {
            assert_eq!(asked(text), RetryAfter::Delay(Duration::MAX), "{text}");
        }
    }

    #[test]
    fn all_three_formats_of_a_date_count_from_the_responses_date() {
        for date in [
            "Sun, 06 Nov 1994 08:49:47 GMT",
            "Sunday, 06-Nov-94 08:49:47 GMT",
            "Sun Nov  6 08:49:47 1994",
        ] {
            assert_eq!(asked(date), delay_of(10), "{date}");
        }
    }

    #[test]
    fn a_date_may_use_any_name_of_utc_or_no_zone() {
        for zone in [
            " GMT",
            " UTC",
            " utc",
            " UT",
            " Z",
            "",
            " +0000",
            " -00:00",
            " GMT+0000",
        ] {
            for local in ["Sun, 06 Nov 1994 08:49:47", "Sunday, 06-Nov-94 08:49:47"] {
                assert_eq!(
                    asked(&format!("{local}{zone}")),
                    delay_of(10),
                    "{local}{zone}"
                );
            }
        }
        assert_eq!(asked("Sun Nov  6 08:49:47 1994 UTC"), delay_of(10));
    }

    #[test]
    fn a_date_may_have_any_numeric_offset() {
        for date in [
            "Sun, 06 Nov 1994 03:49:47 -0500",
            "Sun, 06 Nov 1994 14:19:47 +05:30",
            "Sun, 06 Nov 1994 14:19:47 +530",
            "Sunday, 06-Nov-94 10:49:47 +02",
            "Sun, 06 Nov 1994 10:49:47 UTC+2",
            "Mon, 07 Nov 1994 08:48:47 +2359",
            "Sun Nov  6 10:49:47 1994 +0200",
        ] {
            assert_eq!(asked(date), delay_of(10), "{date}");
        }
    }

    #[test]
    fn the_date_of_the_response_may_have_an_offset_too() {
        let sent = (DATE, "Sun, 06 Nov 1994 10:49:37 +0200");
        let until = (RETRY_AFTER, "Sun, 06 Nov 1994 08:49:47 GMT");
        assert_eq!(retry_after(&headers([until, sent])), delay_of(10));
    }

    #[test]
    fn the_age_of_a_cached_response_shortens_the_delay() {
        for (age, seconds) in [
            ("0", 10),
            ("4", 6),
            ("10", 0),
            ("11", 0),
            ("soon", 10),
            ("-4", 10),
        ] {
            let until = (RETRY_AFTER, "Sun, 06 Nov 1994 08:49:47 GMT");
            let cached = headers([until, (DATE, SENT), (AGE, age)]);
            assert_eq!(retry_after(&cached), delay_of(seconds), "{age}");
            let by_seconds = headers([(RETRY_AFTER, "10"), (DATE, SENT), (AGE, age)]);
            assert_eq!(retry_after(&by_seconds), delay_of(10), "{age}");
        }
        for age in ["18446744073709551615", "99999999999999999999"] {
            let until = (RETRY_AFTER, "Fri, 31 Dec 9999 23:59:59 GMT");
            let cached = headers([until, (DATE, SENT), (AGE, age)]);
            assert_eq!(retry_after(&cached), delay_of(0), "{age}");
        }
    }

    #[test]
    fn without_a_valid_date_of_the_response_a_date_counts_from_the_local_clock() {
        let in_an_hour = httpdate::fmt_http_date(wall_clock() + Duration::from_secs(3_600));
        let until = (RETRY_AFTER, in_an_hour.as_str());
        for headers in [
            headers([until.clone(), (AGE, "3000")]),
            headers([until.clone(), (AGE, "3000"), (DATE, "yesterday")]),
        ] {
            let wait = retry_after(&headers).delay().unwrap();
            assert!(wait > Duration::from_secs(3_500) && wait <= Duration::from_secs(3_600));
        }
    }

    #[test]
    fn a_date_that_has_passed_is_a_delay_of_zero() {
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:36 GMT"), delay_of(0));
        assert_eq!(asked("Thu, 01 Jan 1970 00:00:00 +2300"), delay_of(0));
        let undated = headers([(RETRY_AFTER, "Thu, 01 Jan 1970 00:00:00 GMT")]);
        assert_eq!(retry_after(&undated), delay_of(0));
    }

    #[test]
    fn the_last_date_that_http_can_express_is_a_long_delay() {
        for date in [
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Fri, 31 Dec 9999 23:59:59 -2359",
        ] {
            let wait = asked(date).delay().unwrap();
            assert!(wait > Duration::from_secs(8_000 * 365 * 86_400), "{date}");
        }
    }

    #[test]
    fn of_several_values_the_longest_counts() {
        let date = "Sun, 06 Nov 1994 08:50:07 GMT";
        for fields in [
            ["1", "30"],
            ["30", "1"],
            ["soon", "30"],
            ["30", ""],
            [date, "29.5"],
        ] {
            let [one, two] = fields.map(|text| (RETRY_AFTER, text));
            let response = headers([one, two, (DATE, SENT)]);
            assert_eq!(retry_after(&response), delay_of(30), "{fields:?}");
        }
        for text in ["1, 30", "30,1", "30, soon", "0.5 , 30 ,"] {
            assert_eq!(asked(text), delay_of(30), "{text}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_parsed_is_unreadable_not_missing() {
        for text in [
            "",
            " ",
            "-1",
            "+1",
            "1.",
            ".5",
            "1.5.2",
            "1s",
            "0x10",
            "1e3",
            "soon",
            "NaN",
            ",",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 EST",
            "Sun, 06 Nov 1994 08:49:37 +2400",
            "Sun, 06 Nov 1994 08:49:37 +0060",
            "Sun, 06 Nov 1994 08:49:37 +00000",
            "Sun, 06 Nov 1994 08:49:37 +",
            "+0000",
            "GMT",
        ] {
            assert_eq!(asked(text), RetryAfter::Unreadable, "{text:?}");
        }
        let bytes = HeaderValue::from_bytes(b"\xff7").unwrap();
        let opaque = [(RETRY_AFTER, bytes)].into_iter().collect();
        assert_eq!(retry_after(&opaque), RetryAfter::Unreadable);
    }

    /// A header value: arbitrary bytes, or text that resembles a number or a date.
    fn field() -> impl Strategy<Value = HeaderValue> {
        let date = "(Sun, 06 Nov 1994|Sunday, 06-Nov-94|[A-Z][a-z]+, [0-9]{2} Nov [0-9]{4}) \
                    [0-9:]{8}( [A-Z]{0,3}[+-]?[0-9:]{0,6})?";
        prop_oneof![
            any::<Vec<u8>>(),
            "[0-9.,+ -]{0,40}".prop_map(String::into_bytes),
            date.prop_map(String::into_bytes),
        ]
        .prop_filter_map("a header's value", |bytes| {
            HeaderValue::from_bytes(&bytes).ok()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn no_header_makes_the_parser_panic(values in [field(), field(), field(), field()]) {
            let names = [RETRY_AFTER, RETRY_AFTER, DATE, AGE];
            let headers = names.into_iter().zip(values).collect();
            prop_assert_ne!(retry_after(&headers), RetryAfter::None);
        }
    }
}
