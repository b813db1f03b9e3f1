//! What may be kept and for how long, by RFC 9111 and RFC 5861 (`stale-if-error`). Pure decisions about headers.

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, DATE, EXPIRES, HOST, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use std::time::{Duration, SystemTime};

/// The names and values of a request that a response varies by.
pub(super) type Varied = Vec<(HeaderName, Vec<HeaderValue>)>;

/// What distinguishes one resource from another: its URI, its host and, if requests with credentials are allowed, those.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    uri: String,
    /// The header `Host`, which may name another host than the URI does.
    hosts: Vec<Vec<u8>>,
    credentials: Vec<Vec<u8>>,
}

impl Key {
    /// Whether both are the same resource, whatever the credentials.
    pub(super) fn has_same_uri(&self, other: &Self) -> bool {
        self.uri == other.uri && self.hosts == other.hosts
    }

    /// The resource for requests without credentials.
    pub(super) fn without_credentials(mut self) -> Self {
        self.credentials.clear();
        self
    }
}

/// The key of a request, whatever its method.
pub(super) fn key<B>(req: &Request<B>) -> Key {
    let values = |name| {
        let values = req.headers().get_all(name).iter();
        values.map(|value| value.as_bytes().to_vec()).collect()
    };
    Key {
        uri: req.uri().to_string(),
        hosts: values(HOST),
        credentials: values(AUTHORIZATION),
    }
}

/// Whether a request may be answered by a kept response, and its response kept.
pub(super) fn takes_part<B>(req: &Request<B>, authorized: bool) -> bool {
    let headers = req.headers();
    let asked = Directives::of(headers);
    req.method() == Method::GET
        && !headers.contains_key(RANGE)
        && (authorized || !headers.contains_key(AUTHORIZATION))
        && !asked.no_store
        && !asked.no_cache
}

/// Whether a successful request with this method changes the resource, so that what was kept is wrong.
pub(super) fn changes(method: &Method) -> bool {
    !method.is_safe()
}

/// The directives of `Cache-Control` that matter here. A directive that is there twice counts by its stricter value.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each directive")]
pub(super) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    private: bool,
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: a stale response must not be served.
    revalidate: bool,
    max_age: Option<u64>,
    stale_if_error: Option<u64>,
}

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            for directive in split(value.as_bytes()) {
                found.add(directive);
            }
        }
        found
    }

    fn add(&mut self, directive: &[u8]) {
        let mut parts = directive.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let value = parts.next().map(<[u8]>::trim_ascii);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("private") {
            self.private = true;
        } else if is("must-revalidate") || is("proxy-revalidate") || is("s-maxage") {
            self.revalidate = true;
        } else if is("max-age") {
            self.max_age = Some(stricter(self.max_age, value));
        } else if is("stale-if-error") {
            self.stale_if_error = Some(stricter(self.stale_if_error, value));
        }
    }
}

/// The smaller of two numbers of seconds. What is not a number counts as 0.
fn stricter(known: Option<u64>, value: Option<&[u8]>) -> u64 {
    let value = value.map(|value| value.strip_prefix(b"\"").unwrap_or(value));
    let value = value.map(|value| value.strip_suffix(b"\"").unwrap_or(value));
    let seconds = value.and_then(seconds).unwrap_or(0);
    known.map_or(seconds, |known| known.min(seconds))
}

/// A number of seconds. More than 2³¹ count as 2³¹ (RFC 9111 §1.2.2).
fn seconds(digits: &[u8]) -> Option<u64> {
    const MOST: u64 = 1 << 31;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| (sum * 10 + u64::from(digit - b'0')).min(MOST);
    Some(digits.iter().fold(0, add))
}

/// Splits a list at its commas, but not within quotes.
fn split(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    list.split(move |byte| {
        let is_comma = *byte == b',' && !quoted;
        if !escaped && *byte == b'"' {
            quoted = !quoted;
        }
        escaped = quoted && !escaped && *byte == b'\\';
        is_comma
    })
}

/// How long a response may be kept, and what it varies by. `None` if it must not be kept.
pub(super) fn keeps<B>(
    req: &Request<B>,
    status: StatusCode,
    headers: &HeaderMap,
    stale_for: Duration,
) -> Option<(Duration, Varied)> {
    let said = Directives::of(headers);
    let has_user = req.headers().contains_key(AUTHORIZATION);
    let refused = status != StatusCode::OK
        || said.no_store
        || said.no_cache
        || said.revalidate
        || (said.private && !has_user)
        || headers.contains_key(SET_COOKIE)
        || headers.contains_key(TRAILER);
    if refused {
        return None;
    }
    let fresh = freshness(&said, headers);
    let usable = said.stale_if_error.map_or(stale_for, |stale| {
        let whole = fresh.saturating_add(Duration::from_secs(stale));
        whole.saturating_sub(age(headers)).min(stale_for)
    });
    if usable.is_zero() {
        return None;
    }
    Some((usable, varied(req.headers(), headers)?))
}

/// How long the response is fresh (RFC 9111 §4.2.1), without a guess.
fn freshness(said: &Directives, headers: &HeaderMap) -> Duration {
    if let Some(max_age) = said.max_age {
        return Duration::from_secs(max_age);
    }
    let date = |name| -> Option<SystemTime> {
        let text = headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())?;
        httpdate::parse_http_date(text).ok()
    };
    let (Some(expires), Some(sent)) = (date(EXPIRES), date(DATE)) else {
        return Duration::ZERO;
    };
    expires.duration_since(sent).unwrap_or_default()
}

/// The header `Age`.
pub(super) fn age(headers: &HeaderMap) -> Duration {
    let age = headers
        .get(AGE)
        .and_then(|value| seconds(value.as_bytes().trim_ascii()));
    Duration::from_secs(age.unwrap_or(0))
}

/// The headers of the request that the response varies by. `None` for `Vary: *`.
fn varied(asked: &HeaderMap, headers: &HeaderMap) -> Option<Varied> {
    let mut varied = Varied::new();
    for value in headers.get_all(VARY) {
        for name in value.as_bytes().split(|byte| *byte == b',') {
            let name = name.trim_ascii();
            if name.is_empty() {
                continue;
            }
            // `*` is a valid name for the parser.
            let name = HeaderName::from_bytes(name)
                .ok()
                .filter(|name| name != "*")?;
            let values = asked.get_all(&name).iter().cloned().collect();
            varied.push((name, values));
        }
    }
    Some(varied)
}

/// Whether a request has the headers that the kept response varies by.
pub(super) fn matches(varied: &Varied, asked: &HeaderMap) -> bool {
    varied
        .iter()
        .all(|(name, values)| asked.get_all(name).iter().eq(values))
}

/// The headers to keep: not those of the connection (RFC 9111 §3.1).
pub(super) fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let named: Vec<_> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let known = [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        HeaderName::from_static("proxy-connection"),
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.into_iter().chain(known) {
        kept.remove(name);
    }
    kept
}

/// Whether the response announces this length, or none.
pub(super) fn may_have_length(headers: &HeaderMap, length: u64) -> bool {
    headers.get_all(CONTENT_LENGTH).iter().all(|announced| {
        let announced = announced.to_str().ok().and_then(|text| text.parse().ok());
        announced == Some(length)
    })
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use http::Response;
    use proptest::prelude::*;

    fn usable(headers: &[(&str, &str)]) -> Option<u64> {
        let mut response = Response::builder();
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(()).unwrap();
        let req = Request::get("/").body(()).unwrap();
        let hour = Duration::from_secs(3_600);
        let kept = keeps(&req, StatusCode::OK, response.headers(), hour);
        kept.map(|(usable, _)| usable.as_secs())
    }

    #[test]
    fn a_response_is_kept_for_as_long_as_it_and_the_layer_allow() {
        let cases = [
            (None, Some(3_600)),
            (Some("max-age=60"), Some(3_600)),
            (Some("stale-if-error=600"), Some(600)),
            (Some("max-age=60, stale-if-error=600"), Some(660)),
            (Some("MAX-AGE=60,Stale-If-Error=\"600\""), Some(660)),
            (Some("stale-if-error=99999999999999999999999"), Some(3_600)),
            (Some("max-age=60, stale-if-error=soon"), Some(60)),
            (Some("stale-if-error=600, stale-if-error=5"), Some(5)),
            (Some("stale-if-error=0"), None),
            (Some("no-store"), None),
            (Some("No-Cache"), None),
            (Some("no-cache=\"x, max-age=1\""), None),
            (Some("private"), None),
            (Some("max-age=60, must-revalidate"), None),
            (Some("proxy-revalidate"), None),
            (Some("s-maxage=60"), None),
            (Some("ext=\"no-store, \\\" no-store\""), Some(3_600)),
            (Some(",,  ,=,"), Some(3_600)),
        ];
        for (value, expected) in cases {
            let headers: Vec<_> = value
                .map(|value| ("cache-control", value))
                .into_iter()
                .collect();
            assert_eq!(usable(&headers), expected, "{value:?}");
        }
        for header in [
            ("vary", "*"),
            ("vary", "accept, *"),
            ("set-cookie", "a=b"),
            ("trailer", "x"),
        ] {
            assert_eq!(usable(&[header]), None, "{header:?}");
        }
    }

    #[test]
    fn the_age_and_the_dates_of_a_response_count() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let stale = ("cache-control", "stale-if-error=600");
        let minute = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(usable(&[date, minute, stale]), Some(660));
        assert_eq!(usable(&[date, minute, stale, ("age", "100")]), Some(560));
        assert_eq!(usable(&[date, ("expires", "0"), stale]), Some(600));
        assert_eq!(usable(&[minute, date, stale, ("age", "9999")]), None);
        assert_eq!(usable(&[stale, ("age", "-1")]), Some(600));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(values in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut headers = HeaderMap::new();
            for name in [CACHE_CONTROL, VARY, AGE, EXPIRES, DATE, CONNECTION, CONTENT_LENGTH] {
                for value in values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
                    headers.append(&name, value);
                }
            }
            let req = Request::get("/").body(()).unwrap();
            let _ = keeps(&req, StatusCode::OK, &headers, Duration::MAX);
            let _ = (kept(&headers), may_have_length(&headers, 7), age(&headers));
        }
    }
}
