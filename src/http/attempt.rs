use http::Extensions;

/// The number of an attempt: 1 for the first attempt of a call, 2 for its first retry.
///
/// Layers and clients below the retry read it from the request's extensions, to log, trace or send
/// it as a header. [`Retry`](crate::retry::Retry) puts it into each retried request if the policy
/// is [`Idempotent`](super::Idempotent) or [`RepeatIf`](super::RepeatIf). First attempts do not
/// carry it, because an extension allocates. [`of`](Self::of) reads both.
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

    /// Reads the attempt from a request's extensions. Without an entry it is the first attempt.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(1))
    }

    /// The number: 1 for the first attempt, 2 for the first retry.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}
