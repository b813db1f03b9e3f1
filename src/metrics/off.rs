//! Without the feature `metrics`, nothing is measured: all of this has no size and no code.

use crate::error::Rejection;
use crate::verdict::Verdict;

#[derive(Clone, Copy)]
pub(crate) struct Ended;

#[derive(Clone, Copy, Default)]
pub(crate) struct Moment(());

#[derive(Debug, Default)]
pub(crate) struct Meter(());

#[expect(clippy::unused_self, reason = "the same methods as with the feature")]
impl Meter {
    pub(crate) fn begin(&self) -> Moment {
        Moment(())
    }

    pub(crate) fn attempt(&self, _: Moment, _: u32, _: Ended) -> Moment {
        Moment(())
    }

    pub(crate) fn call_of_one(&self, _: Moment, _: Ended) {}

    pub(crate) fn call(&self, _: Moment, _: Moment, _: Ended) {}
}

impl Ended {
    pub(crate) const CANCELLED: Self = Self;

    pub(crate) fn with(_: Verdict, _: Option<Rejection>) -> Self {
        Self
    }
}

impl Moment {
    #[expect(clippy::unused_self, reason = "the same methods as with the feature")]
    pub(crate) fn is_some(self) -> bool {
        false
    }
}
