use std::fmt;
use std::sync::Arc;

/// What the user calls a layer, in events, snapshots and `Debug`. One word, and unnamed costs
/// nothing to clone: it is part of futures.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Name(Option<Arc<Arc<str>>>);

impl Name {
    pub(crate) fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Some(Arc::new(name.into())))
    }

    pub(crate) fn get(&self) -> Option<&str> {
        self.0.as_ref().map(|name| &***name)
    }
}

/// After what is named: ` "payments"`, or nothing.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(name) => write!(f, " {name:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
