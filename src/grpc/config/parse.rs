//! Reads the fields of a service config, and knows their paths.

use crate::error::InvalidConfig;
use crate::grpc::code::Code;
use serde_json::Value;
use std::time::Duration;

/// The names of the codes in the order of their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The characters of a value that an error shows.
const SHOWN: usize = 80;

pub(super) fn object(text: &str) -> Result<Value, InvalidConfig> {
    serde_json::from_str(text)
        .map_err(|error| invalid("service config", &format!("not: {error}"), "JSON"))
}

pub(super) fn invalid(path: &str, value: &str, allowed: &'static str) -> InvalidConfig {
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    InvalidConfig::new(path.to_owned(), format_args!("{shown}"), allowed)
}

/// A value with its path. A field that is `null` is absent, as in the JSON of protobuf.
pub(super) struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Result<Self, InvalidConfig> {
        let root = Self {
            path: String::new(),
            value,
        };
        if value.is_object() {
            return Ok(root);
        }
        Err(invalid("service config", &value.to_string(), "an object"))
    }

    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Self {
            path: self.path_of(key),
            value,
        })
    }

    pub(super) fn required(&self, key: &str) -> Result<Self, InvalidConfig> {
        let missing = || invalid(&self.path_of(key), "missing", "set");
        self.get(key).ok_or_else(missing)
    }

    /// The objects in a list that may be absent.
    pub(super) fn items(&self, key: &str) -> Result<Vec<Self>, InvalidConfig> {
        let Some(list) = self.get(key) else {
            return Ok(Vec::new());
        };
        let items = list.list()?;
        match items.iter().find(|item| !item.value.is_object()) {
            Some(item) => Err(item.invalid("an object")),
            None => Ok(items),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Self>, InvalidConfig> {
        let list = self.value.as_array();
        let list = list.ok_or_else(|| self.invalid("a list"))?;
        let item = |(index, value)| Self {
            path: format!("{}[{index}]", self.path),
            value,
        };
        Ok(list.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str, InvalidConfig> {
        self.value.as_str().ok_or_else(|| self.invalid("a string"))
    }

    pub(super) fn number(&self) -> Option<f64> {
        self.value.as_f64()
    }

    /// A number without a fraction, also if it is written as `3.0`.
    pub(super) fn integer(&self) -> Option<u64> {
        let whole = |value: f64| (value >= 0.0 && value.fract() == 0.0).then_some(value as u64);
        self.value.as_u64().or_else(|| whole(self.number()?))
    }

    /// A `google.protobuf.Duration`: seconds with up to nine decimals, and an `s`.
    pub(super) fn duration(&self) -> Result<Duration, InvalidConfig> {
        let duration = self.value.as_str().and_then(duration);
        duration.ok_or_else(|| self.invalid("a string such as \"1.5s\", not negative"))
    }

    /// A code by its name, in upper or lower case, or by its number.
    pub(super) fn code(&self) -> Option<Code> {
        let number = match self.value.as_str() {
            Some(name) => CODES
                .iter()
                .position(|code| code.eq_ignore_ascii_case(name)),
            None => self
                .integer()
                .and_then(|number| usize::try_from(number).ok()),
        };
        Code::ALL.get(number?).copied()
    }

    pub(super) fn invalid(&self, allowed: &'static str) -> InvalidConfig {
        invalid(&self.path, &self.value.to_string(), allowed)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }
}

fn duration(text: &str) -> Option<Duration> {
    // The largest that protobuf allows: about 10 000 years.
    const LONGEST: u64 = 315_576_000_000;
    let text = text.strip_suffix('s')?;
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str, longest| {
        (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(seconds, 12) || !is_number(decimals, 9) {
        return None;
    }
    let seconds = seconds.parse().ok().filter(|seconds| *seconds <= LONGEST)?;
    let nanos = format!("{decimals:0<9}").parse().ok()?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_protobuf() {
        let millis = Duration::from_millis;
        let nanos = Duration::from_nanos;
        for (text, expected) in [
            ("0s", millis(0)),
            ("1s", millis(1_000)),
            ("0.1s", millis(100)),
            ("1.000000001s", nanos(1_000_000_001)),
            ("315576000000s", Duration::from_secs(315_576_000_000)),
        ] {
            assert_eq!(duration(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1 s",
            "-1s",
            "+1s",
            "1.s",
            ".5s",
            "1e3s",
            "1.0000000001s",
            "1m",
            "٣s",
            "315576000001s",
            "99999999999999999999s",
            "1.5.5s",
            "NaNs",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_codes_have_the_names_of_grpc() {
        for (name, code) in CODES.iter().zip(Code::ALL) {
            let written = format!("{code:?}").to_lowercase();
            assert_eq!(name.replace('_', "").to_lowercase(), written);
        }
    }
}
