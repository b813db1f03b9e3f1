use crate::keyed::Key;
use http::header::HOST;
use http::uri::{self, Scheme};
use http::{HeaderMap, Request, Uri};
use std::borrow::Cow;

/// The key of an HTTP request: the host and port that it is for.
///
/// The host is in lower case. The port is left out if it is the default of the scheme. User and password
/// never become part of the key. If the URI names no host, as in a server, the header `Host` does.
///
/// ```
/// use buttress::http::Authority;
/// use buttress::keyed::Key;
/// use http::Request;
///
/// let key = |uri: &str| Authority.key(&Request::get(uri).body(()).unwrap()).map(|key| key.into_owned());
/// assert_eq!(key("http://Orders.internal:80/7").as_deref(), Some("orders.internal"));
/// assert_eq!(key("http://me:secret@orders.internal:8080/7").as_deref(), Some("orders.internal:8080"));
/// assert_eq!(key("/7"), None);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Authority;

impl<B> Key<Request<B>> for Authority {
    fn key<'a>(&self, request: &'a Request<B>) -> Option<Cow<'a, str>> {
        of_uri(request.uri()).or_else(|| of_headers(request.headers()))
    }
}

#[cfg(feature = "reqwest")]
impl Key<reqwest::Request> for Authority {
    fn key<'a>(&self, request: &'a reqwest::Request) -> Option<Cow<'a, str>> {
        // A `Url` has a host in lower case and no default port.
        let url = request.url();
        url.has_host().then(|| host_and_port(url.authority(), None))
    }
}

fn of_uri(uri: &Uri) -> Option<Cow<'_, str>> {
    let default = uri.scheme().and_then(default_port);
    Some(host_and_port(uri.authority()?.as_str(), default))
}

fn of_headers(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let host = headers.get(HOST)?.to_str().ok()?;
    host.parse::<uri::Authority>().ok()?;
    Some(host_and_port(host, None))
}

fn default_port(scheme: &Scheme) -> Option<u16> {
    match scheme.as_str() {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

fn host_and_port(authority: &str, default: Option<u16>) -> Cow<'_, str> {
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, rest)| rest);
    // The colons within an address of IPv6 stand before a bracket.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    // A host at the root of the name space is the same host.
    let host = host.strip_suffix('.').unwrap_or(host);
    let number = port.parse().ok();
    let shown = match number {
        Some(_) if number == default => host,
        _ if port.is_empty() => host,
        _ => authority,
    };
    let is_plain = shown.len() == host.len() || shown[host.len()..].starts_with(':');
    match number {
        Some(number) if shown.len() > host.len() && (port.starts_with('0') || !is_plain) => {
            Cow::Owned(format!("{}:{number}", host.to_ascii_lowercase()))
        }
        _ if shown.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Cow::Owned(shown.to_ascii_lowercase())
        }
        _ => Cow::Borrowed(shown),
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (uri, key) in [
            ("http://a.example/7", "a.example"),
            ("http://A.Example:80", "a.example"),
            ("https://a.example:443/", "a.example"),
            ("https://a.example:80/", "a.example:80"),
            ("http://a.example:/", "a.example"),
            ("http://a.example./", "a.example"),
            ("http://a.example.:80/", "a.example"),
            ("http://a.example.:8080/", "a.example:8080"),
            ("http://a.example:080/", "a.example"),
            ("http://a.example:08080/", "a.example:8080"),
            ("http://me:se@cret@a.example:8080/", "a.example:8080"),
            ("http://me@A.example/", "a.example"),
            ("http://[2001:DB8::1]/", "[2001:db8::1]"),
            ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
            ("http://[2001:db8::1]:80/", "[2001:db8::1]"),
            ("ws://a.example:80/", "a.example"),
            ("a.example:443", "a.example:443"),
        ] {
            let Ok(uri) = uri.parse::<Uri>() else {
                assert!(uri.contains("se@cret"), "{uri}");
                continue;
            };
            assert_eq!(of_uri(&uri).as_deref(), Some(key), "{uri}");
        }
    }

    #[test]
    fn a_request_without_a_host_in_its_uri_has_that_of_its_header() {
        let request = Request::get("/7").header("host", "A.example:8080");
        let request = request.body(()).unwrap();
        assert_eq!(Authority.key(&request).as_deref(), Some("a.example:8080"));
        let nowhere = Request::get("/7")
            .header("host", "no host")
            .body(())
            .unwrap();
        assert_eq!(Authority.key(&nowhere), None);
        assert_eq!(Authority.key(&Request::new(())), None);
    }

    #[cfg(feature = "reqwest")]
    #[test]
    fn reqwest_spells_a_host_in_the_same_way() {
        for (url, key) in [
            ("http://A.Example:80/7", "a.example"),
            ("http://me:secret@a.example:8080/", "a.example:8080"),
            ("https://[2001:DB8::1]:443/", "[2001:db8::1]"),
        ] {
            let request = reqwest::Request::new(http::Method::GET, url.parse().unwrap());
            assert_eq!(Authority.key(&request).as_deref(), Some(key), "{url}");
        }
    }
}
