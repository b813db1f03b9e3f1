use http::Extensions;

/// Which attempt of its call a request is, from 1. An extension of the requests that
/// [`Retry`](crate::retry::Retry) sends again with [`Idempotent`](super::Idempotent) or
/// [`RepeatIf`](super::RepeatIf), for what stands below to log, trace or send as a header.
///
/// Only they carry it, so from 2 on: an extension is an allocation, which first attempts do without.
/// [`of`](Self::of) reads both.
///
/// ```
/// use buttress::http::Attempt;
///
/// let request = http::Request::new(());
/// assert_eq!(Attempt::of(request.extensions()).number(), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt(u32);

impl Attempt {
    pub(super) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The attempt that a request of these extensions is: the first if it carries no number.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(1))
    }

    /// 1 for the first attempt, 2 for the first retry.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}
