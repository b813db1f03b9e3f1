use super::retry_after::until_from_now;
use http::header::HeaderMap;
use std::time::{Duration, UNIX_EPOCH};

/// How long a response says that its quota is used up. `None` if something is left, or if no header says so.
///
/// | header | read as |
/// |---|---|
/// | `RateLimit: "default";r=0;t=30` (draft-ietf-httpapi-ratelimit-headers, from version 8) | used up for 30 s, if `r` is 0. Without `t`, for the window `w` of the item with the same name in `RateLimit-Policy` |
/// | `RateLimit: limit=100, remaining=0, reset=30`, or `RateLimit-Remaining: 0` and `RateLimit-Reset: 30` (earlier versions) | the same |
/// | `X-RateLimit-Remaining: 0` and `X-RateLimit-Reset-After: 1.5` | used up for 1.5 s |
/// | `X-RateLimit-Remaining: 0` and `X-RateLimit-Reset` | used up for so many seconds; above 10⁹, until this Unix time, measured from the response's `Date`, or else from this machine's clock |
/// | the same with the prefix `X-Rate-Limit-`, or with the suffixes `-Requests` and `-Tokens` and times such as `6m0s` or `20ms` | the same |
///
/// The longest of them counts. What cannot be parsed is ignored.
///
/// ```
/// use buttress::http::quota_pause;
/// use std::time::Duration;
///
/// let response = http::Response::builder().header("ratelimit", "\"minute\";r=0;t=30").body(())?;
/// assert_eq!(quota_pause(response.headers()), Some(Duration::from_secs(30)));
/// # Ok::<(), http::Error>(())
/// ```
#[must_use]
pub fn quota_pause(headers: &HeaderMap) -> Option<Duration> {
    let pairs = [
        ("ratelimit-remaining", "ratelimit-reset"),
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
        ("x-ratelimit-remaining", "x-ratelimit-reset-after"),
        ("x-rate-limit-remaining", "x-rate-limit-reset"),
        (
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ];
    let of_pairs = pairs.into_iter().filter_map(|(remaining, reset)| {
        let used_up = values(headers, remaining).any(|value| value.trim_ascii() == "0");
        let reset = values(headers, reset).filter_map(|value| time(value, headers));
        if used_up { reset.max() } else { None }
    });
    of_pairs.max().max(of_items(headers))
}

/// The header `retry-after-ms` of some providers: `Retry-After` in milliseconds.
pub(super) fn retry_after_ms(headers: &HeaderMap) -> Option<Duration> {
    let asked = values(headers, "retry-after-ms").filter_map(number);
    asked.map(|millis| seconds(millis / 1e3)).max()
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
}

/// The items of `RateLimit` that are used up.
fn of_items(headers: &HeaderMap) -> Option<Duration> {
    let mut longest = None;
    for value in values(headers, "ratelimit") {
        // Before version 8, the header was one item whose parameters were separated by commas.
        if let (Some("0"), Some(reset)) = (listed(value, "remaining"), listed(value, "reset")) {
            longest = longest.max(number(reset).map(seconds));
        }
        for item in value.split(',') {
            if parameter(item, "r") != Some("0") {
                continue;
            }
            let time = parameter(item, "t").or_else(|| window(headers, name(item)));
            longest = longest.max(time.and_then(number).map(seconds));
        }
    }
    longest
}

/// The window of the item with this name in `RateLimit-Policy`.
fn window<'a>(headers: &'a HeaderMap, of: &str) -> Option<&'a str> {
    let items = values(headers, "ratelimit-policy").flat_map(|value| value.split(','));
    items
        .filter(|item| name(item) == of)
        .find_map(|item| parameter(item, "w"))
}

fn name(item: &str) -> &str {
    item.split(';').next().unwrap_or_default().trim_ascii()
}

fn parameter<'a>(item: &'a str, wanted: &str) -> Option<&'a str> {
    find(item.split(';').skip(1), wanted)
}

fn listed<'a>(list: &'a str, wanted: &str) -> Option<&'a str> {
    find(list.split(','), wanted)
}

fn find<'a>(mut pairs: impl Iterator<Item = &'a str>, wanted: &str) -> Option<&'a str> {
    pairs.find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name.trim_ascii() == wanted).then(|| value.trim_ascii())
    })
}

/// A time from now: seconds, a Unix time, or a duration with units.
fn time(text: &str, headers: &HeaderMap) -> Option<Duration> {
    // No reset is 30 years away.
    const A_UNIX_TIME: f64 = 1e9;
    match number(text) {
        Some(unix) if unix > A_UNIX_TIME => {
            let until = UNIX_EPOCH.checked_add(seconds(unix))?;
            Some(until_from_now(until, headers))
        }
        Some(number) => Some(seconds(number)),
        None => with_units(text),
    }
}

/// A duration such as `6m0s`, `1h2m3.5s` or `20ms`.
fn with_units(text: &str) -> Option<Duration> {
    let mut rest = text.trim_ascii();
    let mut sum = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (amount, more) = rest.split_at(digits);
        let unit = more.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, more) = more.split_at(unit.unwrap_or(more.len()));
        let factor = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum = Some(sum.unwrap_or(0.0) + number(amount)? * factor);
        rest = more;
    }
    sum.map(seconds)
}

/// A number that is not negative, without sign or exponent.
fn number(text: &str) -> Option<f64> {
    let text = text.trim_ascii();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn pause(headers: &[(&str, &str)]) -> Option<u64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        quota_pause(&map).map(|pause| pause.as_millis() as u64)
    }

    #[test]
    fn the_drafts_of_the_ietf() {
        let of = |value| pause(&[("ratelimit", value)]);
        assert_eq!(of("\"default\";r=0;t=30"), Some(30_000));
        assert_eq!(of("\"default\";r=50;t=30"), None);
        assert_eq!(of("\"minute\";r=9;t=3, \"hour\";r=0;t=300"), Some(300_000));
        assert_eq!(of("\"a\"; r=0 ; t=5;pk=:cHJvcA==:"), Some(5_000));
        assert_eq!(of("\"default\";r=0"), None);
        let policy = (
            "ratelimit-policy",
            "\"other\";q=9;w=5, \"default\";q=100;w=60",
        );
        assert_eq!(
            pause(&[("ratelimit", "\"default\";r=0"), policy]),
            Some(60_000)
        );
        assert_eq!(of("limit=100, remaining=0, reset=30"), Some(30_000));
        assert_eq!(of("limit=100, remaining=1, reset=30"), None);
        let old = [("ratelimit-remaining", "0"), ("ratelimit-reset", "50")];
        assert_eq!(pause(&old), Some(50_000));
    }

    #[test]
    fn headers_of_providers() {
        // GitHub: a Unix time. The clock is that of the response.
        let date = ("date", "Tue, 14 Nov 2023 22:13:20 GMT");
        let github = [
            ("x-ratelimit-limit", "60"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1700000042"),
        ];
        assert_eq!(
            pause(&[github[0], github[1], github[2], date]),
            Some(42_000)
        );
        assert_eq!(
            pause(&[
                github[0],
                github[1],
                ("x-ratelimit-reset", "1600000000"),
                date
            ]),
            Some(0)
        );
        assert_eq!(
            pause(&[github[0], ("x-ratelimit-remaining", "1"), github[2], date]),
            None
        );
        // X: another spelling.
        let x = [
            ("x-rate-limit-remaining", "0"),
            ("x-rate-limit-reset", "1700000009"),
            date,
        ];
        assert_eq!(pause(&x), Some(9_000));
        // Discord: both, and the one that needs no clock has a fraction.
        let discord = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset-after", "1.5"),
        ];
        assert_eq!(pause(&discord), Some(1_500));
        // OpenAI: two quotas, with units.
        let openai = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        assert_eq!(pause(&openai), Some(1_000));
        let tokens = [
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0.5s"),
        ];
        assert_eq!(
            pause(&[openai[0], openai[1], tokens[0], tokens[1]]),
            Some(360_500)
        );
        // Others: seconds.
        assert_eq!(
            pause(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "7")]),
            Some(7_000)
        );
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for reset in [
            "", "soon", "-1", "+1", "1e9", "NaN", "inf", "1..5", ".", "6x", "6m0", "m", "\u{e9}",
        ] {
            let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset)];
            assert_eq!(pause(&headers), None, "{reset}");
        }
        let huge = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset-after", "999999999h"),
        ];
        assert!(pause(&huge).unwrap() > 1_000_000_000);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(values in prop::collection::vec(any::<Vec<u8>>(), 0..3)) {
            let names = ["ratelimit", "ratelimit-policy", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after-ms"];
            let mut map = HeaderMap::new();
            for name in names {
                for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
                    map.append(name, value);
                }
                map.append(name, HeaderValue::from_static("0"));
            }
            let _ = (quota_pause(&map), retry_after_ms(&map));
        }
    }
}
