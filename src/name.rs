use std::fmt;
use std::sync::Arc;

/// What the user calls a layer, in events, snapshots and `Debug`. Unnamed costs nothing to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Name(Option<Arc<str>>);

impl Name {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Some(name.into()))
    }

    pub(crate) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
