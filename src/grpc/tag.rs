//! What a service config says of a call: in the extensions of its request, so that its retries have it
//! too, and of its responses, where the classifier finds it.

#[cfg(feature = "grpc-config")]
pub(super) use configured::{RetryRules, Tag};

#[cfg(not(feature = "grpc-config"))]
pub(super) use none::Tag;

#[cfg(feature = "grpc-config")]
mod configured {
    use crate::budget::Budget;
    use crate::grpc::code::Code;
    use http::Extensions;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::Duration;

    /// A `retryPolicy`.
    #[derive(Debug)]
    pub(in crate::grpc) struct RetryRules {
        pub(in crate::grpc) attempts: u32,
        pub(in crate::grpc) initial: Duration,
        pub(in crate::grpc) max: Duration,
        pub(in crate::grpc) multiplier: f64,
        pub(in crate::grpc) codes: Vec<Code>,
        pub(in crate::grpc) budget: Option<Budget>,
    }

    /// A call with a `retryPolicy`.
    #[derive(Clone, Debug)]
    pub(in crate::grpc) struct Tag {
        pub(in crate::grpc) rules: Arc<RetryRules>,
        /// Whether the current attempt has a response. `None` if a call without one, which counts as
        /// `UNAVAILABLE`, may be repeated.
        answered: Option<Arc<AtomicBool>>,
    }

    impl Tag {
        pub(in crate::grpc) fn new(rules: Arc<RetryRules>) -> Self {
            let is_listed = rules.codes.contains(&Code::Unavailable);
            Self {
                answered: (!is_listed).then(Arc::default),
                rules,
            }
        }

        pub(in crate::grpc) fn of_request(extensions: &Extensions) -> Option<Self> {
            let tag: Self = extensions.get().cloned()?;
            if let Some(answered) = &tag.answered {
                answered.store(false, Relaxed);
            }
            Some(tag)
        }

        pub(in crate::grpc) fn of_response(extensions: &Extensions) -> Option<&Self> {
            extensions.get()
        }

        pub(in crate::grpc) fn put(self, response: &mut Extensions) {
            if let Some(answered) = &self.answered {
                answered.store(true, Relaxed);
            }
            response.insert(self);
        }

        pub(in crate::grpc) fn lists(&self, code: Code) -> bool {
            self.rules.codes.contains(&code)
        }

        /// Whether a call that may have been processed may be repeated. The verdict on a response has
        /// already looked at its code.
        pub(in crate::grpc) fn may_repeat(&self) -> bool {
            let answered = self.answered.as_ref();
            answered.is_none_or(|answered| answered.load(Relaxed))
        }
    }
}

#[cfg(not(feature = "grpc-config"))]
mod none {
    use crate::grpc::code::Code;
    use http::Extensions;

    /// There is none without a service config.
    #[derive(Debug)]
    pub(in crate::grpc) enum Tag {}

    impl Tag {
        pub(in crate::grpc) fn of_request(_: &Extensions) -> Option<Self> {
            None
        }

        pub(in crate::grpc) fn of_response(_: &Extensions) -> Option<&Self> {
            None
        }

        pub(in crate::grpc) fn put(self, _: &mut Extensions) {
            match self {}
        }

        pub(in crate::grpc) fn lists(&self, _: Code) -> bool {
            match *self {}
        }
    }
}
