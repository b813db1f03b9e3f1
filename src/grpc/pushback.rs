//! When a gRPC server wants to be called again: in the trailer `grpc-retry-pushback-ms` (gRFC A6), or in
//! a `google.rpc.RetryInfo` of the trailer `grpc-status-details-bin`.

use http::HeaderMap;
use std::time::Duration;

/// What the server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushback {
    /// Nothing.
    None,
    /// No retry.
    Never,
    After(Duration),
}

pub(super) fn pushback(headers: &HeaderMap) -> Pushback {
    if let Some(value) = headers.get("grpc-retry-pushback-ms") {
        // gRFC A6: a value that is negative or cannot be read means no retry.
        return of_milliseconds(value.as_bytes()).map_or(Pushback::Never, Pushback::After);
    }
    let details = headers.get("grpc-status-details-bin");
    let details = details.and_then(|value| base64(value.as_bytes()));
    let delay = details.and_then(|status| retry_delay(&status));
    delay.map_or(Pushback::None, Pushback::After)
}

/// A number of milliseconds in digits, at most that of an `i32`, as gRPC's own clients read it.
fn of_milliseconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: i32 = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(Duration::from_millis(number.unsigned_abs().into()))
}

/// Decodes base64 (RFC 4648 §4), with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |last| last + 1);
    let (text, padding) = text.split_at(end);
    if padding.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for four in text.chunks(4) {
        let mut bits = 0_u32;
        for &letter in four {
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, decoded @ ..] = (bits << (6 * (4 - four.len()))).to_be_bytes();
        match four.len() {
            1 => return None,
            letters => bytes.extend(&decoded[..letters - 1]),
        }
    }
    Some(bytes)
}

/// The delay of the first `google.rpc.RetryInfo` among the details of a `google.rpc.Status`.
fn retry_delay(status: &[u8]) -> Option<Duration> {
    const DETAILS: u64 = 3;
    for (_, any) in fields(status).filter(|(number, _)| *number == DETAILS) {
        let of = |wanted| {
            let mut fields = fields(any.bytes()?);
            fields.find(|(number, _)| *number == wanted)?.1.bytes()
        };
        if of(1).is_some_and(|url| url.ends_with(b"/google.rpc.RetryInfo")) {
            // A message whose fields all have their defaults is empty.
            return delay(of(2).unwrap_or_default());
        }
    }
    None
}

/// The `retry_delay` of a `RetryInfo`.
fn delay(retry_info: &[u8]) -> Option<Duration> {
    let mut duration = fields(retry_info).filter(|(number, _)| *number == 1);
    let duration = duration.next()?.1.bytes()?;
    let (mut seconds, mut nanos) = (0, 0);
    for (number, value) in fields(duration) {
        match (number, value) {
            (1, Field::Number(number)) => seconds = number,
            (2, Field::Number(number)) => nanos = number,
            _ => {}
        }
    }
    let nanos = u32::try_from(nanos).ok()?;
    // A negative number has the highest bit.
    let is_valid = seconds >> 63 == 0 && nanos < 1_000_000_000;
    is_valid.then(|| Duration::new(seconds, nanos))
}

#[derive(Clone, Copy)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Field<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) | Self::Fixed => None,
        }
    }
}

/// The fields of a protobuf message. Ends at the first one that is malformed.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => {
                take(&mut message, 8)?;
                Field::Fixed
            }
            2 => {
                let length = varint(&mut message)?;
                Field::Bytes(take(&mut message, usize::try_from(length).ok()?)?)
            }
            5 => {
                take(&mut message, 4)?;
                Field::Fixed
            }
            _ => return None,
        };
        Some((tag >> 3, field))
    })
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let byte = take(message, 1)?[0];
        number |= u64::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        headers
    }

    #[test]
    fn a_pushback_is_milliseconds_or_no_retry() {
        for (value, expected) in [
            ("0", Pushback::After(Duration::ZERO)),
            ("0005", Pushback::After(Duration::from_millis(5))),
            (
                "2147483647",
                Pushback::After(Duration::from_millis(2_147_483_647)),
            ),
            ("2147483648", Pushback::Never),
            ("-1", Pushback::Never),
            ("+5", Pushback::Never),
            ("", Pushback::Never),
            ("soon", Pushback::Never),
            ("5 ", Pushback::Never),
            ("1.5", Pushback::Never),
        ] {
            let headers = with("grpc-retry-pushback-ms", value.as_bytes());
            assert_eq!(pushback(&headers), expected, "{value:?}");
        }
        assert_eq!(pushback(&HeaderMap::new()), Pushback::None);
    }

    /// A field with this number that holds bytes.
    fn bytes(number: u8, bytes: &[u8]) -> Vec<u8> {
        let head = [number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        [&head[..], bytes].concat()
    }

    fn status(url: &str, value: &[u8]) -> Vec<u8> {
        let any = [bytes(1, url.as_bytes()), bytes(2, value)].concat();
        let other = bytes(3, &bytes(1, b"type.googleapis.com/google.rpc.Help"));
        [
            &[8, 14][..],
            &bytes(2, b"restarting"),
            &other,
            &bytes(3, &any),
        ]
        .concat()
    }

    const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

    #[test]
    fn the_delay_is_that_of_the_retry_info() {
        // 1.5 s: seconds 1, nanos 500 000 000.
        let duration = [8, 1, 16, 0x80, 0xCA, 0xB5, 0xEE, 1];
        let message = status(RETRY_INFO, &bytes(1, &duration));
        assert_eq!(retry_delay(&message), Some(Duration::from_millis(1_500)));
        assert_eq!(
            retry_delay(&status("google.rpc.Other", &bytes(1, &duration))),
            None
        );
        assert_eq!(retry_delay(&status(RETRY_INFO, &[])), None);
        let zero = status(RETRY_INFO, &bytes(1, &[]));
        assert_eq!(retry_delay(&zero), Some(Duration::ZERO));
        // A negative number has ten bytes.
        let negative = [&[8][..], &[0xFF; 9], &[1]].concat();
        assert_eq!(retry_delay(&status(RETRY_INFO, &bytes(1, &negative))), None);
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("Zg", Some(b"f")),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("+/+/", Some(b"\xFB\xFF\xBF")),
            ("Z", None),
            ("Zg===", None),
            ("Z=g=", None),
            ("Zm_v", None),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_details_panic_and_none_are_longer_than_they_say(
            message in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _delay = retry_delay(&message);
            for (_, field) in fields(&message) {
                prop_assert!(field.bytes().is_none_or(|bytes| bytes.len() <= message.len()));
            }
        }

        #[test]
        fn no_header_panics(value in proptest::collection::vec(0x20..0x7F_u8, 0..200)) {
            for name in ["grpc-retry-pushback-ms", "grpc-status-details-bin"] {
                let _pushback = pushback(&with(name, &value));
            }
        }

        #[test]
        fn a_delay_that_was_written_is_read(seconds in 0..300_u64, nanos in 0..1_000_000_000_u32) {
            let number = |mut number: u64| {
                let mut bytes = Vec::new();
                while number > 0x7F {
                    bytes.push(number as u8 | 0x80);
                    number >>= 7;
                }
                bytes.push(number as u8);
                bytes
            };
            let duration = [&[8][..], &number(seconds), &[16], &number(nanos.into())].concat();
            let message = status(RETRY_INFO, &bytes(1, &duration));
            prop_assert_eq!(retry_delay(&message), Some(Duration::new(seconds, nanos)));
        }
    }
}
