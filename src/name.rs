//! Names of layers: interned strings, so that a name is one pointer and `Copy`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The name of a layer, as it appears in errors, events, snapshots and `Debug`.
///
/// A name is `Copy` and takes 8 bytes, so every call and every rejection can carry it. Each distinct
/// name stays in memory until the process ends: use names for configuration, not for data.
///
/// ```
/// use buttress::Name;
///
/// let name = Name::new("payments");
/// assert_eq!(name.as_str(), Some("payments"));
/// assert_eq!(Name::default(), Name::UNNAMED);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Name(Option<&'static &'static str>);

impl Name {
    /// No name. This is the default of every layer.
    pub const UNNAMED: Self = Self(None);

    /// The name with this text.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        static NAMES: Mutex<Option<HashMap<&'static str, &'static &'static str>>> =
            Mutex::new(None);
        let name = name.as_ref();
        // Nothing panics under the lock, so a poisoned lock still guards valid data.
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let names = names.get_or_insert_default();
        if let Some(known) = names.get(name) {
            return Self(Some(known));
        }
        let words: &'static str = Box::leak(Box::from(name));
        let kept: &'static &'static str = Box::leak(Box::new(words));
        names.insert(kept, kept);
        Self(Some(kept))
    }

    /// This name, or `other` if this is unnamed.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    /// The name of what keyed layers share when they are full.
    pub(crate) fn overflow(self) -> Self {
        match self.as_str() {
            Some(name) => Self::new(format!("{name} overflow")),
            None => Self::new("overflow"),
        }
    }

    /// The text, or `None` if unnamed.
    #[must_use]
    pub const fn as_str(&self) -> Option<&'static str> {
        match self.0 {
            Some(name) => Some(*name),
            None => None,
        }
    }
}

impl<T: AsRef<str>> From<T> for Name {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}

/// Prints a space and the quoted name, to follow a noun: ` "payments"`. Prints nothing if unnamed.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_str() {
            Some(name) => write!(f, " {name:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_stored_once() {
        let pointer = |name: Name| name.0.map(std::ptr::from_ref);
        assert_eq!(
            pointer(Name::new("a")),
            pointer(Name::new(String::from("a")))
        );
        assert_ne!(Name::new("a"), Name::new("b"));
        assert_ne!(Name::new(""), Name::UNNAMED);
    }

    #[test]
    fn a_name_takes_the_size_of_one_pointer() {
        assert_eq!(size_of::<Name>(), size_of::<usize>());
    }
}
